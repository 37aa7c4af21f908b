"""How answers look to a person: tables, and colour where there is a terminal. Values in, renderables out."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Mapping
from typing import Any

from rich.console import Group, RenderableType
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
WELL = frozenset({"running", "disabled", "stopped", "shed"})
_KIB = 1024


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
        drawn.add_row(*row)
    return drawn


def status(answer: Mapping[str, Any]) -> RenderableType:
    """Return a node's status: one line of truth, the services, and below what is wrong and what to do."""
    head = Text.assemble(
        (answer["node"], "bold"),
        f"  {answer['role']} node at {answer['site']}, sparkd {answer['version']}, up {age(answer['uptime_s'])}\n",
        answer["summary"],
        "\n",
    )
    parts: list[RenderableType] = [head, _services(answer["services"])]
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
    found: list[RenderableType] = []
    for service in answer["services"]:
        if service["reason"]:
            found.append(_trouble(service["name"], service, retry=service["retry_in_s"]))
    found += [_trouble(f"link to {link['peer']}", link) for link in answer["links"] if not link["connected"]]
    found += [Text(f"\n● {problem}", "yellow") for problem in answer["problems"]]
    return found


def _trouble(name: str, what: Mapping[str, Any], *, retry: float | None = None) -> Text:
    text = Text.assemble("\n", ("● ", "yellow"), (name, "bold"), f": {what['reason'] or 'no reason given'}")
    if what.get("file"):
        text.append(f"\n    at {what['file']}:{what['line']}")
    if what.get("remedy"):
        text.append(f"\n    try: {what['remedy']}")
    if retry is not None:
        text.append(f"\n    tried again in {age(retry)}", "dim")
    for line in (what.get("last_lines") or [])[-3:]:
        text.append(f"\n    | {line}", "dim")
    return text


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
        publishers.append((name, str(stats.get("published", 0))))
        readers += [
            (name, sub["topic"] or "(all)", sub["policy"], *(str(sub[k]) for k in ("received", "lost", "dropped")))
            for sub in stats.get("subscriptions", [])
        ]
    return Group(
        table("PUBLISHER", "SENT", rows=publishers),
        "",
        table("READER", "TOPIC", "POLICY", "RECEIVED", "LOST", "DROPPED", rows=readers),
    )


def event(item: Mapping[str, Any]) -> Text:
    """Return one event on one line."""
    stamp = time.strftime("%H:%M:%S", time.localtime(item["wall_ns"] / 1e9))
    text = Text.assemble((stamp, "dim"), " ", (item["topic"], "cyan"), f" {item['node']}/{item['service']} ")
    text.append(json.dumps(item["event"], default=str))
    return text


def log_line(record: Mapping[str, Any]) -> Text:
    """Return one line of a log."""
    style = {3: "red", 4: "yellow", 7: "dim"}.get(record["level"], "")
    stamp = time.strftime("%H:%M:%S", time.localtime(record["at"]))
    return Text.assemble((stamp, "dim"), f" {record['service']:<18} ", (record["text"], style))
