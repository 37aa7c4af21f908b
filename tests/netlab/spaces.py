"""Network namespaces of a test: made, run in, and removed with all that runs in them, also after a crash.

Their names carry the id of the process that made them; `sweep` removes those of processes that are gone.
"""

from __future__ import annotations

import ctypes
import os
import re
import shutil
import signal
import socket
import struct
import subprocess
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import pytest

T = TypeVar("T")
NETNS = Path("/run/netns")
RESOLVERS = Path("/etc/netns")
WIREGUARD = Path("/var/run/wireguard")
_NAME = re.compile(r"lab([0-9]+)n[0-9]+-[a-z0-9]+")
_SOCKET = re.compile(r"wg([0-9]+)n[0-9]+[a-z0-9]\.sock")
_CLONE_NEWNET = 0x40000000
_LIBC = ctypes.CDLL(None, use_errno=True)
LIMIT_S = 20.0


def lacking() -> str:
    """Return why there is no rig to be had here; nothing if there is."""
    missing = [tool for tool in ("ip", "nft", "tc", "wg", "wireguard-go") if not _find(tool)]
    if os.geteuid() != 0:
        return "needs root, to make network namespaces"
    if missing:
        return f"needs {' '.join(missing)} (apt-get install iproute2 nftables wireguard-tools wireguard-go)"
    return "" if Path("/dev/net/tun").exists() else "needs /dev/net/tun"


def require_rig() -> None:
    """Skip where there is no rig to be had, with the reason; fail in CI."""
    reason = lacking()
    if reason and os.environ.get("CI"):
        pytest.fail(reason)
    if reason:
        pytest.skip(reason)


def _find(tool: str) -> str | None:
    return shutil.which(tool, path="/usr/sbin:/usr/bin:/sbin:/bin")


def command(*words: str, stdin: str = "", limit_s: float = LIMIT_S) -> str:
    """Run a program; return what it printed. AssertionError with all of that unless it ended well."""
    done = subprocess.run(
        words, input=stdin, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=limit_s, check=False
    )
    assert done.returncode == 0, f"{' '.join(words)}: {done.returncode}\n{done.stdout}"
    return done.stdout


def eventually(look: Callable[[], T], *, limit_s: float = 10.0, every_s: float = 0.05) -> T:
    """Look until what is seen is true; return it. AssertionError if it is not within *limit_s*."""
    deadline = time.monotonic() + limit_s
    while not (seen := look()):
        assert time.monotonic() < deadline, f"not within {limit_s:g} s: {seen!r}"
        time.sleep(every_s)
    return seen


