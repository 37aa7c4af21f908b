"""Connecting as other users of this machine, with credentials that the kernel vouches for. Needs root."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

import pytest

NOBODY = 65_534
needs_root = pytest.mark.skipif(os.getuid() != 0, reason="needs root to connect as another user")


@contextmanager
def being(uid: int, gid: int, groups: Sequence[int]) -> Iterator[None]:
    """Have other credentials for a moment: the kernel notes those at the time of `connect`."""
    own_gid, own_groups = os.getegid(), os.getgroups()
    os.setgroups(list(groups))
    os.setegid(gid)
    os.seteuid(uid)
    try:
        yield
    finally:
        os.seteuid(0)
        os.setegid(own_gid)
        os.setgroups(own_groups)


class Stranger:
    """A client of a socket, as some user."""

    def __init__(self, path: Path, uid: int = NOBODY, gid: int = NOBODY, groups: Sequence[int] = ()) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.settimeout(10)
        try:
            with being(uid, gid, groups):
                self._socket.connect(str(path))
        except OSError:
            self._socket.close()
            raise
        self._lines = self._socket.makefile("rb")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._lines.close()
        self._socket.close()

    def send(self, text: str) -> None:
        self._socket.sendall(text.encode() + b"\n")

    def read(self) -> Any:
        return json.loads(self._lines.readline())

    def ask(self, method: str, /, **params: Any) -> Any:
        self.send(json.dumps({"jsonrpc": "2.0", "id": 1, "method": method, "params": params}))
        return self.read()

    def may(self, method: str, /, **params: Any) -> bool:
        """Whether the rules let the call through; what came of it then is another question."""
        answer = self.ask(method, **params)
        return bool(answer.get("error", {}).get("data", {}).get("kind") != "denied")
