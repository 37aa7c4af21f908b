"""vpn-watchdog: watches the WireGuard tunnels of this machine, and mends those that break.

Reads `wg show` (never a secret), probes each peer through its tunnel, tells how it is and why (`TunnelChanged`), how
good the link is (`LinkQuality`), and repairs it in rising order (`TunnelRepair`); it leaves a healthy tunnel alone.
"""

from __future__ import annotations

from typing import Any

from sparkd import EnergyClass, LinkQuality, PowerMode, Service, Tunnel, TunnelChanged, TunnelRepair, hookimpl

from .config import VpnWatchdogConfig
from .service import run


@hookimpl
def sparkd_services() -> list[Service[Any]]:
    """Offer the one service of this plugin."""
    return [
        Service(
            name="vpn-watchdog",
            config=VpnWatchdogConfig,
            run=run,
            serves=(Tunnel,),
            publishes=(TunnelChanged, LinkQuality, TunnelRepair),
            reads=(PowerMode,),
            energy=EnergyClass.ESSENTIAL,
        )
    ]
