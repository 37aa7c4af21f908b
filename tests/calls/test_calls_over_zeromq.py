from __future__ import annotations

import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Protocol

import anyio
import pytest

from sparkd import CallError, CallErrorKind, interface
from sparkd.bus.sockets import DealerChannel
from sparkd.calls import CallRouter, Endpoint, Handlers, Rules, Terms, connect_to_core, open_to_hosts, requester, stub
from sparkd.core_interfaces import SupervisorApi

pytestmark = pytest.mark.anyio


@interface("blobs")
class Blobs(Protocol):
    async def size(self, *, blob: bytes) -> int: ...

    async def make(self, *, size: int) -> bytes: ...

    def parts(self, *, count: int, size: int) -> AsyncIterator[bytes]: ...

    async def fail(self, *, size: int) -> None: ...


class BlobHandler:
    async def size(self, *, blob: bytes) -> int:
        return len(blob)

    async def make(self, *, size: int) -> bytes:
        return bytes(size)

    async def parts(self, *, count: int, size: int) -> AsyncIterator[bytes]:
        for _ in range(count):
            yield bytes(size)

    async def fail(self, *, size: int) -> None:
        raise ValueError("x" * size)


@pytest.fixture
def socket() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="spark") as name:
        yield Path(name) / "calls"


@asynccontextmanager
async def node(socket: Path) -> AsyncIterator[tuple[CallRouter, list[Endpoint]]]:
    """A core with the service `maker`, and a second host that calls it."""
    quiet = Handlers(on_error=lambda _method, _error: None)
    handlers = Handlers(on_error=lambda _method, _error: None)
    handlers.bind(Blobs, BlobHandler())
    rules = Rules(verify=lambda service, token: service == token, providers=lambda _name: ["maker"])
    async with anyio.create_task_group() as tasks:
        router = CallRouter(node="home", core=quiet, tasks=tasks, rules=rules)
        with (
            open_to_hosts(router, socket),
            connect_to_core(socket, handlers=handlers, tasks=tasks) as maker,
            connect_to_core(socket, handlers=quiet, tasks=tasks) as caller,
        ):
            for end, name in ((maker, "maker"), (caller, "caller")):
                await stub(SupervisorApi, requester(end), Terms()).hello(service=name, token=name)
            await stub(SupervisorApi, requester(maker), Terms()).bind(interface="blobs")
            yield router, [maker, caller]
        tasks.cancel_scope.cancel()


async def test_calls_and_streams_pass_from_process_to_process(socket: Path) -> None:
    async with node(socket) as (_, [_, caller]):
        blobs = stub(Blobs, requester(caller), Terms())

        assert await blobs.size(blob=bytes(1 << 20)) == 1 << 20
        assert [len(part) async for part in blobs.parts(count=200, size=10_000)] == [10_000] * 200


async def test_what_is_too_large_is_refused_and_costs_nobody_the_connection(socket: Path) -> None:
    async with node(socket) as (_, [_, caller]):
        blobs = stub(Blobs, requester(caller), Terms())
        for call in (blobs.size(blob=bytes(5 << 20)), blobs.make(size=5 << 20)):
            with pytest.raises(CallError, match="pass a reference") as caught:
                await call
            assert caught.value.kind is CallErrorKind.FAILED
        with pytest.raises(CallError, match="pass a reference"):
            [part async for part in blobs.parts(count=1, size=5 << 20)]
        with pytest.raises(CallError, match="xxx"):
            await blobs.fail(size=5 << 20)

        assert await blobs.size(blob=b"123") == 3


async def test_garbage_on_the_socket_hurts_nobody(socket: Path) -> None:
    async with node(socket) as (router, [_, caller]):
        stranger = DealerChannel(f"ipc://{socket}", lambda _frames: None)
        with stranger:
            for garbage in ([b""], [b"x"], [b"a", b"b", b"c"], [b"\x93\x03", b""], [b"\x91" * 1000, b""]):
                stranger.send(garbage)
            assert await stub(Blobs, requester(caller), Terms()).size(blob=b"123") == 3
        assert set(router.bound()) == {"maker", "caller"}


async def test_a_host_whose_process_ended_is_gone_at_once(socket: Path) -> None:
    async with node(socket) as (router, [_, caller]):
        router.drop("maker", "killed by signal 9")
        blobs: Any = stub(Blobs, requester(caller), Terms())
        with pytest.raises(CallError) as caught:
            await blobs.size(blob=b"")

        assert caught.value.kind is CallErrorKind.UNAVAILABLE
