"""What Prometheus reads, and where: its config and a file of targets for each job. Pure."""

from __future__ import annotations

import json
from collections import defaultdict

from sparkd.fleet.model import Fleet, host_port, way

_HEAD = """\
# Whole: /etc/prometheus/prometheus.yml. Prometheus 2.42 (Debian 12) cannot include a file of scrape configs.
global:
  scrape_interval: {interval}s

scrape_configs:
"""
_JOB = """\
  - job_name: {job}
    metrics_path: {path}
    file_sd_configs:
      - files: [targets/{job}.json]
"""
_SPARKD = "sparkd"


def files(fleet: Fleet, name: str) -> dict[str, str]:
    """Return the files of the node that Prometheus runs on; none for others."""
    if fleet.prometheus is None or name != fleet.prometheus.node:
        return {}
    jobs = _jobs(fleet)
    found = {
        f"etc/prometheus/targets/{job}.json": json.dumps([_target(fleet, *one) for one in targets], indent=2) + "\n"
        for (job, _), targets in jobs.items()
    }
    config = "".join(_JOB.format(job=job, path=json.dumps(path)) for job, path in jobs)
    return found | {"etc/prometheus/prometheus.yml": _HEAD.format(interval=fleet.prometheus.interval_s) + config}


def _jobs(fleet: Fleet) -> dict[tuple[str, str], list[tuple[str, str]]]:
    """Return node and host:port of each target, by job and path. Services of one name and path are one job."""
    watcher = fleet.prometheus
    found: dict[tuple[str, str], list[tuple[str, str]]] = defaultdict(list)
    for name, node in sorted(fleet.nodes.items()):
        reached = way(fleet, watcher.node, name) if watcher else None
        if watcher is None or reached is None:
            continue
        if node.runs_sparkd and node.metrics:
            found[_SPARKD, "/metrics"].append((name, host_port(reached.address, watcher.sparkd_port)))
        for service, port in sorted(node.services.items()):
            if port.metrics_path:
                job = service if service != _SPARKD else f"{service}-service"
                found[job, port.metrics_path].append((name, host_port(reached.address, port.port)))
    return _apart(found)


def _apart(found: dict[tuple[str, str], list[tuple[str, str]]]) -> dict[tuple[str, str], list[tuple[str, str]]]:
    """Give jobs of one name that differ in their path a number, so that each has its own file."""
    made, seen = {}, dict[str, int]()
    for job, path in sorted(found):
        seen[job] = seen.get(job, 0) + 1
        made[job if seen[job] == 1 else f"{job}-{seen[job]}", path] = found[job, path]
    return made


def _target(fleet: Fleet, name: str, address: str) -> dict[str, object]:
    node = fleet.nodes[name]
    own = {"node": name, "site": node.site, "role": node.role}
    return {"targets": [address], "labels": dict(sorted({**node.labels, **own}.items()))}
