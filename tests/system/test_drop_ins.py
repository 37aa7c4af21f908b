"""Plugins dropped into the folder of a running daemon: good ones run at once, bad ones cost only themselves."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from sparkd.testing import Node

HEAD = """\
import os, sys, time, ctypes
import anyio
from sparkd import Context, DeviceError, NoConfig, Service, hookimpl
"""
TAIL = """
@hookimpl
def sparkd_services():
    return [Service(name="bad", config=NoConfig, run=run, start_limit_s={limit})]
"""
GOOD = '''"""good: says hello for ever."""

from anyio import sleep_forever
from anyio.abc import TaskStatus

from sparkd import Context, NoConfig, Service, hookimpl


async def run(ctx: Context[NoConfig], *, task_status: TaskStatus[None]) -> None:
    ctx.log.info("hello", times=1)
    task_status.started()
    await sleep_forever()


@hookimpl
def sparkd_services() -> list[Service[NoConfig]]:
    return [Service(name="good", config=NoConfig, run=run)]
'''


def service(body: str, *, limit: float = 10.0) -> str:
    lines = "".join(f"    {line}\n" for line in body.splitlines())
    return f"{HEAD}\nasync def run(ctx, *, task_status):\n{lines}{TAIL.format(limit=limit)}"


def status_of(node: Node, name: str) -> dict[str, Any] | None:
    answer = node.call("node.status")
    return next((found for found in answer["services"] if found["name"] == name), None)


def until(node: Node, name: str, wanted: Callable[[dict[str, Any] | None], bool], limit_s: float = 20.0) -> Any:
    """Wait, watching from outside as an operator would, until the status of *name* is as *wanted*."""
    deadline = time.monotonic() + limit_s
    while True:
        found = status_of(node, name)
        if wanted(found):
            return found
        assert time.monotonic() < deadline, (found, node.last_words())
        time.sleep(0.02)


def runs(found: dict[str, Any] | None) -> bool:
    return found is not None and found["state"] == "running"


@pytest.fixture
def witnessed(lone: Node) -> Iterator[Node]:
    """A node with a good plugin, which must not notice anything of what a test does."""
    (lone.plugins / "good.py").write_text(GOOD)
    before = until(lone, "good", runs)
    yield lone
    after = status_of(lone, "good")
    assert after is not None
    assert (after["pid"], after["restarts"], after["state"]) == (before["pid"], 0, "running")


def test_a_plugin_dropped_in_runs_within_a_second(lone: Node) -> None:
    begun = time.monotonic()
    (lone.plugins / "good.py").write_text(GOOD)
    until(lone, "good", runs)

    assert time.monotonic() - begun < 1.0


def test_edited_it_is_restarted_and_removed_it_is_gone(lone: Node) -> None:
    file = lone.plugins / "good.py"
    file.write_text(GOOD)
    first = until(lone, "good", runs)

    file.write_text(GOOD.replace("hello", "hello again"))
    second = until(lone, "good", lambda found: runs(found) and found is not None and found["pid"] != first["pid"])
    assert any("hello again" in line for line in second["last_lines"])

    file.unlink()
    until(lone, "good", lambda found: found is None)


def test_a_folder_is_a_plugin_too(lone: Node) -> None:
    folder = lone.plugins / "good"
    folder.mkdir()
    (folder / "words.py").write_text('WORD = "from a folder"\n')
    (folder / "__init__.py").write_text(
        GOOD.replace('"hello"', "WORD").replace("from sparkd import", "from .words import WORD\nfrom sparkd import")
    )
    found = until(lone, "good", runs)

    assert any("from a folder" in line for line in found["last_lines"])


BAD_AT_IMPORT = {
    "raises": ("\nraise ValueError('no such luck')\n", "no such luck", 5),
    "exits": ("\nos._exit(0)\n", "ended the process", 0),
    "leaves": ("\nsys.exit(3)\n", "", 0),
    "crashes": ("\nctypes.string_at(0)\n", "SIGSEGV", 5),
    "misspells": ("\n@hookimpl\ndef sparkd_service():\n    return []\n", "sparkd_services", 0),
    "has-no-syntax": ("\ndef f(:\n", "invalid syntax", 5),
    "wants-a-module": ("\nimport no_such_module\n", "no_such_module", 5),
}


@pytest.mark.parametrize("name", BAD_AT_IMPORT)
def test_bad_at_import(witnessed: Node, name: str) -> None:
    code, reason, line = BAD_AT_IMPORT[name]
    (witnessed.plugins / f"{name}.py").write_text(HEAD + code)
    found = until(witnessed, name, lambda s: s is not None and s["state"] in ("broken", "waiting"))

    assert reason in found["reason"]
    assert found["file"].endswith(f"{name}.py")
    assert found["remedy"]
    if line:
        assert found["line"] == line


@pytest.mark.timeout(60)
def test_a_hang_at_import_is_ended_and_its_line_named(witnessed: Node) -> None:
    (witnessed.plugins / "hangs.py").write_text(HEAD + "\nwhile True:\n    pass\n")
    found = until(witnessed, "hangs", lambda s: s is not None and s["state"] == "broken", limit_s=30)

    assert found["file"].endswith("hangs.py")
    assert found["line"] in (5, 6)


BAD_AT_RUN = {
    "raises": (service("raise ValueError('bad luck')"), "ValueError: bad luck", 6),
    "dies-later": (service("task_status.started()\nawait anyio.sleep(0.1)\n1 / 0"), "ZeroDivisionError", 8),
    "never-ready": (service("await anyio.sleep(1000)", limit=0.5), "did not call started() within 0.5 s", 6),
    "blocks-before-ready": (service("while True:\n    pass", limit=0.5), "did not call started()", 6),
    "exits": (service("task_status.started()\nos._exit(0)"), "exit code 0", 0),
    "exits-with-code": (service("task_status.started()\nos._exit(7)"), "exit code 7", 0),
    "crashes": (service("task_status.started()\nctypes.string_at(0)"), "SIGSEGV", 7),
    "wants-a-device": (service("raise DeviceError('no camera', remedy='plug one in')"), "no camera", 6),
    "returns-early": (service("return"), "started", 0),
}


@pytest.mark.parametrize("name", BAD_AT_RUN)
def test_bad_at_run(witnessed: Node, name: str) -> None:
    code, reason, line = BAD_AT_RUN[name]
    (witnessed.plugins / f"{name}.py").write_text(code)
    found = until(
        witnessed,
        "bad",
        lambda s: s is not None and s["state"] in ("backoff", "broken", "waiting") and s["reason"] != "",
    )

    assert reason in found["reason"]
    if line:
        assert found["file"].endswith(f"{name}.py")
        assert abs(found["line"] - line) <= 1


def test_a_missing_device_is_a_state_with_a_remedy(witnessed: Node) -> None:
    (witnessed.plugins / "x.py").write_text(service("raise DeviceError('no camera', remedy='plug one in')"))
    found = until(witnessed, "bad", lambda s: s is not None and s["state"] == "waiting" and bool(s["reason"]))

    assert found["remedy"] == "plug one in"


@pytest.mark.timeout(60)
def test_a_blocked_event_loop_is_found_named_and_restarted(witnessed: Node) -> None:
    (witnessed.config_file.parent / "sparkd.d").mkdir()
    (witnessed.config_file.parent / "sparkd.d" / "a.toml").write_text("[plugins.blocks]\nwatchdog_s = 1.0\n")
    witnessed.call("config.reload")
    (witnessed.plugins / "blocks.py").write_text(
        service("task_status.started()\nawait anyio.sleep(0.1)\nwhile True:\n    pass")
    )
    found = until(witnessed, "bad", lambda s: s is not None and "event loop" in s["reason"])

    assert found["file"].endswith("blocks.py")
    assert found["line"] in (8, 9)
    assert "to_thread" in found["remedy"]


@pytest.mark.timeout(60)
def test_one_that_eats_memory_is_stopped_by_its_limit(witnessed: Node) -> None:
    (witnessed.config_file.parent / "sparkd.d").mkdir()
    drop_in = witnessed.config_file.parent / "sparkd.d" / "a.toml"
    drop_in.write_text("[plugins.eats]\nmemory_max_bytes = 600000000\n")
    witnessed.call("config.reload")
    (witnessed.plugins / "eats.py").write_text(
        service("task_status.started()\nheld = []\nwhile True:\n    held.append(bytearray(10_000_000))")
    )
    found = until(witnessed, "bad", lambda s: s is not None and s["reason"] == "out of memory")

    assert found["file"].endswith("eats.py")
    assert found["line"] == 9


def test_a_plugin_that_others_can_write_is_refused(witnessed: Node) -> None:
    file = witnessed.plugins / "open.py"
    file.write_text(GOOD.replace('name="good"', 'name="open"'))
    file.chmod(0o666)
    found = until(witnessed, "open", lambda s: s is not None and s["state"] == "broken")

    assert "writ" in found["reason"]


def test_a_service_name_that_is_taken_is_refused(witnessed: Node) -> None:
    (witnessed.plugins / "thief.py").write_text(GOOD)
    found = until(witnessed, "thief", lambda s: s is not None and s["state"] == "broken")

    assert "taken by good" in found["reason"]


def test_bad_config_of_a_drop_in_is_told_with_file_and_key(witnessed: Node) -> None:
    folder: Path = witnessed.config_file.parent / "sparkd.d"
    folder.mkdir()
    (folder / "a.toml").write_text('[plugins.x]\nspeed = "fast"\n')
    witnessed.call("config.reload")
    (witnessed.plugins / "x.py").write_text(service("task_status.started()\nawait anyio.sleep_forever()"))
    found = until(witnessed, "bad", lambda s: s is not None and s["state"] == "broken")

    assert "[plugins.x] speed: unknown key" in found["reason"]
    assert "a.toml" in found["reason"]
    (folder / "a.toml").write_text("")
    witnessed.call("config.reload")
    until(witnessed, "bad", runs)
