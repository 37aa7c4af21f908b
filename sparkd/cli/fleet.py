"""`sparkctl fleet`: one file that describes all nodes; checked, rendered, compared, and all nodes asked at once."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import RenderableType

    from sparkd.cli.parser import Subparsers
    from sparkd.fleet import Fleet
    from sparkd.fleet.status import NodeRow

DIFFERENT, NOT_WELL = 1, 5
FILE_NAME = "fleet.toml"
_STYLE = {"well": "green", "troubled": "yellow", "unreachable": "red", "no sparkd": "dim"}


def words(commands: Subparsers) -> None:
    """Add the command and its verbs."""
    from sparkd.cli.parser import Subparsers as Verbs  # noqa: PLC0415 - the parser imports this module

    fleet = commands.add_parser("fleet", help="all nodes, described in one file: check, render, compare, ask")
    verbs = Verbs(fleet, dest="verb", metavar="VERB")
    check = verbs.add_parser("check", help="say everything that is wrong with the fleet file")
    render = verbs.add_parser("render", help="write each node's files: tunnel, firewall, sparkd, router, Prometheus")
    render.add_argument(
        "--out", type=Path, required=True, metavar="DIR", help="where; one folder a node (--node: only)"
    )
    diff = verbs.add_parser("diff", help="how what is there differs from what would be rendered; 1 if it does")
    diff.add_argument(
        "--dir", type=Path, metavar="DIR", help="a rendered folder; without it, this machine (--node NAME)"
    )
    diff.add_argument("--root", type=Path, default=Path("/"), metavar="DIR", help="where this machine's /etc lies")
    status = verbs.add_parser("status", help="all nodes at once, asked over this node's links")
    for verb in (check, render, diff, status):
        verb.add_argument(
            "file", nargs="?", type=Path, metavar="FILE", help="the fleet file (default: beside the config)"
        )


def fleet(options: argparse.Namespace) -> int:
    """Do what the verb says."""
    from sparkd.fleet import load_fleet  # noqa: PLC0415 - not needed by others

    found = load_fleet(options.file or _usual(options))
    return {"check": _check, "render": _render, "diff": _diff, "status": _status}[options.verb](options, found)


def _usual(options: argparse.Namespace) -> Path:
    from sparkd.config import find_config  # noqa: PLC0415 - not needed if the file is given

    config = find_config(options.config)
    return (config.parent if config else Path("/etc/sparkd")) / FILE_NAME


def _say(options: argparse.Namespace, answer: Mapping[str, Any], text: str) -> None:
    print(json.dumps(answer) if options.json else text)


def _check(options: argparse.Namespace, fleet: Fleet) -> int:
    said = {"ok": True, "file": str(fleet.file), "fleet": fleet.naming.name, "hash": fleet.digest}
    counts = f"{len(fleet.nodes)} nodes, {sum(len(link.dial) for link in fleet.links.values())} links"
    _say(options, said, f"no problems in {fleet.file}: {counts}, {fleet.naming.name} {fleet.digest}")
    return 0


def _render(options: argparse.Namespace, fleet: Fleet) -> int:
    from sparkd.fleet import render, write  # noqa: PLC0415 - not needed by others

    written = write(render(fleet, only=options.node), options.out, whole=not options.node)
    _say(options, {"hash": fleet.digest, "files": [str(file) for file in written]}, "\n".join(map(str, written)))
    return 0


def _diff(options: argparse.Namespace, fleet: Fleet) -> int:
    from sparkd.errors import ConfigError  # noqa: PLC0415 - with the fleet
    from sparkd.fleet import difference, render  # noqa: PLC0415 - not needed by others

    if options.dir is None and not options.node:
        raise ConfigError("fleet diff: say with what to compare: --dir DIR, or --node NAME for this machine")
    found = {
        node: difference(fleet, files, options.root if options.dir is None else options.dir / node)
        for node, files in render(fleet, only=options.node).items()
    }
    differing = {node: text for node, text in found.items() if text}
    if options.json:
        print(json.dumps({"hash": fleet.digest, "differences": differing}))
    else:
        print("".join(differing.values()), end="")
    return DIFFERENT if differing else 0


def _status(options: argparse.Namespace, fleet: Fleet) -> int:
    from sparkd.cli.main import NoDaemonError, client_of  # noqa: PLC0415 - main imports this module by name
    from sparkd.errors import ConfigError  # noqa: PLC0415 - with the fleet
    from sparkd.fleet.status import ask_all, plain  # noqa: PLC0415 - likewise

    if options.node and options.node not in fleet.nodes:
        raise ConfigError(f"{fleet.file}: no node {options.node!r}; known: {', '.join(sorted(fleet.nodes))}")

    def ask(method: str, params: Mapping[str, Any]) -> Any:
        try:
            with client_of(options) as client:
                return client.call(method, params)
        except NoDaemonError as error:  # it went away meanwhile
            raise ConnectionError(str(error)) from None

    with client_of(options):  # raises what says so if there is no daemon
        pass
    rows = ask_all(fleet, ask, only=options.node)
    if options.json:
        print(json.dumps(plain(rows)))
    else:
        from sparkd.cli.render import console  # noqa: PLC0415 - for people only

        console().print(table(rows))
    return 0 if all(row.state in ("well", "no sparkd") for row in rows) else NOT_WELL


def table(rows: list[NodeRow]) -> RenderableType:
    """Return one row a node."""
    from rich.text import Text  # noqa: PLC0415 - for people only

    from sparkd.cli.render import table as drawn  # noqa: PLC0415 - likewise

    columns = ("NODE", "SITE", "STATE", "SERVICES", "LINKS", "POWER", "TUNNEL", "VERSION", "WHAT IS WRONG")
    return drawn(
        *columns,
        rows=(
            (
                row.node,
                row.site,
                Text(row.state, _STYLE.get(row.state, "")),
                f"{row.services - len(row.not_running)}/{row.services}" if row.version else "",
                f"{row.links - len(row.links_down)}/{row.links}" if row.version else "",
                row.power,
                row.tunnel,
                row.version,
                _wrong(row),
            )
            for row in rows
        ),
    )


def _wrong(row: NodeRow) -> str:
    parts = [", ".join(row.not_running), f"no link to {', '.join(row.links_down)}" if row.links_down else ""]
    return "; ".join(part for part in (*parts, row.reason) if part)
