"""Whose energy it was. Pure.

Method: the node's power P is measured. What is used though nobody computes, P_idle, is the least that ten minutes used
on average within the last day. Over an interval dt the energy (P0 + P1) / 2 * dt is parted: P_idle * dt is nobody's
(`idle`); what is above it is shared by the processor time that each service used in that interval, and the rest of the
machine with them (`other`, from /proc/stat). Processor time stands for all of a service's work: what an accelerator, a
disk or a radio draws for it is shared by the same measure. Intervals in which power was not known are left out, and
`measured_s` says how much was not. The shares add up to what was measured.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from math import isfinite
from typing import Any

JOULES_PER_WH = 3600.0
BLOCK_S = 600.0
BLOCKS = 144
"""Of ten minutes: a day."""
LONGEST_GAP = 3.0
"""Intervals apart: what lies further apart is a gap, and is not filled."""
OTHER = "other"
SERVICES_KEPT = 1000


@dataclass(slots=True)
class Unit:
    """What some kind of work has cost."""

    joules: float = 0.0
    count: float = 0.0


@dataclass(frozen=True, slots=True)
class Moment:
    """What is known at one moment."""

    at: float
    """Monotonic seconds."""
    watts: float | None
    cpu_s: Mapping[str, float]
    """Processor seconds of each service so far."""
    busy_s: float
    """Of all processors of the machine so far."""
    units: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    """How many of each unit of work each service has done so far."""


@dataclass(slots=True)
class Ledger:
    """The account of a node."""

    since: float
    """Wall clock."""
    node_wh: float = 0.0
    idle_wh: float = 0.0
    measured_s: float = 0.0
    services_wh: dict[str, float] = field(default_factory=dict)
    units: dict[str, Unit] = field(default_factory=dict)
    blocks: deque[float] = field(default_factory=lambda: deque(maxlen=BLOCKS))
    """The mean power of each ten minutes."""
    watts: dict[str, float] = field(default_factory=dict)
    """Of each service over the last interval."""
    _last: Moment | None = None
    _block_j: float = 0.0
    _block_s: float = 0.0

    @property
    def idle_watts(self) -> float | None:
        """Return what is used though nobody computes; None until the first ten minutes are over."""
        return min(self.blocks, default=None)

    def hear(self, moment: Moment, *, interval_s: float) -> None:
        """Take what is known now; the last was an interval ago, or there is a gap."""
        last, self._last = self._last, moment
        if last is None or last.watts is None or moment.watts is None:
            self.watts = {}
            return
        span_s = moment.at - last.at
        if not 0 < span_s <= LONGEST_GAP * interval_s:
            return
        joules = (last.watts + moment.watts) / 2 * span_s
        self._average(joules, span_s)
        self.measured_s += span_s
        self.node_wh += joules / JOULES_PER_WH
        idle_j = min(joules, (self.idle_watts or 0.0) * span_s)
        shares = _shares(last, moment, joules - idle_j)
        self.idle_wh += max(joules - sum(shares.values()), 0.0) / JOULES_PER_WH
        self.watts = {name: share / span_s for name, share in shares.items()}
        for name, share in shares.items():
            if name in self.services_wh or len(self.services_wh) < SERVICES_KEPT:
                self.services_wh[name] = self.services_wh.get(name, 0.0) + share / JOULES_PER_WH
            else:
                self.services_wh[OTHER] = self.services_wh.get(OTHER, 0.0) + share / JOULES_PER_WH
        self._count(last, moment, shares)

    def _average(self, joules: float, span_s: float) -> None:
        self._block_j += joules
        self._block_s += span_s
        if self._block_s >= BLOCK_S:
            self.blocks.append(self._block_j / self._block_s)
            self._block_j = self._block_s = 0.0

    def _count(self, last: Moment, moment: Moment, shares: Mapping[str, float]) -> None:
        for unit, counts in moment.units.items():
            for name, count in counts.items():
                done = _grown(count, last.units.get(unit, {}).get(name))
                if done > 0 and name in shares:
                    cost = self.units.setdefault(unit, Unit())
                    cost.count += done
                    cost.joules += shares[name]

    def plain(self) -> dict[str, Any]:
        """Return what lasts, as JSON takes it."""
        return {
            "since": self.since,
            "node_wh": self.node_wh,
            "idle_wh": self.idle_wh,
            "measured_s": self.measured_s,
            "services_wh": self.services_wh,
            "units": {name: asdict(unit) for name, unit in self.units.items()},
            "blocks": list(self.blocks),
        }


def _shares(last: Moment, moment: Moment, joules: float) -> dict[str, float]:
    """Return *joules* parted by processor time; nothing if nobody used any."""
    used = {name: _grown(total, last.cpu_s.get(name)) for name, total in moment.cpu_s.items()}
    used[OTHER] = max(moment.busy_s - last.busy_s - sum(used.values()), 0.0)
    whole = sum(used.values())
    return {name: joules * (seconds / whole) for name, seconds in used.items() if seconds > 0} if whole > 0 else {}


def _grown(total: float, before: float | None) -> float:
    """Return by how much a counter grew. One that is less than before began anew; one that is new tells nothing yet."""
    if before is None:
        return 0.0
    return total - before if total >= before else total


def ledger_of(plain: Any) -> Ledger:
    """Return the account that `Ledger.plain` gave. Raises ValueError for what it cannot have given."""
    if not isinstance(plain, dict):
        raise ValueError("a table expected")  # noqa: TRY004 - told as any other damage of the file
    ledger = Ledger(_number(plain, "since"))
    ledger.node_wh, ledger.idle_wh = _number(plain, "node_wh"), _number(plain, "idle_wh")
    ledger.measured_s = _number(plain, "measured_s")
    services, units, blocks = plain.get("services_wh", {}), plain.get("units", {}), plain.get("blocks", [])
    if not (isinstance(services, dict) and isinstance(units, dict) and isinstance(blocks, list)):
        raise ValueError("services_wh, units and blocks expected")  # noqa: TRY004 - likewise
    ledger.services_wh = {name: _number(services, name) for name in services}
    ledger.units = {name: Unit(_number(unit, "joules"), _number(unit, "count")) for name, unit in units.items()}
    ledger.blocks.extend(_number({"block": block}, "block") for block in blocks)
    return ledger


def _number(plain: Any, key: str) -> float:
    value = plain.get(key) if isinstance(plain, dict) else None
    if isinstance(value, bool) or not isinstance(value, int | float) or not isfinite(value) or value < 0:
        raise ValueError(f"{key}: a number from 0 up expected, got {value!r}")
    return float(value)
