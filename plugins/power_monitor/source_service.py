"""A drop-in as a power source: a service of this node, or another, that serves the interface `power-source`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import anyio

from sparkd import CallError, CallErrorKind, Context, DeviceError, PowerSource

from .ranges import HOUR_S, check_range
from .source import Listener

MISSES = 3
"""So many calls in a row without an answer: it is gone."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceConfig:
    """The table `[plugins.power-monitor.service.NAME]`."""

    service: str
    """The service that measures."""
    node: str = ""
    """The node it runs on; none for this one."""
    interval_s: float = 2.0

    def __post_init__(self) -> None:
        if not self.service:
            raise ValueError("service: the name of a service that serves `power-source` expected")
        check_range("interval_s", self.interval_s, 0.1, HOUR_S)


class ServiceSource:
    """Asks a service what it measures."""

    def __init__(self, config: ServiceConfig, ctx: Context[Any]) -> None:
        self._config = config
        self._source = ctx.call(
            PowerSource, service=config.service, node=config.node or None, deadline_s=max(config.interval_s, 2.0)
        )

    async def watch(self, to: Listener) -> None:
        """Ask at an interval, until cancelled. Raises DeviceError if it does not answer, or cannot measure."""
        missed = 0
        to.found(f"service {self._config.service}")
        while True:
            try:
                reading = await self._source.read()
            except CallError as error:
                missed += 1
                if error.kind is CallErrorKind.UNKNOWN_METHOD or missed >= MISSES:
                    message = f"{self._config.service} does not tell: {error}"
                    raise DeviceError(message, remedy=str(error.data.get("remedy") or "sparkctl status")) from None
                to.garbage(str(error))
            else:
                missed = 0
                to.reading(reading)
            await anyio.sleep(self._config.interval_s)
