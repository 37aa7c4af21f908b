"""Who may call what over the Unix socket, as the config in force says; and what a reload of it changes at once."""

from __future__ import annotations

from typing import TYPE_CHECKING

from anyio import to_thread

from sparkd.rpc import Access, Door, let_in

if TYPE_CHECKING:
    from sparkd.daemon.core import Core


class Gate:
    """The rules in force, and the door that asks them."""

    def __init__(self, core: Core) -> None:
        """Begin with the rules of *core*'s config."""
        self._core = core
        self._access = self._read()
        self.door: Door | None = None
        """The door, once there is one."""

    def access(self) -> Access:
        """Return the rules in force."""
        return self._access

    async def apply(self) -> None:
        """Let the rules of the config hold from now on: for who is connected, and for who may connect."""
        core = self._core
        self._access = await to_thread.run_sync(self._read)
        core.problems.pop("socket", None)
        try:
            let_in(core.places.socket, self._access)
        except OSError as error:
            core.problems["socket"] = f"the socket cannot be opened to those whom [access] lets in: {error}"
        if self.door is not None:
            self.door.judge_again()

    def _read(self) -> Access:
        config = self._core.config
        return Access.of(config.rpc, config.access, node=config.node.name)
