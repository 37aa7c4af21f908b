"""How long a hot read of the memory takes from another service's process, beside bare redis-py on the same values.

A real daemon with nas-tier and its embedded Valkey; a drop-in asks `memory.get` for values of 1 KiB, one after the
other, in rounds that alternate with rounds of bare redis-py (asyncio) on the same Valkey and the same bytes.
Run: `python benchmarks/memory_tier1.py [reads]`. Prints JSON.
"""

from __future__ import annotations

import sys

from asker import print_what_it_wrote

from sparkd.testing import Node, short_folder

CONFIG = """
[node]
name = "home"
metrics_listen = ""
[plugins.nas-tier]
[plugins.nas-tier.hot]
max_bytes = 67108864
[plugins.nas-tier.nas]
path = "{nas}"
"""
ASKER = '''
"""asker: reads the memory, and redis, and says how long it took."""
import json, random, time
from pathlib import Path
import anyio
from redis.asyncio import Redis
from sparkd import CallError, Memory, NoConfig, Service, hookimpl

READS, KEYS, ROUND, VALUE = {reads}, 500, 500, bytes(range(256)) * 4
OUT = Path({out!r})


def told(times):
    times.sort()
    return {{"p50_ms": times[len(times) // 2] * 1e3, "p99_ms": times[int(len(times) * 0.99)] * 1e3}}


async def run(ctx, *, task_status):
    task_status.started()
    memory = ctx.call(Memory, deadline_s=10.0)
    while True:
        try:
            await memory.put(namespace="plans", key="ready", value=b"yes")
            break
        except CallError:
            await anyio.sleep(0.1)
    redis = Redis(unix_socket_path={socket!r})
    for number in range(KEYS):
        await memory.put(namespace="plans", key=f"k{{number}}", value=VALUE)
        await redis.set(f"bare{{number}}", VALUE, ex=3600)
    await anyio.sleep(3)
    ours, bare = [], []
    for _ in range(READS // ROUND):
        for _ in range(ROUND):
            number = random.randrange(KEYS)
            begun = time.perf_counter()
            entry = await memory.get(namespace="plans", key=f"k{{number}}")
            ours.append(time.perf_counter() - begun)
            assert entry.value == VALUE and entry.tier == "hot", entry
        for _ in range(ROUND):
            number = random.randrange(KEYS)
            begun = time.perf_counter()
            assert await redis.get(f"bare{{number}}") == VALUE
            bare.append(time.perf_counter() - begun)
    part = OUT.with_suffix(".part")
    part.write_text(json.dumps({{"reads": len(ours), "memory.get": told(ours), "bare redis-py": told(bare)}}))
    part.replace(OUT)
    await anyio.sleep_forever()


@hookimpl
def sparkd_services():
    return [Service(name="asker", config=NoConfig, run=run)]
'''


def main(reads: int) -> None:
    """Measure, and print."""
    with short_folder() as folder:
        out = folder / "out.json"
        (folder / "nas").mkdir()
        node = Node("home", folder / "home", CONFIG.format(nas=folder / "nas")).prepare()
        socket = node.state / "plugins" / "nas-tier" / "valkey" / "s"
        (node.plugins / "asker.py").write_text(ASKER.format(reads=reads, out=str(out), socket=str(socket)))
        print_what_it_wrote(node, out, limit_s=300)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 10_000)
