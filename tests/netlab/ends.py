"""An end of a WireGuard tunnel in a namespace: kernel WireGuard where there is, else wireguard-go."""

from __future__ import annotations

import functools
import os
import subprocess
from contextlib import suppress
from dataclasses import dataclass, field

from tests.netlab.spaces import WIREGUARD, Space, command, eventually

PORT = 51820
MTU = 1420


@functools.cache
def in_kernel() -> bool:
    """Whether this machine's kernel has WireGuard."""
    probe = Space(f"lab{os.getpid()}n0", "probe")
    with suppress(AssertionError):
        command("ip", "netns", "add", probe.name)
    try:
        probe.ip("link add wgprobe type wireguard")
    except AssertionError:
        return False
    else:
        return True
    finally:
        command("ip", "netns", "del", probe.name)


@dataclass(frozen=True, kw_only=True)
class Other:
    """Whom an end talks to."""

    public_key: str
    allowed: str
    endpoint: str = ""
    """`name:port`; empty if it calls us."""
    keepalive_s: int = 0


@dataclass(eq=False, kw_only=True)
class End:
    """An end of tunnels: interface, key and peers. It may be killed, and started again as it was."""

    space: Space
    interface: str
    address: str
    listen: int = 0
    """0 for any port, which is then kept over a restart, as a config's would be."""
    others: list[Other] = field(default_factory=list)
    private_key: str = field(default_factory=lambda: command("wg", "genkey").strip(), repr=False)
    process: subprocess.Popen[bytes] | None = None

    @property
    def public_key(self) -> str:
        """What others know it by."""
        return command("wg", "pubkey", stdin=self.private_key).strip()

    def start(self) -> None:
        """Make the interface, and all that is set of it."""
        self._make()
        words = ["wg", "set", self.interface, "private-key", "/dev/stdin"]
        if self.listen:
            words += ["listen-port", str(self.listen)]
        self.space.run(words, stdin=self.private_key)
        for other in self.others:
            more = ["endpoint", other.endpoint] if other.endpoint else []
            keepalive = ["persistent-keepalive", str(other.keepalive_s)] if other.keepalive_s else []
            peer = ["peer", other.public_key, "allowed-ips", other.allowed]
            self.space.run(["wg", "set", self.interface, *peer, *more, *keepalive])
        self.space.ip(f"address add {self.address}/24 dev {self.interface}", f"link set {self.interface} mtu {MTU} up")

    def _make(self) -> None:
        if in_kernel():
            self.space.ip(f"link add {self.interface} type wireguard")
            return
        self.process = self.space.start(["wireguard-go", "-f", self.interface])
        eventually((WIREGUARD / f"{self.interface}.sock").exists)

    def kill(self) -> None:
        """End it without a word, as if its machine had lost power."""
        if self.process is None:
            self.space.ip(f"link del {self.interface}")
            return
        self.process.kill()
        self.process.wait()
        (WIREGUARD / f"{self.interface}.sock").unlink(missing_ok=True)

    def show(self, what: str) -> str:
        """Return what `wg show` tells, without the newline at the end."""
        return self.space.run(["wg", "show", self.interface, what]).strip()

    def close(self) -> None:
        """Leave nothing; what runs in the namespace is killed with it."""
        (WIREGUARD / f"{self.interface}.sock").unlink(missing_ok=True)
