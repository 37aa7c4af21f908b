"""The JSON Schema of a config dataclass: types, limits, defaults, and what its docstrings say.

Made from msgspec's description of the types instead of by msgspec, which gives up on a default that JSON has no type
for, such as a path, and knows neither the docstrings of fields nor our secrets.
"""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections.abc import Mapping
from pathlib import PurePath
from typing import Any

import msgspec
from msgspec import inspect as kinds

from sparkd.config.tables import PLUGIN_KEYS
from sparkd.secret import Secret

_SECRET = {
    "type": "object",
    "description": "A secret's name; the secret itself is never written here.",
    "properties": {"credential": {"type": "string"}, "file": {"type": "string"}, "env": {"type": "string"}},
    "additionalProperties": False,
    "minProperties": 1,
    "maxProperties": 1,
    "writeOnly": True,
}
_LEAVES: dict[type[kinds.Type], dict[str, Any]] = {
    kinds.AnyType: {},
    kinds.NoneType: {"type": "null"},
    kinds.BoolType: {"type": "boolean"},
    kinds.IntType: {"type": "integer"},
    kinds.FloatType: {"type": "number"},
    kinds.StrType: {"type": "string"},
    kinds.DateTimeType: {"type": "string", "format": "date-time"},
    kinds.DateType: {"type": "string", "format": "date"},
    kinds.TimeType: {"type": "string", "format": "time"},
}
_LIMITS = {
    "gt": "exclusiveMinimum",
    "ge": "minimum",
    "lt": "exclusiveMaximum",
    "le": "maximum",
    "multiple_of": "multipleOf",
    "pattern": "pattern",
    "min_length": "minLength",
    "max_length": "maxLength",
}


def config_schema(cls: type[Any]) -> dict[str, Any]:
    """Return the JSON Schema of *cls*. Raises TypeError, naming the field, for one that no table can hold."""
    info = msgspec.inspect.type_info(cls)
    if not isinstance(info, kinds.DataclassType):
        raise TypeError(f"{cls.__name__} is not a dataclass")
    for field in info.fields:
        if field.name in PLUGIN_KEYS:
            raise TypeError(f"config field {field.name!r} has the name of a key that every plugin's table has")
    return _table(info)


def _table(info: kinds.DataclassType) -> dict[str, Any]:
    said = field_docs(info.cls)
    properties = {}
    for field in info.fields:
        if isinstance(field.type, kinds.NoneType):
            continue  # TOML cannot say it
        try:
            schema = _of(field.type)
        except TypeError as error:
            raise TypeError(f"config field {field.name!r} has no schema: {error}") from error
        doc = {"description": said[field.name]} if field.name in said else {}
        properties[field.name] = schema | doc | _default(field)
    table: dict[str, Any] = {"title": info.cls.__name__, "type": "object"}
    if info.cls.__doc__:
        table["description"] = inspect.getdoc(info.cls)
    required = [field.name for field in info.fields if field.required]
    return table | {"properties": properties, "required": required, "additionalProperties": False}


def _of(kind: kinds.Type) -> dict[str, Any]:  # noqa: PLR0911 - a dispatch table
    match kind:
        case kinds.Metadata(type=inner, extra_json_schema=extra):
            return _of(inner) | (extra or {})
        case kinds.DataclassType():
            return _table(kind)
        case kinds.DictType(value_type=inner):
            return {"type": "object", "additionalProperties": _of(inner)}
        case kinds.TupleType(item_types=types):
            return {"type": "array", "prefixItems": [_of(t) for t in types], "items": False, "minItems": len(types)}
        case kinds.CollectionType(item_type=inner, min_length=least, max_length=most):
            bounds = {"minItems": least, "maxItems": most}
            return {"type": "array", "items": _of(inner)} | {key: n for key, n in bounds.items() if n is not None}
        case kinds.UnionType(types=types):
            return {"anyOf": [_of(t) for t in types]}
        case kinds.EnumType(cls=cls):
            return {"enum": [member.value for member in cls]}
        case kinds.LiteralType(values=values):
            return {"enum": list(values)}
        case kinds.CustomType(cls=cls):
            return _custom(cls)
    return _leaf(kind)


def _leaf(kind: kinds.Type) -> dict[str, Any]:
    if type(kind) not in _LEAVES:
        raise TypeError(f"a table cannot hold a {type(kind).__name__.removesuffix('Type').lower()}")
    limits = {said: getattr(kind, name) for name, said in _LIMITS.items() if getattr(kind, name, None) is not None}
    return _LEAVES[type(kind)] | limits


def secret_keys(schema: Any) -> set[str]:
    """Return the names of the keys that hold a secret, at whatever depth of a table with this *schema*."""
    if isinstance(schema, list):
        return {key for item in schema for key in secret_keys(item)}
    if not isinstance(schema, Mapping):
        return set()
    found = {name for name, held in schema.get("properties", {}).items() if _holds_secret(held)}
    return found.union(*(secret_keys(item) for item in schema.values()))


def _holds_secret(schema: Mapping[str, Any]) -> bool:
    ways = (schema, schema.get("items"), schema.get("additionalProperties"), *schema.get("anyOf", ()))
    return any(isinstance(way, Mapping) and bool(way.get("writeOnly")) for way in ways)


def _custom(cls: type[Any]) -> dict[str, Any]:
    if cls is Secret:
        return _SECRET
    if isinstance(cls, type) and issubclass(cls, PurePath):
        return {"type": "string", "format": "path"}
    raise TypeError(f"a table cannot hold a {getattr(cls, '__name__', cls)}")


def field_docs(cls: type[Any]) -> dict[str, str]:
    """Return the docstring that follows each field in the source of *cls*; nothing where there is no source."""
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(cls)))
    except (OSError, TypeError, SyntaxError):
        return {}
    found, name = {}, ""
    for node in tree.body[0].body if isinstance(tree.body[0], ast.ClassDef) else ():
        match node:
            case ast.AnnAssign(target=ast.Name(id=field)):
                name = field
            case ast.Expr(value=ast.Constant(value=str(text))) if name:
                found[name], name = " ".join(text.split()), ""
            case _:
                name = ""
    return found


def _default(field: kinds.Field) -> dict[str, Any]:
    if field.default is not msgspec.NODEFAULT:
        value = field.default
    elif field.default_factory is not msgspec.NODEFAULT:
        value = field.default_factory()
    else:
        return {}
    return {"default": msgspec.json.decode(msgspec.json.encode(value, enc_hook=str))}