@dataclass(eq=False)
class Space:
    """A network namespace."""

    stem: str
    """What the names of all of a lab begin with."""
    role: str
    _processes: list[subprocess.Popen[bytes]] = field(default_factory=list)

    @property
    def name(self) -> str:
        """Its name for `ip netns`."""
        return f"{self.stem}-{self.role}"

    @property
    def prefix(self) -> tuple[str, ...]:
        """What stands before a command that is to run in it."""
        return ("ip", "netns", "exec", self.name)

    def make(self, *, resolver: str = "") -> Space:
        """Make it, with `lo` up, and the DNS server *resolver* for what runs in it."""
        if resolver:
            folder = RESOLVERS / self.name
            folder.mkdir(parents=True, exist_ok=True)
            (folder / "resolv.conf").write_text(f"nameserver {resolver}\noptions timeout:1 attempts:2\n")
        command("ip", "netns", "add", self.name)
        self.ip("link set lo up")
        self.run(["sh", "-c", "echo 0 2147483647 >/proc/sys/net/ipv4/ping_group_range"])  # as systemd has it
        return self

    def ip(self, *lines: str) -> None:
        """Run each line as a command of `ip`."""
        command("ip", "-n", self.name, "-batch", "-", stdin="".join(f"{line}\n" for line in lines))

    def nft(self, rules: str) -> None:
        """Load rules, all or nothing."""
        self.run(["nft", "-f", "-"], stdin=rules)

    def run(self, words: Sequence[str], *, stdin: str = "", limit_s: float = LIMIT_S) -> str:
        """Run a program in it; return what it printed. AssertionError with all of that unless it ended well."""
        return command(*self.prefix, *words, stdin=stdin, limit_s=limit_s)

    def start(self, words: Sequence[str]) -> subprocess.Popen[bytes]:
        """Start a program in it, which is killed with it."""
        process = subprocess.Popen(
            [*self.prefix, *words], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        self._processes.append(process)
        return process

    def forward(self) -> None:
        """Let it pass packets on."""
        self.run(["sh", "-c", "echo 1 >/proc/sys/net/ipv4/ip_forward"])

    def open_socket(self, family: int, kind: int, protocol: int = 0) -> socket.socket:
        """Make a socket that belongs to it, whoever uses it."""
        made: list[socket.socket] = []
        thread = threading.Thread(target=lambda: made.append(self._open_socket(family, kind, protocol)))
        thread.start()
        thread.join()
        assert made, f"no socket in {self.name}"
        return made[0]

    def _open_socket(self, family: int, kind: int, protocol: int) -> socket.socket:
        with (NETNS / self.name).open("rb") as there:  # the whole of this thread moves, and then ends
            if _LIBC.setns(there.fileno(), _CLONE_NEWNET) != 0:
                raise OSError(ctypes.get_errno(), f"setns {self.name}")
        return socket.socket(family, kind, protocol)

    def forget_flows(self) -> None:
        """Empty its table of connections (conntrack), as a router does that was switched off and on."""
        header = struct.pack("=IHHII", 20, 0x0102, 0x5, 1, 0)  # IPCTNL_MSG_CT_DELETE of all; request, acknowledge
        with self.open_socket(socket.AF_NETLINK, socket.SOCK_RAW, 12) as netfilter:
            netfilter.send(header + struct.pack("=BBH", socket.AF_INET, 0, 0))
            (error,) = struct.unpack_from("=i", netfilter.recv(4096), 16)
        assert error == 0, os.strerror(-error)

    def ping(self, address: str, *, size: int = 64, limit_s: float = 1.0, whole: bool = False) -> float | None:
        """Return the seconds of a round trip of an IP packet of *size* bytes; None if there was none.

        *whole*: it may not be cut in pieces.
        """
        with self.open_socket(socket.AF_INET, socket.SOCK_DGRAM, socket.IPPROTO_ICMP) as icmp:
            icmp.setsockopt(socket.IPPROTO_IP, 10, 3 if whole else 0)  # IP_MTU_DISCOVER: IP_PMTUDISC_PROBE, or no DF
            begun = time.monotonic()
            try:
                icmp.sendto(struct.pack("!BBHHH", 8, 0, 0, 0, 1).ljust(size - 20, b"."), (address, 0))
                icmp.settimeout(limit_s)
                icmp.recv(65536)
            except OSError:
                return None
            return time.monotonic() - begun

    def reaches(self, address: str, *, limit_s: float = 10.0) -> None:
        """Wait until *address* answers."""
        eventually(lambda: self.ping(address, limit_s=0.5) is not None, limit_s=limit_s)

    def remove(self) -> None:
        """Kill what runs in it, and remove it."""
        _remove(self.name)
        for process in self._processes:
            process.wait()


def sweep() -> None:
    """Remove what tests left behind that were killed."""
    for path in sorted(NETNS.glob("lab*")) if NETNS.is_dir() else []:
        found = _NAME.fullmatch(path.name)
        if found and not Path(f"/proc/{found[1]}").exists():
            _remove(path.name)
    for path in sorted(WIREGUARD.glob("wg*.sock")) if WIREGUARD.is_dir() else []:
        found = _SOCKET.fullmatch(path.name)
        if found and not Path(f"/proc/{found[1]}").exists():
            path.unlink(missing_ok=True)


def _remove(name: str) -> None:
    for pid in _inhabitants(name):
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    eventually(lambda: not _inhabitants(name))
    with suppress(AssertionError):  # it may be gone already, half made
        command("ip", "netns", "del", name)
    shutil.rmtree(RESOLVERS / name, ignore_errors=True)


def _inhabitants(name: str) -> list[int]:
    if not (NETNS / name).exists():
        return []
    try:
        found = [int(word) for word in command("ip", "netns", "pids", name).split()]
    except AssertionError:  # it was never mounted: its maker was killed in between
        return []
    return [pid for pid in found if pid != os.getpid() and not _zombie(pid)]


def _zombie(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True
