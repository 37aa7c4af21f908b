"""The OpenRPC document that `rpc.discover` returns, made from manifests. Pure; https://spec.open-rpc.org."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sparkd.rpc.jsonrpc import CODES
from sparkd.service import Manifest, MethodManifest

OPENRPC_VERSION = "1.3.2"
_DEFINITIONS, _COMPONENTS = "#/$defs/", "#/components/schemas/"


def document(manifests: Sequence[Manifest], *, node: str, version: str) -> dict[str, Any]:
    """Return the description of every method that can be called on *node*."""
    schemas: dict[str, Any] = {}
    services: dict[str, list[str]] = {}
    described: dict[str, dict[str, Any]] = {}
    for manifest in manifests:
        for interface in manifest.serves:
            for method in interface.methods:
                name = f"{interface.name}.{method.name}"
                services.setdefault(name, []).append(manifest.name)
                if name not in described:
                    described[name] = _method(name, method, schemas)
    for name, entry in described.items():
        entry["x-services"] = services[name]
    return {
        "openrpc": OPENRPC_VERSION,
        "info": {"title": f"sparkd on {node}", "version": version},
        "methods": [described[name] for name in sorted(described)],
        "components": {"schemas": schemas, "errors": _errors()},
    }


def _method(name: str, method: MethodManifest, schemas: dict[str, Any]) -> dict[str, Any]:
    params = _resolve(method.params, name, schemas)
    required = params.get("required", [])
    properties = params.get("properties", {})
    return {
        "name": name,
        "summary": method.summary,
        "paramStructure": "by-name",
        "params": [
            {"name": field, "required": field in required, "schema": schema}
            for field, schema in sorted(properties.items(), key=lambda item: item[0] not in required)
        ],
        "result": {
            "name": "item" if method.stream in {"out", "both"} else "result",
            "schema": _moved(method.result, name, schemas),
        },
        "errors": [{"$ref": f"#/components/errors/{kind}"} for kind in CODES],
        "x-reads": method.reads,
        "x-stream": method.stream,
    }


def _resolve(schema: dict[str, Any], name: str, schemas: dict[str, Any]) -> dict[str, Any]:
    """Return the object schema of the parameters of *name* itself, not a reference to it."""
    definitions = schema.get("$defs", {})
    own = schema.get("$ref", "").removeprefix(_DEFINITIONS)
    if own in definitions:
        rest = {key: value for key, value in definitions.items() if key != own}
        schema = {**definitions[own], "$defs": rest}
    return _moved(schema, name, schemas)


def _moved(schema: dict[str, Any], name: str, schemas: dict[str, Any]) -> dict[str, Any]:
    """Return *schema* with its definitions moved to *schemas*; a name taken by another type gets a prefix."""
    definitions = schema.get("$defs", {})
    renamed: dict[str, str] = {}
    for key in definitions:
        taken = key in schemas and schemas[key] != _pointed(definitions[key], {})
        renamed[key] = f"{name}.{key}" if taken else key
    for key, definition in definitions.items():
        schemas[renamed[key]] = _pointed(definition, renamed)
    moved: dict[str, Any] = _pointed({key: value for key, value in schema.items() if key != "$defs"}, renamed)
    return moved


def _pointed(schema: Any, renamed: dict[str, str]) -> Any:
    if isinstance(schema, list):
        return [_pointed(item, renamed) for item in schema]
    if not isinstance(schema, dict):
        return schema
    pointed = {key: _pointed(value, renamed) for key, value in schema.items()}
    reference = schema.get("$ref")
    if isinstance(reference, str) and reference.startswith(_DEFINITIONS):
        key = reference.removeprefix(_DEFINITIONS)
        pointed["$ref"] = _COMPONENTS + renamed.get(key, key)
    return pointed


def _errors() -> dict[str, Any]:
    return {kind.value: {"code": code, "message": kind.value} for kind, code in CODES.items()}
