"""A healthy hour of three nodes with vpn-watchdog on real WireGuard: not one repair, and no peer lost for a moment.

The lab is that of `tests/netlab`: a hub behind a NAT, a spoke behind another, a spoke on the open. What the watchdogs
cost meanwhile (memory, processor) is kept too. Needs root. Writes `benchmarks/results/<date>-<commit>-tunnel.json`;
ends with 1 if anything was mended or lost.

    python benchmarks/tunnel_soak.py [--minutes N] [--results FOLDER]
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
import time
from importlib import import_module
from pathlib import Path

from soak import REPOSITORY, RESULTS, commit, keep, machine


def main() -> int:
    parser = argparse.ArgumentParser(description="A healthy hour of tunnels: not one repair.")
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--results", type=Path, default=RESULTS)
    options = parser.parse_args()
    sys.path.insert(0, str(REPOSITORY))  # the lab is the tests' own
    faults, spaces = import_module("tests.netlab.faults"), import_module("tests.netlab.spaces")
    if reason := spaces.lacking():
        print(f"cannot run: {reason}")
        return 1
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("told to stop"))  # so that the namespaces go
    about = {"what": "tunnel", "date": time.strftime("%Y-%m-%dT%H:%M:%S%z"), "commit": commit(), "machine": machine()}
    try:
        outcome = {"met": True, "figures": faults.healthy(options.minutes * 60)}
    except AssertionError as error:
        outcome = {"met": False, "why": "\n".join([str(error), *getattr(error, "__notes__", [])])}
    file = keep(options.results, "tunnel", about | {"minutes": options.minutes} | outcome)
    print(json.dumps(outcome, indent=2), f"\nwritten: {file}")
    return 0 if outcome["met"] else 1


if __name__ == "__main__":
    sys.exit(main())
