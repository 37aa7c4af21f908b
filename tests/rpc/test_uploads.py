"""Streams that a client of the socket sends along with a call."""

from __future__ import annotations

import json
import random
from functools import partial
from typing import Any

import anyio
import anyio.to_thread
import pytest

from sparkd.errors import CallError
from sparkd.rpc import Access
from sparkd.rpc.client import Client as PlainClient

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(60)]
pytest_plugins = ("tests.rpc.rpc_node",)
BOTH = pytest.mark.parametrize("interface", ["near", "far"])
WINDOW = 16


def request(method: str, call_id: Any = 1, **meta: Any) -> bytes:
    meta = {"stream": True, **meta}
    return json.dumps({"jsonrpc": "2.0", "id": call_id, "method": method, "meta": meta}).encode()


def note(method: str, **params: Any) -> bytes:
    return json.dumps({"jsonrpc": "2.0", "method": method, "params": params}).encode()


@BOTH
@pytest.mark.parametrize("count", [0, 1, WINDOW - 1, WINDOW, WINDOW + 1, 500])
async def test_items_arrive_in_order_and_none_is_sent_without_credit(
    make_node: Any, interface: str, count: int
) -> None:
    async with make_node() as node:

        def send() -> Any:
            with PlainClient(node.socket) as client:
                return client.send(f"{interface}.gather", {}, iter(range(count)))

        assert await anyio.to_thread.run_sync(send) == sum(range(count))


@BOTH
async def test_credit_is_a_window_and_no_more_than_it_ever_waits(make_node: Any, interface: str) -> None:
    async with make_node() as node, node.client() as client:
        client.send(request(f"{interface}.gather", "up"))
        granted = sent = 0
        while sent < 200:
            line = await client.read()
            assert (line["method"], line["params"]["request"]) == ("stream.credit", "up")
            granted += line["params"]["credit"]
            assert granted - sent <= WINDOW
            while sent < granted:
                client.send(note("stream.item", request="up", n=sent, item=sent))
                sent += 1
        client.send(note("stream.end", request="up"))
        while "result" not in (line := await client.read()):
            pass
        assert line["result"] == sum(range(sent))


WRONG = {
    "a gap": [note("stream.item", request=1, n=3, item=1)],
    "twice": [note("stream.item", request=1, n=0, item=1)] * 2,
    "beyond credit": [note("stream.item", request=1, n=n, item=n) for n in range(WINDOW * 3)],
    "no number": [note("stream.item", request=1, item=1)],
    "another type": [note("stream.item", request=1, n=0, item={"a": 1})],
    "no parameters": [b'{"jsonrpc":"2.0","method":"stream.item"}'],
    "a member too many": [note("stream.end", request=1, why="so")],
    "an end that breaks off": [note("stream.end", request=1, error="the disk is gone")],
}


@BOTH
@pytest.mark.parametrize("wrong", WRONG)
async def test_what_is_wrong_ends_the_call_by_an_error_and_nothing_else(
    make_node: Any, interface: str, wrong: str
) -> None:
    async with make_node() as node, node.client() as client:
        client.send(request(f"{interface}.gather"), *WRONG[wrong])
        while "error" not in (line := await client.read()):
            assert line["method"] == "stream.credit"
        assert line["id"] == 1
        assert line["error"]["data"]["kind"] in ("invalid-params", "cancelled", "failed")
        if wrong == "an end that breaks off":
            assert "the disk is gone" in line["error"]["message"]
        client.send(*WRONG[wrong])  # what comes later is dropped
        assert (await client.ask(f"{interface}.echo", {"value": 5}))["result"] == 5
        assert node.errors == []


@BOTH
async def test_a_client_that_stops_sending_in_the_midst_is_told_and_one_that_goes_is_forgotten(
    make_node: Any, interface: str
) -> None:
    async with make_node() as node:
        async with node.client() as client:
            client.send(request(f"{interface}.gather"), note("stream.item", request=1, n=0, item=1))
            client.writer.write_eof()
            while "error" not in (line := await client.read()):
                pass
            assert "stopped sending" in line["error"]["message"]
        async with node.client() as client:
            client.send(request(f"{interface}.gather"))
            await client.read()
            client.writer.transport.abort()
        async with node.client() as client:
            assert (await client.ask(f"{interface}.echo", {"value": 5}))["result"] == 5
        assert node.errors == []


async def test_more_streams_than_calls_in_flight_do_not_stand_in_each_others_way(make_node: Any) -> None:
    async with make_node(max_in_flight=2, max_streams=8) as node, node.client() as client:
        client.send(*(request("far.gather", f"u{number}") for number in range(8)), request("far.gather", "one more"))
        credited: set[str] = set()
        refused: Any = None
        while len(credited) < 8 or refused is None:
            line = await client.read()
            if "error" in line:
                refused = line
            else:
                credited.add(line["params"]["request"])
        assert refused["id"] == "one more"
        assert refused["error"]["data"]["kind"] == "unavailable"
        assert (await client.ask("far.echo", {"value": 5}))["result"] == 5
        for number in random.Random(1).sample(range(8), 8):
            client.send(
                note("stream.item", request=f"u{number}", n=0, item=number), note("stream.end", request=f"u{number}")
            )
            assert (await client.read())["result"] == number


async def test_a_stream_has_no_place_in_a_batch_nor_without_an_id(make_node: Any) -> None:
    async with make_node() as node, node.client() as client:
        client.send(b"[" + request("near.gather") + b"]")
        (answer,) = await client.read()
        assert "batch" in answer["error"]["message"]
        client.send(note("near.gather").replace(b'"params": {}', b'"meta": {"stream": true}'))
        assert (await client.read())["id"] is None
        assert (await client.ask("near.echo", {"value": 5}))["result"] == 5


async def test_a_call_that_is_denied_gets_no_credit(make_node: Any) -> None:
    script = """
import socket, sys
with socket.socket(socket.AF_UNIX) as connection:
    connection.connect(sys.argv[1])
    connection.sendall(sys.argv[2].encode() + b"\\n")
    print(connection.makefile().readline())
"""
    access = Access(uid=4242, admin_gid=4711, admin_group="sparkd", readers="anyone")
    async with make_node(access=access) as node:
        node.socket.chmod(0o666)
        node.socket.parent.chmod(0o755)
        program = ["/usr/bin/python3", "-c", script, str(node.socket), request("near.gather").decode()]
        done = await anyio.run_process(program, user=65534, group=65534, extra_groups=[])
        assert json.loads(done.stdout)["error"]["data"]["kind"] == "denied"


async def test_a_source_that_fails_breaks_the_call_off(make_node: Any) -> None:
    async with make_node() as node:

        def send() -> Any:
            with PlainClient(node.socket) as client:
                with pytest.raises(ZeroDivisionError):
                    client.send("far.gather", {}, (1 // (3 - number) for number in range(9)))
                return client.call("far.echo", {"value": 5})

        assert await anyio.to_thread.run_sync(send) == 5


async def test_a_call_that_fails_early_is_told_at_once(make_node: Any) -> None:
    async with make_node() as node:

        def send() -> Any:
            with PlainClient(node.socket) as client, pytest.raises(CallError, match="nobody"):
                client.send("nobody.gather", {}, iter(range(10**9)))

        with anyio.fail_after(10):
            await anyio.to_thread.run_sync(partial(send))
