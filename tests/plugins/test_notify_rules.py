from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparkd_plugins.notify.config import (
    NotifyConfig,
    NtfyConfig,
    RuleConfig,
    SmtpConfig,
    WebhookConfig,
    default_rules,
)
from sparkd_plugins.notify.rules import Counts, Rule, Said
from sparkd_plugins.notify.templates import check_template, fill


def said(topic: str = "a.b", node: str = "n", **event: Any) -> Said:
    return Said(topic=topic, node=node, service="s", event=event)


def rule(**keys: Any) -> Rule:
    return Rule(RuleConfig(topics=["a"], title="{node}", message="{x} {in.ner}", **keys), Counts())


def test_what_fits_is_told_with_its_fields() -> None:
    it = rule(where={"x": ["one", 2]}, above={"n": 5.0}, below={"n": 9.0}, priority="high", channels=[])
    inner: dict[str, Any] = {"in": {"ner": True}}
    told = it.hear(said(x=2, n=7.5, **inner), 0.0)

    assert told is not None
    assert (told.title, told.message, told.priority, told.topic) == ("n", "2 yes", "high", "a.b")
    for other in (said(x="two", n=7), said(x=2, n=5), said(x=2, n=9.0), said(x=2), said(x=2, n="7"), said(n=7)):
        assert it.hear(other, 1.0) is None
    assert it.hear(said("aa.b", x=2, n=7), 1.0) is None


def test_true_is_not_one() -> None:
    assert rule(where={"x": [True]}).hear(said(x=1), 0.0) is None
    assert rule(where={"x": [1]}).hear(said(x=True), 0.0) is None


def test_a_change_is_told_and_the_first_that_is_heard_is_none() -> None:
    it = rule(changes="x")
    told = [
        it.hear(said(x=x, node=node), 0.0) is not None for x, node in ((1, "n"), (1, "n"), (2, "n"), (3, "m"), (4, "m"))
    ]

    assert told == [False, False, True, False, True]


def test_the_same_is_told_once_in_its_time_and_then_with_how_often() -> None:
    it = rule(dedupe_s=60.0)
    told = [it.hear(said(x=1), float(now)) for now in (0, 10, 59, 61)]

    assert [one is not None for one in told] == [True, False, False, True]
    assert told[-1] is not None
    assert told[-1].repeated == 2
    assert it.counts.repeated == 2


def test_more_than_its_limit_an_hour_is_counted_only() -> None:
    it = rule(limit_per_hour=3)
    told = [it.hear(said(x=x), float(x)) is not None for x in range(10)]

    assert told == [True] * 3 + [False] * 7
    assert it.counts.limited == 7
    assert it.hear(said(x=99), 3601.0) is not None


def test_what_is_told_by_default() -> None:
    rules = {name: Rule(config, Counts()) for name, config in default_rules().items()}

    def tells(name: str, topic: str, *events: dict[str, Any]) -> list[str]:
        heard = [rules[name].hear(said(topic, "home", **event), 0.0) for event in events]
        return [one.message for one in heard if one is not None]

    grid, off = (
        {"mode": "on-grid", "scope": "node", "reason": "r"},
        {"mode": "off-grid", "scope": "node", "reason": "ups"},
    )
    assert tells("power", "system.power.mode", grid, off, off) == ["home is off-grid: ups"]
    broken = {"service": "it", "state": "broken", "reason": "boom"}
    assert tells("broken", "system.health.service.it", broken) == ["it of home is broken: boom"]
    assert tells("health", "system.health", {"ok": True}, {"ok": False, "problems": ["hot", "full"]}) == [
        "home: hot; full"
    ]


@pytest.mark.parametrize("template", ["{0}", "{a.__class__}", "{a[0]}", "{a!r}", "{a:>10}", "{", "}", "{}", "{A}"])
def test_a_template_reaches_into_nothing(template: str) -> None:
    with pytest.raises(ValueError, match="message: "):
        check_template("message", template)


@given(st.dictionaries(st.text(max_size=5), st.recursive(st.none() | st.integers() | st.text(), st.lists), max_size=5))
def test_any_event_is_told_or_not(event: dict[str, Any]) -> None:
    for config in default_rules().values():
        Rule(config, Counts()).hear(Said(topic=config.topics[0], node="n", service="s", event=event), 0.0)
    assert fill("{x} {y.z}", event) is not None


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (lambda: NtfyConfig(url="ftp://x/y"), "http://HOST/PATH"),
        (lambda: NtfyConfig(url="https://me:pw@x/y"), "name a secret instead"),
        (lambda: WebhookConfig(url="https://x/y", headers={"a b": None}), "a header's name"),  # type: ignore[dict-item]
        (lambda: SmtpConfig(host="x", to=["a@b\r\nBcc: c@d"], sender="a@b"), "an address"),
        (lambda: SmtpConfig(host="x", to=[], sender="a@b"), "at least one address"),
        (lambda: RuleConfig(topics=["A b"]), "topics: "),
        (lambda: RuleConfig(topics=["a"], limit_per_hour=0), "limit_per_hour"),
        (lambda: NotifyConfig(rules={"r": RuleConfig(topics=["a"], channels=["x"])}), "no channel is called 'x'"),
        (
            lambda: NotifyConfig(
                ntfy={"x": NtfyConfig(url="http://x/y")}, webhook={"x": WebhookConfig(url="http://x")}
            ),
            "two",
        ),
    ],
)
def test_what_cannot_be_is_refused(make: Any, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        make()
