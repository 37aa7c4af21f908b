"""node-telemetry: the machine's own vital signs, and whether it is well.

Publishes `Telemetry` at an interval (CPU, memory, disks, network, temperatures), and `NodeHealth` with one sentence
for each thing that is wrong: a full disk, little memory, heat, a Pi that throttles or gets too little voltage.
"""

from __future__ import annotations

from typing import Any

from sparkd import EnergyClass, NodeHealth, Service, Telemetry, hookimpl

from .config import NodeTelemetryConfig
from .service import run


@hookimpl
def sparkd_services() -> list[Service[Any]]:
    """Offer the one service of this plugin."""
    return [
        Service(
            name="node-telemetry",
            config=NodeTelemetryConfig,
            run=run,
            publishes=(Telemetry, NodeHealth),
            energy=EnergyClass.ESSENTIAL,
        )
    ]
