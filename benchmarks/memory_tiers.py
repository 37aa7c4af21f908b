"""What tiers 2 and 3 add to bare file and object access, with a network's delay injected beneath both.

Tier 2: a folder behind FUSE that answers each request 2.5 ms late, names and attributes cached for a second as NFS has
it; the tier's `get` and `put` of records of 1 KiB, beside reading a file that lies as deep, and beside writing one as
durably (temporary file, sync, rename, sync of the folder) into a folder that is there. Tier 3: a real S3 server behind
a relay, 40 ms each way; the tier's blobs of 256 KiB, beside obstore's own `get` and `put` of the same bytes. Turns
alternate. What is slow on purpose is that of the tests; FUSE needs root.
Run: `python benchmarks/memory_tiers.py [rounds]`. Prints JSON.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import statistics
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import obstore

sys.path.insert(0, str(Path(__file__).parents[1]))  # what is slow on purpose lives with the tests

from sparkd import MemoryRecord, Privacy, digest_of
from sparkd.testing import short_folder
from sparkd.testing.wires import Lines
from sparkd_plugins.nas_tier.clock import version_of
from sparkd_plugins.nas_tier.directory_config import DirectoryConfig
from sparkd_plugins.nas_tier.directory_tier import open_directory
from sparkd_plugins.nas_tier.long_config import LongConfig
from sparkd_plugins.nas_tier.tier_long import open_long
from tests.plugins.servers import bucket
from tests.plugins.slow_disk import slow_disk

NODE, NOW = "a" * 32, 1_800_000_000_000
FILE_DELAY_S, WIRE_DELAY_S = 0.0025, 0.04
SMALL, LARGE = 1024, 256 * 1024
TOLD_WARM = 3


async def timed(deed: Callable[[], Awaitable[object]], times: list[float]) -> None:
    """Do *deed*, and add how long it took."""
    begun = time.perf_counter()
    await deed()
    times.append((time.perf_counter() - begun) * 1e3)


def told(ours: list[float], bare: list[float]) -> dict[str, float]:
    """Return medians in ms, and how much more ours is."""
    mine, its = statistics.median(ours[TOLD_WARM:]), statistics.median(bare[TOLD_WARM:])
    return {"tier_ms": round(mine, 2), "bare_ms": round(its, 2), "adds_percent": round(100 * (mine / its - 1), 1)}


def record(number: int) -> MemoryRecord:
    """Return a record of 1 KiB."""
    value = random.Random(number).randbytes(SMALL)
    return MemoryRecord(
        namespace="n",
        key=f"k{number}",
        version=version_of(NOW + number, 0, NODE),
        value=value,
        size=SMALL,
        digest=digest_of(value),
        privacy=int(Privacy.SHARED),
    )


def read_file(path: Path) -> bytes:
    """Read a file."""
    with path.open("rb", buffering=0) as file:
        return file.read()


def write_file(path: Path, content: bytes) -> None:
    """Write a file, to last."""
    part = path.with_name(f".{path.name}")
    with part.open("wb", buffering=0) as file:
        file.write(content)
        os.fsync(file.fileno())
    part.rename(path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def place(bare: Path, number: int) -> Path:
    """Return a file as deep as the tier's: each folder on the way is asked for by name."""
    digest = digest_of(b"%d" % number)
    return bare / digest[:2] / digest / "head"


async def files(rounds: int) -> dict[str, Any]:
    """Measure tier 2."""
    reads: tuple[list[float], list[float]] = ([], [])
    writes: tuple[list[float], list[float]] = ([], [])
    with short_folder() as root, slow_disk(root, cached_s=1.0) as disk:
        config = DirectoryConfig(path=disk.path, free_least_bytes=0)
        bare = disk.path / "bare"
        bare.mkdir()
        async with open_directory(config, node_id=NODE, log=Lines()) as tier:
            for number in range(rounds):
                await tier.put(record=record(number))
                place(bare, number).parent.mkdir(parents=True)
                write_file(place(bare, number), record(number).value or b"")
            disk.now(delay_s=FILE_DELAY_S)
            await anyio.sleep(0.2)
            for number in range(rounds):
                new, path = record(rounds + number), place(bare, number)

                async def get(key: str = f"k{number}") -> None:
                    assert await tier.get(namespace="n", key=key) is not None

                await timed(get, reads[0])
                await timed(lambda path=path: anyio.to_thread.run_sync(read_file, path), reads[1])
                await timed(lambda new=new: tier.put(record=new), writes[0])
                target, content = bare / new.key, new.value or b""
                await timed(
                    lambda target=target, content=content: anyio.to_thread.run_sync(write_file, target, content),
                    writes[1],
                )
            disk.now()
    return {"get": told(*reads), "put of a new key": told(*writes)}


@asynccontextmanager
async def far_away(port: int) -> AsyncIterator[int]:
    """Relay to *port*; each byte arrives so much later, however many are on their way."""

    async def pump(source: asyncio.StreamReader, to: asyncio.StreamWriter) -> None:
        loop, last = asyncio.get_running_loop(), asyncio.Event()

        def hand_on(data: bytes) -> None:
            if data:
                to.write(data)
            else:
                last.set()

        with suppress(OSError):
            while data := await source.read(1 << 16):
                loop.call_later(WIRE_DELAY_S, hand_on, data)
        loop.call_later(WIRE_DELAY_S, hand_on, b"")
        await last.wait()
        to.close()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            back, forth = await asyncio.open_connection("127.0.0.1", port)
            await asyncio.gather(pump(reader, forth), pump(back, writer))

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1]


async def objects(rounds: int) -> dict[str, Any]:
    """Measure tier 3."""
    reads: tuple[list[float], list[float]] = ([], [])
    writes: tuple[list[float], list[float]] = ([], [])
    with short_folder() as state, short_folder() as folder, bucket(folder) as s3:
        async with far_away(s3.port) as port:
            seen = replace(s3, port=port)
            config, bare = LongConfig(**seen.config()), seen.client()
            async with open_long(config, state_dir=state, node_id=NODE, log=Lines()) as tier:
                for number in range(rounds):
                    value = random.Random(number).randbytes(LARGE)
                    digest = digest_of(value)

                    async def chunks(value: bytes = value) -> AsyncIterator[bytes]:
                        yield value

                    async def write(digest: str = digest, made: Any = chunks) -> None:
                        await tier.write(digest=digest, size=LARGE, chunks=made())

                    async def read(digest: str = digest) -> None:
                        assert sum([len(chunk) async for chunk in tier.read(digest=digest)]) == LARGE

                    async def bare_write(key: str = f"bare{number}", value: bytes = value) -> None:
                        await obstore.put_async(bare, key, value)

                    async def bare_read(key: str = f"bare{number}") -> None:
                        got = await obstore.get_async(bare, key)
                        assert len(await got.bytes_async()) == LARGE

                    await timed(write, writes[0])
                    await timed(bare_write, writes[1])
                    await timed(read, reads[0])
                    await timed(bare_read, reads[1])
    return {"read of a blob": told(*reads), "write of a new blob": told(*writes)}


async def main(rounds: int) -> None:
    """Measure, and print."""
    print(json.dumps({"tier 2": await files(rounds), "tier 3": await objects(rounds)}, indent=2))


if __name__ == "__main__":
    anyio.run(main, int(sys.argv[1]) if len(sys.argv) > 1 else 40)
