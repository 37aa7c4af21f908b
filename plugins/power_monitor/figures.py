"""What power-monitor counts, for Prometheus."""

from __future__ import annotations

from collections.abc import Sequence

from prometheus_client import CollectorRegistry, Counter, Gauge

from sparkd import POWER_MODES, PowerAction, SourceStatus

from .choose import QUANTITIES, Picture


class Figures:
    """The metrics of this service."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._shown: set[str] = set()
        self._mode = Gauge("sparkd_power_mode", "1 for the mode there is", ("mode",), registry=registry)
        self._value = Gauge(
            "sparkd_power_value",
            "The chosen value; the unit is in the quantity's name",
            ("quantity",),
            registry=registry,
        )
        self._live = Gauge("sparkd_power_source_live", "Whether a source is live", ("source",), registry=registry)
        self._garbage = Counter(
            "sparkd_power_garbage", "Readings that could not be believed", ("source",), registry=registry
        )
        self._actions = Counter("sparkd_power_actions", "What was done", ("action", "state"), registry=registry)

    def garbage(self, source: str) -> None:
        """Count what a source said and nobody believed."""
        self._garbage.labels(source).inc()

    def acted(self, action: PowerAction) -> None:
        """Count a deed."""
        self._actions.labels(action.action, action.state).inc()

    def show(self, mode: str, picture: Picture, sources: Sequence[SourceStatus]) -> None:
        """Show how things are."""
        for name in POWER_MODES:
            self._mode.labels(name).set(name == mode)
        for quantity in QUANTITIES:
            measured = picture.values.get(quantity)
            if measured is not None:
                self._value.labels(quantity).set(measured.value)
                self._shown.add(quantity)
            elif quantity in self._shown:
                self._value.remove(quantity)
                self._shown.discard(quantity)
        for source in sources:
            self._live.labels(source.name).set(source.state == "live")
