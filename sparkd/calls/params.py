"""Why parameters do not fit a method, said so that the caller can mend them."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Any

import msgspec

from sparkd.codec import MALFORMED, Buffer
from sparkd.errors import CallError, CallErrorKind
from sparkd.interfaces import MethodSpec


def did_you_mean(name: str, choices: Iterable[str]) -> str:
    """Return ` Did you mean 'x'?`, or what there is if nothing is near; nothing if there is nothing."""
    known = sorted(choices)
    near = difflib.get_close_matches(name, known, n=1)
    if near:
        return f" Did you mean {near[0]!r}?"
    return f" There are: {', '.join(known)}." if known else ""


def explain(method: str, spec: MethodSpec, body: Buffer, error: Exception, *, json: bool) -> CallError:
    """Return the error for parameters that could not be decoded because of *error*; it names the field if it can."""
    try:
        given: Any = msgspec.json.decode(body) if json else msgspec.msgpack.decode(body)
    except MALFORMED as malformed:
        return _invalid(f"{method}: the parameters cannot be read: {malformed}", field="")
    if not isinstance(given, dict):
        return _invalid(f"{method}: parameters go by name, in an object; got {type(given).__name__}", field="")
    fields = {field.encode_name: field for field in msgspec.structs.fields(spec.params)}
    for name in given:
        if name not in fields:
            hint = did_you_mean(str(name), fields) if fields else " It takes none."
            return _invalid(f"{method}: unknown parameter {name!r}.{hint}", field=str(name))
    for name, field in fields.items():
        if field.required and name not in given:
            return _invalid(f"{method}: parameter {name!r} is missing", field=name)
        problem = _problem(given.get(name, msgspec.UNSET), field.type)
        if problem:
            return _invalid(f"{method}: parameter {name!r}: {problem}", field=name)
    return _invalid(f"{method}: {error}", field="")


def _problem(value: Any, kind: Any) -> str:
    if value is msgspec.UNSET:
        return ""
    try:
        msgspec.convert(value, kind, str_keys=True)
    except MALFORMED as error:
        return str(error)
    return ""


def _invalid(message: str, *, field: str) -> CallError:
    return CallError(CallErrorKind.INVALID_PARAMS, message, field=field)
