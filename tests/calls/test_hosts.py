from __future__ import annotations

import stat
import struct
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Protocol

import anyio
import anyio.lowlevel
import msgspec
import pytest

from sparkd import CallError, CallErrorKind, interface
from sparkd.calls import (
    Call,
    CallRouter,
    Endpoint,
    Handlers,
    Rules,
    Terms,
    connect_to_core,
    open_to_hosts,
    requester,
    stub,
)
from sparkd.calls.frames import Request, encode
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
        async with (
            open_to_hosts(router, socket),
            connect_to_core(socket, handlers=handlers, tasks=tasks) as maker,
            connect_to_core(socket, handlers=quiet, tasks=tasks) as caller,
        ):
            for end, name in ((maker, "maker"), (caller, "caller")):
                await stub(SupervisorApi, requester(end), Terms()).hello(service=name, token=name)
            await stub(SupervisorApi, requester(maker), Terms()).bind(interfaces=["blobs"])
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


@pytest.mark.parametrize(
    "garbage",
    [b"", b"\0", bytes(8), bytes(800), b"\xff" * 100, b"\1\0\0\0\1\0\0\0xy", b"\x40\0\0\0\0\0\0\0" + b"\x91" * 64],
    ids=["nothing", "a byte", "empty", "many empty", "endless lengths", "malformed", "nested"],
)
async def test_garbage_on_the_socket_hurts_nobody(socket: Path, garbage: bytes) -> None:
    async with node(socket) as (router, [_, caller]):
        async with await anyio.connect_unix(socket) as stranger:
            await stranger.send(garbage)
        assert await stub(Blobs, requester(caller), Terms()).size(blob=b"123") == 3
        assert set(router.bound()) == {"maker", "caller"}


async def test_a_message_that_comes_byte_by_byte_is_one_message(socket: Path) -> None:
    head, body = encode(Request(1, "supervisor.hello", 5.0), msgspec.msgpack.encode({"service": "x", "token": "x"}))
    async with node(socket) as (router, _), await anyio.connect_unix(socket) as slow:
        for byte in struct.pack("<II", len(head), len(body)) + head + body:
            await slow.send(bytes([byte]))
        await slow.receive()
        assert "x" in router.bound()


async def test_a_host_that_does_not_read_is_unavailable(socket: Path) -> None:
    async with node(socket) as (router, _), await anyio.connect_unix(socket) as deaf:
        head, body = encode(Request(1, "supervisor.hello", 5.0), msgspec.msgpack.encode({"service": "x", "token": "x"}))
        await deaf.send(struct.pack("<II", len(head), len(body)) + head + body)
        await deaf.receive()
        errors: list[CallError] = []

        async def call() -> None:
            try:
                await router.call(Call(method="x:host.ping"), bytes(3 << 20))
            except CallError as error:
                errors.append(error)
                calls.cancel_scope.cancel()

        async with anyio.create_task_group() as calls:
            for _ in range(5):
                calls.start_soon(call)
        assert "does not read" in errors[0].message


async def test_a_host_that_vanishes_is_noticed_without_being_told(socket: Path) -> None:
    async with node(socket) as (router, [maker, caller]):
        channel: Any = maker._channel
        channel.transport.abort()
        while "maker" in router.bound():
            await anyio.lowlevel.checkpoint()
        with pytest.raises(CallError) as caught:
            await stub(Blobs, requester(caller), Terms()).size(blob=b"")

        assert caught.value.kind is CallErrorKind.UNAVAILABLE
        assert set(router.bound()) == {"caller"}
        assert maker.closed


async def test_the_socket_is_the_daemons_own(socket: Path) -> None:
    async with node(socket):
        assert stat.S_IMODE(socket.stat().st_mode) == 0o600
    assert not socket.exists()


async def test_a_host_whose_process_ended_is_gone_at_once(socket: Path) -> None:
    async with node(socket) as (router, [_, caller]):
        router.drop("maker", "killed by signal 9")
        blobs: Any = stub(Blobs, requester(caller), Terms())
        with pytest.raises(CallError) as caught:
            await blobs.size(blob=b"")

        assert caught.value.kind is CallErrorKind.UNAVAILABLE
