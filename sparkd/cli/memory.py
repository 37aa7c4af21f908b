"""`sparkctl memory`: values of the memory, what is known of them, and how its tiers are."""

from __future__ import annotations

import argparse
import base64
import io
import json
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from sparkd.cli.logs import span_s

if TYPE_CHECKING:
    from rich.console import RenderableType

    from sparkd.cli.parser import Subparsers

PUT_MOST = 700 * 1024
"""Bytes of a value that fit into one line of the socket (1 MiB) in base64; a larger one is streamed."""
CHUNK_BYTES = 256 * 1024
"""Of a stream. As `sparkd.CHUNK_BYTES`, whose module takes too long to import for a command."""
PLAIN_TYPES = ("text/", "application/json")
BREAKER_STYLE = {"closed": "green", "half-open": "yellow", "open": "red"}


@dataclass(frozen=True, slots=True)
class Calls:
    """How the daemon is asked."""

    ask: Callable[..., Any]
    results: Callable[[str, Mapping[str, Any]], Iterator[Any]]
    send: Callable[[str, Mapping[str, Any], Iterator[Any]], Any]


def words(commands: Subparsers) -> None:
    """Add the command."""
    memory = commands.add_parser("memory", help="values of the memory, and how its tiers are")
    verbs = type(commands)(memory, dest="verb", metavar="VERB", required=False)
    verbs.add_parser("stats", help="tiers and namespaces (the default)")
    get = verbs.add_parser("get", help="print a value")
    _key(get)
    get.add_argument("--out", type=Path, metavar="FILE", help="write it there instead")
    put = verbs.add_parser("put", help="store a value: from the command line, a file, or - for standard input")
    _key(put)
    put.add_argument("value", nargs="?", metavar="TEXT")
    put.add_argument("--file", metavar="FILE", help="the value is in this file; - for standard input")
    put.add_argument("--type", dest="content_type", metavar="TYPE", help="such as image/png (default: text/plain)")
    put.add_argument("--tag", dest="tags", action="append", default=[], metavar="TAG")
    put.add_argument("--ttl", type=span_s, metavar="SPAN", help="how long it lives: 30m, 2h")
    put.add_argument("--if-etag", metavar="ETAG", help='only if this version stands there; "" if nothing does')
    _key(verbs.add_parser("delete", help="delete a key, everywhere"))
    _key(verbs.add_parser("history", help="the versions that are kept of a key"))
    listing = verbs.add_parser("list", help="the keys of a namespace")
    listing.add_argument("namespace", metavar="NAMESPACE")
    listing.add_argument("--prefix", default="", metavar="TEXT")
    listing.add_argument("--tag", dest="tags", action="append", default=[], metavar="TAG")
    search = verbs.add_parser("search", help="find values by words and by meaning")
    search.add_argument("text", metavar="TEXT")
    search.add_argument("--in", dest="namespaces", action="append", metavar="NAMESPACE")
    search.add_argument("--limit", type=int, default=10, metavar="N")
    forget = verbs.add_parser("invalidate", help="forget hot copies; the values stay where they are at home")
    forget.add_argument("namespace", metavar="NAMESPACE")
    forget.add_argument("key", nargs="?", default="", metavar="KEY")
    export = verbs.add_parser("export", help="write everything that you may read into an archive")
    export.add_argument("file", type=Path, metavar="FILE")
    export.add_argument("--in", dest="namespaces", action="append", metavar="NAMESPACE")
    take = verbs.add_parser("import", help="take an archive; nothing newer is replaced")
    take.add_argument("file", type=Path, metavar="FILE")


