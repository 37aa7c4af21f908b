"""The flight recorder in the core: a look at everything each second, minutes to disk a few at a time.

Theory of operation. What the core knows is gathered on the event loop; what the kernel knows is read, and everything
written, in a thread, so that neither a stuck process nor a slow card holds the core up. Looks and writes to disk are
each one at a time and do not wait for one another. What a host alone knows (its bus counters, and how long its loop
takes to answer) is asked every ten seconds: a call to each host each second would cost more than the rest together.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

import anyio
from anyio import to_thread
from anyio.abc import TaskGroup

from sparkd.core_interfaces import HostApi
from sparkd.daemon.flight import Facts, Flight, new_flight
from sparkd.recorder.watch import CORE

if TYPE_CHECKING:
    from sparkd.daemon.core import Core

LOOK_S = 1.0
ASK_S = 10.0
WRITE_MINUTES = 5
"""So many minutes are written as one, with one sync: on ext4 a sync costs about 16 KiB of flash, whatever it writes."""
CLOSE_LIMIT_S = 2.0


class Recording:
    """The recorder, as the core has it. *flight* is None until it runs, and for ever if it is not enabled."""

    def __init__(self, core: Core) -> None:
        """Record *core*, once `run`."""
        self._core = core
        self.flight: Flight | None = None
        self._stats: dict[str, Mapping[str, int]] = {}
        self._answer_us: dict[str, int] = {}
        self._looking, self._writing = anyio.CapacityLimiter(1), anyio.CapacityLimiter(1)

    async def run(self) -> None:
        """Record until cancelled."""
        core, config = self._core, self._core.config.recorder
        flight = new_flight(
            core.places.runtime,
            core.places.state,
            zygote=core.zygote.pid,
            ring_bytes=config.ring_bytes,
            disk_max_bytes=config.disk_max_bytes,
        )
        crash = await to_thread.run_sync(flight.open, limiter=self._looking)
        if crash:
            core.log.warning("the run before did not end by its own orders", **crash)
        self.flight = flight
        try:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self._ask)
                await self._look(flight, tasks)
        finally:
            self.flight = None
            with anyio.move_on_after(CLOSE_LIMIT_S, shield=True):
                close = partial(flight.close, ordered=core.ordered)
                await to_thread.run_sync(close, limiter=self._looking, abandon_on_cancel=True)

    async def _look(self, flight: Flight, tasks: TaskGroup) -> None:
        due = time.monotonic()
        while True:
            await to_thread.run_sync(flight.look, self._facts(), limiter=self._looking)
            self._tell(flight)
            if len(flight.pending) >= WRITE_MINUTES and self._writing.available_tokens:
                tasks.start_soon(self._write, flight)
                await anyio.lowlevel.checkpoint()
            due = max(due + LOOK_S, time.monotonic())  # after a pause of the machine no look is made up for
            await anyio.sleep(max(0.0, due - time.monotonic()))

    async def _write(self, flight: Flight) -> None:
        folds, totals = flight.to_write()
        if await to_thread.run_sync(flight.write, folds, totals, limiter=self._writing):
            flight.written(folds)

    async def _ask(self) -> None:
        while True:
            found = await self._core.ask_hosts(_timed)
            self._stats = {name: _bus_columns(stats) for name, (stats, _) in found.items()}
            self._answer_us = {name: took for name, (_, took) in found.items()}
            await anyio.sleep(ASK_S)

    def _facts(self) -> Facts:
        core = self._core
        services = core.supervisor.services
        counted: dict[str, dict[str, int]] = {name: dict(held) for name, held in self._stats.items()}
        counted[CORE] = _bus_columns(core.bus.stats())
        for name, count in core.link.sent_bytes().items():
            counted.setdefault(name if name in services else CORE, Counter())["link"] = count
        return Facts(
            pids={n: s.instance.pid for n, s in services.items() if s.instance is not None and s.instance.pid},
            states={name: service.state.value for name, service in services.items()},
            restarts={name: service.restarts for name, service in services.items()},
            counted=counted,
            answer_us={name: took for name, took in self._answer_us.items() if name in services},
        )

    def _tell(self, flight: Flight) -> None:
        """Show in status what is wrong."""
        problems = self._core.problems
        said = [problem for problem in (flight.ring_problem, flight.disk_problem) if problem]
        lost = f" ({flight.lost_minutes} minutes lost)" if flight.lost_minutes else ""
        text = f"flight recorder: {'; '.join(said)}{lost}" if said else ""
        if text != problems.get("recorder", ""):
            problems.pop("recorder", None)
            if text:
                problems["recorder"] = text
                self._core.log.warning("flight recorder impaired", why="; ".join(said))


async def record(core: Core, begun: Callable[[], None]) -> None:
    """Record, if the config does not say otherwise."""
    begun()
    if not core.config.recorder.enabled:
        await anyio.sleep_forever()
    await core.recording.run()


async def _timed(host: HostApi) -> tuple[dict[str, Any], int]:
    begun = time.perf_counter_ns()
    stats = await host.stats()
    return stats, (time.perf_counter_ns() - begun) // 1000


def _bus_columns(stats: Mapping[str, Any]) -> dict[str, int]:
    subscriptions: Iterable[Mapping[str, Any]] = stats["subscriptions"]
    return {
        "published": stats["published"],
        "published_bytes": stats["published_bytes"],
        "received": sum(one["received"] for one in subscriptions),
        "lost": sum(one["lost"] + one["dropped"] for one in subscriptions),
    }
