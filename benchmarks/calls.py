"""Round trip of a call over the Unix socket, against a bare asyncio JSON-line echo in the same run.

Three servers, each in a process of its own, asked in turn by one blocking client, in alternating rounds: the echo, the
core with its router and socket, and (through the core) a service's host. The baseline is the bare echo on asyncio's own
loop; the same echo on uvloop, which the daemon uses, is shown beside it.
Run: `python benchmarks/calls.py [rounds]`. Prints JSON.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import statistics
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Protocol

import anyio
import uvloop

from sparkd import interface, reads
from sparkd.calls import CallRouter, Handlers, Rules, Terms, connect_to_core, open_to_hosts, requester, stub
from sparkd.core_interfaces import SupervisorApi
from sparkd.rpc import Access, Door, RpcLimits, core_manifest, serve_rpc

CALLS_A_ROUND = 200
"""Few, so that a busy moment of the machine falls on all servers alike; a ratio is the median of all rounds' ratios."""
TARGETS = {"core": 1.5, "service": 4.0}


class Echo(Protocol):
    @reads
    async def echo(self, *, value: int) -> int:
        """Return what was given."""
        ...


@interface("near")
class Near(Echo, Protocol):
    echo = Echo.echo  # type: ignore[misc] # an interface's own methods are those of its class body


@interface("far")
class Far(Echo, Protocol):
    echo = Echo.echo  # type: ignore[misc] # as above


class EchoHandler:
    async def echo(self, *, value: int) -> int:
        return value


def complain(method: str, error: BaseException) -> None:
    print(method, repr(error), file=sys.stderr)


async def echo_server(path: Path, ready: Callable[[], None]) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while line := await reader.readline():
            request = json.loads(line)
            answer = {"jsonrpc": "2.0", "id": request["id"], "result": request["params"]["value"]}
            writer.write(json.dumps(answer).encode() + b"\n")
            await writer.drain()
        writer.close()

    async with await asyncio.start_unix_server(serve, path) as server:
        ready()
        await server.serve_forever()


async def core(folder: Path, ready: Callable[[], None]) -> None:
    handlers = Handlers(on_error=complain)
    handlers.bind(Near, EchoHandler())
    rules = Rules(verify=lambda _service, _token: True, providers=lambda _name: ["distant"])
    manifests = [core_manifest(Near), core_manifest(Far)]
    async with anyio.create_task_group() as tasks:
        router = CallRouter(node="here", core=handlers, tasks=tasks, rules=rules)
        door = Door(router, lambda: manifests, Access, "0")
        async with (
            open_to_hosts(router, folder / "calls"),
            serve_rpc(folder / "core", door.answer, access=Access, limits=RpcLimits(), on_error=complain),
        ):
            ready()
            await anyio.sleep_forever()


async def host(folder: Path, ready: Callable[[], None]) -> None:
    handlers = Handlers(on_error=complain)
    handlers.bind(Far, EchoHandler())
    async with (
        anyio.create_task_group() as tasks,
        connect_to_core(folder / "calls", handlers=handlers, tasks=tasks) as endpoint,
    ):
        supervisor = stub(SupervisorApi, requester(endpoint), Terms())
        await supervisor.hello(service="distant", token="")
        await supervisor.bind(interfaces=["far"])
        ready()
        await anyio.sleep_forever()


def start(main: Callable[[Path, Callable[[], None]], Awaitable[None]], path: Path, *, fast: bool = True) -> int:
    """Run *main* in a child; return its pid once it is ready."""
    told, tell = os.pipe()
    pid = os.fork()
    if pid == 0:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        try:
            (uvloop.run if fast else asyncio.run)(main(path, lambda: os.close(tell)))  # type: ignore[arg-type]
        finally:
            os._exit(1)
    os.close(tell)
    os.read(told, 1)
    os.close(told)
    return pid


class Client:
    def __init__(self, path: Path, method: str) -> None:
        self.connection = socket.socket(socket.AF_UNIX)
        self.connection.connect(str(path))
        message = {"jsonrpc": "2.0", "id": 1, "method": method, "params": {"value": 5}}
        self.line = json.dumps(message).encode() + b"\n"
        answer = json.loads(self.once())
        assert answer["result"] == 5, answer

    def once(self) -> bytes:
        self.connection.sendall(self.line)
        return self.connection.recv(4096)

    def round(self) -> list[float]:
        times, now, once = [], time.perf_counter, self.once
        for _ in range(CALLS_A_ROUND):
            began = now()
            once()
            times.append((now() - began) * 1e6)
        return times


def measure(rounds: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix="spark") as name:
        folder = Path(name)
        children = [
            start(echo_server, folder / "echo", fast=False),
            start(echo_server, folder / "fast-echo"),
            start(core, folder),
            start(host, folder),
        ]
        try:
            clients = {
                "echo": Client(folder / "echo", "near.echo"),
                "echo on uvloop": Client(folder / "fast-echo", "near.echo"),
                "core": Client(folder / "core", "near.echo"),
                "service": Client(folder / "core", "far.echo"),
            }
            for client in clients.values():
                client.round()  # warm
            times: dict[str, list[list[float]]] = {what: [] for what in clients}
            for _ in range(rounds):
                for what, client in clients.items():
                    times[what].append(client.round())
        finally:
            for child in children:
                os.kill(child, signal.SIGTERM)
                os.waitpid(child, 0)
    return report(times)


def report(times: dict[str, list[list[float]]]) -> dict[str, Any]:
    result: dict[str, Any] = {"rounds": len(times["echo"]), "calls": len(times["echo"]) * CALLS_A_ROUND}
    medians = {what: [statistics.median(one) for one in rounds] for what, rounds in times.items()}
    for what, rounds in times.items():
        cuts = statistics.quantiles([one for each in rounds for one in each], n=100)
        result[what] = {"p50_us": round(cuts[49], 1), "p99_us": round(cuts[98], 1)}
    for what, target in TARGETS.items():
        ratio, on_uvloop = (
            statistics.median(ours / theirs for ours, theirs in zip(medians[what], medians[echo], strict=True))
            for echo in ("echo", "echo on uvloop")
        )
        result[what] |= {
            "ratio": round(ratio, 2),
            "target": target,
            "met": ratio <= target,
            "ratio to an echo on uvloop": round(on_uvloop, 2),
        }
    return result


if __name__ == "__main__":
    print(json.dumps(measure(int(sys.argv[1]) if len(sys.argv) > 1 else 50), indent=2))
