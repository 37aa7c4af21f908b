"""The command line of `sparkctl`: every command, its words and options. No I/O."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from sparkd.cli import access, audit, examining, fleet, inviting, logs, memory, power, recorded, saving, starting

KEY_CHARS = 40
FAILED, USAGE, NO_DAEMON, BAD_CONFIG, NOT_WELL = 1, 2, 3, 4, 5

EXIT_CODES = f"""\
exit codes:
  0  done, and all is well
  {FAILED}  the daemon answered with an error, or the command failed
  {USAGE}  wrong usage of the command line
  {NO_DAEMON}  no daemon answers on the socket
  {BAD_CONFIG}  the config, or a key file, has problems
  {NOT_WELL}  something does not run as it should (status, plugin)
"""


class Words(argparse.ArgumentParser):
    """A parser that takes a public key for a key, even one that begins with a hyphen."""

    def _parse_optional(self, arg_string: str) -> Any:
        return None if len(arg_string) == KEY_CHARS else super()._parse_optional(arg_string)


class Subparsers:
    """Adds commands that all know the general options, before and after the command's name."""

    def __init__(self, parser: argparse.ArgumentParser, *, dest: str, metavar: str, required: bool = True) -> None:
        self._added = parser.add_subparsers(dest=dest, metavar=metavar, required=required)

    def add_parser(self, name: str, *, help: str) -> argparse.ArgumentParser:  # noqa: A002 - argparse's own word
        """Add the command *name*."""
        return self._added.add_parser(name, help=help, description=help, parents=[_general(suppress=True)])


def build() -> argparse.ArgumentParser:
    """Return the parser. A command's name is in `command`, a verb's in `verb`."""
    parser = Words(
        prog="sparkctl",
        description="Look at and steer a sparkd daemon.",
        epilog=EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        parents=[_general(suppress=False)],
    )
    commands = Subparsers(parser, dest="command", metavar="COMMAND")
    _looking(commands)
    _steering(commands)
    _offline(commands)
    return parser


def _general(*, suppress: bool) -> argparse.ArgumentParser:
    """Return the options that every command has; a command's own must not undo those given before its name."""
    parser = argparse.ArgumentParser(add_help=False, argument_default=argparse.SUPPRESS if suppress else None)
    group = parser.add_argument_group("general options")
    group.add_argument("--socket", type=Path, metavar="PATH", help="the daemon's socket (default: as config says)")
    group.add_argument("--config", type=Path, metavar="FILE", help="the daemon's config (default: the usual places)")
    group.add_argument("--node", metavar="NAME", help="ask another node, through this one's link")
    group.add_argument("--json", action="store_true", help="print JSON, for scripts")
    group.add_argument("--timeout", type=_seconds, metavar="S", help="seconds to wait for an answer (default: 10)")
    if suppress:
        for action in group._group_actions:  # noqa: SLF001 - `store_true` brings a default of its own
            action.default = argparse.SUPPRESS
    else:
        parser.set_defaults(node="", json=False, timeout=10.0)
    return parser


def _seconds(text: str) -> float:
    seconds = float(text)
    if not 0 < seconds < float("inf"):
        raise ValueError(f"seconds: a positive number expected, got {text}")
    return seconds


def _looking(commands: Subparsers) -> None:
    commands.add_parser("status", help="what runs, what does not, why, and what to do about it")
    commands.add_parser("plugins", help="the plugins that are installed or dropped in")
    sub = commands.add_parser("sub", help="print events as they come")
    sub.add_argument("topics", nargs="+", metavar="TOPIC", help="such as edge.telemetry; beneath it too")
    commands.add_parser("bus", help="counters of the bus: sent, lost, dropped")
    commands.add_parser("outbox", help="durable streams: how much waits for whom")
    logs.words(commands)
    recorded.words(commands)
    access.words(commands)
    audit.words(commands)
    power.words(commands)
    memory.words(commands)
    schema = commands.add_parser("schema", help="the JSON Schema of a service's config table")
    schema.add_argument("name", metavar="NAME")


def _steering(commands: Subparsers) -> None:
    call = commands.add_parser("call", help="call a method")
    call.add_argument("method", metavar="METHOD", help="[node/][service:]interface.method")
    call.add_argument("params", nargs="?", default="{}", metavar="JSON", help='such as \'{"name": "x"}\'')
    plugin = commands.add_parser("plugin", help="start, stop and make plugins")
    verbs = Subparsers(plugin, dest="verb", metavar="VERB")
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
    verbs = Subparsers(config, dest="verb", metavar="VERB")
    verbs.add_parser("show", help="print it, secrets hidden")
    verbs.add_parser("reload", help="read it again and apply it")
    verbs.add_parser("changes", help="the change that was taken back because a critical service failed by it")
    verbs.add_parser("accept", help="go by what is on disk, whatever comes of it")


def _offline(commands: Subparsers) -> None:
    commands.add_parser("check", help="check the config without starting anything")
    keys = commands.add_parser("keys", help="this node's key, and the keys it trusts")
    verbs = Subparsers(keys, dest="verb", metavar="VERB")
    new = verbs.add_parser("new", help="make this node's key pair")
    new.add_argument("--force", action="store_true", help="replace the one there is: peers must be told the new key")
    verbs.add_parser("show", help="print this node's public key, and the keys it trusts")
    trust = verbs.add_parser("trust", help="trust a node by its public key")
    trust.add_argument("name", metavar="NAME")
    trust.add_argument("key", metavar="KEY", help="the 40 characters that `sparkctl keys show` prints there")
    revoke = verbs.add_parser("revoke", help="trust a node no longer, at once")
    revoke.add_argument("name", metavar="NAME")
    inviting.words(commands)
    saving.words(commands)
    starting.words(commands)
    examining.words(commands)
    fleet.words(commands)
    completion = commands.add_parser("completion", help="print a completion script for a shell")
    completion.add_argument("shell", choices=("bash", "zsh", "tcsh"))
