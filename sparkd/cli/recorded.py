"""`sparkctl top`, `history` and `usage`: what the flight recorder saw, of a running daemon or of one that died."""

from __future__ import annotations

import argparse
import csv
import json
import shutil
import sys
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from sparkd.cli.logs import span_s

if TYPE_CHECKING:
    from rich.console import RenderableType

    from sparkd.cli.parser import Subparsers

EVERY_S = 1.0
SORTS = {
    "cpu": "cpu_percent",
    "rss": "rss",
    "pss": "pss",
    "fds": "fds",
    "write": "write_per_s",
    "sent": "sent_per_s",
    "messages": "published_per_s",
    "name": "name",
}
_BYTES = frozenset({"rss", "pss", "read", "write", "link", "tcp", "sent", "published_bytes"})
_LEVELS = frozenset({"rss", "pss", "threads", "fds", "processes", "answer_us"})
"""Metrics that are not rates."""
HEIGHT, MARGIN = 12, 14

Ask = Callable[..., Any]
"""Calls a method of the daemon. Raises what tells that none answers."""


def words(commands: Subparsers) -> None:
    """Add the three commands."""
    top = commands.add_parser("top", help="what every service uses, live")
    top.add_argument("--once", action="store_true", help="print it once")
    top.add_argument("--sort", choices=tuple(SORTS), default="cpu", help="the greatest first (default: cpu)")
    history = commands.add_parser("history", help="what a service used, as a plot; from disk if no daemon runs")
    history.add_argument("service", metavar="SERVICE", help="a service, `core` or `zygote`")
    history.add_argument(
        "metric", nargs="?", default="rss", metavar="METRIC", help="rss (default), cpu, write, sent ..."
    )
    history.add_argument("--since", type=span_s, default=3600.0, metavar="SPAN", help="90s, 30m, 2h, 3d (default: 1h)")
    history.add_argument("--step", type=span_s, default=0.0, metavar="SPAN", help="one point for so much time")
    history.add_argument("--csv", action="store_true", help="print rows: time, low, mean, high")
    history.add_argument(
        "--last-crash", action="store_true", help="the seconds before the last crash of the daemon, kept aside"
    )
    commands.add_parser("usage", help="bytes written and sent and processor time, today and in all")


def top(options: argparse.Namespace, ask: Ask) -> int:
    """Show the last look at every service; each second again, on a terminal, until interrupted."""
    if options.json:
        print(json.dumps(ask("recorder.now")))
        return 0
    from sparkd.cli.render import console  # noqa: PLC0415 - for people only

    screen = console()
    if options.once or not sys.stdout.isatty():
        screen.print(_top(ask("recorder.now"), options.sort))
        return 0
    from rich.live import Live  # noqa: PLC0415 - for terminals only

    with Live(_top(ask("recorder.now"), options.sort), console=screen, screen=True, auto_refresh=False) as live:
        while True:
            time.sleep(EVERY_S)  # noqa: TID251 - a plain program that shows a table
            live.update(_top(ask("recorder.now"), options.sort), refresh=True)


def _top(answer: Mapping[str, Any], sort: str) -> RenderableType:
    from rich.text import Text  # noqa: PLC0415 - for people only

    from sparkd.cli.render import STATE_STYLE, size, table  # noqa: PLC0415 - likewise

    key = SORTS[sort]
    services = sorted(answer["services"], key=lambda one: one["name"])
    if key != "name":
        services.sort(key=lambda one: one[key], reverse=True)
    rows = [
        (
            one["name"],
            Text(one["state"], STATE_STYLE.get(one["state"], "")),
            f"{one['cpu_percent']:.1f}",
            size(one["rss"]) if one["rss"] else "",
            size(one["pss"]) if one["pss"] else "",
            str(one["processes"] or ""),
            str(one["fds"] or ""),
            _per_s(one["write_per_s"]),
            _per_s(one["sent_per_s"]),
            f"{one['published_per_s']:.0f}/{one['received_per_s']:.0f}",
            str(one["lost_per_s"] or ""),
            f"{one['answer_ms']:.1f}" if one["answer_ms"] else "",
            str(one["restarts"] or ""),
        )
        for one in services
    ]
    heads = ("SERVICE", "STATE", "CPU %", "RSS", "PSS", "PROCS", "FDS", "WRITE/S", "SENT/S")
    return table(*heads, "MSGS OUT/IN", "LOST/S", "ANSWER MS", "RESTARTS", rows=rows)


def _per_s(amount: float) -> str:
    from sparkd.cli.render import size  # noqa: PLC0415 - for people only

    return size(round(amount)) if amount else ""


