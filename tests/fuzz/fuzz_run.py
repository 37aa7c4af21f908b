"""Run targets of `fuzz_targets` under atheris: `python -m tests.fuzz.fuzz_run TARGET... --seconds 300 --work DIR`.

What is found new is kept in `--work`, a folder of its own; what breaks a promise is written there as `crash-…`, and
the exit code is not 0. An input may take 5 s and 1 GiB.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["sparkd", "sparkd_plugins.wyoming_wire", "tests.fuzz"]):
    from tests.fuzz.fuzz_targets import TARGETS

HERE = Path(__file__).parent
MAX_BYTES = 8192


def main() -> int:
    """Fuzz each target in a child, which has the instrumented code already; return 1 if something broke."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("targets", nargs="+", choices=TARGETS, metavar="TARGET")
    parser.add_argument("--seconds", type=int, default=60, help="for each target")
    parser.add_argument("--work", type=Path, required=True, help="a folder for what is found")
    options = parser.parse_args()
    broken = []
    for target in options.targets:
        sys.stderr.write(f"== {target}\n")
        sys.stderr.flush()
        child = os.fork()
        if child == 0:
            _fuzz(target, options.seconds, options.work / target)
        if os.waitpid(child, 0)[1] != 0:
            broken.append(target)
    if broken:
        sys.stderr.write(f"broken: {', '.join(broken)}; see {options.work}\n")
    return 1 if broken else 0


def _fuzz(target: str, seconds: int, work: Path) -> None:
    """Fuzz until the time is over or something breaks; ends the process."""
    work.mkdir(parents=True, exist_ok=True)
    words = [
        sys.argv[0],
        str(work),
        str(HERE / "corpus" / target),
        f"-max_total_time={seconds}",
        f"-max_len={MAX_BYTES}",
        f"-artifact_prefix={work}/",
        "-timeout=5",
        "-rss_limit_mb=1024",
        "-print_final_stats=1",
    ]
    atheris.Setup(words, TARGETS[target])
    atheris.Fuzz()
    os._exit(0)


if __name__ == "__main__":
    sys.exit(main())
