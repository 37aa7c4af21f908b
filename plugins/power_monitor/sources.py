"""The sources: opened, watched, believed or not, and opened again when they fail. One failing source stops no other."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any, Literal

import anyio

from sparkd import Context, DeviceError, PowerReading, SourceStatus, Troubles

from .believe import Judge
from .choose import Held
from .source import Source

CLASSES = {
    "nut": ("source_nut", "NutSource"),
    "power_supply": ("source_power_supply", "PowerSupplySource"),
    "i2c": ("source_i2c", "I2cSource"),
    "gpio": ("source_gpio", "GpioSource"),
    "pisugar": ("source_pisugar", "PisugarSource"),
    "vedirect": ("source_vedirect", "VedirectSource"),
    "modbus": ("source_modbus", "ModbusSource"),
    "pi": ("source_pi", "PiSource"),
    "csv": ("source_csv", "CsvSource"),
    "service": ("source_service", "ServiceSource"),
}
RETRY_FIRST_S, RETRY_MAX_S = 1.0, 60.0
STEADY_S = 60.0
"""A source that worked for so long is opened again at once."""
SHOWN_S = 60.0
"""So long it is shown what was wrong with a source's last garbage."""
INTERVALS = 3
"""A source is stale after so many of its own intervals, if that is longer than the config allows."""

State = Literal["probing", "live", "stale", "lost"]


def open_source(kind: str, config: Any, ctx: Context[Any]) -> Source:
    """Return the source of *kind* that *config* describes; nothing is opened yet."""
    module, name = CLASSES[kind]
    make: Callable[..., Source] = getattr(import_module(f".{module}", __package__), name)
    return make(config, ctx) if kind == "service" else make(config)


@dataclass(slots=True, eq=False)
class Watched:
    """One source, what it said last, and how it is. Its `Listener` is itself."""

    name: str
    kind: str
    stale_after_s: float
    changed: Callable[[], None]
    on_garbage: Callable[[str], None] = lambda _name: None
    what: str = ""
    reason: str = ""
    remedy: str = ""
    readings: int = 0
    bad: int = 0
    bad_reason: str = ""
    bad_at: float = 0.0
    held: Held | None = None
    last: PowerReading | None = None
    lost: bool = False
    judge: Judge = field(default_factory=Judge)

    def found(self, what: str) -> None:
        """Take what was found there."""
        self.what = what[:200]
        self.lost, self.reason, self.remedy = False, "", ""
        self.changed()

    def reading(self, reading: PowerReading) -> None:
        """Take a reading, as far as it can be believed."""
        verdict = self.judge.hear(reading)
        self.lost = False
        self.readings += 1
        if verdict.doubts:
            self.garbage("; ".join(verdict.doubts))
        self.last = verdict.reading
        self.held = Held(verdict.reading, anyio.current_time(), self.stale_after_s)
        self.changed()

    def garbage(self, reason: str) -> None:
        """Note what could not be understood or believed."""
        self.bad += 1
        self.bad_reason, self.bad_at = reason[:300], anyio.current_time()
        self.on_garbage(self.name)

    def gone(self, error: DeviceError) -> None:
        """Note that it is not there. Its last reading counts until it is stale."""
        self.lost, self.reason, self.remedy = True, str(error)[:300], error.remedy
        self.changed()

    def state(self, now: float) -> State:
        """Return how it is."""
        if self.lost:
            return "lost"
        if self.held is None:
            return "probing"
        return "live" if now - self.held.at <= self.held.stale_after_s else "stale"

    def status(self, now: float) -> SourceStatus:
        """Return how it is, for people."""
        state = self.state(now)
        silent = "it says nothing any more" if state == "stale" else ""
        garbage = self.bad_reason if now - self.bad_at < SHOWN_S else ""
        return SourceStatus(
            name=self.name,
            kind=self.kind,
            state=state,
            found=self.what,
            reason=self.reason or silent or garbage,
            remedy=self.remedy,
            age_s=None if self.held is None else now - self.held.at,
            readings=self.readings,
            garbage=self.bad,
            reading=self.last,
        )


class Sources:
    """All sources of a node."""

    def __init__(
        self,
        ctx: Context[Any],
        configs: Mapping[str, tuple[str, Any]],
        *,
        stale_after_s: float,
        changed: Callable[[], None],
        on_garbage: Callable[[str], None] = lambda _name: None,
        troubles: Troubles,
    ) -> None:
        """Watch *configs* (kind and config by name); call *changed* when there is news, or one becomes unwell."""
        self._ctx = ctx
        self._configs = dict(configs)
        self._troubles = troubles
        self.watched = {
            name: Watched(
                name,
                kind,
                max(stale_after_s, INTERVALS * float(getattr(config, "interval_s", 0.0))),
                changed,
                on_garbage,
            )
            for name, (kind, config) in self._configs.items()
        }

    def held(self) -> dict[str, Held]:
        """Return the last believed reading of each source that had one, in the order in which they count."""
        return {name: one.held for name, one in self.watched.items() if one.held is not None}

    def status(self) -> list[SourceStatus]:
        """Return how each is."""
        now = anyio.current_time()
        return [one.status(now) for one in self.watched.values()]

    def due(self, now: float) -> float | None:
        """When (monotonic seconds) the next source becomes stale if it stays silent."""
        ends = [one.at + one.stale_after_s for one in self.held().values()]
        return min((end for end in ends if end >= now), default=None)

    def look(self, now: float) -> None:
        """Say which sources are unwell."""
        for one in self.watched.values():
            state = one.state(now)
            if state in ("lost", "stale"):
                status = one.status(now)
                remedy = status.remedy or "look at its cable, its power and its interval_s"
                self._troubles.say(f"source {one.name}", f"{one.name}: {status.reason}", remedy)
            else:
                self._troubles.over(f"source {one.name}")

    async def run(self) -> None:
        """Watch all of them until cancelled."""
        async with anyio.create_task_group() as tasks:
            for name, (kind, config) in self._configs.items():
                tasks.start_soon(self._keep, self.watched[name], kind, config)

    async def _keep(self, watched: Watched, kind: str, config: Any) -> None:
        pause_s = 0.0
        while True:
            begun = anyio.current_time()
            try:
                await open_source(kind, config, self._ctx).watch(watched)
                watched.gone(DeviceError("it has ended", remedy="it is opened again by itself"))
            except DeviceError as error:
                watched.gone(error)
                self._ctx.log.warning("power source lost", source=watched.name, why=str(error))
            except Exception as error:  # a source's own bug must not end the others
                watched.gone(DeviceError(f"{type(error).__name__}: {error}", remedy="report it: this is a bug"))
                self._ctx.log.error(  # noqa: TRY400 - a log of our own
                    "power source failed", exc_info=error, source=watched.name
                )
            steady = anyio.current_time() - begun > STEADY_S
            pause_s = RETRY_FIRST_S if steady or not pause_s else min(pause_s * 2, RETRY_MAX_S)
            await anyio.sleep(pause_s * random.uniform(0.8, 1.2))
