"""What is recorded of one call, and the form of a line of the trail. Pure."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import msgspec

from sparkd.codec import MALFORMED
from sparkd.config.secret import looks_secret
from sparkd.config.show import HIDDEN

MAX_PARAMS_BYTES = 16 << 10
"""Larger parameters are not looked into, only their size is recorded."""
MAX_TEXT_CHARS = 64
"""Of one text among the parameters: enough for a name, too little for a transcript or a prompt."""
MAX_ITEMS = 20
MAX_DEPTH = 4
MAX_NAME_CHARS = 200
NO_HASH = "0" * 64
"""What the first line of all carries for the hash of the line before it."""


class Deed(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A call that changed something or was refused; or what the trail says of itself."""

    door: str
    """`rpc`, `link` or `service`, by which it came; `daemon` for the trail's own lines."""
    method: str
    """As it was called."""
    outcome: str
    """`ok`, `stream`, `denied`, `cancelled` or another kind of error."""
    allowed: bool = True
    rule: str = ""
    """By which rule it was allowed or refused."""
    uid: int | None = None
    gid: int | None = None
    pid: int | None = None
    node: str = ""
    """The peer that made the call."""
    caller: str = ""
    """The service that made it; of a peer, its own word."""
    params: Any = None
    """Secrets hidden, long texts cut."""
    trace: str = ""
    took_ms: float = 0.0
    left_out: int = 0
    """Refused attempts of the same caller since its last line that have none: too many."""
    wall_ns: int = msgspec.field(default_factory=time.time_ns)
    mono_ns: int = msgspec.field(default_factory=time.monotonic_ns)


class Entry(msgspec.Struct, frozen=True, kw_only=True, gc=False, omit_defaults=True):
    """A line of the trail: a deed, its number, and the SHA-256 of the line before it."""

    seq: int
    prev: str
    wall_ns: int
    mono_ns: int
    door: str
    method: str
    outcome: str
    allowed: bool = True
    rule: str = ""
    uid: int | None = None
    user: str = ""
    gid: int | None = None
    pid: int | None = None
    node: str = ""
    caller: str = ""
    params: Any = None
    trace: str = ""
    took_ms: float = 0.0
    left_out: int = 0

    @classmethod
    def of(cls, deed: Deed, *, seq: int, prev: str, user: str) -> Entry:
        """Return the line that records *deed*."""
        return cls(seq=seq, prev=prev, user=user, **msgspec.structs.asdict(deed))


_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(Entry).decode


def line_of(entry: Entry) -> bytes:
    """Return *entry* as a line, without its end."""
    return _encode(entry)


def entry_of(line: bytes) -> Entry | None:
    """Return what a line says, or None if it is none."""
    try:
        return _decode(line)
    except MALFORMED:
        return None


def plain_params(body: bytes, *, json: bool) -> Any:
    """Return the parameters of a call as they may be recorded."""
    if not body:
        return None
    if len(body) > MAX_PARAMS_BYTES:
        return f"({len(body)} bytes)"
    decode: Callable[[bytes], Any] = msgspec.json.decode if json else msgspec.msgpack.decode
    try:
        return _bounded("", decode(body), MAX_DEPTH)
    except MALFORMED:
        return f"({len(body)} bytes, malformed)"


def _bounded(key: str, value: Any, depth: int) -> Any:
    if looks_secret(key):
        return HIDDEN
    if isinstance(value, dict) and depth:
        kept = list(value.items())[:MAX_ITEMS]
        shown = {str(name)[:MAX_TEXT_CHARS]: _bounded(str(name), item, depth - 1) for name, item in kept}
        return shown if len(value) <= MAX_ITEMS else {**shown, "…": f"({len(value)} members)"}
    if isinstance(value, list) and depth:
        items = [_bounded(key, item, depth - 1) for item in value[:MAX_ITEMS]]
        return items if len(value) <= MAX_ITEMS else [*items, f"({len(value)} items)"]
    return _scalar(value)


def _scalar(value: Any) -> Any:
    match value:
        case str() if len(value) > MAX_TEXT_CHARS:
            return f"({len(value)} characters)"
        case int() if abs(value) >= 1 << 63:
            return f"({value.bit_length()} bits)"
        case bytes():
            return f"({len(value)} bytes)"
        case str() | bool() | int() | float() | None:
            return value
    return f"({type(value).__name__})"
