from __future__ import annotations

import asyncio
import base64
import json
import os
import random
import socket
import stat
from typing import Any

import anyio
import pytest

from sparkd.errors import CallError
from sparkd.rpc import Access
from sparkd.rpc.jsonrpc import checked

pytestmark = pytest.mark.anyio
pytest_plugins = ("tests.rpc.rpc_node",)

PARSE, INVALID, UNKNOWN, PARAMS = -32700, -32600, -32601, -32602
BOTH = pytest.mark.parametrize("interface", ["near", "far"])


@BOTH
async def test_a_method_is_called_by_name(make_node: Any, interface: str) -> None:
    async with make_node() as node, node.client() as client:
        answer = await client.ask(f"{interface}.echo", {"value": [1, "ü", None, {"a": 1.5}]})

        assert answer["result"] == [1, "ü", None, {"a": 1.5}]
        assert answer["id"] == 1
        assert answer.get("served_by") == (None if interface == "near" else "here/distant")


BAD = {
    "not json": (b"hello", PARSE, None),
    "half an object": (b'{"jsonrpc": "2.0", "id": 1', PARSE, None),
    "invalid utf-8": (b'{"jsonrpc": "2.0", "id": 1, "method": "\xff"}', PARSE, None),
    "nested too deeply": (b"[" * 100_000, PARSE, None),
    "deep object": (b'{"jsonrpc":"2.0","id":1,"method":"near.echo","params":' + b'{"a":' * 50_000 + b"1", PARSE, None),
    "a number": (b"5", INVALID, None),
    "a string": (b'"near.echo"', INVALID, None),
    "null": (b"null", INVALID, None),
    "no version": (b'{"id": 7, "method": "near.echo"}', INVALID, 7),
    "wrong version": (b'{"jsonrpc": "1.0", "id": 7, "method": "near.echo"}', INVALID, 7),
    "version as a number": (b'{"jsonrpc": 2.0, "id": 7, "method": "near.echo"}', INVALID, 7),
    "no method": (b'{"jsonrpc": "2.0", "id": 7}', INVALID, 7),
    "method as a number": (b'{"jsonrpc": "2.0", "id": 7, "method": 5}', INVALID, 7),
    "id as an object": (b'{"jsonrpc": "2.0", "id": {}, "method": "near.echo"}', INVALID, None),
    "id as a boolean": (b'{"jsonrpc": "2.0", "id": true, "method": "near.echo"}', INVALID, None),
    "endless id": (b'{"jsonrpc": "2.0", "id": "' + b"x" * 1000 + b'", "method": "near.echo"}', INVALID, None),
    "malformed method": (b'{"jsonrpc": "2.0", "id": 7, "method": "Near Echo"}', UNKNOWN, 7),
    "unknown interface": (b'{"jsonrpc": "2.0", "id": 7, "method": "neer.echo"}', UNKNOWN, 7),
    "unknown method": (b'{"jsonrpc": "2.0", "id": 7, "method": "near.ecko"}', UNKNOWN, 7),
    "unknown method far away": (b'{"jsonrpc": "2.0", "id": 7, "method": "far.ecko"}', UNKNOWN, 7),
    "unknown service": (b'{"jsonrpc": "2.0", "id": 7, "method": "nobody:far.echo"}', -32001, 7),
    "unknown node": (b'{"jsonrpc": "2.0", "id": 7, "method": "nowhere/node.status"}', -32001, 7),
    "positional params": (b'{"jsonrpc": "2.0", "id": 7, "method": "near.echo", "params": [1]}', PARAMS, 7),
    "params as a number": (b'{"jsonrpc": "2.0", "id": 7, "method": "near.echo", "params": 1}', PARAMS, 7),
    "params null": (b'{"jsonrpc": "2.0", "id": 7, "method": "near.echo", "params": null}', PARAMS, 7),
    "unknown param": (b'{"jsonrpc": "2.0", "id": 7, "method": "near.echo", "params": {"valve": 1}}', PARAMS, 7),
    "missing param": (b'{"jsonrpc": "2.0", "id": 7, "method": "near.number"}', PARAMS, 7),
    "wrong type": (b'{"jsonrpc": "2.0", "id": 7, "method": "near.number", "params": {"value": "x"}}', PARAMS, 7),
    "wrong type far away": (b'{"jsonrpc": "2.0", "id": 7, "method": "far.number", "params": {"value": []}}', PARAMS, 7),
    "wrong base64": (
        b'{"jsonrpc": "2.0", "id": 7, "method": "far.reverse", "params": {"blob": {"data": "%%"}}}',
        PARAMS,
        7,
    ),
    "number too large": (b'{"jsonrpc":"2.0","id":7,"method":"near.number","params":{"value":1e999}}', PARAMS, 7),
    "unknown meta": (b'{"jsonrpc": "2.0", "id": 7, "method": "near.echo", "meta": {"x": 1}}', INVALID, 7),
    "wrong privacy": (b'{"jsonrpc": "2.0", "id": 7, "method": "near.echo", "meta": {"privacy": "open"}}', INVALID, 7),
    "no deadline": (b'{"jsonrpc": "2.0", "id": 7, "method": "near.echo", "meta": {"deadline_s": 0}}', INVALID, 7),
    "a stream from the client": (b'{"jsonrpc": "2.0", "id": 7, "method": "core:host.ping"}', -32003, 7),
    "empty batch": (b"[]", INVALID, None),
    "large batch": (b"[" + b",".join([b"1"] * 101) + b"]", INVALID, None),
    "stream.cancel of nothing": (b'{"jsonrpc": "2.0", "id": 7, "method": "stream.cancel"}', PARAMS, 7),
}


