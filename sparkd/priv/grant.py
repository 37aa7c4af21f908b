"""What root's config grants a plugin: read afresh for each start, and believed only if it is root's alone."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import msgspec

from sparkd.config import UnitTable, load_config
from sparkd.errors import ConfigError
from sparkd.priv.settings import Settings
from sparkd.priv.trust import require_roots
from sparkd.service import Isolation


@dataclass(frozen=True, slots=True)
class Grant:
    """What a plugin's unit may have, and where its core is."""

    table: UnitTable
    runtime: Path


class _Source(msgspec.Struct):
    kind: str
    path: str


class _Spec(msgspec.Struct):
    """The part of `sparkd.child.ChildSpec` that says where the code is."""

    source: _Source


_decode_spec = msgspec.msgpack.Decoder(_Spec).decode


def grant_of(settings: Settings, plugin: str) -> Grant:
    """Return what the config grants *plugin*. Raises ConfigError if it is not root's alone, or grants nothing."""
    files = settings.config
    require_roots(files)
    drop_ins = files.parent / "sparkd.d"
    if drop_ins.is_dir():
        require_roots(drop_ins)
        for file in sorted(drop_ins.glob("*.toml")):
            require_roots(file)
    config = load_config(files, switches=False)  # those are not root's
    table = config.plugins.get(plugin)
    if table is None or table.isolation is not Isolation.UNIT or not table.enabled:
        raise ConfigError(f'{files}: [plugins.{plugin}] does not say isolation = "unit"; only root\'s config grants it')
    return Grant(table.unit, config.node.runtime_dir or settings.runtime_dir)


def require_roots_code(spec: bytes) -> None:
    """Raise ConfigError if the code that *spec* names could have been written by others than root.

    Else whoever has taken over the core's account could run code of its own as any unit's user.
    """
    try:
        source = _decode_spec(spec).source
    except (msgspec.MsgspecError, RecursionError):
        raise ConfigError("the spec is none of ours") from None
    if source.kind != "drop-in":  # installed beside the daemon's own code, and loaded by name from there
        return
    path = Path(source.path)
    require_roots(path)
    for inner in path.rglob("*") if path.is_dir() else ():
        require_roots(inner)
