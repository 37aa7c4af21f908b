"""What is done, with a core that notes what it is asked."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from types import SimpleNamespace
from typing import Any, cast

import anyio
import pytest

from sparkd import CallError, CallErrorKind, Context, EnergyClass, ServiceLoad, State, StorageError, Troubles
from sparkd_plugins.power_monitor.acting import Actor, Journal
from sparkd_plugins.power_monitor.config import PowerMonitorConfig
from sparkd_plugins.power_monitor.modes import SEVERITY, Mode

pytestmark = pytest.mark.anyio
LASTED = dict.fromkeys(SEVERITY, 1e9)


def load(name: str, energy: str) -> ServiceLoad:
    return ServiceLoad(name=name, plugin=name, energy=EnergyClass(energy), state=State.RUNNING)


@dataclass
class Core:
    """The core's `shedding`, and the rest of a Context that acting uses."""

    config: PowerMonitorConfig = field(default_factory=lambda: PowerMonitorConfig(restore_step_s=0.0))
    loads: dict[str, ServiceLoad] = field(
        default_factory=lambda: {
            one.name: one for one in (load("a", "deferrable"), load("b", "deferrable"), load("c", "normal"))
        }
    )
    asked: list[tuple[str, str]] = field(default_factory=list)
    states: list[str] = field(default_factory=list)
    refuses: str = ""
    full: bool = False
    on_restore: Any = None

    def call(self, *_: object, **__: object) -> Any:
        return self

    async def services(self) -> list[ServiceLoad]:
        return list(self.loads.values())

    async def shed(self, *, services: list[str], reason: str) -> None:
        if self.refuses in services:
            raise CallError(CallErrorKind.UNAVAILABLE, "not now")
        for name in services:
            self.asked.append(("shed", name))
            self.loads[name] = replace(self.loads[name], shed=True, by="power-monitor")

    async def restore(self, *, services: list[str]) -> None:
        for name in services:
            self.asked.append(("restore", name))
            self.loads[name] = replace(self.loads[name], shed=False)
        if self.on_restore:
            self.on_restore()

    async def throttle(self, *, service: str, cpu_max_percent: float, reason: str) -> bool:
        self.asked.append((f"throttle {cpu_max_percent:g}", service))
        return False

    async def unthrottle(self, *, service: str) -> None:
        self.asked.append(("unthrottle", service))

    @property
    def bus(self) -> Any:
        async def publish(_event: object) -> None:
            if self.full:
                raise StorageError("no space left on device")

        return SimpleNamespace(publish=publish)

    @property
    def log(self) -> Any:
        def tell(*_: object, **__: object) -> None:
            pass

        return SimpleNamespace(info=tell, warning=tell, error=tell)

    def degraded(self, reason: str, *, remedy: str = "") -> None:
        self.states.append(f"{reason} ({remedy})")

    def recovered(self) -> None:
        self.states.append("recovered")

    def actor(self) -> Actor:
        ctx = cast("Context[Any]", self)
        return Actor(ctx, Journal(ctx), Troubles(ctx))


async def apply(actor: Actor, mode: Mode, turned: anyio.Event | None = None) -> None:
    await actor.apply(mode, LASTED, "ups", turned=turned or anyio.Event())


async def test_each_deed_comes_once_and_back_in_order() -> None:
    core = Core()
    actor = core.actor()
    for mode in (Mode.OFF_GRID, Mode.OFF_GRID, Mode.LOW, Mode.CRITICAL, Mode.UNKNOWN, Mode.CRITICAL, Mode.ON_GRID):
        await apply(actor, mode)

    assert core.asked == [
        ("shed", "a"),
        ("shed", "b"),
        ("throttle 50", "c"),
        ("shed", "c"),
        ("unthrottle", "c"),
        ("restore", "c"),
        ("restore", "a"),
        ("restore", "b"),
    ]


async def test_what_an_operator_starts_stays_up_until_it_is_asked_for_anew() -> None:
    core = Core()
    actor = core.actor()
    await apply(actor, Mode.OFF_GRID)
    core.loads["a"] = replace(core.loads["a"], shed=False)
    core.asked.clear()
    await apply(actor, Mode.OFF_GRID)
    assert core.asked == []
    await apply(actor, Mode.ON_GRID)
    await apply(actor, Mode.OFF_GRID)
    assert ("shed", "a") in core.asked


async def test_what_others_had_shed_is_theirs_to_bring_back() -> None:
    core = Core()
    core.loads["c"] = replace(core.loads["c"], shed=True, by="rpc:uid=0")
    actor = core.actor()
    await apply(actor, Mode.OFF_GRID)
    await apply(actor, Mode.ON_GRID)

    assert core.loads["c"].shed
    assert ("restore", "c") not in core.asked


async def test_what_fails_is_told_and_tried_again() -> None:
    core = Core(refuses="a")
    actor = core.actor()
    await apply(actor, Mode.OFF_GRID)
    assert actor.retry_s
    assert core.states[-1].startswith("not all that the power mode asks for")

    core.refuses = ""
    await apply(actor, Mode.OFF_GRID)
    assert core.asked == [("shed", "a"), ("shed", "b")]
    assert actor.retry_s is None
    assert core.states[-1] == "recovered"


async def test_a_full_disk_keeps_nobody_from_saving_power() -> None:
    core = Core(full=True)
    await apply(core.actor(), Mode.OFF_GRID)

    assert core.asked == [("shed", "a"), ("shed", "b")]


async def test_services_cease_to_come_back_as_soon_as_the_mode_turns() -> None:
    core = Core(config=PowerMonitorConfig(restore_step_s=60.0))
    actor, turned = core.actor(), anyio.Event()
    await apply(actor, Mode.CRITICAL)
    core.asked.clear()
    core.on_restore = turned.set
    with anyio.fail_after(5):
        await apply(actor, Mode.ON_GRID, turned)

    assert core.asked == [("restore", "c")]
    assert core.loads["a"].shed