@pytest.mark.parametrize("name", BAD)
async def test_a_bad_line_gets_a_clear_error_and_the_next_is_served(make_node: Any, name: str) -> None:
    line, code, answered_to = BAD[name]
    async with make_node() as node, node.client() as client:
        client.send(line)
        answer = await client.read()

        assert (answer["error"]["code"], answer["id"]) == (code, answered_to)
        assert answer["error"]["message"]
        assert (await client.ask("near.echo", {"value": 1}))["result"] == 1


async def test_errors_name_the_field_and_the_nearest_name(make_node: Any) -> None:
    async with make_node() as node, node.client() as client:
        wrong = await client.ask("far.echo", {"valve": 1})
        unknown = await client.ask("far.ecko")

    assert wrong["error"]["data"] == {"kind": "invalid-params", "field": "valve"}
    assert "Did you mean 'value'?" in wrong["error"]["message"]
    assert "Did you mean 'echo'?" in unknown["error"]["message"]


@BOTH
async def test_a_handlers_failure_is_told_and_logged_once(make_node: Any, interface: str) -> None:
    async with make_node() as node, node.client() as client:
        answer = await client.ask(f"{interface}.fail")

        assert answer["error"]["code"] == -32000
        assert answer["error"]["data"] == {"kind": "failed", "error": "KeyError"}
        assert "broken inside" in answer["error"]["message"]
        assert node.errors == [f"{interface}.fail: KeyError('broken inside')"]


@pytest.mark.parametrize("call_id", [b"null", b'"a"', b"1.5", b"-3", b"123456789012345678901234567890", b'"\\u00fc"'])
async def test_an_id_comes_back_as_it_was_written(make_node: Any, call_id: bytes) -> None:
    async with make_node() as node, node.client() as client:
        client.send(b'{"jsonrpc":"2.0","method":"near.change","id":' + call_id + b"}")

        assert b'"id":' + call_id + b"," in await client.reader.readline()


async def test_a_notification_is_not_answered(make_node: Any) -> None:
    async with make_node() as node, node.client() as client:
        client.send(b'{"jsonrpc":"2.0","method":"near.change"}', b'{"jsonrpc":"2.0","method":"near.nothing"}')

        assert (await client.ask("near.echo", {"value": "next"}))["result"] == "next"


async def test_a_batch_is_answered_in_order_without_its_notifications(make_node: Any) -> None:
    batch = [
        {"jsonrpc": "2.0", "id": 1, "method": "far.echo", "params": {"value": 1}},
        {"jsonrpc": "2.0", "method": "near.change"},
        7,
        {"jsonrpc": "2.0", "id": 2, "method": "near.nothing"},
        {"jsonrpc": "2.0", "id": 3, "method": "near.count", "params": {"upto": 3}},
        {"jsonrpc": "2.0", "id": 4, "method": "near.echo", "params": {"value": 4}},
    ]
    async with make_node() as node, node.client() as client:
        client.send(json.dumps(batch).encode())
        answers = await client.read()

    assert [answer["id"] for answer in answers] == [1, None, 2, 3, 4]
    assert [answer.get("result") for answer in answers] == [1, None, None, None, 4]
    assert "stream" in answers[3]["error"]["message"]


