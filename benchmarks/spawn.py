"""What a child costs: from the request to its first byte, and its memory, against multiprocessing's fork server.

Both preload the same modules. Latencies are taken in alternating rounds; memory with ten children of each alive, as
proportional set size (PSS), what a process adds to the machine. The fork server is counted with its resource tracker;
this process, in the role of the core, is counted in neither, though the zygote's children share pages with it.
Run: `python benchmarks/spawn.py [rounds]`. Prints JSON.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import statistics
import sys
import time
from functools import partial
from multiprocessing import forkserver, resource_tracker
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerProcess
from pathlib import Path

import anyio

import sparkd.registry
from sparkd.zygote import Child, Zygote

PRELOAD = ["anyio", "anyio._backends._asyncio", "sparkd", "sparkd.registry"]
CHILDREN = 10


def wait_in_zygote_child(_spec: bytes, _result_fd: int) -> int:
    os.write(1, b"up\n")
    signal.pause()
    return 0


def wait_in_forkserver_child(connection: Connection) -> None:
    connection.send_bytes(b"up")
    signal.pause()


async def from_zygote(zygote: Zygote) -> tuple[float, Child]:
    up = anyio.Event()
    began = time.perf_counter()
    child = await zygote.spawn("wait", b"", name="bench", on_line=lambda _: up.set())
    await up.wait()
    return time.perf_counter() - began, child


def from_forkserver(context: multiprocessing.context.ForkServerContext) -> tuple[float, ForkServerProcess]:
    ours, its = context.Pipe(duplex=False)
    began = time.perf_counter()
    process = context.Process(target=wait_in_forkserver_child, args=(its,))
    process.start()
    ours.recv_bytes()
    took = time.perf_counter() - began
    ours.close()
    its.close()
    return took, process


def memory_kib(pid: int | None) -> dict[str, int]:
    """Return PSS, and what is private (USS), of a process."""
    rows = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]
    values = {row.split(":")[0]: int(row.split()[1]) for row in rows}
    return {"pss": values["Pss"], "private": values["Private_Clean"] + values["Private_Dirty"]}


def shape(seconds: list[float]) -> dict[str, float]:
    ordered = sorted(seconds)
    return {
        "p50_ms": round(statistics.median(ordered) * 1e3, 2),
        "p90_ms": round(ordered[int(len(ordered) * 0.9)] * 1e3, 2),
        "max_ms": round(ordered[-1] * 1e3, 2),
    }


def weigh(children: list[int | None], servers: list[int | None]) -> dict[str, float]:
    each = [memory_kib(pid) for pid in children]
    pss = [memory_kib(pid)["pss"] for pid in servers]
    return {
        "child_pss_mib": round(statistics.median(child["pss"] for child in each) / 1024, 2),
        "child_private_mib": round(statistics.median(child["private"] for child in each) / 1024, 2),
        "servers_pss_mib": round(sum(pss) / 1024, 2),
        "all_pss_mib": round((sum(child["pss"] for child in each) + sum(pss)) / 1024, 2),
    }


async def compare(zygote: Zygote, rounds: int) -> dict[str, object]:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOAD)
    from_forkserver(context)[1].kill()  # starts the server: not counted
    ours: list[float] = []
    theirs: list[float] = []
    async with zygote.attach():
        for _ in range(rounds):
            took, child = await from_zygote(zygote)
            ours.append(took)
            child.kill()
            await child.wait()
            took, process = from_forkserver(context)
            theirs.append(took)
            process.kill()
            process.join()
        children = [(await from_zygote(zygote))[1].pid for _ in range(CHILDREN)]
        memory = weigh(list(children), [zygote.pid])
        processes = [from_forkserver(context)[1] for _ in range(CHILDREN)]
        tracker = resource_tracker._resource_tracker._pid  # type: ignore[attr-defined] # noqa: SLF001 - no public name
        server = forkserver._forkserver._forkserver_pid  # type: ignore[attr-defined] # noqa: SLF001 - likewise
        baseline = weigh([process.pid for process in processes], [server, tracker])
        for process in processes:
            process.kill()
            process.join()
    return {
        "rounds": rounds,
        "children": CHILDREN,
        "zygote": shape(ours) | memory,
        "forkserver": shape(theirs) | baseline,
        "latency_ratio": round(statistics.median(ours) / statistics.median(theirs), 2),
        "memory_ratio": round(memory["all_pss_mib"] / baseline["all_pss_mib"], 2),
    }


def main() -> int:
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 50
    assert sparkd.registry  # imported so that the zygote has what the fork server preloads
    zygote = Zygote.fork({"wait": wait_in_zygote_child})
    print(json.dumps(anyio.run(partial(compare, zygote, rounds)), indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main())
