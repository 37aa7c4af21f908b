"""A synchronous client of the JSON-RPC socket: one JSON text a line, calls and the notifications between them."""

from __future__ import annotations

import contextlib
import itertools
import json
import socket
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from sparkd.errors import CallError, CallErrorKind, RemoteMessageError

MAX_LINE_BYTES = 64 << 20
"""More than any answer of the daemon; a broken server must not fill our memory."""


class Client:
    """A connection to a daemon's socket. Raises OSError if there is no daemon at *path*."""

    def __init__(self, path: Path, *, timeout_s: float = 10.0) -> None:
        """Connect to the socket at *path*; each answer may take *timeout_s*."""
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._socket.settimeout(timeout_s)
        try:
            self._socket.connect(str(path))
        except OSError:
            self._socket.close()
            raise
        self._lines = self._socket.makefile("rb")
        self._ids = itertools.count(1)
        self._notifications: list[dict[str, Any]] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection; subscriptions end with it."""
        self._lines.close()
        self._socket.close()

    def call(self, method: str, params: Mapping[str, Any] | None = None) -> Any:
        """Return the result of *method*. Raises CallError with the daemon's error, TimeoutError, or OSError."""
        number = self._send(method, params)
        while True:
            message = self._read()
            if self._answers(message, number):
                return message.get("result")

    def _answers(self, message: dict[str, Any], number: int) -> bool:
        """Whether *message* is the result of that call; keeps notifications. Raises CallError if it is its error."""
        if "method" in message:
            self._notifications.append(message)
            return False
        if message.get("id") not in (number, None):
            return False
        if "error" in message:
            raise _error(message["error"])
        return True

    def results(self, method: str, params: Mapping[str, Any] | None = None) -> Iterator[Any]:
        """Call *method* now; iterate over what it answers: the items of a stream as they come, or the one result.

        Raises what `call` raises, and from the iterator what ended the stream. A stream has no time limit between its
        items. A result `{"stream": NUMBER}` is a stream: that is how the socket says it.
        """
        result = self.call(method, params)
        if isinstance(result, dict) and result.keys() == {"stream"} and isinstance(result["stream"], int):
            return self._items(result["stream"])
        return iter((result,))

    def send(self, method: str, params: Mapping[str, Any] | None, items: Iterable[Any]) -> Any:
        """Call *method* and send *items* along, as it takes them; return its result.

        Raises what `call` raises, and what *items* raises, after the daemon was told that it broke off. The limit is
        for each answer of the daemon, not for the whole.
        """
        number, credit, sent = self._send(method, params, stream=True), 0, 0
        source: Iterator[Any] | None = iter(items)
        while True:
            if source is not None and credit:
                source = self._send_next(number, sent, source)
                credit, sent = credit - 1, sent + 1
                continue
            message = self._read()
            given = message.get("params") or {}
            if message.get("method") == "stream.credit" and given.get("request") == number:
                credit += int(given["credit"])
            elif self._answers(message, number):
                return message.get("result")

    def _send_next(self, number: int, n: int, source: Iterator[Any]) -> Iterator[Any] | None:
        """Send the next item of *source*, or its end; return it if there is more."""
        try:
            item = next(source)
        except StopIteration:
            self._notify("stream.end", request=number)
            return None
        except BaseException as error:
            self._notify("stream.end", request=number, error=type(error).__name__)
            raise
        self._notify("stream.item", request=number, n=n, item=item)
        return source

    def _items(self, stream: int) -> Iterator[Any]:
        others: list[dict[str, Any]] = []
        limit = self._socket.gettimeout()
        self._socket.settimeout(None)
        try:
            while True:
                message = self._notifications.pop(0) if self._notifications else self._read()
                params = message.get("params") or {}
                if params.get("stream") != stream:
                    others.append(message)
                elif message.get("method") == "stream.end":
                    if "error" in params:
                        raise _error(params["error"])
                    return
                else:
                    yield params.get("item")
        finally:
            if self._socket.fileno() >= 0:  # else closed under a stream that nobody wants any more
                self._socket.settimeout(limit)
            self._notifications += others

    def _send(self, method: str, params: Mapping[str, Any] | None, *, stream: bool = False) -> int:
        number = next(self._ids)
        meta = {"meta": {"stream": True}} if stream else {}
        self._write({"jsonrpc": "2.0", "id": number, "method": method, "params": dict(params or {}), **meta})
        return number

    def _notify(self, method: str, **params: Any) -> None:
        self._write({"jsonrpc": "2.0", "method": method, "params": params})

    def _write(self, message: dict[str, Any]) -> None:
        with contextlib.suppress(BrokenPipeError):  # it closed; why, it may have said, and that is still to be read
            self._socket.sendall(json.dumps(message).encode() + b"\n")

    def notifications(self, *, forever: bool = True) -> Iterator[dict[str, Any]]:
        """Iterate over the notifications that come, without a time limit if *forever*."""
        if forever:
            self._socket.settimeout(None)
        while True:
            yield self._notifications.pop(0) if self._notifications else self._read()

    def _read(self) -> dict[str, Any]:
        line = self._lines.readline(MAX_LINE_BYTES)
        if not line:
            raise ConnectionResetError("the daemon closed the connection")
        try:
            message = json.loads(line)
        except ValueError as error:
            raise RemoteMessageError(f"the daemon answered with what is not JSON: {line[:80]!r}") from error
        if not isinstance(message, dict):
            raise RemoteMessageError(f"the daemon answered with a {type(message).__name__}: {line[:80]!r}")
        return message


def _error(error: Mapping[str, Any]) -> CallError:
    data = dict(error.get("data") or {})
    kind = data.pop("kind", CallErrorKind.FAILED)
    message = str(error.get("message", "no message"))
    try:
        return CallError(CallErrorKind(kind), message, **data)
    except ValueError:
        return CallError(CallErrorKind.FAILED, message, error=kind, **data)
