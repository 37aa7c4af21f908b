"""What the sources may use now: by the power mode of this node or its site, and by the accelerator's heat."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import anyio

from sparkd import Context, PowerMode

from .config import HailoInferenceConfig
from .source_config import ModeRule, SourceConfig

PLENTY = ModeRule()


class Modes:
    """The rule in force. The node's own mode counts before its site's."""

    def __init__(self, rules: Mapping[str, ModeRule], heat_rate: Callable[[], float], *, node: str, site: str) -> None:
        """Apply *rules* by mode; *heat_rate* is the share of the frame rates that heat leaves."""
        self._rules = rules
        self._heat_rate = heat_rate
        self._names = {"node": node, "site": site}
        self._said: dict[str, str] = {}
        self.changed = anyio.Event()

    @property
    def mode(self) -> str:
        """The mode in force; `unknown` if nobody said."""
        return self._said.get("node") or self._said.get("site") or "unknown"

    @property
    def rule(self) -> ModeRule:
        """The rule in force."""
        return self._rules.get(self.mode, PLENTY)

    def take(self, said: PowerMode) -> bool:
        """Take the word of somebody; return whether another rule is in force by it."""
        before = self.rule
        if self._names.get(said.scope) == said.name:
            self._said[said.scope] = said.mode
        if self.rule == before:
            return False
        self.changed.set()
        self.changed = anyio.Event()
        return True

    def fps(self, spec: SourceConfig) -> float:
        """Return how many frames a second *spec* may have looked at now."""
        return spec.fps * self.rule.rate * self._heat_rate()

    def interval_s(self, spec: SourceConfig) -> float:
        """Return the time between two frames of *spec*; infinite if it may have none. May be called in any thread."""
        fps = self.fps(spec)
        return 1 / fps if fps > 0 else math.inf

    def model_of(self, spec: SourceConfig) -> str:
        """Return the name of the model that looks at *spec* now; nothing for the default one."""
        return self.rule.model or spec.model

    async def follow(self, ctx: Context[HailoInferenceConfig], changed: Callable[[], None]) -> None:
        """Listen for power modes for ever; call *changed* when another rule is in force."""
        async with ctx.bus.subscribe(PowerMode) as news:
            for received in await ctx.bus.retained(PowerMode):
                self._follow(ctx, received.event, changed)
            async for received in news:
                self._follow(ctx, received.event, changed)

    def _follow(self, ctx: Context[HailoInferenceConfig], said: PowerMode, changed: Callable[[], None]) -> None:
        if self.take(said):
            ctx.log.info("power-mode", mode=self.mode, rate=self.rule.rate, model=self.rule.model or "as configured")
            changed()
