"""What each command of `sparkctl` does.

What a command does not need is not imported: rich draws for people only, and ZeroMQ makes keys only. So a script that
asks for JSON gets its answer in a fraction of the time.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sparkd.cli import parser
from sparkd.cli.parser import BAD_CONFIG, FAILED, NO_DAEMON, NOT_WELL, USAGE
from sparkd.errors import CallError, ConfigError, SparkdError
from sparkd.rpc.client import Client

if TYPE_CHECKING:
    from rich.console import RenderableType

WELL = frozenset({"running", "disabled", "stopped", "shed"})
"""States that nobody needs to look into: it runs, or it was told not to."""

Draw = Callable[[Any], "RenderableType"]


class NoDaemonError(Exception):
    """Nobody answers on the socket, or the answer broke off."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run `sparkctl`; return its exit code, as the parser's epilog lists them."""
    options = parser.build().parse_args(argv)
    try:
        code = _COMMANDS[options.command](options)
        sys.stdout.flush()
    except BrokenPipeError:  # the reader of our output has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        return 0
    except (NoDaemonError, SparkdError, OSError) as error:
        return _failed(options, error)
    return code


def _failed(options: argparse.Namespace, error: Exception) -> int:
    if isinstance(error, TimeoutError):
        return _complain(options, f"no answer within {options.timeout:g} s; --timeout waits longer", FAILED)
    code = {NoDaemonError: NO_DAEMON, ConfigError: BAD_CONFIG}.get(type(error), FAILED)
    rule = error.data.get("rule") if isinstance(error, CallError) else None
    return _complain(options, f"{error} (rule: {rule})" if rule else str(error), code, error)


def _complain(options: argparse.Namespace, message: str, code: int, error: BaseException | None = None) -> int:
    if options.json:
        more: dict[str, Any] = {"kind": error.kind, **error.data} if isinstance(error, CallError) else {}
        if isinstance(error, ConfigError):
            more = {"problems": list(error.problems)}
        print(json.dumps({"error": message, **more}, default=str), file=sys.stderr)
    else:
        print(f"sparkctl: {_plain(message)}", file=sys.stderr)
    return code


def _plain(text: str) -> str:
    """Return *text* without what would steer a terminal: much of it comes from plugins and peers."""
    return "".join(char if char.isprintable() or char == "\n" else "\N{REPLACEMENT CHARACTER}" for char in text)


def _socket(options: argparse.Namespace) -> Path:
    if options.socket:
        given: Path = options.socket
        return given
    from sparkd.config import find_socket  # noqa: PLC0415 - not needed where the socket is given

    return find_socket(options.config)


@contextlib.contextmanager
def client_of(options: argparse.Namespace) -> Iterator[Client]:
    """Connect to the daemon that *options* mean. Raises NoDaemonError if none answers, or it goes away meanwhile."""
    path = _socket(options)
    try:
        client = Client(path, timeout_s=options.timeout)
    except OSError as error:
        why = f"no daemon answers on {path}: {error.strerror or error}"
        raise NoDaemonError(f"{why}. Try: systemctl status sparkd, or --socket PATH") from None
    with client:
        try:
            yield client
        except ConnectionResetError as error:
            raise NoDaemonError(f"the daemon on {path} went away: {error.strerror or error}") from None


def _method(options: argparse.Namespace, method: str) -> str:
    return f"{options.node}/core:{method}" if options.node else method


def _ask(options: argparse.Namespace, method: str, /, **params: Any) -> Any:
    with client_of(options) as client:
        return client.call(_method(options, method), params)


def _dump(options: argparse.Namespace, answer: Any) -> None:
    print(json.dumps(answer, indent=None if options.json else 2, default=str), flush=True)


def _print(drawn: RenderableType) -> None:
    from sparkd.cli.render import console  # noqa: PLC0415 - for people only

    console().print(drawn, soft_wrap=not sys.stdout.isatty())


def _show(options: argparse.Namespace, answer: Any, draw: str) -> int:
    """Print *answer* as JSON, or as the function *draw* of `render`, or of the module it names, shows it."""
    if options.json:
        _dump(options, answer)
    else:
        _print(_draw(draw)(answer))
    return 0


