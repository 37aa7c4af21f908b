"""What watching costs and how soon it finds: the blocked-loop watch on a uvloop, and a hang of a real service.

*Cost*: rounds of a loop that wakes up for a byte in a pipe each time, in processor time of the process, watched and
not watched in turn. *Idle*: voluntary context switches of a loop that sleeps. *Hang*: a drop-in that calls `time.sleep`
for ever under `watchdog_s`; from the call to its being killed, and to its running again.

    python benchmarks/watch.py [--rounds N] [--hangs N] [--watchdog-s S]
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import sys
import time
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import anyio

from sparkd.blocked import watch_loop
from sparkd.testing import Node, short_folder

WAKES = 40_000
PLUGIN = """\
import time
from pathlib import Path
import anyio
from sparkd import NoConfig, Service, hookimpl

async def run(ctx, *, task_status):
    task_status.started()
    await anyio.sleep(0.5)
    mark = ctx.state_dir / "mark"
    if mark.exists():
        await anyio.sleep_forever()
    mark.write_text(repr(time.time()))
    time.sleep(3600)

@hookimpl
def sparkd_services():
    return [Service(name="hangs", config=NoConfig, run=run)]
"""


async def cost_us(*, watched: bool) -> float:
    """Return the microseconds of processor time a round takes."""
    reader, writer = os.pipe()
    os.set_blocking(reader, False)
    async with AsyncExitStack() as stack:
        if watched:
            assert await stack.enter_async_context(watch_loop(lambda _block: None, lambda: [__file__]))
        begun = time.process_time()
        for _ in range(WAKES):
            os.write(writer, b".")
            await anyio.wait_readable(reader)
            os.read(reader, 1)
        took = time.process_time() - begun
    os.close(reader)
    os.close(writer)
    return took / WAKES * 1e6


async def idle_switches_per_s() -> float:
    async with watch_loop(lambda _block: None, list):
        await anyio.sleep(0.5)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_nvcsw
        await anyio.sleep(5)
        return (resource.getrusage(resource.RUSAGE_SELF).ru_nvcsw - before) / 5


def hang_s(watchdog_s: float) -> tuple[float, float]:
    """Return the seconds from a hang to its being caught, and to the service's running again."""
    with short_folder() as folder:
        tables = f'[node]\nname = "home"\nmetrics_listen = ""\n[plugins.hangs]\nwatchdog_s = {watchdog_s}\n'
        node = Node("home", folder, tables).prepare()
        (node.plugins / "hangs.py").write_text(PLUGIN)
        node.start()
        try:
            while True:
                time.sleep(0.05)
                found: dict[str, Any] = node.call("node.status")["services"][0]
                if found["last_failure"] and found["state"] == "running":
                    mark = float(Path(node.state, "plugins", "hangs", "mark").read_text())
                    return found["last_failure"]["at"] - mark, found["since"] - mark
        finally:
            node.stop()


def main() -> None:
    parser = argparse.ArgumentParser(description="What watching costs, and how soon it finds.")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--hangs", type=int, default=5)
    parser.add_argument("--watchdog-s", type=float, default=10.0)
    options = parser.parse_args()
    costs: dict[bool, list[float]] = {False: [], True: []}
    for number in range(options.rounds):
        for watched in (False, True) if number % 2 else (True, False):
            got = anyio.run(lambda on=watched: cost_us(watched=on), backend_options={"use_uvloop": True})
            costs[watched].append(got)
    hangs = [hang_s(options.watchdog_s) for _ in range(options.hangs)]
    result = {
        "round_us": {
            "bare": round(statistics.median(costs[False]), 2),
            "watched": round(statistics.median(costs[True]), 2),
        },
        "ratio": round(statistics.median(w / b for b, w in zip(costs[False], costs[True], strict=True)), 3),
        "idle_switches_per_s": anyio.run(idle_switches_per_s, backend_options={"use_uvloop": True}),
        "watchdog_s": options.watchdog_s,
        "caught_after_s": [round(caught, 2) for caught, _ in hangs],
        "back_after_s": [round(back, 2) for _, back in hangs],
    }
    json.dump(result, sys.stdout, indent=2)
    print()


if __name__ == "__main__":
    main()
