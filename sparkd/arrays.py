"""Arrays as fields of events and as parameters and results of calls: numpy's bytes without a copy, without numpy here.

An `Array` is a map of three on the wire, `{"dtype": "|u1", "shape": [1080, 1920, 3], "data": bytes}`, and so is it
inline, in shared memory and (data in base64) in JSON. The reader's `data` is a view into what it was decoded from.
`encode_pieces` encodes without copying the data: whoever writes the pieces into shared memory makes the one copy.
"""

from __future__ import annotations

import dataclasses
import math
import os
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, get_args, get_type_hints

import msgspec

from sparkd.codec import Buffer, encode_body
from sparkd.errors import LocalMessageError

if TYPE_CHECKING:
    import numpy as np

_DTYPE = re.compile(r"[<>|]([biufc])(\d{1,2})")
"""Numbers only, as numpy writes them in `dtype.str`: nothing that would have to be unpickled."""
_FORMATS = {"B": "|u1", "b": "|i1", "c": "|u1", "?": "|b1", "e": "<f2", "f": "<f4", "d": "<f8"} | {
    "h": "<i2", "H": "<u2", "i": "<i4", "I": "<u4", "q": "<i8", "Q": "<u8"
}  # fmt: skip
"""Of `memoryview.format`, on the little-endian machines that sparkd runs on."""
MAX_DIMENSIONS = 32
PIECE_BYTES = 4096
"""Data shorter than this is copied: a piece of its own would cost more."""
ABOUT_BYTES = 2048
_TOKEN_BYTES = 16


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Array:
    """Numbers in rows: what an `ndarray` is, as plain data."""

    dtype: str
    """numpy's `dtype.str`, such as `|u1` or `<f4`."""
    shape: tuple[int, ...]
    data: memoryview
    """The bytes in C order. What was received cannot be written to."""

    def __post_init__(self) -> None:
        kind = _DTYPE.fullmatch(self.dtype)
        if kind is None or int(kind[2]) not in {1, 2, 4, 8, 16}:
            raise ValueError(f"dtype {self.dtype!r}: a number's as numpy writes it expected, such as '|u1' or '<f4'")
        if len(self.shape) > MAX_DIMENSIONS or any(length < 0 for length in self.shape):
            raise ValueError(f"shape {self.shape[:40]}: up to {MAX_DIMENSIONS} lengths of 0 or more expected")
        wanted = math.prod(self.shape) * int(kind[2])
        if self.data.nbytes != wanted:
            raise ValueError(f"{self.data.nbytes} bytes of data; {self.dtype} {self.shape} has {wanted}")

    @classmethod
    def of(cls, source: Any) -> Array:
        """Return *source*, an `ndarray` or other buffer of numbers, as an Array, uncopied if it is in C order.

        Raises TypeError for what is no buffer, ValueError for elements that are no plain numbers.
        """
        held = memoryview(source)
        dtype = getattr(getattr(source, "dtype", None), "str", None) or _FORMATS.get(held.format, held.format)
        plain = held.nbytes and held.c_contiguous
        data = held.cast("B").toreadonly() if plain else memoryview(held.tobytes())
        return cls(dtype, tuple(held.shape or ()), data)

    def view(self) -> np.ndarray[Any, Any]:
        """Return it as an `ndarray` that cannot be written to, uncopied. Raises ImportError where there is no numpy.

        While the array or a part of it is held, its place in shared memory is not used again: copy what is kept long.
        """
        import numpy as np  # noqa: PLC0415 - only a plugin that works with arrays has it, and pays for it

        return np.frombuffer(self.data.toreadonly(), dtype=np.dtype(self.dtype)).reshape(self.shape)


_holding: dict[type[Any], bool] = {}


def holds_arrays(kind: type[Any]) -> bool:
    """Whether values of class *kind* may have an Array within, by the annotations of dataclasses."""
    known = _holding.get(kind)
    if known is None:
        known = _holding[kind] = _mentions(kind, set())
    return known


def _mentions(kind: Any, seen: set[Any]) -> bool:
    if kind is Array:
        return True
    if isinstance(kind, type) and dataclasses.is_dataclass(kind):
        if kind in seen:
            return False
        seen.add(kind)
        return any(_mentions(hint, seen) for hint in get_type_hints(kind).values())
    return any(_mentions(part, seen) for part in get_args(kind))


def encode_pieces(value: object) -> list[Buffer]:
    """Return *value* as MessagePack in pieces: joined they are what `encode_body` returns. Long data is not copied.

    Raises LocalMessageError for what cannot be said.
    """
    taken: list[tuple[bytes, memoryview]] = []

    def take(array: Array) -> Buffer:
        if array.data.nbytes < PIECE_BYTES:
            return array.data
        taken.append((os.urandom(_TOKEN_BYTES), array.data))
        return taken[-1][0]

    frame = encode_body(_plain(value, take))
    pieces: list[Buffer] = []
    at = 0
    for token, data in taken:
        here = frame.find(b"\xc4\x10" + token, at)  # `bin 8` of 16 bytes, where the data goes as `bin 32`
        if here < 0 or data.nbytes >= 1 << 32:
            raise LocalMessageError(f"cannot encode {type(value).__name__}: an array of {data.nbytes} bytes")
        pieces += [frame[at:here] + b"\xc6" + data.nbytes.to_bytes(4), data]
        at = here + 2 + _TOKEN_BYTES
    return [*pieces, frame[at:]]


def about(value: object) -> bytes | None:
    """Return *value* as MessagePack with the length in bytes in place of each array's data; None if it is long."""
    said = encode_body(_plain(value, lambda array: array.data.nbytes))
    return said if len(said) <= ABOUT_BYTES else None


def _plain(value: Any, data_of: Any) -> Any:
    if isinstance(value, Array):
        return {"dtype": value.dtype, "shape": value.shape, "data": data_of(value)}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: _plain(getattr(value, field.name), data_of) for field in dataclasses.fields(value)}
    if isinstance(value, dict):
        return {key: _plain(one, data_of) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(one, data_of) for one in value]
    return value


def total_bytes(pieces: Sequence[Buffer]) -> int:
    """Return the length of *pieces* joined."""
    return sum(memoryview(piece).nbytes for piece in pieces)


def shown(value: Any, *, most: int = 16 << 10) -> Any:
    """Return plain *value* with every run of bytes over *most* replaced by words that tell its length, for people."""
    if isinstance(value, bytes) and len(value) > most:
        return f"({len(value)} bytes, not shown)"
    if isinstance(value, dict):
        return {key: shown(one, most=most) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [shown(one, most=most) for one in value]
    if isinstance(value, msgspec.msgpack.Ext):
        return f"(extension {value.code} of {memoryview(value.data).nbytes} bytes)"
    return value
