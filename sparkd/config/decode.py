"""From TOML values to a dataclass, with every problem found and named at once.

msgspec converts the leaves. The walk above them is ours, because msgspec stops at the first error, knows no unknown
keys of dataclasses, does not list the choices, and lets `inf` through a limit (measured with msgspec 0.22).
"""

from __future__ import annotations

import dataclasses
import difflib
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, TypeVar, get_type_hints

import msgspec
from msgspec import inspect as kinds

from sparkd.config.secret import Secret, resolve
from sparkd.errors import ConfigError

C = TypeVar("C")
Origins = Mapping[str, str]
"""The file that each top-level key of a table came from."""

_WRONG = object()
_NAMES = {
    kinds.StrType: "text",
    kinds.IntType: "a whole number",
    kinds.FloatType: "a number",
    kinds.BoolType: "true or false",
    kinds.ListType: "a list",
    kinds.DictType: "a table",
    kinds.DataclassType: "a table",
}
_TOML = {str: "text", bool: "true or false", int: "a whole number", float: "a number", list: "a list", dict: "a table"}


def decode_table(
    cls: type[C], table: Mapping[str, Any], *, where: str, origins: Origins | None = None, file: str = ""
) -> C:
    """Return *table* as *cls*. Raises ConfigError with one sentence for each problem.

    *where* is the table's name in the config, such as `plugins.power-monitor`; *origins*, or else *file*, say which
    file a key came from.
    """
    decoder = _Decoder(where, origins or {}, file)
    value = decoder.dataclass(cls, table, ())
    if decoder.problems:
        raise ConfigError(*decoder.problems)
    return value  # type: ignore[no-any-return] # built by cls itself


def nearest(name: str, known: Iterable[str]) -> str:
    """Return a sentence that names what *name* may have been meant to be, or the choices."""
    choices = sorted(known)
    close = difflib.get_close_matches(name, choices, n=1, cutoff=0.6)
    if close:
        return f"did you mean {close[0]!r}?"
    return f"known: {', '.join(choices) or 'none'}"


class _Decoder:
    """One walk over one table."""

    def __init__(self, where: str, origins: Origins, file: str) -> None:
        self.problems: list[str] = []
        self._where, self._origins, self._file = where, origins, file

    def wrong(self, path: tuple[str, ...], sentence: str) -> Any:
        file = self._origins.get(path[0], self._file) if path else self._file
        key = "".join(part if part.startswith("[") else f".{part}" for part in path).removeprefix(".")
        place = f"{file}: " if file else ""
        self.problems.append(f"{place}[{self._where}]{' ' + key if key else ''}: {sentence}")
        return _WRONG

    def dataclass(self, cls: type[Any], value: Any, path: tuple[str, ...]) -> Any:
        if not isinstance(value, Mapping):
            return self._mismatch("a table", value, path)
        info = msgspec.inspect.type_info(cls)
        assert isinstance(info, kinds.DataclassType)  # noqa: S101 - callers pass dataclasses
        known = {field.name: field for field in info.fields}
        for key in value:
            if key not in known:
                self.wrong((*path, key), f"unknown key; {nearest(key, known)}")
        made, before = {}, len(self.problems)
        for name, field in known.items():
            if name in value:
                made[name] = self.any(field.type, value[name], (*path, name))
            elif field.required:
                self.wrong((*path, name), f"is missing; {_expected(field.type)} expected")
        if len(self.problems) > before or any(item is _WRONG for item in made.values()):
            return _WRONG
        try:
            return cls(**made)
        except ValueError as error:
            key, colon, rest = str(error).partition(": ")
            return self.wrong((*path, key), rest) if colon and key in known else self.wrong(path, str(error))

    def any(self, kind: kinds.Type, value: Any, path: tuple[str, ...]) -> Any:  # noqa: PLR0911 - a dispatch table
        match kind:
            case kinds.DataclassType(cls=cls):
                return self.dataclass(cls, value, path)
            case kinds.DictType():
                return self._dict(kind, value, path)
            case kinds.ListType() | kinds.VarTupleType():
                return self._list(kind, value, path)
            case kinds.EnumType() | kinds.LiteralType():
                return self._choice(kind, value, path)
            case kinds.CustomType(cls=cls):
                return self._custom(cls, value, path)
            case kinds.UnionType(types=types):
                return self._union([t for t in types if not isinstance(t, kinds.NoneType)], value, path)
        return self._leaf(kind, value, path)

    def _dict(self, kind: kinds.DictType, value: Any, path: tuple[str, ...]) -> Any:
        if not isinstance(value, Mapping):
            return self._mismatch("a table", value, path)
        return {key: self.any(kind.value_type, item, (*path, key)) for key, item in value.items()}

    def _list(self, kind: Any, value: Any, path: tuple[str, ...]) -> Any:
        if not isinstance(value, list):
            return self._mismatch("a list", value, path)
        items = [self.any(kind.item_type, item, (*path, f"[{n}]")) for n, item in enumerate(value)]
        return items if isinstance(kind, kinds.ListType) else tuple(items)

    def _choice(self, kind: Any, value: Any, path: tuple[str, ...]) -> Any:
        choices = [member.value for member in kind.cls] if isinstance(kind, kinds.EnumType) else list(kind.values)
        if value not in choices or isinstance(value, bool) is not isinstance(choices[0], bool):
            listed = ", ".join(sorted(repr(choice) for choice in choices))
            return self.wrong(path, f"got {_shown(value)}; one of {listed} expected")
        return kind.cls(value) if isinstance(kind, kinds.EnumType) else value

    def _custom(self, cls: type[Any], value: Any, path: tuple[str, ...]) -> Any:
        if cls is Secret:
            try:
                return resolve(value)
            except ValueError as error:
                return self.wrong(path, str(error))
        if not isinstance(value, str):
            return self._mismatch("a path" if cls is Path else "text", value, path)
        return cls(value)

    def _union(self, types: list[kinds.Type], value: Any, path: tuple[str, ...]) -> Any:
        if len(types) == 1:
            return self.any(types[0], value, path)
        for kind in types:
            attempt = _Decoder(self._where, self._origins, self._file)
            made = attempt.any(kind, value, path)
            if not attempt.problems:
                return made
        return self._mismatch(" or ".join(_expected(kind) for kind in types), value, path)

    def _leaf(self, kind: kinds.Type, value: Any, path: tuple[str, ...]) -> Any:
        if isinstance(value, float) and not math.isfinite(value):
            return self.wrong(path, f"got {value}; a finite number expected")
        if isinstance(kind, kinds.AnyType | kinds.RawType):
            return value
        plain = _PLAIN.get(type(kind))
        try:
            return msgspec.convert(value, plain) if plain and not _limited(kind) else _convert(value, kind)
        except (msgspec.ValidationError, TypeError) as error:
            limit = f" ({error})" if _limited(kind) else ""
            return self._mismatch(_expected(kind), value, path, limit)

    def _mismatch(self, expected: str, value: Any, path: tuple[str, ...], more: str = "") -> Any:
        return self.wrong(path, f"got {_shown(value)}; {expected} expected{more}")


