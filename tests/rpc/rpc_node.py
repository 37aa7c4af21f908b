"""A whole node's calls in one process: the socket, the router, core methods, and one service over real ZeroMQ."""

from __future__ import annotations

import asyncio
import contextlib
import json
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

import anyio
import msgspec
import pytest

from sparkd import CallError, CallErrorKind, interface, reads
from sparkd.calls import CallRouter, Handlers, Rules, Terms, connect_to_core, open_to_hosts, requester, stub
from sparkd.core_interfaces import SupervisorApi
from sparkd.rpc import Access, Door, RpcCounts, RpcLimits, core_manifest, serve_rpc
from sparkd.service import Manifest


@dataclass(frozen=True)
class Blob:
    data: bytes
    number: float = 0.0
    children: list[Blob] = field(default_factory=list)


@interface("near")
class Near(Protocol):
    @reads
    async def echo(self, *, value: Any = None) -> Any:
        """Return what was given."""
        ...

    @reads
    async def reverse(self, *, blob: Blob) -> Blob: ...

    async def change(self) -> bool: ...

    @reads
    async def sleep(self) -> None: ...

    async def fail(self) -> None: ...

    @reads
    async def number(self, *, value: float) -> float: ...

    @reads
    async def size(self, *, count: int) -> str: ...

    @reads
    def count(self, *, upto: int, then_fail: bool = False) -> AsyncIterator[int]: ...

    async def gather(self, *, items: AsyncIterator[int]) -> int: ...


@interface("far")
class Far(Protocol):
    @reads
    async def echo(self, *, value: Any = None) -> Any:
        """Return what was given."""
        ...

    @reads
    async def reverse(self, *, blob: Blob) -> Blob: ...

    async def change(self) -> bool: ...

    @reads
    async def sleep(self) -> None: ...

    async def fail(self) -> None: ...

    @reads
    async def number(self, *, value: float) -> float: ...

    @reads
    async def size(self, *, count: int) -> str: ...

    @reads
    def count(self, *, upto: int, then_fail: bool = False) -> AsyncIterator[int]: ...

    async def gather(self, *, items: AsyncIterator[int]) -> int: ...


class Answers:
    def __init__(self) -> None:
        self.sleeping = anyio.Event()
        self.woken = anyio.Event()
        self.closed = anyio.Event()

    async def echo(self, *, value: Any = None) -> Any:
        return value

    async def reverse(self, *, blob: Blob) -> Blob:
        return replace(blob, data=blob.data[::-1])

    async def change(self) -> bool:
        return True

    async def sleep(self) -> None:
        self.sleeping.set()
        try:
            await anyio.sleep_forever()
        finally:
            self.woken.set()

    async def fail(self) -> None:
        raise KeyError("broken inside")

    async def number(self, *, value: float) -> float:
        return value * float("inf")

    async def size(self, *, count: int) -> str:
        return "x" * count

    async def count(self, *, upto: int, then_fail: bool = False) -> AsyncIterator[int]:
        try:
            for number in range(upto):
                yield number
            if then_fail:
                raise CallError(CallErrorKind.UNAVAILABLE, "no more numbers", remedy="count less")
        finally:
            self.closed.set()

    async def gather(self, *, items: AsyncIterator[int]) -> int:
        return sum([item async for item in items])


@dataclass
class Client:
    """A plain socket that speaks lines."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    def send(self, *lines: bytes) -> None:
        self.writer.write(b"".join(line + b"\n" for line in lines))

    async def read(self) -> Any:
        line = await self.reader.readline()
        assert line.endswith(b"\n"), f"closed after {line!r}"
        return json.loads(line)

    async def ask(self, method: str, params: Any = None, **more: Any) -> Any:
        message = {"jsonrpc": "2.0", "id": 1, "method": method, **more}
        if params is not None:
            message["params"] = params
        self.send(json.dumps(message).encode())
        return await self.read()

    async def closed(self) -> bool:
        try:
            return await self.reader.read() == b""
        except ConnectionResetError:
            return True


@dataclass
class Node:
    socket: Path
    counts: RpcCounts
    near: Answers
    far: Answers
    errors: list[str]
    router: CallRouter

    @asynccontextmanager
    async def client(self) -> AsyncIterator[Client]:
        reader, writer = await asyncio.open_unix_connection(self.socket, limit=16 << 20)
        try:
            yield Client(reader, writer)
        finally:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()


MakeNode = Callable[..., AbstractAsyncContextManager[Node]]


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder with a short name: an ipc path has a hundred bytes."""
    with tempfile.TemporaryDirectory(prefix="spark") as name:
        yield Path(name)


@pytest.fixture
def make_node(folder: Path) -> MakeNode:
    @asynccontextmanager
    async def make(*, access: Access | None = None, **limits: Any) -> AsyncIterator[Node]:
        def rules() -> Access:
            return access or Access(node="here")

        errors: list[str] = []
        near, far = Answers(), Answers()
        core = Handlers(on_error=lambda method, error: errors.append(f"{method}: {error!r}"))
        core.bind(Near, near)
        manifests = [core_manifest(Near), replace_name(core_manifest(Far), "distant")]
        of_calls = Rules(
            verify=lambda service, token: token == f"token of {service}",
            providers=lambda name: ["distant"] if name == "far" else [],
        )
        async with anyio.create_task_group() as tasks:
            router = CallRouter(node="here", core=core, tasks=tasks, rules=of_calls)
            theirs = Handlers(on_error=lambda method, error: errors.append(f"{method}: {error!r}"))
            theirs.bind(Far, far)
            calls = folder / "calls"
            door = Door(router, lambda: manifests, rules, "0.1")
            async with open_to_hosts(router, calls), connect_to_core(calls, handlers=theirs, tasks=tasks) as endpoint:
                supervisor = stub(SupervisorApi, requester(endpoint), Terms())
                await supervisor.hello(service="distant", token="token of distant")
                await supervisor.bind(interfaces=["far"])
                path = folder / "sparkd.sock"
                async with serve_rpc(
                    path,
                    door.answer,
                    access=rules,
                    limits=RpcLimits(**limits),
                    on_error=lambda method, error: errors.append(f"{method}: {error!r}"),
                ) as counts:
                    yield Node(path, counts, near, far, errors, router)
            tasks.cancel_scope.cancel()

    return make


def replace_name(manifest: Manifest, name: str) -> Manifest:
    return msgspec.structs.replace(manifest, name=name)
