"""The power modes that are said of nodes and sites, for peers that are switched off in some of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from sparkd import Context, PowerMode


class Modes:
    """The last mode of each node and site that was heard of."""

    def __init__(self, node: str, site: str) -> None:
        self._here = (("node", node), ("site", site))
        self._said: dict[tuple[str, str], str] = {}

    def take(self, said: PowerMode) -> bool:
        """Take the word of somebody; return whether it is news."""
        key = (said.scope, said.name)
        news = self._said.get(key) != said.mode
        if key in self._said or len(self._said) < 1000:  # noqa: PLR2004 - a bound on what others can fill
            self._said[key] = said.mode
        return news

    def any_of(self, peer: str, modes: Iterable[str]) -> str:
        """Return the mode among *modes* that *peer*'s node, this node or this site is in; nothing if none is."""
        wanted = set(modes)
        said = (self._said.get(key, "") for key in (("node", peer), *self._here))
        return next((mode for mode in said if mode in wanted), "")

    async def follow(self, ctx: Context[Any], changed: Callable[[], None]) -> None:
        """Listen for ever; call *changed* at each news."""
        async with ctx.bus.subscribe(PowerMode) as news:
            for received in await ctx.bus.retained(PowerMode):
                self._follow(received.event, changed)
            async for received in news:
                self._follow(received.event, changed)

    def _follow(self, said: PowerMode, changed: Callable[[], None]) -> None:
        if self.take(said):
            changed()
