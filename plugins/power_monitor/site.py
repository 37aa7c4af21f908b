"""The mode of the whole site, from what its nodes say. Pure.

A node whose sources watch what feeds the whole site (`speaks_for_site`) says its own mode for the site too. The site's
mode is the worst that is said; what was said by a node that has been silent for too long counts no more. A node's mode
is the worse of what its own sources say and of the site's: a Pi without any source goes by the site alone.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from .modes import SEVERITY, Mode, worse


@dataclass(slots=True)
class Site:
    """What each node that speaks for the site has said last."""

    stale_after_s: float
    _said: dict[str, tuple[Mode, float]] = field(default_factory=dict)

    def hear(self, node: str, mode: str, now: float) -> bool:
        """Take the word of *node* at *now* (monotonic seconds); return whether it is a mode at all."""
        if mode not in list(Mode):
            return False
        self._said[node] = (Mode(mode), now)
        return True

    def mode(self, now: float) -> tuple[Mode, str]:
        """Return the site's mode and the node it is by."""
        site, by = Mode.UNKNOWN, ""
        for node, (mode, at) in sorted(self._said.items()):
            if now - at <= self.stale_after_s and mode in SEVERITY and worse(site, mode) is not site:
                site, by = mode, node
        return site, by

    def due(self, now: float) -> float | None:
        """When (monotonic seconds) the next word becomes stale."""
        ends = [at + self.stale_after_s for _, at in self._said.values() if at + self.stale_after_s >= now]
        return min(ends, default=None)
