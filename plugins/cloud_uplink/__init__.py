"""cloud-uplink: ship this node's durable records to another node, and run the commands that come back.

Every stream of the outbox has its own lane and its own cursor there. A record leaves the cursor behind only after the
target has said, on disk, that it has it; what may not travel stays. `service` runs it, `policy` decides, `lanes` ships,
`commands` takes orders.
"""

from __future__ import annotations

from typing import Any

from sparkd import CommandRunner, LinkChanged, PowerMode, Service, hookimpl

from .service import run
from .settings import CloudUplinkConfig


@hookimpl
def sparkd_services() -> list[Service[Any]]:
    """Offer the one service of this plugin."""
    return [
        Service(
            name="cloud-uplink",
            config=CloudUplinkConfig,
            run=run,
            serves=(CommandRunner,),
            publishes=("cloud.commands.result",),
            reads=(LinkChanged, PowerMode),
        )
    ]
