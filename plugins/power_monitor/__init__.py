"""power-monitor: how this node and its site are powered, and what is done about it.

Sources (`source_KIND`) measure; `believe` and `choose` make one picture of what they say; `modes` says what mode that
is; `policy` says what the mode asks for; `acting` and `shutting` do it. `service` ties them together.
"""

from __future__ import annotations

from typing import Any

from sparkd import (
    EnergyClass,
    LinkChanged,
    Power,
    PowerActed,
    PowerMode,
    PowerSample,
    Service,
    ServiceChanged,
    hookimpl,
)

from .config import PowerMonitorConfig
from .service import run


@hookimpl
def sparkd_services() -> list[Service[Any]]:
    """Offer the one service of this plugin."""
    return [
        Service(
            name="power-monitor",
            config=PowerMonitorConfig,
            run=run,
            serves=(Power,),
            publishes=(PowerMode, PowerSample, PowerActed),
            reads=(PowerMode, LinkChanged, ServiceChanged),
            energy=EnergyClass.ESSENTIAL,
        )
    ]
