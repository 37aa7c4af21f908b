"""What a node costs that has nothing to do, how soon it is ready, and how soon a killed plugin is back.

*Memory* by the method of Greengrass' own benchmark: start, let it settle, then sample at intervals and take the mean.
Six trivial plugins (each drops in, says that it is ready and sleeps) run as processes. Proportional set size (PSS)
shares a page out among those that have it mapped; private memory (USS) is what would be freed if this process alone
ended. Both from /proc/PID/smaps_rollup; MB are 10^6 bytes. The full method settles for 300 s and samples for 600 s; the
defaults here are shorter: `--warmup-s 300 --window-s 600 --every-s 10` is the full one.

*READY*: from starting the process to READY=1 on the notify socket, with the six plugins running; median of five, each
start on fresh folders, so that no cache of manifests helps.

*Back*: from SIGKILL of a plugin's process until the node says that it runs again in another one; median of five, each
of another plugin, for a second death within a minute waits its turn.

*Processor*: what core and zygote use in percent of one core over such a window; then the same without the flight
recorder.

Baselines are other daemons' figures (design, section 13); none of them is run here.

    python benchmarks/idle.py [--warmup-s 20] [--window-s 60] [--every-s 10]
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import statistics
import sys
import time
from pathlib import Path
from typing import Any

from sparkd.rpc.client import Client
from sparkd.testing import Node, descendants, short_folder

PLUGINS, STARTS, KILLS = 6, 5, 5
TARGETS = {
    "core_and_zygote_pss_mb": 40.0,
    "plugin_pss_mb": 10.0,
    "ready_s": 2.0,
    "back_s": 1.0,
    "core_cpu_percent": 1.0,
}
LIMIT_S = 20.0
TRIVIAL = '''\
"""trivial: does nothing."""

import anyio

from sparkd import NoConfig, Service, hookimpl


async def run(ctx, *, task_status):
    task_status.started()
    await anyio.sleep_forever()


@hookimpl
def sparkd_services():
    return [Service(name="NAME", config=NoConfig, run=run)]
'''


def lone(folder: Path, *, more: str = "") -> Node:
    """Prepare a node with six trivial plugins dropped in."""
    node = Node("lone", folder, f'[node]\nname = "lone"\nmetrics_listen = ""\n{more}').prepare()
    for name in names():
        (node.plugins / f"{name}.py").write_text(TRIVIAL.replace("NAME", name))
    return node


def names() -> list[str]:
    return [f"trivial-{number}" for number in range(PLUGINS)]


def services(node: Node) -> dict[str, dict[str, Any]]:
    return {service["name"]: service for service in node.call("node.status")["services"]}


def weigh(pid: int) -> tuple[float, float]:
    """Return PSS and private memory of a process, in MB."""
    rows = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]
    kib = {row.split(":")[0]: int(row.split()[1]) for row in rows}
    return kib["Pss"] * 1024 / 1e6, (kib["Private_Clean"] + kib["Private_Dirty"]) * 1024 / 1e6


def memory(node: Node, options: argparse.Namespace) -> dict[str, Any]:
    assert node.process is not None
    plugins = {service["pid"]: name for name, service in services(node).items()}
    core, below = node.process.pid, descendants(node.process.pid)
    (zygote,) = set(below) - set(plugins)
    time.sleep(options.warmup_s)
    samples: dict[int, list[tuple[float, float]]] = {pid: [] for pid in (core, *below)}
    for number in range(max(1, round(options.window_s / options.every_s))):
        time.sleep(options.every_s if number else 0)
        for pid, found in samples.items():
            found.append(weigh(pid))
    mean = {
        pid: {"pss_mb": round(statistics.fmean(pss), 2), "private_mb": round(statistics.fmean(private), 2)}
        for pid, (pss, private) in ((pid, zip(*found, strict=True)) for pid, found in samples.items())
    }
    each = [mean[pid] for pid in plugins]
    return {
        "core": mean[core],
        "zygote": mean[zygote],
        "plugins": {plugins[pid]: mean[pid] for pid in plugins},
        "core_and_zygote_pss_mb": round(mean[core]["pss_mb"] + mean[zygote]["pss_mb"], 2),
        "plugin_pss_mb": round(max(one["pss_mb"] for one in each), 2),
        "plugin_private_mb": round(max(one["private_mb"] for one in each), 2),
        "all_pss_mb": round(sum(one["pss_mb"] for one in mean.values()), 2),
        "warmup_s": options.warmup_s,
        "window_s": options.window_s,
        "samples": len(samples[core]),
    }


def cpu_s(pid: int) -> float:
    """Return the processor time that the threads of a process have used, to the nanosecond."""
    tasks = Path(f"/proc/{pid}/task").glob("*/schedstat")
    return sum(int(task.read_text().split()[0]) for task in tasks) / 1e9


def processor(options: argparse.Namespace, *, recorder: bool) -> float:
    """Return the percent of one processor that core and zygote use."""
    with short_folder() as folder:
        node = lone(folder, more=f"[recorder]\nenabled = {str(recorder).lower()}\n")
        try:
            node.start()
            assert node.process is not None
            plugins = {service["pid"] for service in services(node).values()}
            own = [node.process.pid, *(set(descendants(node.process.pid)) - plugins)]
            time.sleep(min(options.warmup_s, 10.0))
            begun, before = time.monotonic(), sum(map(cpu_s, own))
            time.sleep(options.window_s)
            return round((sum(map(cpu_s, own)) - before) / (time.monotonic() - begun) * 100, 2)
        finally:
            node.stop()


def ready() -> float:
    """Return how many seconds a fresh node takes to be ready with all plugins running."""
    with short_folder() as folder:
        node = lone(folder)
        begun = time.monotonic()
        try:
            node.start()
            took = time.monotonic() - begun
            assert all(service["state"] == "running" for service in services(node).values()), node.status
        finally:
            node.stop()
    return took


def back(node: Node, name: str) -> float:
    """Kill the process of *name*; return how many seconds passed until it runs again."""
    old = services(node)[name]["pid"]
    with Client(node.socket_path, timeout_s=LIMIT_S) as client:
        begun = time.monotonic()
        os.kill(old, signal.SIGKILL)
        while time.monotonic() < begun + LIMIT_S:
            found = next(s for s in client.call("node.status", {})["services"] if s["name"] == name)
            if found["state"] == "running" and found["pid"] not in (None, old):
                return time.monotonic() - begun
            time.sleep(0.002)
    raise TimeoutError(f"{name} did not come back: {found}")


def main() -> None:
    parser = argparse.ArgumentParser(description="An idle node: memory, start, and a killed plugin's return.")
    parser.add_argument("--warmup-s", type=float, default=20.0)
    parser.add_argument("--window-s", type=float, default=60.0)
    parser.add_argument("--every-s", type=float, default=10.0)
    options = parser.parse_args()
    starts = [ready() for _ in range(STARTS)]
    percent = processor(options, recorder=True)
    without = processor(options, recorder=False)
    with short_folder() as folder:
        node = lone(folder)
        try:
            node.start()
            result = memory(node, options)
            returns = [back(node, name) for name in names()[:KILLS]]
        finally:
            node.stop()
    result |= {
        "core_cpu_percent": percent,
        "core_cpu_without_recorder_percent": without,
        "ready_s": round(statistics.median(starts), 3),
        "ready_all_s": [round(one, 3) for one in starts],
        "back_s": round(statistics.median(returns), 3),
        "back_all_s": [round(one, 3) for one in returns],
    }
    met = {what: result[what] <= target for what, target in TARGETS.items()}
    json.dump(result | {"targets": TARGETS, "met": met}, sys.stdout, indent=2)
    print()


if __name__ == "__main__":
    main()
