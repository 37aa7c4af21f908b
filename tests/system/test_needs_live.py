"""A daemon whose services wait for what they need, and say what that is."""

from __future__ import annotations

from pathlib import Path

import pytest

from sparkd import CallError
from sparkd.testing import Node
from tests.system.watching import QUIET, plugin, runs, service, until, write_drop_in


def test_a_service_waits_with_a_remedy_and_goes_on_by_itself(lone: Node, folder: Path) -> None:
    wanted = folder / "deep" / "thing"
    (lone.plugins / "it.py").write_text(plugin(QUIET, offer=f"needs=('path:{wanted}',)"))
    lone.call("plugins.rescan")
    waiting = until(lambda: service(lone, "it"), lambda found: found.get("state") == "waiting")
    assert waiting["reason"] == f"needs {wanted}, which is not there"
    assert waiting["remedy"]
    assert "it waiting" in lone.call("node.status")["summary"]

    wanted.parent.mkdir()
    wanted.touch()
    assert runs(lone, "it", limit_s=3)["restarts"] == 0


def test_the_config_adds_needs_and_has_a_service_stopped_without_them(lone: Node, folder: Path) -> None:
    wanted = folder / "key"
    (lone.plugins / "it.py").write_text(plugin(QUIET))
    write_drop_in(lone, f'[plugins.it]\nneeds = ["path:{wanted}"]\nstop_without_needs = true\n')
    lone.call("config.reload")
    lone.call("plugins.rescan")
    until(lambda: service(lone, "it"), lambda found: found.get("state") == "waiting")
    wanted.touch()
    runs(lone, "it", limit_s=3)
    wanted.unlink()
    until(lambda: service(lone, "it"), lambda found: found.get("state") == "waiting", limit_s=3)


def test_a_chain_of_services_comes_up_in_order_and_a_need_that_is_none_is_the_plugins_fault(lone: Node) -> None:
    for name, needs in (("c", "'service:b'"), ("b", "'service:a'"), ("bad", "'sevice:a'")):
        (lone.plugins / f"{name}.py").write_text(plugin(QUIET, name=name, offer=f"needs=({needs},)"))
    lone.call("plugins.rescan")
    assert until(lambda: service(lone, "c"), lambda found: found.get("state") == "waiting")["reason"].startswith(
        "needs the service 'b'"
    )
    broken = service(lone, "bad")
    assert broken["state"] == "broken"
    assert "service:NAME" in broken["reason"]

    (lone.plugins / "a.py").write_text(plugin(QUIET, name="a"))
    lone.call("plugins.rescan")
    for name in "abc":
        runs(lone, name, limit_s=3)


def test_a_need_in_the_config_that_is_none_is_told(lone: Node) -> None:
    write_drop_in(lone, '[plugins.it]\nneeds = ["mount:nas"]\n')
    with pytest.raises(CallError, match="mount:/PATH"):
        lone.call("config.reload")
