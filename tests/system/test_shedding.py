"""Services that rest while power is short, in real daemons: by whom, for how long, and the way back."""

from __future__ import annotations

import os
import signal
from typing import Any

import pytest

from sparkd.errors import CallError
from sparkd.testing import Node
from tests.system.test_budgets import node
from tests.system.watching import QUIET, plugin, runs, service, until

ASKS_ONCE = """\
from sparkd import SheddingApi
asked = ctx.state_dir / "asked"
task_status.started()
if not asked.exists():
    await ctx.call(SheddingApi, deadline_s=20).shed(services=["it"], reason="power is low")
    asked.write_text("")
await anyio.sleep_forever()
"""
ASKS = """\
from sparkd import SheddingApi
task_status.started()
await ctx.call(SheddingApi, deadline_s=20).shed(services=["it"], reason="power is low: ups says so")
(ctx.state_dir / "asked").write_text("")
await anyio.sleep_forever()
"""


def shed(home: Node, *names: str) -> Any:
    return home.call("shedding.shed", services=list(names), reason="power is low", timeout_s=30.0)


def load(home: Node, name: str) -> Any:
    return next(one for one in home.call("shedding.services") if one["name"] == name)


def test_what_is_shed_ends_says_why_and_comes_back() -> None:
    with node() as home:
        (home.plugins / "it.py").write_text(plugin(QUIET))
        home.start()
        pid = runs(home, "it")["pid"]

        assert shed(home, "it") == ["it"]
        seen = service(home, "it")
        assert (seen["state"], seen["pid"], seen["reason"]) == ("shed", None, "power is low")
        assert "comes back by itself" in seen["remedy"]
        assert home.call("node.health") is True
        assert load(home, "it")["shed"] is True
        assert load(home, "it")["by"].startswith("rpc:")

        assert home.call("shedding.restore", services=["it"], timeout_s=30.0) == ["it"]
        assert runs(home, "it")["pid"] != pid


def test_a_change_of_file_or_config_leaves_it_shed_and_an_operator_brings_it_up() -> None:
    with node("[plugins.it]\n") as home:
        (home.plugins / "it.py").write_text(plugin(QUIET))
        home.start()
        runs(home, "it")
        shed(home, "it")

        (home.plugins / "it.py").write_text(plugin(QUIET + "  # changed"))
        home.call("plugins.rescan", timeout_s=30.0)
        home.config_file.write_text(home.config_file.read_text() + "watchdog_s = 20.0\n")
        home.call("config.reload", timeout_s=30.0)
        assert service(home, "it")["state"] == "shed"

        assert home.call("plugins.start", name="it", timeout_s=30.0)["state"] == "running"
        assert load(home, "it")["shed"] is False
        shed(home, "it")
        assert service(home, "it")["state"] == "shed"


def test_what_an_operator_stopped_stays_stopped() -> None:
    with node() as home:
        (home.plugins / "it.py").write_text(plugin(QUIET))
        home.start()
        runs(home, "it")
        home.call("plugins.stop", name="it", timeout_s=30.0)

        assert shed(home, "it") == []
        assert home.call("shedding.restore", services=["it"]) == []
        assert service(home, "it")["state"] == "stopped"


def test_a_service_that_is_not_there_is_named_and_nothing_is_done() -> None:
    with node() as home:
        (home.plugins / "it.py").write_text(plugin(QUIET))
        home.start()
        runs(home, "it")

        with pytest.raises(CallError, match="there is no service 'its'"):
            shed(home, "it", "its")
        assert service(home, "it")["state"] == "running"


@pytest.mark.timeout(120)
@pytest.mark.slow
def test_what_a_policy_that_died_had_shed_comes_back() -> None:
    with node() as home:
        (home.plugins / "it.py").write_text(plugin(QUIET))
        (home.plugins / "asker.py").write_text(plugin(ASKS, name="asker"))
        home.start()
        until((home.state / "plugins" / "asker" / "asked").exists, bool, limit_s=20)
        assert load(home, "it")["by"] == "asker"
        assert service(home, "it")["reason"] == "power is low: ups says so"

        home.call("plugins.stop", name="asker", timeout_s=30.0)
        assert service(home, "it")["state"] == "shed"  # it may only be starting again
        runs(home, "it", limit_s=80)


def test_a_throttle_is_said_and_not_kept_without_a_control_group() -> None:
    with node() as home:
        (home.plugins / "it.py").write_text(plugin(QUIET))
        home.start()
        runs(home, "it")

        asked: dict[str, Any] = {"service": "it", "cpu_max_percent": 20.0, "reason": "power is low"}
        assert home.call("shedding.throttle", **asked) is False
        assert service(home, "it")["budget"]["throttle_percent"] == 20.0
        assert service(home, "it")["budget"]["not_kept"] == ["cpu_max_percent"]
        home.call("shedding.unthrottle", service="it")
        assert service(home, "it")["budget"] is None
        with pytest.raises(CallError, match="from 1 to 100000"):
            home.call("shedding.throttle", service="it", cpu_max_percent=0.0, reason="")


def test_who_asked_may_die_and_start_again_while_the_config_is_read() -> None:
    with node() as home:
        (home.plugins / "it.py").write_text(plugin(QUIET))
        (home.plugins / "asker.py").write_text(plugin(ASKS_ONCE, name="asker"))
        home.start()
        until((home.state / "plugins" / "asker" / "asked").exists, bool, limit_s=20)
        died = runs(home, "asker")["pid"]
        os.kill(died, signal.SIGKILL)
        home.call("config.reload", timeout_s=30.0)
        until(
            lambda: service(home, "asker"),
            lambda found: found["state"] == "running" and found["pid"] != died,
            limit_s=30,
        )
        assert service(home, "it")["state"] == "shed"
        assert load(home, "it")["by"] == "asker"


def test_who_needs_what_is_shed_waits_and_says_for_what() -> None:
    with node('[plugins.user]\nneeds = ["service:it"]\nstop_without_needs = true\n') as home:
        (home.plugins / "it.py").write_text(plugin(QUIET))
        (home.plugins / "user.py").write_text(plugin(QUIET, name="user"))
        home.start()
        runs(home, "user")
        shed(home, "it")
        seen = until(lambda: service(home, "user"), lambda found: found["state"] == "waiting")
        assert "needs the service 'it'" in seen["reason"]
        home.call("shedding.restore", services=["it"], timeout_s=30.0)
        runs(home, "user")


def test_a_restart_of_the_daemon_forgets_it() -> None:
    with node() as home:
        (home.plugins / "it.py").write_text(plugin(QUIET))
        home.start()
        runs(home, "it")
        shed(home, "it")
        home.stop()
        home.start()
        runs(home, "it")
        assert load(home, "it")["shed"] is False


def test_who_slowed_it_is_known_after_it_has_rested() -> None:
    with node() as home:
        (home.plugins / "it.py").write_text(plugin(QUIET))
        home.start()
        runs(home, "it")
        home.call("shedding.throttle", service="it", cpu_max_percent=20.0, reason="power is low")
        shed(home, "it")
        home.call("shedding.restore", services=["it"], timeout_s=30.0)
        assert load(home, "it")["by"].startswith("rpc:")
