"""A small real server on a Unix socket: for each request it writes the lines it was told to."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

Answer = Callable[[dict[str, Any]], list[Any]]
"""What to write for a request: values as JSON lines, bytes as they are, None to close the connection."""


@contextlib.contextmanager
def serving(path: Path, answer: Answer) -> Iterator[list[dict[str, Any]]]:
    """Serve on *path*; yield the list of requests, which grows."""
    seen: list[dict[str, Any]] = []
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(str(path))
    listener.listen()
    connections: list[socket.socket] = []

    def serve(connection: socket.socket) -> None:
        with contextlib.suppress(OSError), connection, connection.makefile("rb") as lines:
            for line in lines:
                request = json.loads(line)
                seen.append(request)
                for item in answer(request):
                    if item is None:
                        return
                    connection.sendall(item if isinstance(item, bytes) else json.dumps(item).encode() + b"\n")

    def accept() -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = listener.accept()
                connections.append(connection)
                threading.Thread(target=serve, args=(connection,), daemon=True).start()

    thread = threading.Thread(target=accept, daemon=True)
    thread.start()
    try:
        yield seen
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join()
        for connection in connections:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)


def result(request: dict[str, Any], value: Any) -> dict[str, Any]:
    return {"jsonrpc": "2.0", "id": request["id"], "result": value}


def error(request: dict[str, Any], message: str, **data: Any) -> dict[str, Any]:
    return {"jsonrpc": "2.0", "id": request["id"], "error": {"code": -1, "message": message, "data": data}}


def item(stream: int, number: int, value: Any) -> dict[str, Any]:
    return {"jsonrpc": "2.0", "method": "stream.item", "params": {"stream": stream, "n": number, "item": value}}


def end(stream: int, **params: Any) -> dict[str, Any]:
    return {"jsonrpc": "2.0", "method": "stream.end", "params": {"stream": stream, **params}}