def _draw(name: str) -> Draw:
    from importlib import import_module  # noqa: PLC0415 - for people only

    module, _, function = name.rpartition(".")
    found: Draw = getattr(import_module(f"sparkd.cli.{module or 'render'}"), function)
    return found


def _status(options: argparse.Namespace) -> int:
    answer = _ask(options, "node.status")
    _show(options, answer, "status")
    well = all(service["state"] in WELL for service in answer["services"])
    linked = all(link["connected"] for link in answer["links"])
    return 0 if well and linked and not answer["problems"] else NOT_WELL


def _plugins(options: argparse.Namespace) -> int:
    return _show(options, _ask(options, "plugins.status"), "plugins")


def _bus(options: argparse.Namespace) -> int:
    return _show(options, _ask(options, "bus.stats"), "bus")


def _outbox(options: argparse.Namespace) -> int:
    return _show(options, _ask(options, "outbox.status"), "outbox")


def _schema(options: argparse.Namespace) -> int:
    _dump(options, _ask(options, "config.schema", name=options.name))
    return 0


def _call(options: argparse.Namespace) -> int:
    try:
        params = json.loads(options.params)
    except ValueError as error:
        return _complain(options, f"the parameters are not JSON: {error}", USAGE)
    if not isinstance(params, dict):
        return _complain(options, "the parameters go by name: a JSON object expected, such as '{\"name\": 1}'", USAGE)
    method = f"{options.node}/{options.method}" if options.node and "/" not in options.method else options.method
    with client_of(options) as client:
        for item in client.results(method, params):
            _dump(options, item)
    return 0


def _stream(options: argparse.Namespace, items: Iterator[Any], draw: str) -> None:
    if options.json:
        for item in items:
            _dump(options, item)
        return
    from sparkd.cli.render import console  # noqa: PLC0415 - for people only

    screen, drawn = console(), _draw(draw)
    for item in items:
        screen.print(drawn(item), soft_wrap=True)
        sys.stdout.flush()


def _sub(options: argparse.Namespace) -> int:
    with client_of(options) as client:
        _stream(options, client.results(_method(options, "bus.subscribe"), {"topics": options.topics}), "event")
    return 0


def _logs(options: argparse.Namespace) -> int:
    """Print the last lines; with -f go on. The stream is opened first, so that no line falls between the two."""
    from sparkd.cli import logs  # noqa: PLC0415 - not needed by others

    wanted = logs.wanted(options)
    with contextlib.ExitStack() as stack:
        news: Iterator[Any] = iter(())
        try:
            if options.follow:
                client = stack.enter_context(client_of(options))
                news = client.results(_method(options, "logs.follow"), {"service": options.service})
            tail = _ask(options, "logs.tail", **wanted)
        except NoDaemonError as error:
            if options.node or options.follow:
                raise
            tail = logs.stored(options, wanted)
            print(f"sparkctl: {error}; these are the lines it left on disk", file=sys.stderr)
        _stream(options, iter(tail), "log_line")
        last = tail[-1]["at"] if tail else 0.0
        fresh = (record for record in news if record["at"] > last and logs.fits(record, wanted))
        _stream(options, fresh, "log_line")
    return 0


def _log_level(options: argparse.Namespace) -> int:
    if options.level:
        return _show(options, _ask(options, "logs.set_level", service=options.service, level=options.level), "levels")
    return _show(options, _ask(options, "logs.levels"), "levels")


def _plugin(options: argparse.Namespace) -> int:
    if options.verb == "new":
        return _offline(options)
    if options.verb == "rescan":
        return _show(options, _ask(options, "plugins.rescan"), "changes")
    answer = _ask(options, f"plugins.{options.verb}", name=options.name)
    if "state" not in answer:  # enable and disable answer with the plugin, not with a service
        _show(options, answer, "plugin")
        return NOT_WELL if answer["problem"] else 0
    _show(options, answer, "service")
    return 0 if answer["state"] in WELL else NOT_WELL


