"""How answers look to a person: tables, and colour where there is a terminal. Values in, renderables out."""

from __future__ import annotations

import json
import re
import sys
import time
from collections.abc import Iterable, Mapping
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

STATE_STYLE = {
    "running": "green",
    "degraded": "yellow",
    "starting": "cyan",
    "stopping": "cyan",
    "waiting": "yellow",
    "backoff": "yellow",
    "broken": "red",
    "shed": "magenta",
    "disabled": "dim",
    "stopped": "dim",
}
_KIB = 1024
_STEERING = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
LAST_LINES = 3
LATELY_S = 3600.0
"""How long the failure of a service that runs again is shown."""
PIPE_WIDTH = 160
"""How wide tables are where there is no terminal to ask."""


def console() -> Console:
    """Return where answers are printed: colour only on a terminal, and none if NO_COLOR is set."""
    return Console(highlight=False, emoji=False, markup=False, width=None if sys.stdout.isatty() else PIPE_WIDTH)


def safe(text: str) -> str:
    """Return *text* without what would steer a terminal: plugins and peers wrote it."""
    return _STEERING.sub("\N{REPLACEMENT CHARACTER}", text)


def size(count: int | None) -> str:
    """Return a number of bytes as people write it."""
    if count is None:
        return ""
    value = float(count)
    for unit in ("B", "KiB", "MiB"):
        if abs(value) < _KIB:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= _KIB
    return f"{value:.1f} GiB"


