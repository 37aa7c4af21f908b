"""From TOML values to a dataclass, with every problem found and named at once.

msgspec converts the leaves. The walk above them is ours, because msgspec stops at the first error, knows no unknown
keys of dataclasses, does not list the choices, and lets `inf` through a limit (measured with msgspec 0.22).
"""

from __future__ import annotations

import datetime as dt
import difflib
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, TypeVar

import msgspec
from msgspec import inspect as kinds

from sparkd.config.secret import looks_secret, resolve
from sparkd.config.tables import PLUGIN_KEYS
from sparkd.errors import ConfigError
from sparkd.secret import Secret

C = TypeVar("C")
Origins = Mapping[str, str]
"""The file that each key of a table came from; a key of a table within has a dotted name."""

_WRONG = object()
_NAMES = {
    kinds.StrType: "text",
    kinds.IntType: "a whole number",
    kinds.FloatType: "a number",
    kinds.BoolType: "true or false",
    kinds.ListType: "a list",
    kinds.VarTupleType: "a list",
    kinds.SetType: "a list",
    kinds.FrozenSetType: "a list",
    kinds.DateTimeType: "a date and time",
    kinds.DateType: "a date",
    kinds.TimeType: "a time of day",
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
        file = self._file_of(path)
        key = "".join(part if part.startswith("[") else f".{part}" for part in path).removeprefix(".")
        place = f"{file}: " if file else ""
        self.problems.append(f"{place}[{self._where}]{' ' + key if key else ''}: {sentence}")
        return _WRONG

    def _file_of(self, path: tuple[str, ...]) -> str:
        for end in range(len(path), 0, -1):
            file = self._origins.get(".".join(path[:end]))
            if file is not None:
                return file
        return self._file

    def dataclass(self, cls: type[Any], value: Any, path: tuple[str, ...]) -> Any:
        if not isinstance(value, Mapping):
            return self._mismatch("a table", value, path)
        info = msgspec.inspect.type_info(cls)
        assert isinstance(info, kinds.DataclassType)  # noqa: S101 - callers pass dataclasses
        known = {field.name: field for field in info.fields}
        for key in value:
            if key not in known:
                choices = {*known, *PLUGIN_KEYS} if self._where.startswith("plugins.") and not path else known
                self.wrong((*path, key), f"unknown key; {nearest(key, choices)}")
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
            if colon and key.partition(".")[0] in known:
                return self.wrong((*path, *key.split(".")), rest)
            return self.wrong(path, str(error))

    def any(self, kind: kinds.Type, value: Any, path: tuple[str, ...]) -> Any:  # noqa: PLR0911 - a dispatch table
        match kind:
            case kinds.Metadata(type=inner):
                return self.any(inner, value, path)
            case kinds.DataclassType(cls=cls):
                return self.dataclass(cls, value, path)
            case kinds.DictType():
                return self._dict(kind, value, path)
            case kinds.CollectionType() | kinds.TupleType():
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
        found = {}
        for key, item in value.items():
            name = self.any(kind.key_type, key, (*path, key))
            made = self.any(kind.value_type, item, (*path, key))
            if name is not _WRONG:
                found[name] = made
        return found

    def _list(self, kind: Any, value: Any, path: tuple[str, ...]) -> Any:
        if not isinstance(value, list):
            return self._mismatch("a list", value, path)
        if isinstance(kind, kinds.TupleType):
            of, least, most = kind.item_types, len(kind.item_types), len(kind.item_types)
        else:
            of, least, most = (kind.item_type,) * len(value), kind.min_length, kind.max_length
        if len(value) < (least or 0) or (most is not None and len(value) > most):
            return self.wrong(path, f"got {len(value)} entries; {_count(least, most)} expected")
        before = len(self.problems)
        items = [self.any(of[n], item, (*path, f"[{n}]")) for n, item in enumerate(value)]
        return _COLLECTIONS.get(type(kind), list)(items) if len(self.problems) == before else _WRONG

    def _choice(self, kind: Any, value: Any, path: tuple[str, ...]) -> Any:
        choices = [member.value for member in kind.cls] if isinstance(kind, kinds.EnumType) else list(kind.values)
        if value not in choices or isinstance(value, bool) is not isinstance(choices[0], bool):
            listed = ", ".join(sorted(repr(choice) for choice in choices))
            return self._mismatch(f"one of {listed}", value, path)
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
        native = _NATIVE.get(type(kind))
        if native is not None:
            return self._native(native, kind, value, path)
        plain = _PLAIN.get(type(kind))
        try:
            return msgspec.convert(value, plain) if plain and not _limited(kind) else _convert(value, kind)
        except (msgspec.ValidationError, TypeError) as error:
            limit = f" ({error})" if _limited(kind) else ""
            return self._mismatch(_expected(kind), value, path, limit)

    def _native(self, native: type[Any], kind: kinds.Type, value: Any, path: tuple[str, ...]) -> Any:
        """Return a date or time; one that came through a child's spec is text by now."""
        if type(value) is native:
            return value
        try:
            return msgspec.convert(value if isinstance(value, str) else None, native)
        except msgspec.ValidationError:
            return self._mismatch(_expected(kind), value, path)

    def _mismatch(self, expected: str, value: Any, path: tuple[str, ...], more: str = "") -> Any:
        if any(looks_secret(part) for part in path):
            return self.wrong(path, f"got something else; {expected} expected")
        return self.wrong(path, f"got {_shown(value)}; {expected} expected{more}")


_COLLECTIONS: dict[type[kinds.Type], type[Any]] = {
    kinds.VarTupleType: tuple,
    kinds.TupleType: tuple,
    kinds.SetType: set,
    kinds.FrozenSetType: frozenset,
}
_NATIVE: dict[type[kinds.Type], type[Any]] = {
    kinds.DateTimeType: dt.datetime,
    kinds.DateType: dt.date,
    kinds.TimeType: dt.time,
}
_PLAIN: dict[type[kinds.Type], Any] = {
    kinds.StrType: str,
    kinds.IntType: int,
    kinds.FloatType: float,
    kinds.BoolType: bool,
    kinds.BytesType: bytes,
}


_LIMITS = ("gt", "ge", "lt", "le", "multiple_of", "pattern", "min_length", "max_length")


def _limited(kind: kinds.Type) -> bool:
    return any(getattr(kind, name, None) is not None for name in _LIMITS)


def _count(least: int | None, most: int | None) -> str:
    if least == most:
        return f"exactly {least}"
    if most is None:
        return f"{least} or more"
    return f"{least or 0} to {most}"


def _convert(value: Any, kind: kinds.Type) -> Any:
    plain = _PLAIN.get(type(kind))
    if plain is None:
        raise TypeError(f"a config field cannot be of the kind {type(kind).__name__}")
    limits = {name: getattr(kind, name) for name in _LIMITS if getattr(kind, name, None) is not None}
    return msgspec.convert(value, _annotated(plain, limits))


def _annotated(plain: Any, limits: dict[str, Any]) -> Any:
    return Annotated[plain, msgspec.Meta(**limits)]


def _expected(kind: kinds.Type) -> str:
    if isinstance(kind, kinds.CustomType):
        return "a secret's name" if kind.cls is Secret else "a path" if kind.cls is Path else "text"
    if isinstance(kind, kinds.Metadata):
        return (kind.extra_json_schema or {}).get("description") or _expected(kind.type)
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
