"""`sparkctl access`: who the caller is to the daemon, and what they may call."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import RenderableType

    from sparkd.cli.parser import Subparsers


def words(commands: Subparsers) -> None:
    """Add the command."""
    access = commands.add_parser("access", help="who you are to the daemon, and what you may call by which rule")
    access.add_argument("method", nargs="?", default="", metavar="METHOD", help="only whether this one, and why")
    access.add_argument("--topic", action="append", default=[], metavar="TOPIC", help="of a subscription; repeatable")
    access.add_argument("--user", default="", metavar="NAME", help="whether another user may; for admins")


def wanted(options: argparse.Namespace) -> dict[str, Any]:
    """Return the parameters of `access.explain`."""
    return {"method": options.method, "topics": options.topic, "user": options.user}


def overview(answer: Mapping[str, Any]) -> RenderableType:
    """Return who the caller is, and a table of what they may call."""
    from rich.console import Group  # noqa: PLC0415 - for people only
    from rich.table import Table  # noqa: PLC0415 - likewise
    from rich.text import Text  # noqa: PLC0415 - likewise

    table = Table(box=None, pad_edge=False)
    table.add_column("METHOD")
    table.add_column("BY RULE")
    for method, rule in sorted(answer["calls"].items()):
        table.add_row(Text(method), Text(rule))
    who = f"user {answer['user'] or '?'} (uid {answer['uid']}, groups {', '.join(map(str, answer['groups']))})"
    rules = f"rules for you: {', '.join(answer['rules']) or 'none'}"
    return Group(Text(who), Text(rules), Text(""), table)


def answer(told: Mapping[str, Any]) -> RenderableType:
    """Return whether one call may be made, and why."""
    from rich.text import Text  # noqa: PLC0415 - for people only

    text = f"{told['method']}: {'allowed' if told['allowed'] else 'refused'}; rule: {told['rule']}"
    return Text(text + (f"\n{told['remedy']}" if told["remedy"] else ""))
