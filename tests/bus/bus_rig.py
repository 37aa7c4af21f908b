"""Events, clients and children for the tests of the bus."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anyio
from anyio.streams.buffered import BufferedByteReceiveStream

from sparkd import Durability, event
from sparkd.bus import BusClient, Subscription


@event("test.count")
@dataclass(frozen=True, slots=True, kw_only=True)
class Count:
    n: int
    filling: str = ""


@event("test.keep", durability=Durability.DURABLE)
@dataclass(frozen=True, slots=True, kw_only=True)
class Keep:
    n: int


def client(runtime: Path, service: str = "s", **options: Any) -> AbstractAsyncContextManager[BusClient]:
    return BusClient(runtime, node="n", service=service, **options).open()


@asynccontextmanager
async def child(program: str, *arguments: str) -> AsyncIterator[Callable[[], Awaitable[str]]]:
    """Run a Python program; give what returns its next line. It is killed at the end."""
    async with await anyio.open_process([sys.executable, "-c", program, *arguments], stderr=None) as process:
        assert process.stdout is not None
        lines = BufferedByteReceiveStream(process.stdout)

        async def line() -> str:
            with anyio.fail_after(20):
                return (await lines.receive_until(b"\n", 1000)).decode()

        try:
            yield line
        finally:
            process.kill()


async def take(subscription: Subscription[Any], count: int) -> list[Any]:
    with anyio.fail_after(10):
        return [await anext(subscription) for _ in range(count)]


async def until(condition: Callable[[], bool]) -> None:
    """Return once *condition* holds; the loop runs meanwhile."""
    with anyio.fail_after(10):
        while not condition():
            await anyio.lowlevel.checkpoint()
