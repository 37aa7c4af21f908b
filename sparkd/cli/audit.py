"""`sparkctl audit`: who called what, and whether the trail is whole."""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import RenderableType

    from sparkd.cli.parser import Subparsers

FAILED = 1


def words(commands: Subparsers) -> None:
    """Add the command."""
    audit = commands.add_parser("audit", help="who called what that changed something, and who was refused")
    audit.add_argument("-n", "--lines", type=int, default=50, metavar="N", help="how many (default: 50)")
    audit.add_argument("-f", "--follow", action="store_true", help="go on as lines come")
    audit.add_argument("--verify", action="store_true", help="check the files themselves, without the daemon")
    audit.add_argument("--folder", type=Path, metavar="DIR", help="of a copy, for --verify (default: the node's own)")


def line(entry: Mapping[str, Any]) -> RenderableType:
    """Return a line of the trail as a line of text."""
    from rich.text import Text  # noqa: PLC0415 - for people only

    from sparkd.cli.render import safe  # noqa: PLC0415 - likewise

    at = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(entry["wall_ns"] / 1e9))
    params = "" if entry["params"] in (None, {}) else json.dumps(entry["params"], ensure_ascii=False)
    more = f" (and {entry['left_out']} more before it)" if entry["left_out"] else ""
    rule = f" [{entry['rule']}]" if entry["rule"] else ""
    parts = [str(entry["seq"]), at, entry["door"], _who(entry), entry["method"], params, entry["outcome"] + rule + more]
    return Text(safe(" ".join(filter(None, parts))), style="" if entry["allowed"] else "red")


def _who(entry: Mapping[str, Any]) -> str:
    if entry["uid"] is not None:
        return f"{entry['user'] or entry['uid']}({entry['uid']}) pid {entry['pid']}"
    return "/".join(filter(None, (entry["node"], entry["caller"])))


def check(options: argparse.Namespace) -> int:
    """Verify the trail and print what was found; return 1 if it is not whole. Raises OSError if it cannot be read."""
    from sparkd.audit import verify  # noqa: PLC0415 - only for this

    report = verify(options.folder or _folder(options))
    if options.json:
        found = {
            "lines": report.lines,
            "first_seq": report.first_seq,
            "last_seq": report.last_seq,
            "last_hash": report.last_hash,
            "problems": report.problems,
        }
        print(json.dumps(found), flush=True)
    else:
        print(f"{report.lines} lines, {report.first_seq} to {report.last_seq}; the last one's hash: {report.last_hash}")
        for problem in report.problems:
            print(problem)
        print("the trail is not whole" if report.problems else "the trail is whole")
    return FAILED if report.problems else 0


def _folder(options: argparse.Namespace) -> Path:
    from sparkd.config import load_places  # noqa: PLC0415 - not needed for a copy

    return load_places(options.config)[1].state / "audit"
