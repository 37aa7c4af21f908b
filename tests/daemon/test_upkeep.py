"""The core's tasks outlive their own failures."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import anyio
import pytest

from sparkd.daemon import upkeep
from sparkd.log import StructuredLog

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
