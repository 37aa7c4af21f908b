"""`sparkctl power`: how the node is powered, what is done about it, and what is used."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from sparkd.cli.logs import span_s
from sparkd.events import POWER_MODES

if TYPE_CHECKING:
    from rich.console import RenderableType

    from sparkd.cli.parser import Subparsers

Ask = Callable[..., Any]
UNITS = {
    "volts": "V",
    "amps": "A",
    "watts": "W",
    "percent": "%",
    "wh": "Wh",
    "s": "s",
    "c": "°C",
}
MODE_STYLE = {"on-grid": "green", "off-grid": "yellow", "low": "yellow", "critical": "red", "unknown": "magenta"}
SOURCE_STYLE = {"live": "green", "probing": "cyan", "stale": "yellow", "lost": "red"}


def words(commands: Subparsers) -> None:
    """Add the command."""
    power = commands.add_parser("power", help="how the node is powered, what is done about it, and what is used")
    verbs = type(commands)(power, dest="verb", metavar="VERB", required=False)
    verbs.add_parser("status", help="modes, what is measured, sources, what was done (the default)")
    plan = verbs.add_parser("plan", help="what would be done in a mode")
    plan.add_argument("mode", choices=POWER_MODES[:-1], metavar="MODE")
    verbs.add_parser("energy", help="what was used, and by whom")
    hold = verbs.add_parser("hold", help="keep a mode, whatever the sources say: for drills and maintenance")
    hold.add_argument("mode", choices=POWER_MODES[:-1], metavar="MODE")
    hold.add_argument("--for", dest="span", type=span_s, default=3600.0, metavar="SPAN", help="30m, 2h (default: 1h)")
    verbs.add_parser("release", help="go by the sources again")


def power(options: argparse.Namespace, ask: Ask) -> int:
    """Ask and print."""
    verb = options.verb or "status"
    shape: Callable[[Any], RenderableType]
    if verb == "plan":
        answer, shape = ask("power.plan", mode=options.mode), _plan
    elif verb == "energy":
        answer, shape = ask("power.energy"), _energy
    elif verb == "hold":
        answer, shape = ask("power.hold", mode=options.mode, seconds=options.span), _status
    else:
        answer, shape = ask(f"power.{verb}"), _status
    if options.json:
        print(json.dumps(answer))
        return 0
    from sparkd.cli.render import console  # noqa: PLC0415 - for people only

    console().print(shape(answer))
    return 0


def _status(answer: Any) -> RenderableType:
    from rich.console import Group  # noqa: PLC0415 - for people only
    from rich.text import Text  # noqa: PLC0415 - likewise

    from sparkd.cli.render import age, table  # noqa: PLC0415 - likewise

    held = " (held by an operator)" if answer["held"] else ""
    dry = "; dry run: nothing is done" if answer["dry_run"] else ""
    head = Text.assemble(
        f"{answer['node']} is ",
        (answer["mode"], MODE_STYLE[answer["mode"]]),
        f"{held}: {answer['reason']}; {answer['site']} is {answer['site_mode']}{dry}",
    )
    rows = [(name, _with_unit(name, one["value"]), one["source"]) for name, one in answer["values"].items()]
    lasts = answer["time_to_empty"]
    if lasts:
        span = f"{age(lasts['seconds'])} ({age(lasts['low_seconds'])} to {age(lasts['high_seconds'])})"
        rows.append(("time to empty", span, lasts["source"]))
    sources = [
        (
            one["name"],
            one["kind"],
            Text(one["state"], SOURCE_STYLE[one["state"]]),
            str(one["readings"]),
            str(one["garbage"] or ""),
            one["found"]
            if not one["reason"]
            else f"{one['reason']}" + (f" ({one['remedy']})" if one["remedy"] else ""),
        )
        for one in answer["sources"]
    ]
    parts: list[RenderableType] = [head]
    parts += [table("MEASURED", "VALUE", "BY", rows=rows)] if rows else []
    parts += [table("SOURCE", "KIND", "STATE", "READINGS", "GARBAGE", "WHAT", rows=sources)] if sources else []
    parts += [Text(f"conflict: {conflict}", "yellow") for conflict in answer["conflicts"]]
    parts += [_plan(answer["actions"][-10:])] if answer["actions"] else []
    return Group(*parts)


def _plan(actions: Any) -> RenderableType:
    from rich.text import Text  # noqa: PLC0415 - for people only

    from sparkd.cli.render import table  # noqa: PLC0415 - likewise

    if not actions:
        return Text("nothing would be done")
    rows = [(one["mode"], one["action"], one["target"], one["state"], one["reason"]) for one in actions]
    return table("MODE", "ACTION", "WHAT", "STATE", "WHY", rows=rows)


def _energy(answer: Mapping[str, Any]) -> RenderableType:
    from rich.console import Group  # noqa: PLC0415 - for people only
    from rich.text import Text  # noqa: PLC0415 - likewise

    from sparkd.cli.render import age, table  # noqa: PLC0415 - likewise

    rows = [
        (one["service"], f"{one['watt_hours']:.3f}", f"{one['watts']:.2f}", f"{one['cpu_s']:.0f}")
        for one in answer["services"]
    ]
    rows.append(("(idle)", f"{answer['idle_watt_hours']:.3f}", "", ""))
    rows.append(("all", f"{answer['node_watt_hours']:.3f}", "", ""))
    each = [Text(f"one {unit}: {joules:.3g} J") for unit, joules in answer["per_unit_joules"].items()]
    known = Text(f"power was known for {age(answer['measured_s'])}; {answer['method']}")
    return Group(table("WHO", "WH", "W NOW", "CPU S", rows=rows), *each, known)


def _with_unit(name: str, value: float) -> str:
    return f"{value:.4g} {UNITS.get(name.rpartition('_')[2], '')}".strip()
