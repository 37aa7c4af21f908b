"""Whether manifests that came from another process, or from disk, can be those of a plugin. No I/O here.

The process that wrote them has run the plugin's code, so what `validate` checked there is no more than its word. Here
it is checked that everything has the shape that the rest of the core relies on, whatever it says.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from typing import Any

from sparkd.events import TOPIC
from sparkd.registry.validate import RESERVED, VERBS
from sparkd.service import NAME, InterfaceManifest, Manifest, Route

MAX_SERVICES = 64
MAX_NAME_CHARS = 100
MAX_DEPTH = 60
"""Of a schema: `rpc.discover` and `config.show` walk them, in Python."""
_METHOD = re.compile(r"[a-zA-Z][a-zA-Z0-9_]*")


def fault_of(manifests: Sequence[Manifest], plugin: str) -> str:
    """Return what is wrong with the *manifests* of *plugin*, in one sentence; nothing if they can be used."""
    if not 0 < len(manifests) <= MAX_SERVICES:
        return f"{len(manifests)} services; 1 to {MAX_SERVICES} expected"
    if len({manifest.name for manifest in manifests}) < len(manifests):
        return "two services of one name"
    return next((fault for manifest in manifests if (fault := _fault(manifest, plugin))), "")


def _fault(manifest: Manifest, plugin: str) -> str:
    where = f"service {manifest.name[:MAX_NAME_CHARS]!r}"
    if manifest.plugin != plugin:
        return f"{where} says it is of plugin {manifest.plugin[:MAX_NAME_CHARS]!r}"
    if not _is_name(manifest.name) or manifest.name in RESERVED:
        return f"{where}: no name for a service"
    if not 0 < manifest.start_limit_s < math.inf:
        return f"{where}: start_limit_s is {manifest.start_limit_s}"
    faults = (_schema_fault(manifest), *map(_interface_fault, manifest.serves), *map(_route_fault, manifest.routes))
    return next((f"{where}: {fault}" for fault in faults if fault), "")


def _schema_fault(manifest: Manifest) -> str:
    for topic in (*manifest.publishes, *manifest.states, *manifest.reads):
        if not TOPIC.fullmatch(topic):
            return f"topic {topic[:MAX_NAME_CHARS]!r}"
    return "" if is_schema(manifest.config_schema) else "the schema of its config is none"


def _route_fault(route: Route) -> str:
    if route.verb in VERBS and route.path.startswith("/") and 0 <= route.cache_s < math.inf:
        return ""
    return f"route {route.verb[:MAX_NAME_CHARS]} {route.path[:MAX_NAME_CHARS]}"


def _interface_fault(interface: InterfaceManifest) -> str:
    if not _is_name(interface.name):
        return f"interface {interface.name[:MAX_NAME_CHARS]!r}"
    for method in interface.methods:
        if len(method.name) > MAX_NAME_CHARS or not _METHOD.fullmatch(method.name):
            return f"method {method.name[:MAX_NAME_CHARS]!r} of interface {interface.name!r}"
        if not is_schema(method.params) or not is_schema(method.result):
            return f"the schema of {interface.name}.{method.name} is none"
    return ""


def _is_name(name: str) -> bool:
    return len(name) <= MAX_NAME_CHARS and NAME.fullmatch(name) is not None


def is_schema(value: Any) -> bool:
    """Whether *value* has the shape of a JSON Schema as far as the core looks into it."""
    return isinstance(value, dict) and _depth(value) <= MAX_DEPTH and _is_schema(value)


def _is_schema(value: Any) -> bool:
    """Check that all is JSON, and the members that are walked; *value* is not nested too deeply for that."""
    if isinstance(value, list):
        return all(map(_is_schema, value))
    if not isinstance(value, dict):
        return value is None or isinstance(value, str | int) or (isinstance(value, float) and math.isfinite(value))
    for key in ("properties", "$defs"):
        held = value.get(key, {})
        if not isinstance(held, dict) or not all(isinstance(item, dict) for item in held.values()):
            return False
    if not all(isinstance(key, str) for key in value) or not isinstance(value.get("anyOf", []), list):
        return False
    required, reference = value.get("required", []), value.get("$ref", "")
    if not isinstance(required, list) or not all(isinstance(name, str) for name in required):
        return False
    return isinstance(reference, str) and all(map(_is_schema, value.values()))


def _depth(value: Any) -> int:
    """Return how deeply *value* is nested, or more than `MAX_DEPTH` if it is deeper than that."""
    level: Iterable[Any] = [value]
    for depth in range(MAX_DEPTH + 2):
        level = [item for held in level for item in _inside(held)]
        if not level:
            return depth
    return MAX_DEPTH + 1


def _inside(value: Any) -> Iterable[Any]:
    if isinstance(value, dict):
        return value.values()
    return value if isinstance(value, list) else ()
