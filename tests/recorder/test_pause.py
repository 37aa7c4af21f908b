"""The recorder's look after a pause of the machine: the next one comes at once, and none is an error."""

from __future__ import annotations

from itertools import count
from types import SimpleNamespace
from typing import Any

import anyio
import pytest

from sparkd.daemon import recording
from sparkd.daemon.recording import Recording

pytestmark = pytest.mark.anyio


async def test_a_pause_of_the_machine_is_not_the_end_of_recording(monkeypatch: pytest.MonkeyPatch) -> None:
    looks = 0

    class Flight:
        pending: tuple[()] = ()

        def look(self, _facts: object) -> None:
            nonlocal looks
            looks += 1

    clock = count(step=3600)  # an hour passes between any two looks at the clock
    monkeypatch.setattr(recording, "time", SimpleNamespace(monotonic=lambda: float(next(clock))))
    made: Any = Recording.__new__(Recording)
    made._looking = anyio.CapacityLimiter(1)
    made._writing = anyio.CapacityLimiter(1)
    monkeypatch.setattr(Recording, "_facts", lambda _self: None)
    monkeypatch.setattr(Recording, "_tell", lambda _self, _flight: None)
    with anyio.move_on_after(0.5):
        async with anyio.create_task_group() as tasks:
            await made._look(Flight(), tasks)
    assert looks > 1
