"""nas-tier: the memory of the platform, in three tiers: hot and local, shared by the site, long in the cloud.

`journal` keeps every write first, `pouring` brings it to each tier, `reading` finds the nearest copy, `syncing` follows
what others change. The tiers themselves: `tier_valkey`, `directory_tier`, `tier_long`, and any service of the interface
`tier` through `tier_by_call`.
"""

from __future__ import annotations

from typing import Any

from sparkd import LinkChanged, Memory, MemoryChanged, Service, Tier, hookimpl

from .config import NasTierConfig
from .start import run


@hookimpl
def sparkd_services() -> list[Service[Any]]:
    """Offer the one service of this plugin."""
    return [
        Service(
            name="nas-tier",
            config=NasTierConfig,
            run=run,
            serves=(Memory, Tier),
            publishes=(MemoryChanged,),
            reads=(MemoryChanged, LinkChanged),
            start_limit_s=30.0,
        )
    ]