def age(seconds: float | None) -> str:
    """Return a duration in its two largest units."""
    if seconds is None:
        return ""
    whole = max(int(seconds), 0)
    parts = [(whole // 86400, "d"), (whole // 3600 % 24, "h"), (whole // 60 % 60, "min"), (whole % 60, "s")]
    shown = [f"{count} {unit}" for count, unit in parts if count][:2]
    return " ".join(shown) or "0 s"


def table(*columns: str, rows: Iterable[Iterable[RenderableType]]) -> Table:
    """Return a plain table with a head."""
    drawn = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    for column in columns:
        drawn.add_column(column, overflow="fold")
    for row in rows:
        drawn.add_row(*(Text(safe(cell)) if isinstance(cell, str) else cell for cell in row))
    return drawn


def status(answer: Mapping[str, Any]) -> RenderableType:
    """Return a node's status: one line of truth, the services, and below what is wrong and what to do."""
    head = Text.assemble(
        (answer["node"], "bold"),
        f"  {answer['role']} node at {answer['site']}, sparkd {answer['version']}, up {age(answer['uptime_s'])}\n",
        safe(answer["summary"]),
    )
    parts: list[RenderableType] = [head]
    if answer["services"]:
        parts += ["", _services(answer["services"])]
    if answer["links"]:
        parts += ["", _links(answer["links"])]
    return Group(*parts, *_troubles(answer))


def _services(services: list[Mapping[str, Any]]) -> Table:
    rows = (
        (
            service["name"],
            Text(service["state"], STATE_STYLE.get(service["state"], "")),
            age(time.time() - service["since"]),
            str(service["pid"] or ""),
            size(service["memory_bytes"]),
            str(service["restarts"] or ""),
            ", ".join(service["serves"]),
        )
        for service in services
    )
    return table("SERVICE", "STATE", "SINCE", "PID", "MEMORY", "RESTARTS", "SERVES", rows=rows)


def _links(links: list[Mapping[str, Any]]) -> Table:
    rows = (
        (
            link["peer"],
            Text("connected", "green") if link["connected"] else Text("not connected", "yellow"),
            age(time.time() - link["since"]),
            "" if link["rtt_ms"] is None else f"{link['rtt_ms']:.1f} ms",
            f"{link['sent']} / {link['received']}",
            ", ".join(f"{count} {what}" for what, count in link["refused"].items()),
        )
        for link in links
    )
    return table("LINK", "STATE", "SINCE", "ROUND TRIP", "SENT / RECEIVED", "REFUSED", rows=rows)


def _troubles(answer: Mapping[str, Any]) -> list[RenderableType]:
    found: list[RenderableType] = [
        _trouble(one["name"], one, retry=one["retry_in_s"]) for one in answer["services"] if one["reason"]
    ]
    found += [_recovered(one) for one in answer["services"] if _failed_lately(one)]
    found += [_blocked(one["name"], one["blocked"]) for one in answer["services"] if _is_late(one.get("blocked"))]
    found += [_budget(one["name"], one["budget"]) for one in answer["services"] if _is_notable(one.get("budget"))]
    found += [_blocked(_core_name(core), core) for core in (answer.get("core_blocked"),) if core and _is_late(core)]
    found += [_trouble(f"link to {link['peer']}", link) for link in answer["links"] if not link["connected"]]
    found += [Text(f"\n● {safe(problem)}", "yellow") for problem in answer["problems"]]
    return found


def _failed_lately(service: Mapping[str, Any]) -> bool:
    """Whether a service runs that failed in the last hour."""
    return not service["reason"] and _is_late(service.get("last_failure"))


def _is_late(what: Mapping[str, Any] | None) -> bool:
    """Whether something happened in the last hour."""
    return what is not None and time.time() - what["at"] < LATELY_S


def _is_notable(budget: Mapping[str, Any] | None) -> bool:
    return budget is not None and bool(
        budget.get("throttle_percent") or budget["throttled_s"] >= 1 or budget["tasks_refused"] or budget["not_kept"]
    )


def _budget(name: str, budget: Mapping[str, Any]) -> Text:
    said, remedy = [], "raise its limits in the config, or let it do less"
    if budget.get("throttle_percent"):
        said.append(f"slowed to {budget['throttle_percent']:g} % of a processor while power is short")
    if budget["throttled_s"] >= 1:
        said.append(f"kept from the processor for {age(budget['throttled_s'])} (cpu_max_percent)")
    if budget["tasks_refused"]:
        said.append(f"could not have another thread {budget['tasks_refused']} times (tasks_max)")
    if budget["not_kept"]:
        said.append(f"{' and '.join(budget['not_kept'])} not enforced: the daemon has no control group of its own")
        remedy = "run it by systemd with Delegate=cpu memory pids"
    return _trouble(name, {"reason": "; ".join(said), "remedy": remedy})


def _core_name(blocked: Mapping[str, Any]) -> str:
    return f"core (by {blocked['service']}: inline, so it cannot be killed)" if blocked["service"] else "core"


def _blocked(name: str, blocked: Mapping[str, Any]) -> Text:
    often = f"{blocked['count']} times, {blocked['longest_s']:.1f} s at the longest" if blocked["count"] > 1 else "once"
    last = f"{blocked['last_s']:.2f} s, {age(time.time() - blocked['at'])} ago"
    reason = f"its event loop was blocked {often}; last for {last}"
    remedy = "move the blocking call to a thread (anyio.to_thread.run_sync)"
    return _trouble(name, {"reason": reason, "file": blocked["file"], "line": blocked["line"], "remedy": remedy})


def _recovered(service: Mapping[str, Any]) -> Text:
    failure = service["last_failure"]
    return _trouble(f"{service['name']} (runs again; {age(time.time() - failure['at'])} ago)", failure)


def _trouble(name: str, what: Mapping[str, Any], *, retry: float | None = None) -> Text:
    reason = safe(what["reason"] or "no reason given").replace("\n", "\n    ")
    text = Text.assemble("\n", ("● ", "yellow"), (safe(name), "bold"), f": {reason}")
    if what.get("file"):
        text.append(f"\n    at {safe(what['file'])}" + (f":{what['line']}" if what["line"] else ""))
    if what.get("remedy"):
        text.append(f"\n    try: {safe(what['remedy'])}")
    if retry is not None:
        text.append(f"\n    tried again in {age(retry)}", "dim")
    for line in (what.get("last_lines") or [])[-LAST_LINES:]:
        text.append(f"\n    | {safe(line)}", "dim")
    return text


def service(answer: Mapping[str, Any]) -> RenderableType:
    """Return what became of one service, and if it does not run, why."""
    state = Text.assemble((answer["name"], "bold"), ": ", (answer["state"], STATE_STYLE.get(answer["state"], "")))
    return Group(state, _trouble(answer["name"], answer, retry=answer["retry_in_s"])) if answer["reason"] else state


def changes(answer: Mapping[str, list[str]]) -> Text:
    """Return lists of names, a line each; or that there are none."""
    lines = [f"{what}: {', '.join(names)}" for what, names in answer.items() if names]
    return Text(safe("\n".join(lines) or "nothing has changed"))


def config(answer: Mapping[str, Any]) -> Text:
    """Return the config as the tables of its file; what is not set is left out."""
    text = Text()
    for name, table in _tables("", answer):
        text.append(f"\n[{name}]\n" if text else f"[{name}]\n", "bold")
        for key, value in table.items():
            text.append(f"{key} = {json.dumps(value, ensure_ascii=False)}\n")
    text.right_crop(1)
    return text


def _tables(where: str, found: Mapping[str, Any]) -> Iterable[tuple[str, dict[str, Any]]]:
    for key, value in found.items():
        if isinstance(value, Mapping):
            name = f"{where}.{key}" if where else key
            own = {k: v for k, v in value.items() if v is not None and not isinstance(v, Mapping)}
            if own or not any(isinstance(inner, Mapping) for inner in value.values()):
                yield name, own
            yield from _tables(name, value)


def plugins(answer: list[Mapping[str, Any]]) -> RenderableType:
    """Return the list of plugins, and below what is wrong with them."""
    rows = (
        (
            plugin["name"],
            Text("broken", "red") if plugin["problem"] else "enabled" if plugin["enabled"] else Text("disabled", "dim"),
            ", ".join(plugin["services"]),
            plugin["origin"],
        )
        for plugin in answer
    )
    troubles = (
        _trouble(plugin["name"], {**plugin, "reason": plugin["problem"]}) for plugin in answer if plugin["problem"]
    )
    return Group(table("PLUGIN", "STATE", "SERVICES", "FROM", rows=rows), *troubles)


def plugin(answer: Mapping[str, Any]) -> RenderableType:
    """Return one plugin, as `plugins` shows it."""
    return plugins([answer])


def outbox(answer: list[Mapping[str, Any]]) -> RenderableType:
    """Return the durable streams, a line a reader."""
    rows = []
    for stream in answer:
        readers = stream["readers"] or [{"name": "", "behind": 0}]
        for number, reader in enumerate(readers):
            first = number == 0
            rows.append(
                (
                    f"{stream['service']}/{stream['stream']}" if first else "",
                    f"{stream['first_seq']}-{stream['last_seq']}" if first else "",
                    size(stream["bytes"]) if first else "",
                    reader["name"] or Text("nobody reads it", "dim"),
                    str(reader["behind"]),
                    age(stream["oldest_age_s"]) if first and reader["behind"] else "",
                    str(stream["dead"] or "") if first else "",
                    str(stream["evicted"] or "") if first else "",
                )
            )
    notes = [
        Text(f"\n● {stream['service']}/{stream['stream']}: {what}", "yellow")
        for stream in answer
        for what in (*stream["gaps"], *(f"quarantined {name}" for name in stream["quarantined"]))
    ]
    columns = ("STREAM", "RECORDS", "SIZE", "READER", "BEHIND", "OLDEST", "DEAD", "EVICTED")
    return Group(table(*columns, rows=rows), *notes)


def bus(answer: Mapping[str, Any]) -> RenderableType:
    """Return the bus counters: who publishes, who reads, what was lost."""
    publishers, readers = [], []
    for name, stats in answer["services"].items():
        publishers.append((name, str(stats.get("published", 0)), str(stats.get("flooded", 0))))
        readers += [
            (name, sub["topic"] or "(all)", sub["policy"], *(str(sub[k]) for k in ("received", "lost", "dropped")))
            for sub in stats.get("subscriptions", [])
        ]
    return Group(
        table("PUBLISHER", "SENT", "FLOODED", rows=publishers),
        "",
        table("READER", "TOPIC", "POLICY", "RECEIVED", "LOST", "DROPPED", rows=readers),
    )


def event(item: Mapping[str, Any]) -> Text:
    """Return one event on one line."""
    stamp = time.strftime("%H:%M:%S", time.localtime(item["wall_ns"] / 1e9))
    text = Text.assemble((stamp, "dim"), " ", (item["topic"], "cyan"), f" {item['node']}/{item['service']} ")
    text.append(json.dumps(item["event"], default=str))
    return text


def roll_back(answer: Mapping[str, Any] | None) -> Text:
    """Return what was taken back, and how it differs from what is in force."""
    if answer is None:
        return Text("nothing was taken back: what is on disk is in force")
    when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(answer["at"]))
    text = Text(f"taken back at {when}: {safe(answer['service'])} failed by it: {safe(answer['reason'])}\n")
    text.append(f"kept in {answer['kept']}\nin force: {answer['in_force']}\n\n", style="dim")
    for line in answer["difference"].splitlines():
        style = {"+": "green", "-": "red", "@": "cyan"}.get(line[:1], "")
        text.append(safe(line) + "\n", style=style)
    return text


def levels(answer: Mapping[str, str]) -> Table:
    """Return how much is logged of the core and of each service."""
    table = Table(box=None, show_header=False, pad_edge=False)
    for service, level in answer.items():
        table.add_row(safe(service), safe(level))
    return table


def log_line(record: Mapping[str, Any]) -> Text:
    """Return one line of a log."""
    style = {3: "red", 4: "yellow", 7: "dim"}.get(record["level"], "")
    stamp = time.strftime("%H:%M:%S", time.localtime(record["at"]))
    return Text.assemble((stamp, "dim"), f" {safe(record['service']):<18} ", (safe(record["text"]), style))
