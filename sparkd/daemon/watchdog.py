"""WATCHDOG=1 as a decision, not as a timer; and more time to start, while a start is really under way.

Theory of operation. Each round asks what a node cannot be without, as those ask who use it: the broker by an event
that goes through the bus and comes back, the RPC socket by a connection of its own, and the event loop by all of this
happening at all. Only when everything has answered is systemd told. A round takes a quarter of systemd's interval at
the most, and the next begins a quarter later: so one bad round is forgiven, and what does not come back is not.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import anyio

from sparkd.bus import Subscription
from sparkd.events import event
from sparkd.privacy import Privacy
from sparkd.states import State
from sparkd.systemd import watchdog_interval_s

if TYPE_CHECKING:
    from sparkd.daemon.core import Core

UNWATCHED_ROUND_S = 10.0
"""From one round to the next where systemd has no watchdog on us: what does not answer is told all the same."""
EXTEND_S = 20.0
EXTEND_EVERY_S = 1.0
"""Often enough that some may be late; and a core that hangs while it starts has only the last of them left."""
MAX_ANSWER_BYTES = 65_536
_QUESTION = b'{"jsonrpc":"2.0","id":"watchdog","method":"node.version"}\n'


@event("sparkd.watchdog", privacy=Privacy.NODE)
@dataclass(frozen=True, slots=True, kw_only=True)
class Ping:
    """What the core says to itself through the bus."""

    number: int


async def keep_watch(core: Core, begun: Callable[[], None]) -> None:
    """Ask round after round; tell systemd of good ones, and log and status of bad ones."""
    interval = watchdog_interval_s()
    pause = min(interval / 4, UNWATCHED_ROUND_S) if interval else UNWATCHED_ROUND_S
    number, well, told = 0, time.monotonic(), ""
    async with core.bus.subscribe(Ping) as pings:
        begun()
        while not core.notifier.is_stopping:
            number += 1
            failed = await ask(
                {
                    "bus": partial(_through_bus, core, pings, number),
                    "rpc socket": partial(through_socket, core.places.socket),
                },
                limit_s=pause,
            )
            if not failed:
                well = time.monotonic()
                if interval:
                    core.notifier.watchdog()
            _tell(core, failed, time.monotonic() - well)
            if (line := core.line_of_truth()) != told:
                told = line
                core.tell_systemd()
            await _pause(core, pause)


async def extend_start(core: Core, begun: Callable[[], None]) -> None:
    """Ask systemd for more time while the node is not ready because a service is in its first start.

    How long that may take is the service's own `start_limit_s`, which the supervisor holds it to.
    """
    begun()
    while not core.ready and not core.notifier.is_stopping:
        services = core.supervisor.services.values()
        if any(service.state is State.STARTING and not service.attempted.is_set() for service in services):
            core.notifier.extend_timeout(EXTEND_S)
        await anyio.sleep(EXTEND_EVERY_S)
    await anyio.sleep_forever()


async def ask(questions: dict[str, Callable[[], Awaitable[None]]], *, limit_s: float) -> dict[str, str]:
    """Ask all *questions* at once; return why those failed that did, or were not answered within *limit_s*."""
    failed: dict[str, str] = {}

    async def one(name: str, question: Callable[[], Awaitable[None]]) -> None:
        try:
            with anyio.fail_after(limit_s):
                await question()
        except TimeoutError:
            failed[name] = f"no answer within {limit_s:g} s"
        except Exception as error:  # noqa: BLE001 - whatever it is, it is no answer
            failed[name] = f"{type(error).__name__}: {error}"

    async with anyio.create_task_group() as tasks:
        for name, question in questions.items():
            tasks.start_soon(one, name, question)
    return failed


async def through_socket(path: Path) -> None:
    """Return once the daemon at *path* has answered with a line. Raises OSError, or EndOfStream if it only closes.

    That it is busy, or that we may not ask, is an answer too: somebody is there who decides.
    """
    answer = b""
    async with await anyio.connect_unix(path) as connection:
        await connection.send(_QUESTION)
        while b"\n" not in answer and len(answer) < MAX_ANSWER_BYTES:
            answer += await connection.receive()


async def _through_bus(core: Core, pings: Subscription[Ping], number: int) -> None:
    await core.bus.publish(Ping(number=number))
    async for ping in pings:
        if ping.event.number == number:  # others came too late for their round
            return


def _tell(core: Core, failed: dict[str, str], silent_s: float) -> None:
    core.problems.pop("watchdog", None)
    if failed and not core.notifier.is_stopping:
        why = "; ".join(f"{name}: {reason}" for name, reason in sorted(failed.items()))
        core.problems["watchdog"] = f"the core is not well for {silent_s:.0f} s: {why}"
        core.log.error("not well: systemd is not told otherwise", seconds=round(silent_s, 1), why=why)


async def _pause(core: Core, pause_s: float) -> None:
    due = time.monotonic() + pause_s
    await anyio.sleep(pause_s)
    late = time.monotonic() - due
    if late > pause_s:
        core.log.error("the core's event loop stood still", seconds=round(late, 1))
