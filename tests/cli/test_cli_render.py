"""What a person sees, from values as the daemon sends them."""

from __future__ import annotations

import time
from collections.abc import Mapping
from io import StringIO
from typing import Any

import msgspec
import pytest
from rich.console import Console, RenderableType

from sparkd import State
from sparkd.cli import render
from sparkd.config import Config, PeerConfig, show
from sparkd.config.tables import LinkConfig, PluginTable
from sparkd.core_interfaces import (
    BusEvent,
    LinkStatus,
    LogRecord,
    NodeStatus,
    OutboxStatus,
    PluginStatus,
    ReaderStatus,
    ServiceStatus,
)


def shown(drawn: RenderableType, *, colour: bool = False) -> str:
    out = StringIO()
    Console(file=out, width=200, force_terminal=colour, markup=False, highlight=False).print(drawn)
    return "\n".join(line.rstrip() for line in out.getvalue().split("\n"))


def plain(value: Any) -> Any:
    return msgspec.to_builtins(value)


def service(**more: Any) -> ServiceStatus:
    given: dict[str, Any] = {"name": "eyes", "plugin": "eyes", "state": State.RUNNING, "since": time.time() - 61}
    return ServiceStatus(**{**given, **more})


def node(*services: ServiceStatus, links: tuple[LinkStatus, ...] = (), problems: tuple[str, ...] = ()) -> Any:
    status = NodeStatus(
        node="control-pc",
        node_id="0" * 32,
        role="edge",
        site="home",
        version="1.2.3",
        uptime_s=3700,
        summary="1 of 2 services run",
        ready=True,
        services=list(services),
        links=list(links),
        problems=list(problems),
    )
    return plain(status)


def test_status_of_a_node_that_is_well() -> None:
    text = shown(render.status(node(service(pid=42, memory_bytes=5 << 20, serves=["vision"]))))

    assert text.startswith("control-pc  edge node at home, sparkd 1.2.3, up 1 h 1 min\n1 of 2 services run\n")
    assert "eyes     running  1 min 1 s  42   5.0 MiB            vision" in text
    assert "●" not in text


def test_status_says_what_is_wrong_where_and_what_to_do() -> None:
    ill = service(
        state=State.BROKEN,
        reason="ValueError: no",
        file="/p/eyes.py",
        line=7,
        remedy="mend it",
        retry_in_s=290.0,
        last_lines=["a", "b", "c", "d"],
    )

    text = shown(render.status(node(ill, problems=("the disk is full; make room",))))

    assert "● eyes: ValueError: no\n    at /p/eyes.py:7\n    try: mend it\n    tried again in 4 min 50 s\n" in text
    assert "    | b\n    | c\n    | d\n" in text
    assert "| a" not in text
    assert "● the disk is full; make room" in text


def test_status_of_links() -> None:
    up = LinkStatus(
        peer="a", direction="dial", address="x:1", connected=True, since=0, rtt_ms=1.25, sent=3, refused={"oversize": 2}
    )
    down = LinkStatus(
        peer="b", direction="dial", address="x:2", connected=False, since=0, reason="key refused", remedy="trust it"
    )

    text = shown(render.status(node(links=(up, down))))

    assert "1.2 ms" in text
    assert "3 / 0" in text
    assert "2 oversize" in text
    assert "● link to b: key refused\n    try: trust it" in text
    assert "link to a" not in text


@pytest.mark.parametrize("state", State)
def test_every_state_has_a_style(state: State) -> None:
    assert state.value in render.STATE_STYLE
    assert state.value in shown(render.service(plain(service(state=state))))


def test_one_service_and_why_it_does_not_run() -> None:
    text = shown(render.service(plain(service(state=State.WAITING, reason="no camera", remedy="plug it in"))))

    assert text.startswith("eyes: waiting\n")
    assert "try: plug it in" in text


def test_plugins_and_their_problems() -> None:
    plugins = [
        PluginStatus(name="a", origin="installed", enabled=True, services=["a", "a-two"]),
        PluginStatus(name="b", origin="/p/[b].py", enabled=False, services=[]),
        PluginStatus(name="c", origin="/p/c.py", enabled=True, services=[], problem="SyntaxError", file="/p/c.py"),
    ]

    text = shown(render.plugins(plain(plugins)))

    assert "a       enabled   a, a-two  installed" in text
    assert "b       disabled            /p/[b].py" in text
    assert "● c: SyntaxError\n    at /p/c.py\n" in text


