"""Run one target of `fuzz_targets` under atheris: `python -m tests.fuzz.fuzz_run TARGET --seconds 300`.

What is found new is kept in `--work`, a folder of its own; what breaks a promise is written there as `crash-…`, and
the exit code is not 0. An input may take 5 s and 1 GiB.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["sparkd", "tests.fuzz"]):
    from tests.fuzz.fuzz_targets import TARGETS

HERE = Path(__file__).parent
MAX_BYTES = 8192


def main() -> None:
    """Fuzz until the time is over or something breaks; never returns."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("target", choices=TARGETS)
    parser.add_argument("--seconds", type=int, default=60)
    parser.add_argument("--work", type=Path, required=True, help="a folder for what is found")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    words = HERE / f"{options.target}.dict"
    atheris.Setup(
        [
            sys.argv[0],
            str(options.work),
            str(HERE / "corpus" / options.target),
            f"-max_total_time={options.seconds}",
            f"-max_len={MAX_BYTES}",
            f"-artifact_prefix={options.work}/",
            "-timeout=5",
            "-rss_limit_mb=1024",
            "-print_final_stats=1",
            *([f"-seed={options.seed}"] if options.seed else []),
            *([f"-dict={words}"] if words.exists() else []),
        ],
        TARGETS[options.target],
    )
    atheris.Fuzz()


if __name__ == "__main__":
    main()