async def test_a_batch_of_notifications_is_not_answered_at_all(make_node: Any) -> None:
    async with make_node() as node, node.client() as client:
        client.send(b'[{"jsonrpc":"2.0","method":"near.change"}]')

        assert (await client.ask("near.echo", {"value": "next"}))["result"] == "next"


@BOTH
async def test_bytes_are_base64_and_what_json_cannot_say_is_null(make_node: Any, interface: str) -> None:
    data = base64.b64encode(b"\x00\xffabc").decode()
    async with make_node() as node, node.client() as client:
        answer = await client.ask(f"{interface}.reverse", {"blob": {"data": data, "children": [{"data": ""}]}})
        infinite = await client.ask(f"{interface}.number", {"value": 1})

    assert base64.b64decode(answer["result"]["data"]) == b"cba\xff\x00"
    assert infinite["result"] is None


@BOTH
async def test_a_stream_comes_as_numbered_notifications(make_node: Any, interface: str) -> None:
    async with make_node() as node, node.client() as client:
        answer = await client.ask(f"{interface}.count", {"upto": 40})
        stream = answer["result"]["stream"]
        lines = [await client.read() for _ in range(41)]

    items = [{"stream": stream, "n": number, "item": number} for number in range(40)]
    assert [line["params"] for line in lines[:-1]] == items
    assert lines[-1] == {"jsonrpc": "2.0", "method": "stream.end", "params": {"stream": stream}}


@BOTH
async def test_a_stream_that_fails_ends_with_the_error(make_node: Any, interface: str) -> None:
    async with make_node() as node, node.client() as client:
        await client.ask(f"{interface}.count", {"upto": 0, "then_fail": True})
        end = await client.read()

    assert end["params"]["error"]["code"] == -32001
    assert end["params"]["error"]["data"]["remedy"] == "count less"


@BOTH
async def test_a_cancelled_stream_is_closed_at_its_source(make_node: Any, interface: str) -> None:
    async with make_node() as node, node.client() as client:
        stream = (await client.ask(f"{interface}.count", {"upto": 10**9}))["result"]["stream"]
        client.send(
            json.dumps({"jsonrpc": "2.0", "id": "c", "method": "stream.cancel", "params": {"stream": stream}}).encode()
        )
        while "result" not in (line := await client.read()):
            pass

        assert line["result"] is True
        await getattr(node, interface).closed.wait()
        assert (await client.ask("stream.cancel", {"stream": 99}))["result"] is False


@BOTH
async def test_a_client_that_goes_away_cancels_its_calls(make_node: Any, interface: str) -> None:
    async with make_node() as node:
        answers = getattr(node, interface)
        async with node.client() as client:
            client.send(json.dumps({"jsonrpc": "2.0", "id": 1, "method": f"{interface}.sleep"}).encode())
            await answers.sleeping.wait()
            client.writer.transport.abort()
        await answers.woken.wait()


async def test_a_client_may_stop_sending_and_still_gets_its_answers(make_node: Any) -> None:
    async with make_node() as node, node.client() as client:
        client.send(b'{"jsonrpc":"2.0","id":1,"method":"far.echo","params":{"value":1}}')
        client.writer.write_eof()

        assert (await client.read())["result"] == 1
        assert await client.closed()


@BOTH
async def test_a_deadline_may_be_given(make_node: Any, interface: str) -> None:
    async with make_node() as node, node.client() as client:
        answer = await client.ask(f"{interface}.sleep", meta={"deadline_s": 0.01})

        assert answer["error"]["code"] == -32002
        await getattr(node, interface).woken.wait()


async def test_a_method_that_takes_a_stream_ends_at_once_without_one(make_node: Any) -> None:
    async with make_node() as node, node.client() as client:
        assert (await client.ask("near.gather"))["result"] == 0


async def test_a_line_too_long_is_refused_before_its_end_and_skipped(make_node: Any) -> None:
    async with make_node(max_line_bytes=1 << 20) as node, node.client() as client:
        client.send(b'{"jsonrpc":"2.0","id":1,"method":"near.echo","params":{"value":"' + b"x" * (10 << 20) + b'"}}')
        answer = await client.read()

        assert answer["error"]["code"] == INVALID
        assert "1048576 bytes" in answer["error"]["message"]
        assert (await client.ask("near.echo", {"value": 1}))["result"] == 1
        assert node.counts.too_long == 1


