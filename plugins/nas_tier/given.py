"""What callers give as vectors and etags, checked. Pure."""

from __future__ import annotations

import math
import struct

from sparkd import CallError, CallErrorKind

from .clock import VERSION

DIMENSIONS_MOST = 4096


def packed(vector: list[float]) -> bytes:
    """Return *vector* as 32-bit floats, little-endian, of length 1. Raises CallError for what is none."""
    length = math.sqrt(sum(number * number for number in vector)) if len(vector) <= DIMENSIONS_MOST else math.nan
    if not math.isfinite(length) or length == 0:
        text = f"vector: up to {DIMENSIONS_MOST} finite numbers that are not all 0 expected, got {len(vector)}"
        raise CallError(CallErrorKind.INVALID_PARAMS, text, field="vector")
    return struct.pack(f"<{len(vector)}f", *(number / length for number in vector))


def check_etag(etag: str) -> None:
    """Raise CallError for what is no version; nothing at all is one that says: nothing stands there."""
    if etag and not VERSION.fullmatch(etag):
        text = f"etag: what `get` gave, or nothing, expected, got {etag[:60]!r}"
        raise CallError(CallErrorKind.INVALID_PARAMS, text, field="etag")
