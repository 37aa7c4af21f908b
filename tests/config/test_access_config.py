from __future__ import annotations

from pathlib import Path

import pytest

from sparkd.config import load_config, needs_restart, parse_pattern, take_over
from sparkd.errors import ConfigError


def loaded(folder: Path, text: str) -> str:
    file = folder / "sparkd.toml"
    file.write_text(text)
    with pytest.raises(ConfigError) as raised:
        load_config(file)
    return str(raised.value)


@pytest.mark.parametrize(
    ("rule", "said"),
    [
        (
            '[access.rules.x]\nusers = ["roott"]\ncalls = ["node.status"]',
            "[access] rules.x.users: there is no user 'roott'",
        ),
        ('users = ["roott"]\ncalls = ["node.status"]', "did you mean 'root'?"),
        (
            '[access.rules.x]\ngroups = ["deamon"]\ncalls = ["*"]',
            "there is no group 'deamon' on this machine; did you mean",
        ),
        ('users = ["5000000000"]\ncalls = ["*"]', "an id is at most"),
        ('calls = ["*"]', "[access] rules.x.users: a rule needs users or groups"),
        ('users = ["*"]', "[access] rules.x.calls: a rule needs calls"),
        ('users = ["*"]\ncalls = ["node"]', "rules.x.calls: 'interface.method'"),
        (
            '[access.rules.x]\nusers = ["*"]\ndeny = ["node.statsu"]',
            "'node' has no method 'statsu'; did you mean 'status'?",
        ),
        ('users = ["*"]\ndeny = ["node.status:edge"]', "only bus.subscribe and bus.last are limited"),
        ('users = ["*"]\ncalls = ["bus.*:edge"]', "only bus.subscribe and bus.last are limited"),
        ('[access.rules.admins]\nusers = ["*"]\ncalls = ["*"]', "'admins' is a built-in rule"),
        ('[access.rules.Big]\nusers = ["*"]\ncalls = ["*"]', "lower-case words"),
        ('user = ["*"]\ncalls = ["*"]', "[access] rules.x.user: unknown key; did you mean 'users'?"),
        ("[access]\nrule = {}", "[access] rule: unknown key; did you mean 'rules'?"),
    ],
)
def test_what_is_wrong_with_a_rule_is_said(tmp_path: Path, rule: str, said: str) -> None:
    assert said in loaded(tmp_path, rule if rule.startswith("[") else f"[access.rules.x]\n{rule}")


@pytest.mark.parametrize(
    "text", ["", "*.*", "a.b.c", "A.b", "a/b/c.d", "a:b:c.d", "node.status\n", "bus.subscribe:", "ß.a"]
)
def test_patterns_that_are_none(text: str) -> None:
    with pytest.raises(ValueError, match=r"expected, got"):
        parse_pattern(text)


def test_who_may_call_what_is_taken_over_while_running(tmp_path: Path) -> None:
    file = tmp_path / "sparkd.toml"
    file.write_text("[rpc]\nmax_connections = 7")
    held = load_config(file)
    file.write_text(
        '[rpc]\nreaders = "anyone"\nmax_connections = 8\n[access.rules.x]\nusers = ["*"]\ndeny = ["logs.*"]\n'
    )
    fresh = load_config(file)

    taken = take_over(held, fresh)

    assert (taken.access, taken.rpc.readers) == (fresh.access, "anyone")
    assert taken.rpc.max_connections == 7
    assert needs_restart(held, fresh) == ["rpc"]
    assert "access.rules.x.users" in taken.origins