def history(options: argparse.Namespace, ask: Ask | None) -> int:
    """Print a curve as a plot, as rows or as JSON; without *ask* from the files that a daemon left."""
    asked = {"since_s": options.since, "step_s": options.step}
    if ask is None or options.last_crash:
        answer = _left(options, asked)
    else:
        answer = ask("recorder.history", service=options.service, metric=options.metric, **asked)
    if options.json:
        print(json.dumps(answer))
    elif options.csv:
        rows = csv.writer(sys.stdout)
        rows.writerow(("time", "low", "mean", "high"))
        rows.writerows((_stamp(p["at"]), p["low"], p["mean"], p["high"]) for p in answer["points"])
    else:
        print("\n".join(_drawn(answer, options.since)))
    return 0


def _left(options: argparse.Namespace, asked: Mapping[str, float]) -> dict[str, Any]:
    """Return a curve from the files. Raises OSError, also if there is nothing; LocalMessageError for the metric."""
    import msgspec  # noqa: PLC0415 - only without a daemon

    from sparkd.config import load_places  # noqa: PLC0415 - likewise
    from sparkd.errors import LocalMessageError  # noqa: PLC0415 - likewise
    from sparkd.recorder import Recorded  # noqa: PLC0415 - likewise

    places = load_places(options.config)[1]
    for folder in (places.runtime / "recorder", places.state / "recorder"):
        if folder.parent.exists():
            list(folder.parent.iterdir())  # says so if it is closed to us
    recorded = Recorded(places.runtime, places.state, last_crash=options.last_crash)
    try:
        found = recorded.history(options.service, options.metric, **asked)
    except ValueError as error:
        raise LocalMessageError(str(error)) from None
    if not found.points:
        names = ", ".join(sorted(recorded.names())) or "nothing"
        raise FileNotFoundError(f"nothing is recorded of {options.service!r} in that time; there is: {names}")
    answer: dict[str, Any] = msgspec.to_builtins(found)
    return answer


def _drawn(answer: Mapping[str, Any], since_s: float) -> list[str]:
    from sparkd.cli.plot import plot  # noqa: PLC0415 - for people only

    points, metric = answer["points"], answer["metric"]
    head = f"{answer['service']} {metric}: {answer['meaning']}"
    if not points:
        return [head, "nothing is recorded of it in that time"]
    begin, end = max(points[-1]["at"] - since_s, points[0]["at"]), points[-1]["at"]
    drawn = plot(
        [(point["at"], value) for point in points for value in {point["mean"], point["high"]}],
        width=max(shutil.get_terminal_size((100, 24)).columns - MARGIN, 20),
        height=HEIGHT,
        begin=begin,
        end=end,
        label=lambda value: _written(metric, value),
        when=lambda at: time.strftime("%m-%d %H:%M:%S", time.localtime(at)),
    )
    means = [point["mean"] for point in points]
    low, high = min(point["low"] for point in points), max(point["high"] for point in points)
    said = ((low, "least"), (sum(means) / len(means), "mean"), (high, "most"), (means[-1], "last"))
    lines = [head, *drawn, "  ".join(f"{what} {_written(metric, value)}" for value, what in said)]
    return lines + [f"nothing recorded from {_stamp(begin)} to {_stamp(end)}" for begin, end in answer["holes"][-5:]]


def _written(metric: str, value: float) -> str:
    from sparkd.cli.render import size  # noqa: PLC0415 - for people only

    text = size(round(value)) if metric in _BYTES else f"{value:.1f} %" if metric == "cpu" else f"{value:g}"
    return text if metric in _LEVELS or metric == "cpu" else f"{text}/s"


def _stamp(at: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S%z", time.localtime(at))


def usage(options: argparse.Namespace, ask: Ask) -> int:
    """Print what each service has used."""
    answer = ask("recorder.totals")
    if options.json:
        print(json.dumps(answer))
        return 0
    from sparkd.cli.render import console, size, table  # noqa: PLC0415 - for people only

    rows = []
    for one in sorted(answer["services"], key=lambda one: one["ever"]["written"], reverse=True):
        cells = [one["name"]]
        for used in (one["today"], one["ever"]):
            cells += [size(used["written"]), size(used["link"] + used["tcp"]), f"{used['cpu_s']:.1f} s"]
        rows.append(cells)
    console().print(f"today is {answer['day']} UTC; in all is since {_stamp(answer['since'])}")
    heads = ("SERVICE", "WRITTEN TODAY", "SENT TODAY", "CPU TODAY", "WRITTEN IN ALL", "SENT IN ALL", "CPU IN ALL")
    console().print(table(*heads, rows=rows))
    return 0
