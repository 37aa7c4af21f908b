"""Opening the tiers that the config names, or their embedded defaults."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

from sparkd import Context, Privacy, Tier, Troubles

from .config import NasTierConfig
from .directory_config import DirectoryConfig
from .directory_tier import open_directory
from .figures import Figures
from .long_config import LongConfig
from .places import Place, Places
from .tier_by_call import CalledTier
from .tier_long import open_long
from .tier_valkey import open_valkey
from .valkey_config import ValkeyConfig

SERVICE = "nas-tier"


@asynccontextmanager
async def open_places(ctx: Context[NasTierConfig], figures: Figures, troubles: Troubles) -> AsyncIterator[Places]:
    """Open all tiers. Who does not answer yet is opened all the same: that is what its breaker is for."""
    async with AsyncExitStack() as stack:
        opening = _Opening(ctx, figures, troubles, stack)
        places = [await opening.own()]
        if ctx.config.hot_enabled:
            places.append(await opening.hot(ctx.config.hot or ValkeyConfig()))
        places.append(await opening.nas(ctx.config.nas))
        places.append(await opening.long(ctx.config.long))
        places += [opening.called(name) for name in ctx.config.tiers]
        yield Places(tuple(sorted(places, key=lambda place: place.level)))


class _Opening:
    def __init__(
        self, ctx: Context[NasTierConfig], figures: Figures, troubles: Troubles, stack: AsyncExitStack
    ) -> None:
        self._ctx = ctx
        self._figures = figures
        self._troubles = troubles
        self._stack = stack

    def _place(self, name: str, kind: str, level: int, tier: Tier, **more: Any) -> Place:
        return Place(
            name=name, kind=kind, level=level, tier=tier, figures=self._figures, troubles=self._troubles, **more
        )

    async def own(self) -> Place:
        """Open what keeps what never leaves this machine."""
        config = DirectoryConfig(path=self._ctx.state_dir / "own")
        tier = await self._stack.enter_async_context(
            open_directory(config, node_id=self._ctx.outbox.node_id, log=self._ctx.log)
        )
        only = Privacy.NODE
        return self._place("own", "directory", 2, tier, strictest=only, only=only, limit_s=config.timeout_s)

    async def hot(self, config: ValkeyConfig) -> Place:
        """Open tier 1."""
        tier = await self._stack.enter_async_context(
            open_valkey(config, state_dir=self._ctx.state_dir, log=self._ctx.log)
        )
        strictest = Privacy.LOCAL if config.url else Privacy.NODE
        return self._place(
            "hot", "valkey", 1, tier, strictest=strictest, limit_s=config.timeout_s, largest_bytes=config.largest_bytes
        )

    async def nas(self, config: DirectoryConfig | None) -> Place:
        """Open tier 2."""
        config = config or DirectoryConfig(path=self._ctx.state_dir / "nas")
        tier = await self._stack.enter_async_context(
            open_directory(config, node_id=self._ctx.outbox.node_id, log=self._ctx.log)
        )
        return self._place("nas", "directory", 2, tier, strictest=Privacy.LOCAL, limit_s=config.timeout_s)

    async def long(self, config: LongConfig | None) -> Place:
        """Open tier 3: this node's own, or the one that another node provides."""
        node = self._ctx.config.long_by
        if node:
            limit_s = 10.0
            called = CalledTier(self._ctx, node=node, service=SERVICE, limit_s=limit_s, privacy=Privacy.SHARED)
            return self._place("long", f"of {node}", 3, called, strictest=Privacy.SHARED, limit_s=limit_s, remote=True)
        config = config or LongConfig()
        tier = await self._stack.enter_async_context(
            open_long(config, state_dir=self._ctx.state_dir, node_id=self._ctx.outbox.node_id, log=self._ctx.log)
        )
        strictest = Privacy.LOCAL if config.reach == "local" else Privacy.SHARED
        return self._place("long", "long", 3, tier, strictest=strictest, limit_s=config.timeout_s)

    def called(self, name: str) -> Place:
        """Return the tier that another service is."""
        config = self._ctx.config.tiers[name]
        strictest = Privacy.parse(config.reach)
        tier = CalledTier(self._ctx, node=None, service=config.service, limit_s=config.timeout_s, privacy=Privacy.NODE)
        kind, limit_s = f"service {config.service}", config.timeout_s
        return self._place(name, kind, config.level, tier, strictest=strictest, limit_s=limit_s, remote=True)


def provided(places: Places, name: str) -> Place | None:
    """Return the tier that other nodes may use, as the config names it."""
    return places.named(name) if name else None
