"""Who runs `wg`: this service, if it has the right to, or sparkd-priv for it. Neither tells a secret."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import anyio

from sparkd import CallError, Context, DeviceError, MachineApi

from .config import VpnWatchdogConfig

LIMIT_S = 5.0
"""`wg` takes milliseconds. It is not interrupted but by this: what was begun is done."""
PRIV_LIMIT_S = 45.0
"""Longer than the root daemon gives any of its programs."""
TRIES = 3
MAX_SHOWN = 1 << 20
CAP_NET_ADMIN = 12
_ENVIRONMENT = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C.UTF-8"}


class Wg(Protocol):
    """WireGuard, as far as this plugin touches it. Everything raises DeviceError with a remedy."""

    @property
    def via(self) -> str:
        """`direct` or `priv`."""
        ...

    async def show(self, interface: str, what: Sequence[str]) -> dict[str, str]:
        """Return what each word of `wg show` says."""
        ...

    async def set_endpoint(self, interface: str, peer: str, endpoint: str) -> str:
        """Have a peer spoken to at another address."""
        ...

    async def set_keepalive(self, interface: str, peer: str, seconds: int) -> str:
        """Set a peer's keepalive."""
        ...

    async def set_listen_port(self, interface: str, port: int) -> str:
        """Receive at another port; 0 for any."""
        ...

    async def reset_peer(self, interface: str, peer: str) -> str:
        """Take a peer out and put it back as it was."""
        ...


class ByPriv:
    """Through the core and sparkd-priv."""

    via = "priv"

    def __init__(self, ctx: Context[Any]) -> None:
        self._machine = ctx.call(MachineApi, deadline_s=PRIV_LIMIT_S)

    async def show(self, interface: str, what: Sequence[str]) -> dict[str, str]:
        """Return what each word of `wg show` says."""
        with _told():
            return await self._machine.wg_show(interface=interface, what=list(what))

    async def set_endpoint(self, interface: str, peer: str, endpoint: str) -> str:
        """Have a peer spoken to at another address."""
        with _told():
            return await self._machine.wg_set_endpoint(interface=interface, peer=peer, endpoint=endpoint)

    async def set_keepalive(self, interface: str, peer: str, seconds: int) -> str:
        """Set a peer's keepalive."""
        with _told():
            return await self._machine.wg_set_keepalive(interface=interface, peer=peer, seconds=seconds)

    async def set_listen_port(self, interface: str, port: int) -> str:
        """Receive at another port; 0 for any."""
        with _told():
            return await self._machine.wg_set_listen_port(interface=interface, port=port)

    async def reset_peer(self, interface: str, peer: str) -> str:
        """Take a peer out and put it back as it was."""
        with _told():
            return await self._machine.wg_reset_peer(interface=interface, peer=peer)


@contextmanager
def _told() -> Iterator[None]:
    try:
        yield
    except CallError as error:
        raise DeviceError(error.message, remedy=str(error.data.get("remedy", ""))) from None


class Direct:
    """By running `wg`."""

    via = "direct"

    def __init__(self, wg: Path) -> None:
        self._wg = str(wg)

    async def show(self, interface: str, what: Sequence[str]) -> dict[str, str]:
        """Return what each word of `wg show` says."""
        return {word: await self._run("show", interface, word) for word in what}

    async def set_endpoint(self, interface: str, peer: str, endpoint: str) -> str:
        """Have a peer spoken to at another address."""
        return await self._set_peer(interface, peer, "endpoint", endpoint)

    async def set_keepalive(self, interface: str, peer: str, seconds: int) -> str:
        """Set a peer's keepalive."""
        return await self._set_peer(interface, peer, "persistent-keepalive", str(seconds))

    async def set_listen_port(self, interface: str, port: int) -> str:
        """Receive at another port; 0 for any."""
        await self._run("set", interface, "listen-port", str(port))
        return f"{interface} listens at {(await self._run('show', interface, 'listen-port')).strip()}"

    async def reset_peer(self, interface: str, peer: str) -> str:
        """Take a peer out and put it back as it was; its secrets go from `wg` to `wg`, unread.

        That is not cut short by a stop of this service: a peer that is out comes in again.
        """
        config = os.memfd_create("wg", os.MFD_CLOEXEC)
        try:
            await self._run("showconf", interface, stdout=config)
            await self._require(interface, peer)
            if not os.fstat(config).st_size:
                raise DeviceError(f"wg shows no config of {interface}; the peer was left as it is")
            with anyio.CancelScope(shield=True):
                try:
                    await self._run("set", interface, "peer", peer, "remove")
                finally:
                    await self._put_back(interface, config)
        finally:
            os.close(config)
        return f"{interface} peer {peer}: out and in again"

    async def _put_back(self, interface: str, config: int) -> None:
        for left in reversed(range(TRIES)):
            try:
                await self._run("syncconf", interface, f"/proc/self/fd/{config}", pass_fds=(config,))
            except DeviceError:
                if not left:
                    raise
            else:
                return

    async def _set_peer(self, interface: str, peer: str, key: str, value: str) -> str:
        await self._require(interface, peer)
        await self._run("set", interface, "peer", peer, key, value)
        return f"{interface} peer {peer}: {key} {value}"

    async def _require(self, interface: str, peer: str) -> None:
        """Raise DeviceError if there is no such peer: `wg set` would make one."""
        if peer not in (await self._run("show", interface, "peers")).split():
            raise DeviceError(f"{interface} has no peer {peer}")

    async def _run(self, *words: str, stdout: int = subprocess.PIPE, pass_fds: Sequence[int] = ()) -> str:
        remedy = f"run as root: wg {' '.join(words[:2])}"
        try:
            with anyio.fail_after(LIMIT_S, shield=True):
                done = await anyio.run_process(
                    [self._wg, *words], check=False, stdout=stdout, pass_fds=pass_fds, env=_ENVIRONMENT, cwd="/"
                )
        except TimeoutError:
            raise DeviceError(f"wg {words[0]} took longer than {LIMIT_S:g} s", remedy=remedy) from None
        except OSError as error:
            raise DeviceError(f"{self._wg}: {error.strerror}", remedy="apt install wireguard-tools") from None
        if done.returncode:
            said = " ".join(done.stderr.decode(errors="replace").split())[:300]
            raise DeviceError(f"wg {words[0]} ended with {done.returncode}: {said}", remedy=remedy)
        return (done.stdout or b"").decode(errors="replace")[:MAX_SHOWN]


def may_direct(status: Path = Path("/proc/self/status")) -> bool:
    """Whether this process has CAP_NET_ADMIN."""
    for line in status.read_text().splitlines():
        name, _, value = line.partition(":")
        if name == "CapEff":
            return bool(int(value, 16) >> CAP_NET_ADMIN & 1)
    return False


def choose_access(ctx: Context[VpnWatchdogConfig]) -> Wg:
    """Return who runs `wg`, by the config and by what this process may."""
    config = ctx.config
    if config.via == "direct" or (config.via == "auto" and may_direct() and config.wg.exists()):
        return Direct(config.wg)
    return ByPriv(ctx)
