"""`machine`: deeds of root's, handed to sparkd-priv."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, cast

from sparkd import deeds
from sparkd.errors import CallError, CallErrorKind, DeviceError

if TYPE_CHECKING:
    from sparkd.daemon.core import Core


class MachineAnswers:
    """`machine`: asks the root daemon, which decides."""

    def __init__(self, core: Core) -> None:
        self._core = core

    async def shutdown(
        self, *, how: Literal["poweroff", "reboot"] = "poweroff", delay_s: int = 0, dry_run: bool = False
    ) -> str:
        """Switch this machine off."""
        return await self._ask(deeds.Shutdown(how=how, delay_s=delay_s, dry_run=dry_run))

    async def wake(self, *, host: str) -> str:
        """Wake another machine."""
        return await self._ask(deeds.WakeHost(host=host))

    async def restart_interface(self, *, interface: str) -> str:
        """Take a network interface down and up."""
        return await self._ask(deeds.InterfaceRestart(interface=interface))

    async def wg_show(self, *, interface: str, what: list[str]) -> dict[str, str]:
        """Read WireGuard."""
        return (await self._done(deeds.WgShow(interface=interface, what=cast("list[deeds.WgWhat]", what)))).shown

    async def wg_set_endpoint(self, *, interface: str, peer: str, endpoint: str) -> str:
        """Move a peer's endpoint."""
        return await self._set(interface, change="endpoint", peer=peer, endpoint=endpoint)

    async def wg_set_keepalive(self, *, interface: str, peer: str, seconds: int) -> str:
        """Set a peer's keepalive."""
        return await self._set(interface, change="persistent-keepalive", peer=peer, value=seconds)

    async def wg_set_listen_port(self, *, interface: str, port: int) -> str:
        """Change the port."""
        return await self._set(interface, change="listen-port", value=port)

    async def wg_reset_peer(self, *, interface: str, peer: str) -> str:
        """Begin a peer's session anew."""
        return await self._set(interface, change="reset-peer", peer=peer)

    async def _set(self, interface: str, **fields: Any) -> str:
        try:
            deed = deeds.WgSet(interface=interface, **fields)
        except ValueError as error:
            raise CallError(CallErrorKind.INVALID_PARAMS, f"machine: {error}") from None
        return await self._ask(deed)

    async def _ask(self, deed: deeds.Deed) -> str:
        return (await self._done(deed)).said

    async def _done(self, deed: deeds.Deed) -> deeds.Done:
        wrong = deeds.complaint(deed)
        if wrong:
            raise CallError(CallErrorKind.INVALID_PARAMS, f"machine: {wrong}")
        try:
            return await deeds.ask(self._core.config.node.priv_socket, deed)
        except DeviceError as error:
            raise CallError(CallErrorKind.UNAVAILABLE, str(error), remedy=error.remedy) from None
