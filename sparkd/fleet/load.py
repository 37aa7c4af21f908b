"""Reading `fleet.toml`: decoded by sparkd's own decoder, keys found, every problem named at once."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, TypeVar

from sparkd.config import decode_table, nearest, read_toml
from sparkd.config.secret import looks_secret
from sparkd.errors import ConfigError
from sparkd.fleet.checks import check
from sparkd.fleet.keys import Kind, find_key, looks_like_key
from sparkd.fleet.model import Fleet
from sparkd.fleet.tables import Firewall, FleetNode, KeyFile, Link, Naming, Prometheus, Site, Tunnel
from sparkd.service import NAME

C = TypeVar("C")
_SINGLE: dict[str, type[Any]] = {
    "fleet": Naming,
    "tunnel": Tunnel,
    "firewall": Firewall,
    "prometheus": Prometheus,
}
_BY_NAME: dict[str, type[Any]] = {"sites": Site, "nodes": FleetNode, "links": Link}
_KEYS = ("wireguard_key", "link_key")
MAX_NAME = 63
"""A host name's label has no more."""


def load_fleet(file: Path) -> Fleet:
    """Return the fleet that *file* describes. Raises ConfigError with every problem; it never holds a key."""
    tables = read_toml(file)
    problems = [f"{file}: {sentence}" for sentence in _secrets(tables)]
    if problems:  # what decodes would show what it got
        raise ConfigError(*problems)
    made = _decode(tables, str(file), problems)
    if problems:
        raise ConfigError(*problems)
    fleet = _with_keys(file, made, problems)
    problems += check(fleet)
    if problems:
        raise ConfigError(*problems)
    return fleet


def _secrets(value: Any, path: tuple[str, ...] = ()) -> Iterator[str]:
    """Yield a sentence for each value that is, or may be, a secret: it is said where, never what."""
    where = ".".join("…" if looks_like_key(part) else part for part in path)
    if isinstance(value, Mapping):
        if path and looks_secret(path[-1]) and value.keys() <= {"credential", "file", "env"}:
            return
        for key, inner in value.items():
            if looks_like_key(key):
                yield f"[{where}]: a key looks like a secret one; its name is written here, never the secret"
            yield from _secrets(inner, (*path, key))
    elif isinstance(value, list):
        for inner in value:
            yield from _secrets(inner, path)
    elif isinstance(value, str) and not (len(path) == 3 and path[-1] in _KEYS):  # noqa: PLR2004 - nodes.NAME.KEY
        if "PRIVATE KEY" in value or looks_like_key(value):
            yield f"{where}: it looks like a secret key; a secret is named, never written: {{ credential = 'NAME' }}"
        elif looks_secret(path[-1]) or ("://" in value and "@" in value.partition("://")[2].partition("/")[0]):
            yield f"{where}: a secret is named, never written: {{ credential = 'NAME' }} or {{ file = '/PATH' }}"


def _decode(tables: Mapping[str, Any], file: str, problems: list[str]) -> dict[str, Any]:
    made: dict[str, Any] = {}
    known = [*_SINGLE, *_BY_NAME]
    for name, table in tables.items():
        if name not in known:
            problems.append(f"{file}: [{name}]: unknown table; {nearest(name, known)}")
        elif not isinstance(table, dict):
            problems.append(f"{file}: {name}: a table expected; write [{name}]")
    for name, cls in _SINGLE.items():
        if name == "prometheus" and name not in tables:
            made[name] = None
        else:
            made[name] = _one(cls, tables.get(name, {}), name, file, problems)
    for kind, cls in _BY_NAME.items():
        found = tables.get(kind, {})
        made[kind] = {}
        for name, table in sorted(found.items()) if isinstance(found, dict) else ():
            if not NAME.fullmatch(name) or len(name) > MAX_NAME:
                problems.append(f"{file}: [{kind}.{name[:60]}]: lower-case words joined by hyphens expected as a name")
            else:
                made[kind][name] = _one(cls, table, f"{kind}.{name}", file, problems)
    return made


def _one(cls: type[C], table: Any, where: str, file: str, problems: list[str]) -> C | None:
    try:
        return decode_table(cls, table, where=where, file=file)
    except ConfigError as error:
        problems += error.problems
        return None


def _with_keys(file: Path, made: Mapping[str, Any], problems: list[str]) -> Fleet:
    naming: Naming = made["fleet"]
    keys: dict[Kind, dict[str, str]] = {"wireguard": {}, "link": {}}
    linked = {name for link in made["links"].values() for name in (*link.dial, link.listen)}
    for name, node in made["nodes"].items():
        wanted: dict[Kind, bool] = {"wireguard": bool(node.tunnel_address), "link": name in linked}
        for kind, needed in wanted.items():
            given = getattr(node, f"{kind}_key")
            if not needed and given is None:
                continue
            written = given or KeyFile(file=f"{naming.keys_dir}/{name}.{kind}.pub")
            where = f"{file}: [nodes.{name}] {kind}_key"
            try:
                keys[kind][name] = find_key(kind, written, folder=file.parent, where=where, remedy=_REMEDY[kind])
            except ConfigError as error:
                problems += error.problems
    whole = {name: made[name] for name in ("sites", "tunnel", "firewall", "prometheus", "nodes", "links")}
    fleet = Fleet(file=file, naming=naming, wireguard_keys=keys["wireguard"], link_keys=keys["link"], **whole)
    return _digested(fleet)


_REMEDY: dict[Kind, str] = {
    "wireguard": "on that node: umask 077; wg genkey > /etc/wireguard/wg0.key; wg pubkey < /etc/wireguard/wg0.key",
    "link": "on that node: sparkctl keys new; it prints the public key",
}


def _digested(fleet: Fleet) -> Fleet:
    said = asdict(fleet)
    del said["file"], said["digest"], said["naming"]["keys_dir"]
    for node in said["nodes"].values():
        del node["wireguard_key"], node["link_key"]
    text = json.dumps(said, sort_keys=True, default=str)
    return replace(fleet, digest=hashlib.sha256(text.encode()).hexdigest()[:12])
