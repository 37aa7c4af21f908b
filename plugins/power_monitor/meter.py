"""Energy as it is used: looks at an interval, keeps the account, tells it."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from sparkd import CallError, Context, EnergyReport, ServiceEnergy

from .energy import JOULES_PER_WH, OTHER, Ledger, Moment, ledger_of

SAVE_S = 60.0
ASK_S = 5.0
METHOD = (
    "power above idle, shared by processor time; idle is the least mean of ten minutes within a day; "
    "what other programs used is 'other'"
)
TICKS = os.sysconf("SC_CLK_TCK")


class EnergyMeter(Collector):
    """The account of this node; a Prometheus collector besides."""

    def __init__(
        self,
        ctx: Context[Any],
        watts: Callable[[], float | None],
        *,
        interval_s: float,
        file: Path,
        units: Mapping[str, str],
        stat: Path = Path("/proc/stat"),
    ) -> None:
        """Account what *watts* returns, every *interval_s*, in *file*; *units* are counters by the unit they count."""
        self._ctx = ctx
        self._watts = watts
        self._interval_s = interval_s
        self._file = file
        self._units = dict(units)
        self._stat = stat
        self._cpu_s: dict[str, float] = {}
        self._ledger = Ledger(time.time())
        ctx.metrics.register(self)

    async def run(self) -> None:
        """Account until cancelled. What the core cannot tell now is left out."""
        self._ledger = await anyio.to_thread.run_sync(self._restore)
        saved = anyio.current_time()
        try:
            while True:
                await anyio.sleep(self._interval_s)
                moment = await self._look()
                if moment is not None:
                    self._ledger.hear(moment, interval_s=self._interval_s)
                if anyio.current_time() - saved >= SAVE_S:
                    await self._save()
                    saved = anyio.current_time()
        finally:
            with anyio.move_on_after(2, shield=True):
                await self._save()

    def report(self) -> EnergyReport:
        """Return what was used, and by whom."""
        ledger = self._ledger
        services = [
            ServiceEnergy(
                service=name,
                watt_hours=watt_hours,
                watts=ledger.watts.get(name, 0.0),
                cpu_s=self._cpu_s.get(name, 0.0),
            )
            for name, watt_hours in sorted(ledger.services_wh.items(), key=lambda one: -one[1])
        ]
        return EnergyReport(
            since=ledger.since,
            node_watt_hours=ledger.node_wh,
            idle_watt_hours=ledger.idle_wh,
            measured_s=ledger.measured_s,
            method=METHOD,
            services=services,
            per_unit_joules={name: one.joules / one.count for name, one in ledger.units.items() if one.count},
        )

    def describe(self) -> list[Metric]:
        """Return nothing: what is collected is known only when it is."""
        return []

    def collect(self) -> list[Metric]:
        """Return the account for Prometheus."""
        ledger = self._ledger
        used = CounterMetricFamily("sparkd_energy_joules", "Energy used, by whom; idle is nobody's.", labels=["user"])
        used.add_metric(["idle"], ledger.idle_wh * JOULES_PER_WH)
        for name, watt_hours in ledger.services_wh.items():
            used.add_metric([name], watt_hours * JOULES_PER_WH)
        each = GaugeMetricFamily("sparkd_energy_joules_per_unit", "What a unit of work costs.", labels=["unit"])
        for name, unit in ledger.units.items():
            if unit.count:
                each.add_metric([name], unit.joules / unit.count)
        return [used, each]

    async def _look(self) -> Moment | None:
        try:
            totals = await self._ctx.request("recorder.totals", deadline_s=ASK_S)
            asked = {"names": sorted(self._units.values())}
            counted = await self._ctx.request("recorder.counters", asked, deadline_s=ASK_S) if self._units else {}
        except CallError as error:
            self._ctx.log.debug("energy not accounted", why=str(error))
            return None
        self._cpu_s = {one["name"]: float(one["ever"]["cpu_s"]) for one in totals["services"]}
        units = {
            unit: {service: counts[name] for service, counts in counted.items() if name in counts}
            for unit, name in self._units.items()
        }
        busy_s = await anyio.to_thread.run_sync(busy_seconds, self._stat)
        return Moment(anyio.current_time(), self._watts(), self._cpu_s, busy_s, units)

    def _restore(self) -> Ledger:
        try:
            return ledger_of(json.loads(self._file.read_text(encoding="utf-8")))
        except FileNotFoundError:
            return Ledger(time.time())
        except (OSError, ValueError, RecursionError) as error:
            aside = self._file.with_suffix(".damaged")
            self._ctx.log.warning("energy account damaged, beginning anew", file=str(self._file), why=str(error))
            try:
                self._file.replace(aside)
            except OSError as failure:
                self._ctx.log.warning("damaged account not kept", file=str(aside), why=str(failure))
            return Ledger(time.time())

    async def _save(self) -> None:
        text = json.dumps(self._ledger.plain())
        try:
            await anyio.to_thread.run_sync(_write, self._file, text)
        except OSError as error:
            self._ctx.log.warning("energy account not saved", file=str(self._file), why=error.strerror or str(error))


def _write(file: Path, text: str) -> None:
    fresh = file.with_suffix(".new")
    with fresh.open("w", encoding="utf-8") as out:
        out.write(text)
        out.flush()
        os.fsync(out.fileno())
    fresh.replace(file)


def busy_seconds(stat: Path) -> float:
    """Return for how long the processors have computed, all together; 0 if that cannot be read.

    The first line of /proc/stat: user nice system idle iowait irq softirq steal ..., in ticks (proc_stat(5)).
    """
    try:
        words = stat.read_text(encoding="ascii").split("\n", 1)[0].split()[1:9]
        user, nice, system, _idle, _waits, irq, softirq, _stolen = map(int, words)
    except (OSError, ValueError):
        return 0.0
    return (user + nice + system + irq + softirq) / TICKS


__all__ = ["OTHER", "EnergyMeter", "busy_seconds"]
