"""The tiers in use: each called within its deadline, left alone while it does not answer, and counted."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TypeVar

import anyio

from sparkd import CallError, CallErrorKind, Privacy, Tier, Troubles

from .breaker import Breaker, State
from .figures import Figures, TierCounts

T = TypeVar("T")
NO_ANSWER = (CallErrorKind.UNAVAILABLE, CallErrorKind.DEADLINE)
STATES: dict[State, int] = {"closed": 0, "half-open": 1, "open": 2}
HEDGE_LEAST_S, HEDGE_USUAL_S = 0.005, 0.05
"""The next tier is asked beside this one after this one's usual time (95 of 100 reads), or so long."""


@dataclass(slots=True, kw_only=True)
class Place:
    """A tier in use."""

    name: str
    kind: str
    level: int
    """1 hot, 2 of the site, 3 long."""
    strictest: Privacy
    """The strictest class that it may have."""
    only: Privacy | None = None
    """The one class it is for, if it is for one."""
    tier: Tier
    limit_s: float
    """For a call that carries no stream; and for each part of one that does."""
    figures: Figures
    troubles: Troubles
    largest_bytes: int = 1 << 30
    remote: bool = False
    breaker: Breaker = field(default_factory=Breaker)
    counts: TierCounts = field(default_factory=TierCounts)
    well: anyio.Event = field(default_factory=anyio.Event)
    """Set when it answers again; a new one stands here after that."""

    def takes(self, privacy: int) -> bool:
        """Whether it may have what is of that class."""
        return privacy >= self.strictest and (self.only is None or privacy == self.only)

    @property
    def open(self) -> bool:
        """Whether it is left alone now."""
        return self.breaker.state(anyio.current_time()) == "open"

    def hedge_s(self) -> float:
        """Return how long to wait for it before the next is asked as well."""
        usual = self.counts.quantile(0.95)
        return HEDGE_USUAL_S if usual is None else max(usual, HEDGE_LEAST_S)

    async def ask(self, call: str, deed: Callable[[Tier], Awaitable[T]], *, limit_s: float | None = None) -> T:
        """Return what *deed* gets of the tier. Raises CallError; `unavailable` at once while it is left alone."""
        with self._watched(call):
            with anyio.move_on_after(self.limit_s if limit_s is None else limit_s):
                return await deed(self.tier)
            raise CallError(CallErrorKind.DEADLINE, f"tier {self.name} did not answer {call} in time")

    async def stream(self, call: str, deed: Callable[[Tier], AsyncIterator[bytes]]) -> AsyncIterator[bytes]:
        """Stream what *deed* gets of the tier; each part has the limit for itself. Raises CallError."""
        with self._watched(call):
            parts = deed(self.tier)
            try:
                while True:
                    chunk: bytes | None = None
                    with anyio.move_on_after(self.limit_s):
                        chunk = await anext(parts, b"")
                    if chunk is None:
                        raise CallError(CallErrorKind.DEADLINE, f"tier {self.name} stopped in the midst of a value")
                    if not chunk:
                        return
                    self.figures.bytes.labels(self.name, "out").inc(len(chunk))
                    yield chunk
            finally:
                close = getattr(parts, "aclose", None)
                if close is not None:
                    with anyio.CancelScope(shield=True), anyio.move_on_after(1):
                        await close()

    @contextmanager
    def _watched(self, call: str) -> Iterator[None]:
        begun = anyio.current_time()
        if not self.breaker.lets_through(begun):
            remedy = f"it is tried again in {self.breaker.opens_at(begun) - begun:.1f} s"
            raise CallError(CallErrorKind.UNAVAILABLE, f"tier {self.name}: {self.breaker.reason}", remedy=remedy)
        try:
            yield
        except CallError as error:
            self._failed(error)
            raise
        except GeneratorExit:  # whoever read has enough
            self.breaker.given_up()
            raise
        except anyio.get_cancelled_exc_class():
            self.breaker.given_up()
            raise
        self._answered()
        took = anyio.current_time() - begun
        self.figures.seconds.labels(self.name, call).observe(took)
        if call == "get":
            self.counts.took(took)

    def _answered(self) -> None:
        if self.breaker.succeeded():
            self.figures.breaker.labels(self.name).set(0)
            self.well.set()
            self.well = anyio.Event()
        self.troubles.over(f"tier {self.name}")

    def _failed(self, error: CallError) -> None:
        if error.kind not in NO_ANSWER:
            self._answered()
            return
        self.counts.errors += 1
        self.counts.slow += error.kind is CallErrorKind.DEADLINE
        self.figures.errors.labels(self.name, error.kind.value).inc()
        now = anyio.current_time()
        if self.breaker.failed(now, error.message):
            remedy = str(error.data.get("remedy", "")) or "look at its server, its disk and the network"
            self.troubles.say(f"tier {self.name}", f"tier {self.name}: {error.message}", remedy)
        self.figures.breaker.labels(self.name).set(STATES[self.breaker.state(now)])

    def hit(self, *, found: bool) -> None:
        """Count a read."""
        if found:
            self.counts.hits += 1
            self.figures.hits.labels(self.name).inc()
        else:
            self.counts.misses += 1
            self.figures.misses.labels(self.name).inc()


@dataclass(frozen=True, slots=True)
class Places:
    """All tiers in use, nearest first."""

    all: tuple[Place, ...]

    def of(self, privacy: int) -> list[Place]:
        """Return those that may have what is of that class, nearest first."""
        return [place for place in self.all if place.takes(privacy)]

    def lasting(self, privacy: int) -> list[Place]:
        """Return those of them that keep what they have."""
        return [place for place in self.of(privacy) if place.level > 1]

    def home(self, privacy: int) -> Place | None:
        """Return where what is of that class is at home: the farthest that may have it."""
        lasting = self.lasting(privacy)
        return lasting[-1] if lasting else None

    def hot(self, privacy: int) -> Place | None:
        """Return the hot one, if there is one."""
        near = self.of(privacy)
        return near[0] if near and near[0].level == 1 else None

    def named(self, name: str) -> Place | None:
        """Return the one called *name*."""
        return next((place for place in self.all if place.name == name), None)