_PLAIN: dict[type[kinds.Type], Any] = {
    kinds.StrType: str,
    kinds.IntType: int,
    kinds.FloatType: float,
    kinds.BoolType: bool,
    kinds.BytesType: bytes,
}


def _limited(kind: kinds.Type) -> bool:
    return any(getattr(kind, name, None) is not None for name in ("gt", "ge", "lt", "le", "pattern", "min_length"))


def _convert(value: Any, kind: kinds.Type) -> Any:
    plain = _PLAIN.get(type(kind))
    if plain is None:
        raise TypeError(f"a config field cannot be of the kind {type(kind).__name__}")
    names = ("gt", "ge", "lt", "le", "multiple_of", "pattern", "min_length", "max_length")
    limits = {name: getattr(kind, name) for name in names if getattr(kind, name, None) is not None}
    return msgspec.convert(value, _annotated(plain, limits))


def _annotated(plain: Any, limits: dict[str, Any]) -> Any:
    return Annotated[plain, msgspec.Meta(**limits)]


def _expected(kind: kinds.Type) -> str:
    if isinstance(kind, kinds.CustomType):
        return "a secret's name" if kind.cls is Secret else "a path" if kind.cls is Path else "text"
    if isinstance(kind, kinds.UnionType):
        return " or ".join(_expected(t) for t in kind.types if not isinstance(t, kinds.NoneType))
    return _NAMES.get(type(kind), type(kind).__name__)


def _shown(value: Any) -> str:
    """Return what was got, short, and never the inside of a table (a secret may be in it)."""
    if isinstance(value, dict | list):
        return _TOML[type(value)]
    text = repr(value)
    kind = _TOML.get(type(value), type(value).__name__)
    return f"{text[:60]} ({kind})"


def config_schema(cls: type[Any]) -> dict[str, Any]:
    """Return the JSON Schema of a config dataclass, defaults included."""
    schema = msgspec.json.schema(_sayable(cls), schema_hook=_hook)
    properties = schema.get("$defs", {}).get(cls.__name__, {}).get("properties", {})
    for field in dataclasses.fields(cls):
        if field.name in properties and field.default is not dataclasses.MISSING:
            properties[field.name]["default"] = _json(field.default)
    return schema


def _sayable(cls: type[Any]) -> type[Any]:
    """Return a struct of the same fields: msgspec fails on a default, such as a Path, that has no JSON form."""
    types = get_type_hints(cls, include_extras=True)
    fields: list[tuple[str, Any] | tuple[str, Any, Any]] = []
    for field in dataclasses.fields(cls):
        kind = types[field.name]
        if isinstance(field.default, str | int | float | None):
            fields.append((field.name, kind, field.default))
        elif field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
            fields.append((field.name, kind))
        else:
            fields.append((field.name, kind | None, None))
    return msgspec.defstruct(cls.__name__, fields, kw_only=True, namespace={"__doc__": cls.__doc__})


def _hook(kind: type[Any]) -> dict[str, Any]:
    if kind is Secret:
        ways = {"credential": {"type": "string"}, "file": {"type": "string"}, "env": {"type": "string"}}
        return {"type": "object", "properties": ways, "maxProperties": 1, "minProperties": 1}
    return {"type": "string"}


def _json(value: Any) -> Any:
    return value if isinstance(value, str | int | float | bool | type(None)) else str(value)
