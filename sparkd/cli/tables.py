"""Check every plugin the config wants, and its table, without starting any of it.

Plugin code is imported in throw-away children of a zygote, as the daemon does it: one that hangs or crashes costs
itself. Nothing is written but a temporary folder, so root may check what another user runs.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any

import anyio
import msgspec

from sparkd.config import Config, Places, PluginTable, decode_table, nearest
from sparkd.errors import ConfigError
from sparkd.registry import (
    ManifestCache,
    PluginSource,
    ProbeResult,
    Registry,
    SourceKind,
    discover,
    load_service,
    probe_main,
)
from sparkd.zygote import Zygote

LIMIT_S = 10.0
"""As long as a probe may take: both do little more than import the plugin."""


class _TableOrder(msgspec.Struct, frozen=True):
    source: PluginSource
    services: list[str]
    table: dict[str, Any]
    origin: str
    origins: dict[str, str]


_decode_order = msgspec.msgpack.Decoder(_TableOrder).decode
_decode_problems = msgspec.msgpack.Decoder(list[str]).decode


def check_plugins(config: Config, places: Places) -> list[str]:
    """Return what is wrong with the plugins that *config* wants and with their tables, one sentence each."""
    zygote = Zygote.fork({"probe": probe_main, "table": table_main})
    return anyio.run(_check, zygote, config, places)


async def _check(zygote: Zygote, config: Config, places: Places) -> list[str]:
    def is_wanted(source: PluginSource) -> bool:
        table = config.plugins.get(source.name)
        return source.kind is SourceKind.DROP_IN if table is None else table.enabled

    with tempfile.TemporaryDirectory(prefix="sparkd-check-") as cache:
        async with zygote.attach():
            registry = Registry(zygote, folders=places.plugins, cache=ManifestCache(Path(cache)))
            results = await registry.read(is_wanted)
            problems: list[str] = [f"plugin {r.source.name}: {r.failure}" for r in results if r.failure is not None]
            for result in results:
                if result.failure is None:
                    problems += await _check_table(zygote, result, config.plugins.get(result.source.name))
    return [*problems, *_absent(config, places)]


def _absent(config: Config, places: Places) -> list[str]:
    """Return a sentence for each table whose plugin is nowhere: a misspelt name, or a wheel that is not installed."""
    found = discover(places.plugins)
    there = {source.name for source in found.sources} | {result.source.name for result in found.refused}
    return [
        f"{table.origin}: [plugins.{name}]: there is no plugin of that name; {nearest(name, there)}"
        for name, table in config.plugins.items()
        if table.enabled and name not in there
    ]


async def _check_table(zygote: Zygote, result: ProbeResult, table: PluginTable | None) -> list[str]:
    table = table or PluginTable()
    names = [manifest.name for manifest in result.manifests]
    order = _TableOrder(result.source, names, table.table, table.origin, dict(table.origins))
    where = f"[plugins.{result.source.name}]"
    try:
        child = await zygote.spawn("table", msgspec.msgpack.encode(order), name=f"?{result.source.name}")
    except OSError as error:
        return [f"{where}: no process to check it in: {error}"]
    with anyio.move_on_after(LIMIT_S):
        how = await child.wait()
        try:
            return _decode_problems(await child.result())
        except (msgspec.MsgspecError, ValueError):
            return [f"{where}: the check ended with {how}"]
    child.kill()
    return [f"{where}: the check did not end within {LIMIT_S:g} s"]


def table_main(spec: bytes, result_fd: int) -> int:
    """Be the throw-away child: decode the table as each service would, and write the problems to *result_fd*."""
    order = _decode_order(spec)
    problems: list[str] = []
    for name in order.services:
        try:
            cls = load_service(order.source, name).config
            where = f"plugins.{order.source.name}"
            decode_table(cls, order.table, where=where, origins=order.origins, file=order.origin)
        except ConfigError as error:
            problems += error.problems
        except Exception as error:  # noqa: BLE001 - a plugin may raise anything
            problems.append(f"[plugins.{order.source.name}]: {type(error).__name__}: {error}")
    os.write(result_fd, msgspec.msgpack.encode(list(dict.fromkeys(problems))))
    return 0
