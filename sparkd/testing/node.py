"""A real daemon as a child process, in a folder of its own.

`Node` starts `sparkd run` as an operator would and speaks to it through the same doors: the notify socket says when it
is ready, the Unix socket answers calls. It is synchronous, so a plain script can use it.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sparkd.rpc.client import Client

READY_LIMIT_S = 20.0
STOP_LIMIT_S = 10.0


def free_port() -> int:
    """Return a TCP port of 127.0.0.1 that nobody listened on a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextmanager
def short_folder() -> Iterator[Path]:
    """Make a folder with a short path (a Unix socket's path has a limit of 107 bytes), removed at the end."""
    folder = Path(tempfile.mkdtemp(prefix="sp-", dir="/tmp"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@dataclass
class Node:
    """A daemon of its own in *root*: config, state, runtime folder, and what it wrote to stderr."""

    name: str
    root: Path
    config: str
    """The text of its `sparkd.toml`, without the folders, which are set to be beneath *root*."""
    environment: Mapping[str, str] = field(default_factory=dict)
    prefix: Sequence[str] = ()
    """Words before its command, such as `ip netns exec NAME`, of a program that becomes it (exec)."""
    process: subprocess.Popen[bytes] | None = None
    status: str = ""
    """The last STATUS= it sent to the notify socket."""

    @property
    def config_file(self) -> Path:
        """Where the config is."""
        return self.root / "etc" / "sparkd.toml"

    @property
    def socket_path(self) -> Path:
        """Where the JSON-RPC socket is."""
        return self.root / "run" / "sparkd.sock"

    @property
    def state(self) -> Path:
        """Where what lasts is kept."""
        return self.root / "state"

    @property
    def plugins(self) -> Path:
        """The drop-in folder."""
        return self.root / "etc" / "plugins"

    @property
    def log(self) -> Path:
        """What the daemon wrote to stderr."""
        return self.root / "log"

    def prepare(self) -> Node:
        """Make the folders and write the config."""
        for folder in ("etc/plugins", "run", "state", "cache"):
            (self.root / folder).mkdir(parents=True, exist_ok=True, mode=0o700)
        self.config_file.write_text(self.config, encoding="utf-8")
        return self

    def start(self, *, ready: bool = True) -> Node:
        """Start the daemon; return when it is ready. Raises TimeoutError or RuntimeError with its last words."""
        with self._notify_socket() as notify:
            environment = {
                **os.environ,
                "RUNTIME_DIRECTORY": str(self.root / "run"),
                "STATE_DIRECTORY": str(self.state),
                "CACHE_DIRECTORY": str(self.root / "cache"),
                "CONFIGURATION_DIRECTORY": str(self.root / "etc"),
                "NOTIFY_SOCKET": str(self.root / "notify"),
                **self.environment,
            }
            with self.log.open("ab") as log:
                self.process = subprocess.Popen(  # noqa: S603 - our own program
                    [*self.prefix, sys.executable, "-m", "sparkd.daemon", "run", "--config", str(self.config_file)],
                    env=environment,
                    stdout=log,
                    stderr=log,
                    start_new_session=True,
                )
            if ready:
                self._wait_ready(notify)
        return self

    def kill(self, signum: int = signal.SIGKILL) -> None:
        """Send a signal to the daemon's own process, and wait for its end if it is SIGKILL."""
        if self.process is None:
            raise RuntimeError(f"{self.name} is not started")
        self.process.send_signal(signum)
        if signum == signal.SIGKILL:
            self.process.wait()

    def stop(self) -> int:
        """End the daemon by SIGTERM; return its exit code. Raises TimeoutExpired if it does not end."""
        if self.process is None:
            return 0
        if self.process.poll() is None:
            self.process.terminate()
        try:
            return self.process.wait(STOP_LIMIT_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise

    def call(self, method: str, /, *, timeout_s: float = 10.0, **params: Any) -> Any:
        """Call *method* over the Unix socket. Raises CallError, or OSError if nobody answers."""
        with Client(self.socket_path, timeout_s=timeout_s) as client:
            return client.call(method, params)

    def last_words(self) -> str:
        """Return the end of what it wrote."""
        return self.log.read_text(errors="replace")[-4000:] if self.log.exists() else ""

    @contextmanager
    def _notify_socket(self) -> Iterator[socket.socket]:
        path = self.root / "notify"
        path.unlink(missing_ok=True)
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify:
            notify.bind(str(path))
            yield notify

    def _wait_ready(self, notify: socket.socket) -> None:
        deadline = time.monotonic() + READY_LIMIT_S
        notify.settimeout(0.25)
        while time.monotonic() < deadline:
            if self.process is not None and self.process.poll() is not None:
                raise RuntimeError(f"{self.name} ended with {self.process.returncode}:\n{self.last_words()}")
            try:
                lines = notify.recv(8192).decode().split("\n")
            except TimeoutError:
                continue
            self.status = next((line[7:] for line in lines if line.startswith("STATUS=")), self.status)
            if "READY=1" in lines:
                return
        raise TimeoutError(f"{self.name} was not ready within {READY_LIMIT_S:g} s:\n{self.last_words()}")


def descendants(pid: int) -> list[int]:
    """Return the processes beneath *pid*, from /proc."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            except OSError:  # gone between listing and reading
                continue
            children.setdefault(parent, []).append(int(entry.name))
    found, queue = [], [pid]
    while queue:
        below = children.get(queue.pop(), [])
        found += below
        queue += below
    return found


def pss_bytes(pid: int) -> int:
    """Return the proportional set size of a process in bytes: shared pages count by how many share them."""
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) * 1024
    raise OSError(f"no Pss in /proc/{pid}/smaps_rollup")
