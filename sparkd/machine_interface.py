"""`machine`: what only root may do to this machine, asked of sparkd-priv by the core. Layer: values."""

from __future__ import annotations

from typing import Literal, Protocol

from sparkd.interfaces import interface


@interface("machine")
class MachineApi(Protocol):
    """Deeds of root's, each as far as `/etc/sparkd/priv.toml` allows it. All raise CallError with the rule if not."""

    async def shutdown(
        self, *, how: Literal["poweroff", "reboot"] = "poweroff", delay_s: int = 0, dry_run: bool = False
    ) -> str:
        """Switch this machine off, or start it anew; return what was said of it."""
        ...

    async def wake(self, *, host: str) -> str:
        """Wake a machine that root's config lists, by its magic packet."""
        ...

    async def restart_interface(self, *, interface: str) -> str:
        """Take a network interface down and up again."""
        ...

    async def wg_show(self, *, interface: str, what: list[str]) -> dict[str, str]:
        """Return what `wg show INTERFACE WORD` says for each word in *what*; there is no word for a secret."""
        ...

    async def wg_set_endpoint(self, *, interface: str, peer: str, endpoint: str) -> str:
        """Have *peer* (its public key) spoken to at *endpoint*: an address and a port, never a name."""
        ...

    async def wg_set_keepalive(self, *, interface: str, peer: str, seconds: int) -> str:
        """Have *peer* sent something each so many seconds; 0 for never."""
        ...

    async def wg_set_listen_port(self, *, interface: str, port: int) -> str:
        """Receive at *port* from now on; 0 for any that is free."""
        ...

    async def wg_reset_peer(self, *, interface: str, peer: str) -> str:
        """Take *peer* out and put it back as it was, its preshared key too, so that its session begins anew."""
        ...
