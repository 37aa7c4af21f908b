"""All nodes of a fleet at once, asked over the link of one of them, in parallel."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any

import anyio
from anyio import to_thread

from sparkd.errors import SparkdError
from sparkd.fleet.model import Fleet

Ask = Callable[[str, Mapping[str, Any]], Any]
"""Calls a method on the node of the operator, by a connection of its own; raises SparkdError or OSError."""
WELL = frozenset({"running", "disabled", "stopped", "shed"})
_POWER, _TUNNEL = "system.power.mode", "system.tunnel.peer"
_WORST_FIRST = ("down", "stale", "idle", "asleep", "up")
_Told = Sequence[tuple[str, str, Mapping[str, Any]]]
"""Topic, node and content of last events."""
_AT_ONCE = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeRow:
    """What is known of one node."""

    node: str
    site: str
    state: str
    """`well`, `troubled`, `unreachable`, or `no sparkd`."""
    reason: str = ""
    version: str = ""
    services: int = 0
    not_running: list[str] = field(default_factory=list)
    """Services that should run and do not, each with its state."""
    links: int = 0
    links_down: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    power: str = ""
    tunnel: str = ""


def ask_all(fleet: Fleet, ask: Ask, *, only: str = "") -> list[NodeRow]:
    """Return a row for each node. Raises what *ask* raises for the operator's own node."""
    own: dict[str, Any] = ask("node.status", {})
    told = _last_values(ask)
    names = [name for name in sorted(fleet.nodes) if only in ("", name)]
    return anyio.run(_rows, fleet, partial(_row, fleet, ask, own, told), names)


def plain(rows: list[NodeRow]) -> list[dict[str, Any]]:
    """Return the rows for scripts."""
    return [asdict(row) for row in rows]


async def _rows(fleet: Fleet, row: Callable[[str], NodeRow], names: list[str]) -> list[NodeRow]:
    found: dict[str, NodeRow] = {}
    limiter = anyio.CapacityLimiter(_AT_ONCE)

    async def one(name: str) -> None:
        found[name] = await to_thread.run_sync(row, name, limiter=limiter)

    async with anyio.create_task_group() as tasks:
        for name in names:
            tasks.start_soon(one, name)
    return [found[name] for name in sorted(found, key=lambda name: (fleet.nodes[name].site, name))]


def _last_values(ask: Ask) -> _Told:
    """Return the last events of power and tunnels, as the operator's own node holds them: its own and its peers'."""
    found = []
    for topic in (_POWER, _TUNNEL):
        try:
            events = ask("bus.last", {"topic": topic})
        except (SparkdError, OSError):  # who may ask for status may still not read events
            continue
        found += [(topic, str(one["node"]), one["event"]) for one in events if isinstance(one["event"], Mapping)]
    return found


def power_of(told: _Told, name: str, site: str) -> str:
    """Return the power mode of a node, else that of its site; empty if nobody has told."""
    modes = {
        (event.get("scope", "node"), event.get("name") or node): str(event.get("mode", ""))
        for topic, node, event in told
        if topic == _POWER
    }
    return modes.get(("node", name), modes.get(("site", site), ""))


def tunnel_of(told: _Told, name: str) -> str:
    """Return how many tunnels of a node are in which state, the worst first; empty if it has told of none."""
    states = Counter(str(event.get("state", "")) for topic, node, event in told if (topic, node) == (_TUNNEL, name))
    known = [state for state in _WORST_FIRST if states[state]]
    if known == ["up"]:
        return "up"
    return ", ".join(f"{states[state]} {state}" for state in known)


def _row(fleet: Fleet, ask: Ask, own: Mapping[str, Any], told: _Told, name: str) -> NodeRow:
    site = fleet.nodes[name].site
    if not fleet.nodes[name].runs_sparkd:
        return NodeRow(node=name, site=site, state="no sparkd")
    power, tunnel = power_of(told, name, site), tunnel_of(told, name)
    try:
        answer = own if own["node"] == name else ask(f"{name}/core:node.status", {})
        return _known(answer, site, power, tunnel)
    except TimeoutError:
        reason = "no answer in time"
    except (SparkdError, OSError) as error:
        reason = str(error)
    except (KeyError, TypeError, AttributeError) as error:  # a peer says what it likes
        reason = f"its answer is no status: {type(error).__name__}"
    return NodeRow(node=name, site=site, state="unreachable", reason=reason, power=power, tunnel=tunnel)


def _known(answer: Mapping[str, Any], site: str, power: str, tunnel: str) -> NodeRow:
    wrong = [f"{one['name']} ({one['state']})" for one in answer["services"] if one["state"] not in WELL]
    down = [str(link["peer"]) for link in answer["links"] if not link["connected"]]
    problems = [str(problem) for problem in answer["problems"]]
    return NodeRow(
        node=str(answer["node"]),
        site=str(answer.get("site", site)),
        state="troubled" if wrong or down or problems else "well",
        reason=problems[0] if problems else "",
        version=str(answer["version"]),
        services=len(answer["services"]),
        not_running=wrong,
        links=len(answer["links"]),
        links_down=down,
        problems=problems,
        power=power,
        tunnel=tunnel,
    )