async def test_half_a_line_then_silence_is_closed(make_node: Any) -> None:
    async with make_node(line_timeout_s=0.05) as node, node.client() as client:
        client.writer.write(b'{"jsonrpc":')
        answer = await client.read()

        assert "not complete after 0.05 s" in answer["error"]["message"]
        assert await client.closed()
        assert node.counts.half_lines == 1


async def test_a_silent_client_without_half_a_line_stays(make_node: Any) -> None:
    async with make_node(line_timeout_s=0.01) as node, node.client() as client:
        await client.ask("near.echo")
        with anyio.move_on_after(0.05):
            await client.reader.read(1)

        assert (await client.ask("near.echo", {"value": 1}))["result"] == 1


async def test_the_one_connection_too_many_is_told_and_the_others_go_on(make_node: Any) -> None:
    async with make_node(max_connections=100) as node, node.client() as first:
        await first.ask("near.echo")
        raw = []
        for _ in range(500):
            connection = socket.socket(socket.AF_UNIX)
            connection.settimeout(0)
            await asyncio.get_running_loop().sock_connect(connection, str(node.socket))
            raw.append(connection)
        last = await asyncio.get_running_loop().sock_recv(raw[-1], 4096)

        assert json.loads(last)["error"]["code"] == -32005
        assert (await first.ask("near.echo", {"value": 1}))["result"] == 1
        assert node.counts.refused == 401
        for connection in raw:
            connection.close()
        while node.counts.open > 1:
            await anyio.lowlevel.checkpoint()
        async with node.client() as again:
            assert (await again.ask("near.echo", {"value": 2}))["result"] == 2


async def test_more_in_flight_than_allowed_waits_and_is_all_answered(make_node: Any) -> None:
    async with make_node(max_in_flight=4) as node, node.client() as client:
        for number in range(500):
            client.send(json.dumps({"jsonrpc": "2.0", "id": number, "method": "far.echo"}).encode())
        answers = [await client.read() for _ in range(500)]

    assert sorted(answer["id"] for answer in answers) == list(range(500))


async def test_too_many_streams_are_refused(make_node: Any) -> None:
    async with make_node(max_streams=1) as node, node.client() as client:
        await client.ask("near.count", {"upto": 10**9})
        client.send(b'{"jsonrpc":"2.0","id":"second","method":"near.count","params":{"upto":1}}')
        while (line := await client.read()).get("id") != "second":
            pass

    assert line["error"]["code"] == -32001


@pytest.mark.parametrize("how", ["by time", "by amount"])
async def test_a_client_that_does_not_read_is_dropped_and_counted(make_node: Any, how: str) -> None:
    limits = {"read_timeout_s": 0.1} if how == "by time" else {"max_unread_bytes": 1 << 20, "max_in_flight": 1000}
    async with make_node(**limits) as node, node.client() as other:
        reader, writer = await asyncio.open_unix_connection(node.socket, limit=1)
        if how == "by time":
            writer.write(b'{"jsonrpc":"2.0","id":1,"method":"near.count","params":{"upto":1000000000}}\n')
        else:
            line = b'{"jsonrpc":"2.0","id":1,"method":"near.size","params":{"count":1000000}}\n'
            writer.write(line * 100)
        while not node.counts.slow_readers:
            assert (await other.ask("near.echo", {"value": 1}))["result"] == 1
        assert node.counts.open == 1 or await other.ask("near.echo")
        writer.close()
        del reader


