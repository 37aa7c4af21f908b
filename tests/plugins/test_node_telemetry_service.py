"""The telemetry service, run against this machine and against samples made up."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, cast

import anyio
import pytest

from sparkd import Context, DeviceError, Disk, NodeHealth, StorageError, Telemetry
from sparkd_plugins.node_telemetry import sparkd_services
from sparkd_plugins.node_telemetry.config import NodeTelemetryConfig
from sparkd_plugins.node_telemetry.device import Machine, Sample
from sparkd_plugins.node_telemetry.service import Reporter, look, run

pytestmark = pytest.mark.anyio

WELL = Telemetry(
    cpu_percent=3.0, load_1min=0.1, memory_total_bytes=100, memory_available_bytes=90, uptime_s=1.0, temperatures_c={}
)
FULL = replace(WELL, disks=[Disk(mount="/", total_bytes=100, used_bytes=99, free_bytes=1)])


@dataclass
class RecordingBus:
    """Keeps what was published, but for the types it `refuses` as a full disk would."""

    published: list[Any] = field(default_factory=list)
    arrived: anyio.Event = field(default_factory=anyio.Event)
    enough: int = 1
    refuses: tuple[type[Any], ...] = ()

    async def publish(self, event: object, **_: object) -> None:
        if isinstance(event, self.refuses):
            raise StorageError("no space left on device")
        self.published.append(event)
        if len(self.published) >= self.enough:
            self.arrived.set()


@dataclass
class RecordingContext:
    """The part of a Context that this service uses."""

    config: NodeTelemetryConfig
    bus: RecordingBus = field(default_factory=RecordingBus)
    states: list[str] = field(default_factory=list)

    def degraded(self, reason: str, *, remedy: str = "") -> None:
        self.states.append(f"{reason} ({remedy})")

    def recovered(self) -> None:
        self.states.append("recovered")

    def context(self) -> Context[NodeTelemetryConfig]:
        return cast("Context[NodeTelemetryConfig]", self)


async def test_the_service_is_ready_then_says_health_and_telemetry_at_the_interval(tmp_path: Path) -> None:
    double = RecordingContext(NodeTelemetryConfig(interval_s=0.01, sysfs=tmp_path, disk_full_percent=100.0))
    double.bus.enough = 5

    async with anyio.create_task_group() as group:
        await group.start(run, double.context())
        with anyio.fail_after(10):
            await double.bus.arrived.wait()
        group.cancel_scope.cancel()

    assert [type(event) for event in double.bus.published] == [NodeHealth, Telemetry, Telemetry, Telemetry, Telemetry]


async def test_health_is_said_on_change_and_every_so_many_samples() -> None:
    double = RecordingContext(NodeTelemetryConfig(health_every=3))
    reporter = Reporter(double.context())

    for telemetry in [WELL, WELL, WELL, WELL, FULL, FULL, WELL]:
        await reporter.report(Sample(telemetry, None))

    said = "".join(
        "." if isinstance(event, Telemetry) else "well " if event.ok else "ill " for event in double.bus.published
    )
    assert said == "well ...well .ill ..well ."


async def test_a_full_disk_is_told_although_telemetry_cannot_be_stored() -> None:
    double = RecordingContext(NodeTelemetryConfig())
    reporter = Reporter(double.context())
    double.bus.refuses = (Telemetry,)

    await reporter.report(Sample(FULL, None))
    double.bus.refuses = ()
    await reporter.report(Sample(FULL, None))

    health = double.bus.published[0]
    assert (health.ok, health.problems) == (False, ["disk / is 99 % full, 0 kB free; make room on it"])
    assert [state.split(":")[0] for state in double.states] == [
        "telemetry cannot be stored, samples are lost",
        "recovered",
    ]


async def test_a_read_that_hangs_ends_the_service_with_a_remedy() -> None:
    machine, release = Machine(NodeTelemetryConfig()), threading.Event()
    hang = cast("Callable[[], Sample]", partial(release.wait, 20))

    try:
        with pytest.raises(DeviceError, match="took more than 0 s") as caught:
            await look(cast("Machine", _Hanging(machine, hang)), limit_s=0.05)
    finally:
        release.set()

    assert "ignore_mounts" in caught.value.remedy


@dataclass
class _Hanging:
    """A machine whose disk does not answer."""

    machine: Machine
    sample: Callable[[], Sample]


def test_the_manifest_says_what_is_published() -> None:
    (service,) = sparkd_services()

    assert (service.name, service.config, service.publishes) == (
        "node-telemetry",
        NodeTelemetryConfig,
        (Telemetry, NodeHealth),
    )
