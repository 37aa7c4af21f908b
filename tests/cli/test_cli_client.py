"""The synchronous client against a real socket."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

import pytest

from sparkd.errors import CallError, CallErrorKind, RemoteMessageError
from sparkd.rpc.client import Client
from tests.cli.socket_server import Answer, end, error, item, result, serving


def test_a_call_returns_its_result_and_keeps_what_came_before_it(tmp_path: Path) -> None:
    note = {"jsonrpc": "2.0", "method": "other", "params": {}}
    with serving(tmp_path / "s", lambda r: [note, result(r, 7)]) as seen, Client(tmp_path / "s") as client:
        assert client.call("a.b", {"x": 1}) == 7
        assert next(client.notifications()) == note

    assert seen == [{"jsonrpc": "2.0", "id": 1, "method": "a.b", "params": {"x": 1}}]


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        ({"kind": "unavailable", "remedy": "wait"}, CallErrorKind.UNAVAILABLE),
        ({"kind": "brand-new"}, CallErrorKind.FAILED),
        ({}, CallErrorKind.FAILED),
    ],
)
def test_an_error_is_raised_with_its_kind_and_data(tmp_path: Path, data: dict[str, Any], kind: CallErrorKind) -> None:
    with (
        serving(tmp_path / "s", lambda r: [error(r, "no", **data)]),
        Client(tmp_path / "s") as client,
        pytest.raises(CallError, match="no") as caught,
    ):
        client.call("a.b")

    assert caught.value.kind is kind
    assert caught.value.data.get("remedy") == data.get("remedy")


@pytest.mark.parametrize("value", [None, [], {"stream": "x"}, {"stream": 1, "more": 2}, 5])
def test_a_unary_result_is_one_item(tmp_path: Path, value: Any) -> None:
    with serving(tmp_path / "s", lambda r: [result(r, value)]), Client(tmp_path / "s") as client:
        assert list(client.results("a.b")) == [value]


def test_a_stream_is_its_items_and_other_streams_are_left_alone(tmp_path: Path) -> None:
    def answer(request: dict[str, Any]) -> list[Any]:
        return [result(request, {"stream": 3}), item(3, 0, "a"), item(9, 0, "other"), item(3, 1, {"b": 1}), end(3)]

    with serving(tmp_path / "s", answer), Client(tmp_path / "s") as client:
        assert list(client.results("a.b")) == ["a", {"b": 1}]
        assert next(client.notifications()) == item(9, 0, "other")


def test_a_call_works_again_after_a_stream(tmp_path: Path) -> None:
    def answer(request: dict[str, Any]) -> list[Any]:
        if request["method"] == "s":
            return [result(request, {"stream": 1}), item(1, 0, "a"), end(1)]
        return [result(request, "unary")]

    with serving(tmp_path / "s", answer), Client(tmp_path / "s") as client:
        assert list(client.results("s")) == ["a"]
        assert client.call("u") == "unary"


def test_an_error_that_ends_a_stream_is_raised_after_its_items(tmp_path: Path) -> None:
    broken = {"code": -32002, "message": "too slow", "data": {"kind": "deadline"}}

    with (
        serving(tmp_path / "s", lambda r: [result(r, {"stream": 1}), item(1, 0, "a"), end(1, error=broken)]),
        Client(tmp_path / "s") as client,
    ):
        items = client.results("a.b")
        assert next(items) == "a"
        with pytest.raises(CallError, match="too slow") as caught:
            next(items)
    assert caught.value.kind is CallErrorKind.DEADLINE


def test_an_error_instead_of_a_stream_is_raised_at_once(tmp_path: Path) -> None:
    with (
        serving(tmp_path / "s", lambda r: [error(r, "denied")]),
        Client(tmp_path / "s") as client,
        pytest.raises(CallError, match="denied"),
    ):
        client.results("a.b")


@pytest.mark.parametrize(
    ("answer", "wrong"),
    [
        (lambda _: [b"no json\n"], RemoteMessageError),
        (lambda _: [b"[1]\n"], RemoteMessageError),
        (lambda _: [None], ConnectionResetError),
        (lambda _: [b'{"half": '], TimeoutError),
        (lambda _: [], TimeoutError),
    ],
)
def test_a_server_that_does_not_keep_to_the_protocol(tmp_path: Path, answer: Answer, wrong: type[Exception]) -> None:
    with serving(tmp_path / "s", answer), Client(tmp_path / "s", timeout_s=0.2) as client, pytest.raises(wrong):
        client.call("a.b")


def test_why_it_was_turned_away_is_read_even_if_nothing_can_be_sent(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        listener.bind(str(tmp_path / "s"))
        listener.listen()
        with Client(tmp_path / "s") as client:
            connection, _ = listener.accept()
            connection.sendall(b'{"jsonrpc":"2.0","id":null,"error":{"code":-32005,"message":"full"}}\n')
            connection.close()

            with pytest.raises(CallError, match="full"):
                client.call("a.b")


def test_there_is_no_daemon(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        Client(tmp_path / "s")
