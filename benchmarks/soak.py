"""The long runs behind the promise that nothing acknowledged is lost, and nothing doubled.

Three parts, each with two real nodes on loopback and counted at the end in the cloud node's database:

- *kills*: pictures flow while processes of both nodes are killed at random with SIGKILL, 1,000 times by default.
- *steps*: one run for each named step of `sparkd.steps`; a process kills itself at exactly that step.
- *backlog*: the cloud is away while 1 GB of records pile up at the edge, then comes back. The memory of the processes
  that drain it is watched: proportional set size twice a second, and the kernel's own peak of the resident set.

Each part writes `benchmarks/results/<date>-<commit>-<part>.json`. Ends with 1 if a record is lost or doubled, or if the
memory target is missed.

    python benchmarks/soak.py [--only kills|steps|backlog] [--kills N] [--seed N] [--backlog-mb N] [--results FOLDER]
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from sparkd.testing import backlog, kills, prepare, running, short_folder

REPOSITORY = Path(__file__).resolve().parent.parent
RESULTS = Path(__file__).resolve().parent / "results"
UNLINK_STEPS = ("outbox.before-unlink", "outbox.after-unlink")
"""Only a long stream gets to these, so they are met with a small backlog in small segments."""
MEMORY_TARGET_BYTES = 60_000_000
SLOWEST_DRAIN_BYTES_PER_S = 250_000

Result = dict[str, Any]


def run_kills(options: argparse.Namespace) -> Result:
    with short_folder() as folder, running(prepare(folder)) as pair:
        outcome = kills.run(pair, kills=options.kills, count=max(60, options.kills), seed=options.seed)
    return {
        "met": outcome.exact and outcome.kills.total() >= options.kills,
        "seed": options.seed,
        "pictures": outcome.pictures,
        "kills": outcome.kills.total(),
        "kills by process": dict(sorted(outcome.kills.items())),
        "missing": len(outcome.missing),
        "doubled": outcome.doubled,
        "seconds": round(outcome.seconds, 1),
    }


def run_steps(options: argparse.Namespace) -> Result:
    by_step: dict[str, dict[str, int]] = {}
    for side, steps in kills.STEPS.items():
        for step in steps:
            with short_folder() as folder:
                outcome = kills.at_step(folder, side, step, seed=options.seed)
            by_step[f"{side} {step}"] = {"missing": len(outcome.missing), "doubled": outcome.doubled}
        for step in UNLINK_STEPS:
            with short_folder() as folder:
                drained = backlog.at_step(folder, side, step)
            by_step[f"{side} {step}"] = {"missing": drained.missing, "doubled": drained.doubled}
    return {"met": not any(sum(found.values()) for found in by_step.values()), "steps": by_step}


def run_backlog(options: argparse.Namespace) -> Result:
    size = options.backlog_mb * 1_000_000
    with short_folder() as folder:
        pair = prepare(folder)
        backlog.room(pair, size)
        written = backlog.write(pair.edge, size)
        print(f"written: {written}", file=sys.stderr)
        outcome = backlog.drain(pair, written, limit_s=120 + size / SLOWEST_DRAIN_BYTES_PER_S)
    at_the_edge = [outcome.memory[name].peak_pss for name in ("edge", "edge cloud-uplink")]
    return {
        "met": outcome.exact and max(at_the_edge) <= MEMORY_TARGET_BYTES,
        "target_peak_pss_mb": MEMORY_TARGET_BYTES / 1e6,
        "records": written.records,
        "bodies_mb": round(written.body_bytes / 1e6, 1),
        "on_disk_mb": round(written.disk_bytes / 1e6, 1),
        "written_in_s": round(written.seconds, 1),
        "stored": outcome.stored,
        "missing": outcome.missing,
        "doubled": outcome.doubled,
        "drained_in_s": round(outcome.seconds, 1),
        "records_per_s": round(written.records / outcome.seconds),
        "fresh_records_meanwhile": outcome.fresh,
        "fresh_delay_median_s": round(outcome.fresh_median_s, 3),
        "fresh_delay_longest_s": round(outcome.fresh_longest_s, 3),
        "peak_mb": {
            name: {key.removeprefix("peak_"): round(value / 1e6, 1) for key, value in asdict(memory).items()}
            for name, memory in outcome.memory.items()
        },
    }


PARTS: dict[str, Callable[[argparse.Namespace], Result]] = {
    "kills": run_kills,
    "steps": run_steps,
    "backlog": run_backlog,
}


def machine() -> Result:
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    model = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")
    return {
        "cpu": model or platform.machine(),
        "cores": os.cpu_count(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / (1 << 30), 1),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "load_before": [round(load, 2) for load in os.getloadavg()],
    }


def commit() -> str:
    """Return the commit that is measured, with a `+` if the files differ from it; empty if there is no repository."""
    git = ("git", "-C", str(REPOSITORY))
    try:
        short = subprocess.check_output([*git, "rev-parse", "--short", "HEAD"], text=True).strip()
        changed = subprocess.check_output([*git, "status", "--porcelain", "-uno"], text=True).strip()
    except (OSError, subprocess.CalledProcessError):
        return ""
    return short + "+" * bool(changed)


def keep(folder: Path, what: str, result: Result) -> Path:
    """Write *result*; return the file."""
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"{time.strftime('%Y-%m-%d')}-{result['commit'] or 'unknown'}-{what}.json"
    file.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    return file


def main() -> int:
    parser = argparse.ArgumentParser(description="Kill processes a thousand times; drain a gigabyte. Count.")
    parser.add_argument("--only", choices=PARTS)
    parser.add_argument("--kills", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=20261122)
    parser.add_argument("--backlog-mb", type=int, default=1000)
    parser.add_argument("--results", type=Path, default=RESULTS)
    options = parser.parse_args()
    met = True
    for what in [options.only] if options.only else PARTS:
        about = {"what": what, "date": time.strftime("%Y-%m-%dT%H:%M:%S%z"), "commit": commit(), "machine": machine()}
        begun = time.monotonic()
        result = about | PARTS[what](options) | {"whole_run_s": round(time.monotonic() - begun, 1)}
        met = met and result["met"]
        print(json.dumps(result, indent=2))
        print(f"{'met' if result['met'] else 'NOT MET'}: {what}, kept in {keep(options.results, what, result)}")
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())