def test_outbox_has_a_line_for_each_reader_and_names_damage() -> None:
    stream = OutboxStatus(
        service="eyes",
        stream="events",
        first_seq=5,
        last_seq=90,
        bytes=3 << 30,
        segments=2,
        readers=[ReaderStatus(name="up", position=80, behind=10), ReaderStatus(name="sink", position=90, behind=0)],
        oldest_age_s=90061,
        dead=2,
        gaps=["7-9 are missing"],
        quarantined=["000.seg"],
    )
    unread = OutboxStatus(service="ears", stream="events", first_seq=1, last_seq=1, bytes=9, segments=1, readers=[])

    text = shown(render.outbox(plain([stream, unread])))

    assert "eyes/events  5-90     3.0 GiB  up               10      1 d 1 h  2" in text
    assert "sink             0" in text
    assert "ears/events  1-1      9 B      nobody reads it" in text
    assert "● eyes/events: 7-9 are missing" in text
    assert "● eyes/events: quarantined 000.seg" in text


def test_bus_counts() -> None:
    sub = {"topic": "", "policy": "latest", "received": 4, "lost": 1, "dropped": 2}
    answer = {"broker": {}, "services": {"a": {"published": 3, "subscriptions": [sub]}, "b": {}}}

    text = shown(render.bus(answer))

    assert "a          3" in text
    assert "a       (all)  latest  4         1     2" in text


def test_events_and_log_lines_are_one_line_each() -> None:
    event = BusEvent(
        topic="edge.x", node="n", service="s", seq=1, wall_ns=0, privacy="local", event={"a": "\x1b[31m\n"}
    )
    record = LogRecord(service="eyes", level=3, text="it\x1b[2J broke", at=0.0)

    line = shown(render.event(plain(event)))
    assert 'edge.x n/s {"a": "\\u001b[31m\\n"}' in line
    assert line.count("\n") == 1
    assert "eyes               it\N{REPLACEMENT CHARACTER}[2J broke" in shown(render.log_line(plain(record)))


def test_config_looks_like_its_file() -> None:
    config = Config(
        link=LinkConfig(peers={"primecore": PeerConfig(address="h:1")}),
        plugins={"eyes": PluginTable(table={"inner": {"deep": 1}, "watch": "/x"})},
    )

    text = shown(render.config(show(config)))

    assert '\n[link.peers.primecore]\naddress = "h:1"\n' in text
    assert "\n[plugins.eyes]\n" in text
    assert '\nwatch = "/x"\n' in text
    assert "\n[plugins.eyes.inner]\ndeep = 1\n" in text
    assert "null" not in text


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        ({"added": ["a", "b"], "changed": [], "removed": ["c"]}, "added: a, b\nremoved: c\n"),
        ({"added": []}, "nothing has changed\n"),
    ],
)
def test_changes(answer: Mapping[str, list[str]], text: str) -> None:
    assert shown(render.changes(answer)) == text


@pytest.mark.parametrize(
    ("seconds", "text"), [(None, ""), (-4, "0 s"), (0.9, "0 s"), (59, "59 s"), (3600, "1 h"), (200000, "2 d 7 h")]
)
def test_age(seconds: float | None, text: str) -> None:
    assert render.age(seconds) == text


@pytest.mark.parametrize(
    ("count", "text"), [(None, ""), (0, "0 B"), (1023, "1023 B"), (1024, "1.0 KiB"), (1 << 40, "1024.0 GiB")]
)
def test_size(count: int | None, text: str) -> None:
    assert render.size(count) == text


def test_nothing_a_plugin_says_steers_the_terminal() -> None:
    evil = service(name="x\x1b]0;t\x07", state=State.BROKEN, reason="\x1b[2J\x9b1m", last_lines=["\x1b[H\r"])

    text = shown(render.status(node(evil, problems=("\x1b[1m",))))

    assert not {"\x1b", "\x07", "\x9b", "\r"} & set(text)


def test_colour_needs_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = render.status(node(service()))

    assert "\x1b[" not in shown(drawn)
    assert "\x1b[32m" in shown(drawn, colour=True)
    monkeypatch.setenv("NO_COLOR", "1")
    assert "\x1b[32m" not in shown(drawn, colour=True)
