"""The chaos soak: two nodes under durable traffic, something broken every few seconds, everything counted.

An edge node makes numbered durable records that the cloud node stores, and obeys commands that come down. Meanwhile, at
random from the seed: SIGKILL of services, zygotes and cores; SIGSTOP of services (the watchdog must catch them within
its limit and 2 s) and of cores; full disks; clock steps of an hour; broken drop-ins; a link that is cut, stands still
or is slow; configs that are wrong. What must hold:

- a core ends only when the run ends it, and a lost zygote makes it end with 75;
- each acknowledged record is stored once, and nothing else; each command is carried out at most once, and exactly once
  if it says so;
- memory of its own and open files of the longest-lived process of each kind stay flat (last against first third);
- no process is left behind, no file in the runtime folder, and after a quiet minute every service runs.

The core and zygote of the cloud node are spared in the first half and those of the edge node in the second, so that a
core is watched for that long in one piece. `benchmarks/results/<date>-<commit>-chaos.json` is written; ends with 1 if
something did not hold, and then keeps the daemons' logs beside it.

    python benchmarks/chaos.py [--minutes N] [--seed N] [--faults N] [--keep] [--results FOLDER]
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
import time
from dataclasses import asdict
from pathlib import Path

from soak import RESULTS, commit, keep, machine

from sparkd.testing import short_folder
from sparkd.testing.chaos import Outcome, Plan, run
from sparkd.testing.chaos.run import keep_logs


def _short(grown: dict[str, object]) -> dict[str, object]:
    """Return the figures without their course, which is for the file."""
    return {name: value for name, value in grown.items() if name != "course"}


def summary(outcome: Outcome) -> str:
    """Return the result in a few lines."""
    lines = [f"{sum(outcome.faults.values())} faults in {outcome.seconds:.0f} s: {outcome.faults}"]
    lines += [f"not possible here: {', '.join(outcome.skipped)}"] if outcome.skipped else []
    lines += [f"back after {kind}: {times}" for kind, times in outcome.recovered_s.items()]
    lines += [f"stopped services caught: {outcome.caught_s}", f"daemons started again: {outcome.daemon_starts}"]
    lines += [f"records: {outcome.records}", f"commands: {outcome.commands}"]
    for role, grown in outcome.growth.items():
        if grown["judged"]:
            lines.append(
                f"{role}: own {_short(grown['own'])}, pss {_short(grown['pss'])}, files {_short(grown['fds'])}"
            )
    return "\n".join(lines + [f"BROKEN: {broken}" for broken in outcome.broken])


def main() -> int:
    parser = argparse.ArgumentParser(description="Break two nodes every few seconds; nothing may be lost.")
    parser.add_argument("--minutes", type=float, default=120)
    parser.add_argument("--faults", type=int, help="so many faults, each kind in turn, instead of minutes")
    parser.add_argument("--seed", type=int, default=int(time.time()))
    parser.add_argument("--keep", action="store_true", help="keep the daemons' logs even if all went well")
    parser.add_argument("--results", type=Path, default=RESULTS)
    options = parser.parse_args()
    print(f"seed {options.seed}", flush=True)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("told to stop"))  # so that the nodes and their disks go
    about = {"what": "chaos", "date": time.strftime("%Y-%m-%dT%H:%M:%S%z"), "commit": commit(), "machine": machine()}
    minutes = None if options.faults else options.minutes
    plan = Plan(
        seed=options.seed,
        minutes=minutes,
        faults=options.faults,
        say=lambda line: print(line, file=sys.stderr, flush=True),
    )
    with short_folder() as folder:
        outcome = run(folder, plan)
        file = keep(options.results, "chaos", about | {"seed": options.seed} | asdict(outcome))
        if outcome.broken or options.keep:
            keep_logs(folder, file.with_suffix(".logs"))
    print(json.dumps(asdict(outcome), indent=2))
    print(summary(outcome))
    print(f"{'NOT MET' if outcome.broken else 'met'}: chaos, kept in {file}")
    return 1 if outcome.broken else 0


if __name__ == "__main__":
    sys.exit(main())
