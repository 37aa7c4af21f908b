"""The memory as a cache before an origin, beside cashews and a plain redis-py cache-aside, on one Zipf trace.

A real daemon with nas-tier and its embedded Valkey; two more of the same Valkey for the others, with as much memory. A
drop-in makes what is missing in 2 ms. Another asks, 16 requests at once, in turns of 20,000 for each of the three, so
that what disturbs the machine disturbs all. `cashews` is not among the project's packages: pip install cashews.
Run: `python benchmarks/memory_zipf.py [requests] [keys]`. Prints JSON.
"""

from __future__ import annotations

import subprocess
import sys

from asker import print_what_it_wrote

from sparkd.testing import Node, free_port, short_folder
from sparkd_plugins.nas_tier.valkey_child import find_server

HOT_BYTES = 48 << 20
CONFIG = """
[node]
name = "home"
metrics_listen = ""
[plugins.maker]
[plugins.asker]
[plugins.nas-tier]
[plugins.nas-tier.hot]
max_bytes = {hot}
ttl_s = 3600.0
[plugins.nas-tier.nas]
path = "{nas}"
[plugins.nas-tier.namespaces.zipf]
origin = "maker:zipf.make"
searchable = false
"""
MAKER = '''
"""maker: the origin. Takes 2 ms, and counts."""
from typing import Protocol
import anyio
from sparkd import NoConfig, Service, hookimpl, interface


@interface("zipf")
class Zipf(Protocol):
    """An origin."""

    async def make(self, *, key: str) -> str:
        """Make the value of a key."""
        ...

    async def count(self) -> int:
        """Return how many were made since the last time."""
        ...


class Made:
    def __init__(self):
        self.made = 0

    async def make(self, *, key):
        self.made += 1
        await anyio.sleep(0.002)
        return (key + ":").ljust(1024, "x")

    async def count(self):
        made, self.made = self.made, 0
        return made


async def run(ctx, *, task_status):
    await ctx.serve(Zipf, Made())
    task_status.started()
    await anyio.sleep_forever()


@hookimpl
def sparkd_services():
    return [Service(name="maker", config=NoConfig, run=run, serves=(Zipf,))]
'''
ASKER = '''
"""asker: asks all three for the same keys, and says how long it took."""
import json, time
from pathlib import Path
import anyio
import numpy as np
from cashews import Cache
from redis.asyncio import Redis
from sparkd import CallError, Memory, NoConfig, Service, hookimpl

REQUESTS, KEYS, TURN, AT_ONCE = {requests}, {keys}, 20_000, 16
OUT = Path({out!r})


async def run(ctx, *, task_status):
    task_status.started()
    memory = ctx.call(Memory, deadline_s=30.0)
    while True:
        try:
            await memory.put(namespace="plans", key="ready", value=b"yes")
            await ctx.request("maker:zipf.count")
            break
        except CallError:
            await anyio.sleep(0.1)
    redis, cache = Redis(port={aside}), Cache()
    cache.setup("redis://127.0.0.1:{cashews}/0")

    async def make(key):
        return await ctx.request("maker:zipf.make", {{"key": key}}, deadline_s=30.0)

    async def ours(key):
        return (await memory.get(namespace="zipf", key=key)).value.decode()

    async def aside(key):
        value = await redis.get(key)
        if value is None:
            value = (await make(key)).encode()
            await redis.set(key, value, ex=3600)
        return value.decode()

    @cache(ttl="1h", key="{{key}}")
    async def by_cashews(key):
        return await make(key)

    weights = 1 / np.arange(1, KEYS + 1)
    ranks = np.searchsorted(np.cumsum(weights) / weights.sum(), np.random.default_rng(1).random(REQUESTS))
    order = np.random.default_rng(2).permutation(KEYS)
    trace = [f"k{{number}}" for number in order[ranks]]
    asked = {{"memory": ours, "cashews": by_cashews, "redis-py cache-aside": aside}}
    took = {{name: [] for name in asked}}
    made, spent = dict.fromkeys(asked, 0), dict.fromkeys(asked, 0.0)

    async def worker(ask, keys, times):
        for key in keys:
            begun = time.perf_counter()
            value = await ask(key)
            times.append(time.perf_counter() - begun)
            assert value.startswith(key + ":"), (key, value[:20])

    for at in range(0, REQUESTS, TURN):
        turn = trace[at : at + TURN]
        for name, ask in asked.items():
            begun, keys = time.perf_counter(), iter(turn)
            async with anyio.create_task_group() as tasks:
                for _ in range(AT_ONCE):
                    tasks.start_soon(worker, ask, keys, took[name])
            spent[name] += time.perf_counter() - begun
            made[name] += await ctx.request("maker:zipf.count")
    told = {{}}
    for name, times in took.items():
        times.sort()
        told[name] = {{
            "hit ratio": round(1 - made[name] / REQUESTS, 4),
            "origin": made[name],
            "p50_ms": round(times[len(times) // 2] * 1e3, 3),
            "p99_ms": round(times[int(len(times) * 0.99)] * 1e3, 3),
            "requests/s": round(REQUESTS / spent[name]),
        }}
    part = OUT.with_suffix(".part")
    part.write_text(json.dumps({{"requests": REQUESTS, "distinct keys": len(set(trace)), **told}}))
    part.replace(OUT)
    await anyio.sleep_forever()


@hookimpl
def sparkd_services():
    return [Service(name="asker", config=NoConfig, run=run)]
'''


def main(requests: int, keys: int) -> None:
    """Measure, and print."""
    others: list[subprocess.Popen[bytes]] = []
    with short_folder() as folder:
        out, ports = folder / "out.json", (free_port(), free_port())
        (folder / "nas").mkdir()
        for port in ports:
            bounds = ("--maxmemory", str(HOT_BYTES), "--maxmemory-policy", "allkeys-lru", "--save", "")
            command = [str(find_server()), "--bind", "127.0.0.1", "--port", str(port), *bounds, "--dir", str(folder)]
            others.append(subprocess.Popen(command, stdout=subprocess.DEVNULL))
        node = Node("home", folder / "home", CONFIG.format(nas=folder / "nas", hot=HOT_BYTES)).prepare()
        (node.plugins / "maker.py").write_text(MAKER)
        asker = ASKER.format(requests=requests, keys=keys, out=str(out), cashews=ports[0], aside=ports[1])
        (node.plugins / "asker.py").write_text(asker)
        try:
            print_what_it_wrote(node, out, limit_s=7200)
        finally:
            for other in others:
                other.kill()
                other.wait()


if __name__ == "__main__":
    given = [int(one) for one in sys.argv[1:]]
    main(*given, *(1_000_000, 100_000)[len(given) :])