def _key(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("namespace", metavar="NAMESPACE")
    parser.add_argument("key", metavar="KEY")


def memory(options: argparse.Namespace, calls: Calls) -> int:
    """Ask and print. Raises CallError, OSError."""
    verb = options.verb or "stats"
    if verb == "export":
        return _export(options, calls)
    if verb == "get":
        return _get(options, calls)
    answer, shape = (_import(options, calls), _imported) if verb == "import" else _asked(verb, options, calls)
    if options.json:
        print(json.dumps(answer))
        return 0
    from sparkd.cli.render import console  # noqa: PLC0415 - for people only

    console().print(shape(answer))
    return 0


def _asked(verb: str, options: argparse.Namespace, calls: Calls) -> tuple[Any, Callable[[Any], RenderableType]]:
    ask = calls.ask
    if verb == "stats":
        return ask("memory.stats"), _stats
    if verb == "search":
        given = {"text": options.text, "namespaces": options.namespaces, "limit": options.limit}
        return ask("memory.search", **given), _found
    if verb == "list":
        return _listed(options, calls), _heads
    where = {"namespace": options.namespace, "key": options.key}
    if verb == "history":
        return ask("memory.history", **where), _heads
    if verb == "invalidate":
        return ask("memory.invalidate", **where), lambda count: f"{count} hot copies were forgotten"
    return _put(options, calls) if verb == "put" else ask("memory.delete", **where), _written


def _listed(options: argparse.Namespace, calls: Calls) -> list[Any]:
    heads, cursor = [], ""
    while True:
        given = {"namespace": options.namespace, "prefix": options.prefix, "tags": options.tags}
        page = calls.ask("memory.list", **given, cursor=cursor, limit=500)
        heads += page["heads"]
        cursor = page["cursor"]
        if not cursor:
            return heads


def _put(options: argparse.Namespace, calls: Calls) -> Any:
    if (options.value is None) == (options.file is None):
        raise SystemExit("sparkctl: memory put: give a TEXT or --file, and not both")
    with _source(options) as source:
        value = source.read(PUT_MOST + 1)
        usual = "application/octet-stream" if options.file else "text/plain"
        given = {
            "namespace": options.namespace,
            "key": options.key,
            "content_type": options.content_type or usual,
            "tags": options.tags,
            "ttl_s": options.ttl,
        }
        if len(value) > PUT_MOST and options.if_etag is None:
            return calls.send("memory.write", given, _lines(source, value))
        given["value"] = base64.b64encode(value).decode()
        if options.if_etag is None:
            return calls.ask("memory.put", **given)
        if len(value) > PUT_MOST:
            raise SystemExit(f"sparkctl: memory put: with --if-etag a value has {PUT_MOST} bytes at the most")
        return calls.ask("memory.cas", **given, etag=options.if_etag)


def _source(options: argparse.Namespace) -> BinaryIO:
    if options.value is not None:
        return io.BytesIO(options.value.encode())
    return os.fdopen(os.dup(sys.stdin.fileno()), "rb") if options.file == "-" else open(options.file, "rb")  # noqa: PTH123 - who calls closes it


def _lines(source: BinaryIO, begin: bytes = b"") -> Iterator[str]:
    """Return *begin* and what is left in *source*, as items of a stream."""
    for at in range(0, len(begin), CHUNK_BYTES):
        yield base64.b64encode(begin[at : at + CHUNK_BYTES]).decode()
    while chunk := source.read(CHUNK_BYTES):
        yield base64.b64encode(chunk).decode()


def _import(options: argparse.Namespace, calls: Calls) -> Any:
    with options.file.open("rb") as file:
        return calls.send("memory.import", {}, _lines(file))


def _get(options: argparse.Namespace, calls: Calls) -> int:
    where = {"namespace": options.namespace, "key": options.key}
    entry = calls.ask("memory.get", **where)
    if entry is None:
        print(f"nothing stands under {options.key!r} in {options.namespace!r}", file=sys.stderr)
        return 1
    if options.json:
        print(json.dumps(entry))
        return 0
    if entry["stale"]:
        print(f"it may be old: {entry['reason']}", file=sys.stderr)
    parts = (base64.b64decode(item) for item in calls.results("memory.read", where))
    if options.out is not None:
        _write_whole(options.out, parts)
        return 0
    head = entry["head"]
    if sys.stdout.isatty():
        _show(head, parts)
        return 0
    for part in parts:
        sys.stdout.buffer.write(part)
    sys.stdout.buffer.flush()
    return 0


def _show(head: Mapping[str, Any], parts: Iterator[bytes]) -> None:
    """Print a text without what would steer the terminal; of anything else only what it is."""
    from sparkd.cli.render import safe, size  # noqa: PLC0415 - for people only

    if head["content_type"].startswith(PLAIN_TYPES):
        print(safe(b"".join(parts).decode("utf-8", "replace")))
    else:
        print(f"{size(head['size'])} of {safe(head['content_type'])}; --out FILE keeps it")


def _export(options: argparse.Namespace, calls: Calls) -> int:
    items = calls.results("memory.export", {"namespaces": options.namespaces})
    count = _write_whole(options.file, (base64.b64decode(item) for item in items))
    print(json.dumps({"bytes": count}) if options.json else f"{options.file}: {count} bytes")
    return 0


def _write_whole(path: Path, parts: Iterator[bytes]) -> int:
    """Write a file whole or not at all, readable by its owner only; return how large it is."""
    part, count = path.with_name(f".{path.name}.part"), 0
    try:
        with open(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:  # noqa: PTH123 - a descriptor
            for one in parts:
                count += file.write(one)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    finally:
        with suppress(OSError):
            part.unlink(missing_ok=True)
    return count


def _written(answer: Mapping[str, Any]) -> str:
    there = ", ".join(answer["tiers"]) or "this machine's disk"
    later = f"; {', '.join(answer['pending'])} when it answers" if answer["pending"] else ""
    lost = "" if answer["won"] else "; a newer version stands, so it is history"
    return f"{answer['etag']} in {there}{later}{lost}"


def _imported(answer: Mapping[str, Any]) -> str:
    older = f"; {answer['newer_here']} were older than what is here, and are history" if answer["newer_here"] else ""
    return f"{answer['records']} versions, {answer['bytes']} bytes{older}"


def _heads(answer: list[Mapping[str, Any]]) -> RenderableType:
    from rich.text import Text  # noqa: PLC0415 - for people only

    from sparkd.cli.render import safe, size, table  # noqa: PLC0415 - likewise

    rows = [
        (
            safe(one["key"]),
            Text("deleted", "red") if one["deleted"] else Text(size(one["size"])),
            safe(one["content_type"]) if not one["deleted"] else "",
            safe(" ".join(one["tags"])),
            one["etag"],
        )
        for one in answer
    ]
    return table("KEY", "SIZE", "TYPE", "TAGS", "ETAG", rows=rows) if rows else "nothing"


def _found(answer: Mapping[str, Any]) -> RenderableType:
    from rich.console import Group  # noqa: PLC0415 - for people only

    from sparkd.cli.render import safe, table  # noqa: PLC0415 - likewise

    rows = [
        (one["head"]["namespace"], safe(one["head"]["key"]), f"{one['score']:.2f}", safe(one["text"][:200]))
        for one in answer["matches"]
    ]
    by = f"by {' and '.join(answer['by']) or 'nothing'}" + (f"; {answer['reason']}" if answer["reason"] else "")
    return Group(table("IN", "KEY", "SCORE", "TEXT", rows=rows), by) if rows else f"nothing, {by}"


def _stats(answer: Mapping[str, Any]) -> RenderableType:
    from rich.console import Group  # noqa: PLC0415 - for people only
    from rich.text import Text  # noqa: PLC0415 - likewise

    from sparkd.cli.render import size, table  # noqa: PLC0415 - likewise

    tiers = [
        (
            one["name"],
            one["kind"],
            Text(one["breaker"], BREAKER_STYLE[one["breaker"]]),
            f"{one['hits']}/{one['hits'] + one['misses']}",
            "" if one["p50_ms"] is None else f"{one['p50_ms']:.2f} / {one['p95_ms']:.2f}",
            size(one["free_bytes"]),
            str(one["behind"] or ""),
            one["reason"],
        )
        for one in answer["tiers"]
    ]
    spaces = [
        (one["name"], one["privacy"], str(one["records"]), size(one["bytes"]), one["owner"])
        for one in answer["namespaces"]
    ]
    counts = ("hits", "misses", "stale", "writes", "lost_races", "healed", "damaged")
    line = ", ".join(f"{name.replace('_', ' ')} {answer[name]}" for name in counts)
    again = ["resynchronising: it was away for long"] if answer["resynchronising"] else []
    return Group(
        table("TIER", "KIND", "BREAKER", "HITS", "P50/P95 MS", "FREE", "BEHIND", "WHY", rows=tiers),
        table("NAMESPACE", "CLASS", "RECORDS", "SIZE", "OWNER", rows=spaces),
        line,
        *again,
    )
