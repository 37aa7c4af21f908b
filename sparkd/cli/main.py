"""What each command of `sparkctl` does."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console, RenderableType

from sparkd.cli import offline, parser, render
from sparkd.rpc.client import Client
from sparkd.config import find_config, load_node_config
from sparkd.errors import CallError, ConfigError, SparkdError

FAILED, NO_DAEMON, BAD_CONFIG, NOT_WELL = 1, 3, 4, 5

Render = Callable[[Any], RenderableType]


def main(argv: Sequence[str] | None = None) -> int:
    """Run `sparkctl`; return its exit code, as the parser's epilog lists them."""
    options = parser.build().parse_args(argv)
    try:
        return _COMMANDS[options.command](options)
    except BrokenPipeError:  # the reader of our output has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        return 0
    except ConfigError as error:
        return _complain(options, str(error), BAD_CONFIG)
    except (SparkdError, TimeoutError) as error:
        return _complain(options, str(error) or "no answer in time", FAILED, error)
    except OSError as error:
        path = _socket(options)
        return _complain(options, f"no daemon answers on {path}: {error.strerror}. Try: systemctl status sparkd", NO_DAEMON)


def _complain(options: argparse.Namespace, message: str, code: int, error: BaseException | None = None) -> int:
    if options.json:
        data = {"kind": error.kind, **error.data} if isinstance(error, CallError) else {}
        print(json.dumps({"error": message, **data}, default=str), file=sys.stderr)
    else:
        Console(stderr=True, highlight=False).print(f"sparkctl: {message}", markup=False, soft_wrap=True)
    return code


def _socket(options: argparse.Namespace) -> Path:
    if options.socket:
        given: Path = options.socket
        return given
    config = load_node_config(find_config(options.config))
    return config.runtime / "sparkd.sock"


@contextlib.contextmanager
def _client(options: argparse.Namespace) -> Any:
    with Client(_socket(options), timeout_s=options.timeout) as client:
        yield client


def _method(options: argparse.Namespace, method: str) -> str:
    return f"{options.node}/core:{method}" if options.node else method


def _ask(options: argparse.Namespace, method: str, **params: Any) -> Any:
    with _client(options) as client:
        return client.call(_method(options, method), params)


def _show(options: argparse.Namespace, answer: Any, draw: Render | None = None) -> int:
    if options.json or draw is None:
        print(json.dumps(answer, indent=None if options.json else 2, default=str))
    else:
        _console().print(draw(answer), soft_wrap=not sys.stdout.isatty())
    return 0


def _console() -> Console:
    return Console(highlight=False, width=None if sys.stdout.isatty() else 160)


def _status(options: argparse.Namespace) -> int:
    answer = _ask(options, "node.status")
    _show(options, answer, render.status)
    well = all(service["state"] in render.WELL for service in answer["services"])
    return 0 if well and not answer["problems"] and all(link["connected"] for link in answer["links"]) else NOT_WELL


def _call(options: argparse.Namespace) -> int:
    try:
        params = json.loads(options.params)
    except ValueError as error:
        return _complain(options, f"the parameters are not JSON: {error}", 2)
    method = options.method if "/" in options.method or not options.node else f"{options.node}/{options.method}"
    with _client(options) as client:
        for item in client.results(method, params):
            print(json.dumps(item, indent=None if options.json else 2, default=str), flush=True)
    return 0


def _follow(options: argparse.Namespace, method: str, draw: Callable[[Any], RenderableType], **params: Any) -> int:
    console = _console()
    with _client(options) as client:
        for item in client.results(_method(options, method), params):
            if options.json:
                print(json.dumps(item, default=str), flush=True)
            else:
                console.print(draw(item), soft_wrap=True)
    return 0


def _sub(options: argparse.Namespace) -> int:
    return _follow(options, "bus.subscribe", render.event, topics=options.topics)


def _logs(options: argparse.Namespace) -> int:
    records = _ask(options, "logs.tail", service=options.service, lines=options.lines)
    for record in records:
        print(json.dumps(record)) if options.json else _console().print(render.log_line(record), soft_wrap=True)
    return _follow(options, "logs.follow", render.log_line, service=options.service) if options.follow else 0


def _plugin(options: argparse.Namespace) -> int:
    if options.verb == "new":
        return offline.new_plugin(options)
    if options.verb == "rescan":
        return _show(options, _ask(options, "plugins.rescan"))
    answer = _ask(options, f"plugins.{options.verb}", name=options.name)
    if options.json or "state" not in answer:
        return _show(options, answer)
    print(f"{answer['name']}: {answer['state']}" + (f" ({answer['reason']})" if answer["reason"] else ""))
    return 0


def _config(options: argparse.Namespace) -> int:
    return _show(options, _ask(options, f"config.{options.verb}"))


_COMMANDS: dict[str, Callable[[argparse.Namespace], int]] = {
    "status": _status,
    "plugins": lambda options: _show(options, _ask(options, "plugins.status"), render.plugins),
    "plugin": _plugin,
    "call": _call,
    "sub": _sub,
    "bus": lambda options: _show(options, _ask(options, "bus.stats"), render.bus),
    "outbox": lambda options: _show(options, _ask(options, "outbox.status"), render.outbox),
    "logs": _logs,
    "schema": lambda options: _show(options, _ask(options, "config.schema", name=options.name)),
    "config": _config,
    "check": offline.check,
    "keys": offline.keys,
    "completion": offline.completion,
}