async def test_an_answer_that_is_not_json_does_not_reach_the_client(
    make_node: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with make_node() as node, node.client() as client:
        spoken = {"json": b'{"a":\n1}', "lies": b'1,"id":5}\n{"jsonrpc":"2.0","id":6,"result":1'}
        monkeypatch.setattr("sparkd.calls.handlers._to_json", lambda value: spoken[value])

        assert (await client.ask("far.echo", {"value": "json"}))["result"] == {"a": 1}
        assert "not JSON" in (await client.ask("far.echo", {"value": "lies"}))["error"]["message"]


async def test_a_bug_of_ours_costs_one_answer(make_node: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_given: object, **_more: object) -> None:
        raise KeyError("a bug")

    async with make_node() as node, node.client() as client:
        monkeypatch.setattr("sparkd.rpc.door.document", broken)

        assert (await client.ask("rpc.discover"))["error"]["data"] == {"kind": "failed", "error": "KeyError"}
        assert (await client.ask("near.echo", {"value": 1}))["result"] == 1
        assert node.errors == ["rpc.discover: KeyError('a bug')"]


@pytest.mark.skipif(os.getuid() != 0, reason="needs root to connect as another user")
@pytest.mark.parametrize(
    ("user", "readers", "reads", "changes"),
    [
        ((65534, 65534, []), "anyone", True, False),
        ((65534, 65534, []), "admins", False, False),
        ((65534, 4711, []), "admins", True, True),
        ((65534, 65534, [4711]), "admins", True, True),
        ((4242, 65534, []), "admins", True, True),
    ],
    ids=["stranger", "stranger when only admins read", "admin group", "admin by another group", "the daemon's user"],
)
async def test_who_may_do_what(make_node: Any, user: Any, readers: str, reads: bool, changes: bool) -> None:  # noqa: FBT001
    access = Access(uid=4242, admin_gid=4711, admin_group="sparkd", readers=readers)
    async with make_node(access=access) as node:
        node.socket.chmod(0o666)
        node.socket.parent.chmod(0o755)
        script = """
import socket, sys
with socket.socket(socket.AF_UNIX) as connection:
    connection.connect(sys.argv[1])
    connection.sendall(b'{"jsonrpc": "2.0", "id": 1, "method": "%s"}\\n' % sys.argv[2].encode())
    print(connection.recv(4096).decode())
"""
        uid, gid, groups = user
        for method, allowed in (("near.echo", reads), ("near.change", changes)):
            done = await anyio.run_process(
                ["/usr/bin/python3", "-c", script, str(node.socket), method], user=uid, group=gid, extra_groups=groups
            )
            answer = json.loads(done.stdout)
            assert ("result" in answer) is allowed, answer
            if not allowed:
                assert answer["error"]["code"] == -32003
                assert "'sparkd'" in answer["error"]["data"]["rule"]


async def test_the_socket_is_closed_to_strangers_and_taken_away(make_node: Any) -> None:
    async with make_node() as node:
        assert stat.S_IMODE(node.socket.stat().st_mode) == 0o660
    assert not node.socket.exists()


async def test_ten_lines_of_plain_python_speak_it(make_node: Any) -> None:
    def speak(path: str) -> Any:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(path)
            connection.sendall(b'{"jsonrpc": "2.0", "id": 1, "method": "far.echo", "params": {"value": 5}}\r\n')
            with connection.makefile() as lines:
                return json.loads(lines.readline())

    async with make_node() as node:
        assert (await anyio.to_thread.run_sync(speak, str(node.socket)))["result"] == 5


async def test_discover_describes_every_method(make_node: Any) -> None:
    async with make_node() as node, node.client() as client:
        described = (await client.ask("rpc.discover"))["result"]

    methods = {method["name"]: method for method in described["methods"]}
    assert set(methods) >= {"near.echo", "far.count"}
    assert methods["far.count"]["x-stream"] == "out"
    assert methods["far.count"]["x-services"] == ["distant"]
    assert [(param["name"], param["required"]) for param in methods["far.count"]["params"]] == [
        ("upto", True),
        ("then_fail", False),
    ]
    assert methods["near.reverse"]["result"]["schema"] == {"$ref": "#/components/schemas/Blob"}
    assert "Blob" in described["components"]["schemas"]
    assert "$defs" not in json.dumps(described)


async def test_what_is_not_utf8_goes_neither_to_a_handler_nor_to_a_client(make_node: Any) -> None:
    async with make_node() as node, node.client() as client:
        client.send(b'{"jsonrpc": "2.0", "id": 1, "method": "near.echo", "params": {"value": 1, "\xff": 2}}')
        assert (await client.read())["error"]["code"] == PARSE
    with pytest.raises(CallError, match="not UTF-8"):
        checked(b'{"a": "\xff"}')
    assert checked('{"a": "ü"}'.encode()) == '{"a": "ü"}'.encode()


async def test_random_bytes_never_end_the_door(make_node: Any) -> None:
    chance = random.Random(7)
    async with make_node() as node, node.client() as other:
        for _ in range(100):
            async with node.client() as client:
                client.writer.write(chance.randbytes(chance.randrange(1, 2000)))
        assert (await other.ask("near.echo", {"value": 1}))["result"] == 1
