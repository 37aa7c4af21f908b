"""The core's tasks outlive their own failures."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import anyio
import pytest

from sparkd import State
from sparkd.daemon import upkeep
from sparkd.log import StructuredLog
from sparkd.service import Manifest
from tests.supervisor.script import Script, service

pytestmark = pytest.mark.anyio


def core(**parts: Any) -> Any:
    return SimpleNamespace(log=StructuredLog("core"), **parts)


async def test_a_task_that_fails_before_it_has_begun_holds_nobody_up_and_begins_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(upkeep, "AGAIN_S", 0.0)
    tries: list[int] = []
    well = anyio.Event()

    async def work(_core: Any, begun: Callable[[], None]) -> None:
        tries.append(len(tries))
        if len(tries) < 3:
            raise ChildProcessError("the zygote is gone")
        if len(tries) == 3:
            async with anyio.create_task_group():
                raise ValueError("in a group")
        begun()
        well.set()
        await anyio.sleep_forever()

    with anyio.fail_after(5):
        async with anyio.create_task_group() as tasks:
            await upkeep.start(core(), tasks, work)
            await well.wait()
            tasks.cancel_scope.cancel()
    assert tries == [0, 1, 2, 3]


async def test_a_path_that_comes_wakes_only_who_waits_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upkeep, "PATH_LOOK_S", 0.0)

    def waiting(name: str, *, retry_at: float, there: bool) -> Any:
        held = service(Script())
        object.__setattr__(held.plan, "manifest", Manifest(plugin=name, name=name, needs=("path:/x",)))
        held.state, held.retry_at = State.WAITING, retry_at

        async def missing(_plan: Any) -> str | None:
            return None if there else "needs /x"

        held.missing = missing
        return held

    services = {
        "there": waiting("there", retry_at=0.0, there=True),
        "not": waiting("not", retry_at=0.0, there=False),
        "pauses": waiting("pauses", retry_at=9.9, there=True),
    }
    with anyio.fail_after(5):
        async with anyio.create_task_group() as tasks:
            held = core(supervisor=SimpleNamespace(services=services))
            await upkeep.start(held, tasks, upkeep.look_for_paths)
            while not services["there"].is_poked:
                await anyio.sleep(0)
            tasks.cancel_scope.cancel()
    assert [name for name, one in services.items() if one.is_poked] == ["there"]
