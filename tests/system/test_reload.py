"""SIGHUP: what changed is taken over, what did not is left alone, what is wrong changes nothing."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from sparkd.errors import CallError
from sparkd.testing import Node
from tests.system.watching import QUIET, Systemd, plugin, runs, service, until, write_drop_in

MORE = "@dataclass(frozen=True, kw_only=True)\nclass Own:\n    word: str = 'none'\n"
SAYS = plugin("ctx.log.info('word is ' + ctx.config.word)\n" + QUIET, name="one", config="Own", more=MORE)


@pytest.fixture
def systemd(folder: Path) -> Iterator[Systemd]:
    """A stand-in for systemd, with a node `systemd.node` that has the plugins `one` and `two`."""
    node = Node("lone", folder, '[node]\nname = "lone"\nmetrics_listen = ""\n').prepare()
    stand_in = Systemd(node)
    (node.plugins / "one.py").write_text(SAYS)
    (node.plugins / "two.py").write_text(plugin(QUIET, name="two"))
    try:
        node.start(ready=False)
        stand_in.hears("READY=1")
        yield stand_in
    finally:
        node.stop()
        stand_in.close()


def hang_up(systemd: Systemd) -> list[str]:
    """Reload as systemd does; return what it was told."""
    before = len(systemd.lines())
    systemd.node.kill(signal.SIGHUP)
    systemd.hears("RELOADING=1", after=before)
    systemd.hears("MONOTONIC_USEC=", after=before)
    systemd.hears("READY=1", after=before)
    return systemd.said[before:]


def test_a_changed_table_restarts_only_its_service(systemd: Systemd) -> None:
    node = systemd.node
    one, two = runs(node, "one"), runs(node, "two")
    write_drop_in(node, '[plugins.one]\nword = "spark"\n')
    said = hang_up(systemd)
    after = runs(node, "one")

    assert said.index("READY=1") > next(n for n, line in enumerate(said) if line.startswith("RELOADING=1"))
    assert after["pid"] != one["pid"]
    assert any("word is spark" in line for line in after["last_lines"])
    assert (after["restarts"], service(node, "two")["pid"]) == (0, two["pid"])


def test_nothing_changed_restarts_nothing(systemd: Systemd) -> None:
    before = [runs(systemd.node, name)["pid"] for name in ("one", "two")]
    hang_up(systemd)

    assert [service(systemd.node, name)["pid"] for name in ("one", "two")] == before


def test_a_config_with_errors_changes_nothing_and_is_told(systemd: Systemd) -> None:
    node = systemd.node
    before = [runs(node, name)["pid"] for name in ("one", "two")]
    file = write_drop_in(node, '[plugins.one]\nword = "spark"\n[bus]\nhigh_water = 7\n')
    hang_up(systemd)

    (problem,) = node.call("node.status")["problems"]
    assert "not taken over" in problem
    assert "[bus] high_water: unknown key" in problem
    assert any("[bus] high_water" in record["text"] for record in node.call("logs.tail", service="core"))
    assert [service(node, name)["pid"] for name in ("one", "two")] == before
    assert "word" not in node.call("config.show")["plugins"].get("one", {})

    with pytest.raises(CallError, match="high_water"):
        node.call("config.reload")
    file.unlink()
    hang_up(systemd)
    assert node.call("node.status")["problems"] == []


def test_a_plugin_table_with_errors_is_its_services_own_trouble(systemd: Systemd) -> None:
    node = systemd.node
    two = runs(node, "two")
    write_drop_in(node, '[plugins.one]\nword = "spark"\n')
    write_drop_in(node, '[plugins.one]\nwrod = "spark"\n', name="b.toml")
    hang_up(systemd)
    found = until(lambda: service(node, "one"), lambda s: s["state"] == "broken")

    assert "did you mean 'word'?" in found["reason"]
    assert "b.toml: [plugins.one] wrod" in found["reason"], "the file that the key stands in"
    assert service(node, "two")["pid"] == two["pid"]


def test_changed_core_tables_are_told_to_need_a_restart_until_it_comes(systemd: Systemd) -> None:
    node = systemd.node
    file = write_drop_in(node, "[bus]\nhigh_water_messages = 77\n")
    hang_up(systemd)
    hang_up(systemd)  # reading it again does not make it take effect

    (problem,) = node.call("node.status")["problems"]
    assert "[bus] changed" in problem
    assert "restart" in problem
    assert node.call("config.show")["bus"]["high_water_messages"] == 10_000, "the config in force"

    file.unlink()
    hang_up(systemd)
    assert node.call("node.status")["problems"] == []


def test_a_new_table_runs_an_installed_plugin_and_a_removed_one_ends_it(systemd: Systemd) -> None:
    node = systemd.node
    file = write_drop_in(node, "[plugins.node-telemetry]\ninterval_s = 1.0\n")
    hang_up(systemd)
    runs(node, "node-telemetry")
    file.unlink()
    hang_up(systemd)

    assert service(node, "node-telemetry") == {}