def _config(options: argparse.Namespace) -> int:
    if options.verb == "reload":
        return _show(options, {"changed": _ask(options, "config.reload")}, "changes")
    if options.verb == "accept":
        _ask(options, "config.accept")
        return _show(options, {"accepted": ["what is on disk"]}, "changes")
    if options.verb == "changes":
        return _show(options, _ask(options, "config.changes"), "roll_back")
    return _show(options, _ask(options, "config.show"), "config")


def _access(options: argparse.Namespace) -> int:
    from sparkd.cli import access  # noqa: PLC0415 - not needed by others

    if not options.method:
        return _show(options, _ask(options, "access.me"), "access.overview")
    answer = _ask(options, "access.explain", **access.wanted(options))
    _show(options, answer, "access.answer")
    return 0 if answer["allowed"] else FAILED


def _recorded(options: argparse.Namespace) -> int:
    from sparkd.cli import recorded  # noqa: PLC0415 - not needed by others

    ask = partial(_ask, options)
    if options.command != "history":
        shown: Callable[[argparse.Namespace, recorded.Ask], int] = getattr(recorded, options.command)
        return shown(options, ask)
    try:
        return recorded.history(options, ask)
    except NoDaemonError as error:
        if options.node:
            raise
        print(f"sparkctl: {error}; this is what it left", file=sys.stderr)
        return recorded.history(options, None)


def _audit(options: argparse.Namespace) -> int:
    """Print the last lines; with -f go on. The stream is opened first, so that no line falls between the two."""
    if options.verify:
        from sparkd.cli import audit  # noqa: PLC0415 - not needed by others

        return audit.check(options)
    with client_of(options) as client:
        news = client.results(_method(options, "audit.follow"), {}) if options.follow else iter(())
        tail = _ask(options, "audit.tail", lines=options.lines)
        _stream(options, iter(tail), "audit.line")
        last = tail[-1]["seq"] if tail else 0
        _stream(options, (entry for entry in news if entry["seq"] > last), "audit.line")
    return 0


def _power(options: argparse.Namespace) -> int:
    from sparkd.cli import power  # noqa: PLC0415 - not needed by others

    return power.power(options, partial(_ask, options))


def _memory(options: argparse.Namespace) -> int:
    from sparkd.cli import memory  # noqa: PLC0415 - not needed by others

    def results(method: str, params: Mapping[str, Any]) -> Iterator[Any]:
        with client_of(options) as client:
            yield from client.results(_method(options, method), params)

    def send(method: str, params: Mapping[str, Any], items: Iterator[Any]) -> Any:
        with client_of(options) as client:
            return client.send(_method(options, method), params, items)

    return memory.memory(options, memory.Calls(partial(_ask, options), results, send))


def _offline(options: argparse.Namespace) -> int:
    from sparkd.cli import offline  # noqa: PLC0415 - brings the config and its folders

    name = "new_plugin" if options.command == "plugin" else options.command
    deed: Callable[[argparse.Namespace], int] = getattr(offline, name)
    return deed(options)


_ELSEWHERE = {
    "invite": "inviting",
    "join": "inviting",
    "init": "starting",
    "doctor": "examining",
    "support-bundle": "examining",
    "backup": "backup",
    "restore": "backup",
    "fleet": "fleet",
}
"""Commands that ask no running daemon first thing, by the module that does them."""


def _elsewhere(options: argparse.Namespace) -> int:
    module = import_module(f"sparkd.cli.{_ELSEWHERE[options.command]}")  # only now: each brings much
    deed: Callable[[argparse.Namespace], int] = getattr(module, options.command.replace("-", "_"))
    return deed(options)


_COMMANDS: dict[str, Callable[[argparse.Namespace], int]] = {
    "status": _status,
    "plugins": _plugins,
    "plugin": _plugin,
    "call": _call,
    "sub": _sub,
    "bus": _bus,
    "outbox": _outbox,
    "logs": _logs,
    "log-level": _log_level,
    "access": _access,
    "top": _recorded,
    "history": _recorded,
    "usage": _recorded,
    "audit": _audit,
    "power": _power,
    "memory": _memory,
    "schema": _schema,
    "config": _config,
    "check": _offline,
    "keys": _offline,
    "completion": _offline,
    **dict.fromkeys(_ELSEWHERE, _elsewhere),
}
