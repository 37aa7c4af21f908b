"""Watching a daemon from outside, as an operator would, and plugins to drop into it."""

from __future__ import annotations

import os
import socket
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from sparkd.rpc.client import Client
from sparkd.testing import Node

T = TypeVar("T")
LOOK_S = 0.03
# How much longer than a test says it may take: machines that are emulated, or shared, are that much slower.
PATIENCE = float(os.environ.get("SPARKD_TEST_PATIENCE", "1"))

HEAD = """\
import os, sys, time
import anyio
from dataclasses import dataclass
from sparkd import Context, NoConfig, Service, hookimpl
"""


def plugin(body: str, *, name: str = "it", config: str = "NoConfig", more: str = "", offer: str = "") -> str:
    """Return the text of a plugin whose `run` is *body*; *more* stands before it, *offer* in its Service."""
    lines = "".join(f"    {line}\n" for line in body.splitlines())
    return (
        f"{HEAD}\n{more}\nasync def run(ctx, *, task_status):\n{lines}\n@hookimpl\ndef sparkd_services():\n"
        f'    return [Service(name="{name}", config={config}, run=run, {offer})]\n'
    )


QUIET = "task_status.started()\nawait anyio.sleep_forever()"
BUSY = "task_status.started()\nawait anyio.sleep(0.2)\nwhile True:\n    pass"


def until(look: Callable[[], T], wanted: Callable[[T], object], *, limit_s: float = 10.0) -> T:
    """Look again and again until what is seen is *wanted*; return it."""
    deadline = time.monotonic() + limit_s * PATIENCE
    while True:
        seen = look()
        if wanted(seen):
            return seen
        assert time.monotonic() < deadline, seen
        time.sleep(LOOK_S)


def service(node: Node, name: str) -> dict[str, Any]:
    """Return the status of a service; nothing if there is none of that name."""
    services = node.call("node.status")["services"]
    return next((found for found in services if found["name"] == name), {})


def runs(node: Node, name: str, *, limit_s: float = 10.0) -> dict[str, Any]:
    """Wait until a service runs; return its status."""
    return until(lambda: service(node, name), lambda found: found.get("state") == "running", limit_s=limit_s)


def exists(pid: int) -> bool:
    """Whether a process is there, other than as a zombie."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


def scrape(address: str) -> str:
    """Return what Prometheus would read."""
    with urllib.request.urlopen(f"http://{address}/metrics", timeout=10) as answer:
        return str(answer.read().decode())


@contextmanager
def client(node: Node) -> Iterator[Client]:
    """Connect to a node's socket."""
    with Client(node.socket_path, timeout_s=10) as connection:
        yield connection


class Systemd:
    """What stands in for systemd: a notify socket of its own, and all that was said to it."""

    def __init__(self, node: Node) -> None:
        self.node = node
        self.path = node.root / "systemd"
        node.environment = {**node.environment, "NOTIFY_SOCKET": str(self.path)}
        self.said: list[str] = []
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(self.path))
        self._socket.settimeout(0)

    def close(self) -> None:
        self._socket.close()

    def lines(self) -> list[str]:
        """Return every line said so far."""
        while True:
            try:
                self.said += self._socket.recv(65_536).decode().split("\n")
            except BlockingIOError:
                return self.said

    def hears(self, start: str, *, limit_s: float = 10.0, after: int = 0) -> str:
        """Wait for a line that begins so, among those after the first *after*; return it."""
        until(self.lines, lambda said: any(line.startswith(start) for line in said[after:]), limit_s=limit_s)
        return next(line for line in self.said[after:] if line.startswith(start))


def end(node: Node, *, limit_s: float) -> tuple[int, float]:
    """SIGTERM the daemon; return its exit code and the seconds it took. Nothing of it may be left."""
    assert node.process is not None
    begun = time.monotonic()
    node.process.terminate()
    code = node.process.wait(limit_s)
    return code, time.monotonic() - begun


def write_drop_in(node: Node, text: str, *, name: str = "a.toml") -> Path:
    """Write a config drop-in."""
    folder = node.config_file.parent / "sparkd.d"
    folder.mkdir(exist_ok=True)
    file = folder / name
    file.write_text(text)
    return file


def is_root() -> bool:
    """Whether the tests may mount."""
    return os.geteuid() == 0
