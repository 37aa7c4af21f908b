"""The command line of `sparkctl`: every command, its words and options. No I/O."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TypeAlias

EXIT_CODES = """\
exit codes:
  0  done, and all is well
  1  the daemon answered with an error, or the command failed
  2  wrong usage of the command line
  3  no daemon answers on the socket
  4  the config has problems (check)
  5  something does not run as it should (status)
"""

Subparsers: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"


def build() -> argparse.ArgumentParser:
    """Return the parser. A command's name is in `command`, a verb's in `verb`."""
    parser = argparse.ArgumentParser(
        prog="sparkctl",
        description="Look at and steer a sparkd daemon.",
        epilog=EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--socket", type=Path, metavar="PATH", help="the daemon's socket (default: where it runs)")
    parser.add_argument("--config", type=Path, metavar="FILE", help="the daemon's config, for check and keys")
    parser.add_argument("--node", default="", metavar="NAME", help="ask another node, through this one's link")
    parser.add_argument("--json", action="store_true", help="print JSON, for scripts")
    parser.add_argument("--timeout", type=float, default=10.0, metavar="S", help="seconds to wait (default: 10)")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    _looking(commands)
    _steering(commands)
    _offline(commands)
    return parser


def _looking(commands: Subparsers) -> None:
    commands.add_parser("status", help="what runs, what does not, why, and what to do about it")
    commands.add_parser("plugins", help="the plugins that are installed or dropped in")
    sub = commands.add_parser("sub", help="print events as they come")
    sub.add_argument("topics", nargs="+", metavar="TOPIC", help="such as edge.telemetry; beneath it too")
    commands.add_parser("bus", help="counters of the bus: sent, lost, dropped")
    commands.add_parser("outbox", help="durable streams: how much waits for whom")
    logs = commands.add_parser("logs", help="the last lines of a service, or of all")
    logs.add_argument("service", nargs="?", default="", metavar="SERVICE")
    logs.add_argument("-f", "--follow", action="store_true", help="go on as lines come")
    logs.add_argument("-n", "--lines", type=int, default=50, metavar="N", help="how many (default: 50)")
    schema = commands.add_parser("schema", help="the JSON Schema of a service's config table")
    schema.add_argument("name", metavar="NAME")


def _steering(commands: Subparsers) -> None:
    call = commands.add_parser("call", help="call a method")
    call.add_argument("method", metavar="METHOD", help="[node/][service:]interface.method")
    call.add_argument("params", nargs="?", default="{}", metavar="JSON", help='such as \'{"name": "x"}\'')
    plugin = commands.add_parser("plugin", help="start, stop and make plugins")
    verbs = plugin.add_subparsers(dest="verb", metavar="VERB", required=True)
    for verb, text in (
        ("start", "start a service"),
        ("stop", "stop a service until it is started again"),
        ("restart", "stop a service and start it again"),
        ("enable", "let a plugin run, now and after a restart"),
        ("disable", "stop a plugin, now and after a restart"),
        ("new", "write a working plugin to begin with into the drop-in folder"),
    ):
        verbs.add_parser(verb, help=text).add_argument("name", metavar="NAME")
    verbs.add_parser("rescan", help="look at the drop-in folders now")
    config = commands.add_parser("config", help="the config in force")
    verbs = config.add_subparsers(dest="verb", metavar="VERB", required=True)
    verbs.add_parser("show", help="print it, secrets hidden")
    verbs.add_parser("reload", help="read it again and apply it")


def _offline(commands: Subparsers) -> None:
    commands.add_parser("check", help="check the config without starting anything")
    keys = commands.add_parser("keys", help="this node's key, and the keys it trusts")
    verbs = keys.add_subparsers(dest="verb", metavar="VERB", required=True)
    new = verbs.add_parser("new", help="make this node's key pair")
    new.add_argument("--force", action="store_true", help="replace the one there is: peers must be told the new key")
    verbs.add_parser("show", help="print this node's public key, and the keys it trusts")
    trust = verbs.add_parser("trust", help="trust a node by its public key")
    trust.add_argument("name", metavar="NAME")
    trust.add_argument("key", metavar="KEY", help="the 40 characters that `sparkctl keys show` prints there")
    revoke = verbs.add_parser("revoke", help="trust a node no longer, at once")
    revoke.add_argument("name", metavar="NAME")
    completion = commands.add_parser("completion", help="print a completion script for a shell")
    completion.add_argument("shell", choices=("bash", "zsh", "tcsh"))
