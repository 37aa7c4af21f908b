"""notify: tell people what happens, by ntfy, webhook or mail, also if the network is away just now.

`rules` decides what is told; it is kept in the outbox, and `delivery` hands it to each channel at its own pace.
"""

from __future__ import annotations

from typing import Any

from sparkd import Notify, Service, hookimpl

from .config import NotifyConfig
from .service import run


@hookimpl
def sparkd_services() -> list[Service[Any]]:
    """Offer the one service of this plugin."""
    reads = ("edge", "system", "cloud", "models", "analytics")  # rules may name any topic of the platform
    return [Service(name="notify", config=NotifyConfig, run=run, serves=(Notify,), reads=reads)]
