"""What each service may use of memory, processor, files and threads, who keeps it to that, and what came of it."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client.metrics_core import CounterMetricFamily, Metric

from sparkd.cgroups import Group, GroupLimits, Tree
from sparkd.conditions import Budget
from sparkd.supervisor import Plan

NEEDED_BY = {"cpu_max_percent": "cpu", "tasks_max": "pids"}
"""The keys that only a controller can keep; memory and files have limits of a process besides."""


class Budgets:
    """The groups of the services that run."""

    def __init__(self, tree: Tree | None) -> None:
        """Make groups in *tree*; without one only what a process can be limited to is kept."""
        self._tree = tree
        self._groups: dict[str, Group] = {}
        self._own: dict[str, float] = {}
        """By service, what its config allows."""
        self.throttles: dict[str, float] = {}
        """By service, the percent of one processor that it may have while power is short."""

    def open(self, plan: Plan) -> Group | None:
        """Return the group for the next run of *plan*; None if there are none. Raises OSError."""
        if self._tree is None:
            return None
        table = plan.table
        limits = GroupLimits(
            memory_bytes=table.memory_max_bytes,
            cpu_percent=self._cpu_percent(plan.name, table.cpu_max_percent),
            tasks=table.tasks_max,
        )
        self._own[plan.name] = table.cpu_max_percent
        group = self._groups[plan.name] = self._tree.make(plan.name, limits)
        return group

    def throttle(self, name: str, percent: float | None) -> bool:
        """Slow the service *name*, now and in runs to come; None for what its config allows. Blocks a moment.

        Return whether the kernel keeps it to that.
        """
        if percent is None:
            if self.throttles.pop(name, None) is None:
                return True
        else:
            self.throttles[name] = percent
        group = self._groups.get(name)
        if self._tree is None or group is None or "cpu" not in self._tree.controllers:
            return False
        try:
            group.limit_cpu(self._cpu_percent(name, self._own.get(name, 0.0)))
        except OSError:  # the group is gone: the service has just ended
            return False
        return True

    def _cpu_percent(self, name: str, own: float) -> float:
        slowed = self.throttles.get(name, 0.0)
        return min(own, slowed) if own and slowed else own or slowed

    def limits_memory(self) -> bool:
        """Whether memory is limited by group, so that the address space need not be."""
        return self._tree is not None and "memory" in self._tree.controllers

    def of(self, plan: Plan) -> Budget | None:
        """Return what status says of the budget of *plan*; None if it has none."""
        table = plan.table
        keys = ("memory_max_bytes", "cpu_max_percent", "open_files_max", "tasks_max")
        slowed = self.throttles.get(plan.name)
        if slowed is None and not any(getattr(table, key) for key in keys):
            return None
        controllers = self._tree.controllers if self._tree is not None else frozenset()
        group = self._groups.get(plan.name)
        return Budget(
            **{key: getattr(table, key) for key in keys},
            throttle_percent=slowed,
            throttled_s=group.throttled_s() if group is not None else 0.0,
            tasks_refused=group.tasks_refused() if group is not None else 0,
            not_kept=[
                key
                for key, name in NEEDED_BY.items()
                if (getattr(table, key) or (key == "cpu_max_percent" and slowed)) and name not in controllers
            ],
        )

    def metrics(self) -> Iterator[Metric]:
        """Return the figures for Prometheus."""
        throttled = CounterMetricFamily("sparkd_service_throttled_seconds", "Kept from the processor.", labels=["name"])
        for name, group in list(self._groups.items()):
            throttled.add_metric([name], group.throttled_s())
        yield throttled
