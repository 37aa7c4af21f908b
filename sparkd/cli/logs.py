"""`sparkctl logs` and `sparkctl log-level`: which lines are wanted, and those a daemon left on disk."""

from __future__ import annotations

import argparse
import re
import time
from collections.abc import Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from sparkd.log import LEVELS as NUMBERS
from sparkd.log import SYSLOG

if TYPE_CHECKING:
    from sparkd.cli.parser import Subparsers

LEVELS = {name: SYSLOG[number] for name, number in NUMBERS.items()}
"""The syslog level that each name stands for."""
_SPAN = re.compile(r"(\d+(?:\.\d+)?)([smhd])")
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}


def words(commands: Subparsers) -> None:
    """Add the two commands."""
    logs = commands.add_parser("logs", help="the last lines of a service, or of all; from disk if no daemon runs")
    logs.add_argument("service", nargs="?", default="", metavar="SERVICE")
    logs.add_argument("-f", "--follow", action="store_true", help="go on as lines come")
    logs.add_argument("-n", "--lines", type=int, default=50, metavar="N", help="how many (default: 50)")
    logs.add_argument("--since", type=span_s, default=0.0, metavar="SPAN", help="only the last 90s, 30m, 2h or 3d")
    logs.add_argument("--level", choices=tuple(LEVELS), default="debug", help="nothing quieter than this")
    logs.add_argument("--grep", default="", metavar="TEXT", help="only lines with this text, whatever its case")
    level = commands.add_parser("log-level", help="how much is logged; until the daemon restarts")
    level.add_argument("level", nargs="?", choices=tuple(LEVELS), help="without it, all levels are printed")
    level.add_argument("service", nargs="?", default="", metavar="SERVICE", help="or `core`; without it, all")


def span_s(text: str) -> float:
    """Return the seconds in a span such as `90s`, `30m`, `2h` or `3d`. Raises ArgumentTypeError."""
    match = _SPAN.fullmatch(text)
    if match is None:
        raise argparse.ArgumentTypeError(f"a span such as 90s, 30m, 2h or 3d expected, got {text!r}")
    return float(match[1]) * _SECONDS[match[2]]


def wanted(options: argparse.Namespace) -> dict[str, Any]:
    """Return the parameters of `logs.tail`."""
    since = time.time() - options.since if options.since else 0.0
    return {
        "service": options.service,
        "lines": options.lines,
        "since": since,
        "level": LEVELS[options.level],
        "text": options.grep,
    }


def fits(record: Mapping[str, Any], asked: Mapping[str, Any]) -> bool:
    """Whether a line that has just come is one of those *asked* for."""
    return record["level"] <= asked["level"] and asked["text"].casefold() in record["text"].casefold()


def stored(options: argparse.Namespace, asked: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the lines that a daemon left on disk. Raises OSError if they are closed to us."""
    from sparkd.config import load_places  # noqa: PLC0415 - only if no daemon answers
    from sparkd.logstore import read_lines  # noqa: PLC0415 - likewise

    folder = load_places(options.config)[1].state / "logs"
    if folder.parent.exists():
        list(folder.parent.iterdir())  # says so if it is closed to us, where a search would find nothing
    return [asdict(line) for line in read_lines(folder, **asked)]
