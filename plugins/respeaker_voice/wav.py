"""The head of a WAV file: where its samples are, and how many. Python's own reader refuses six channels before 3.12.

A file of more than two channels mostly has the extensible format (0xFFFE), whose first two bytes of the sub-format are
the plain format's number. A recording that was cut off has 0 or 0xFFFFFFFF as its size: it is read to its end.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import BinaryIO

from sparkd import DeviceError

from .microphone import RATE_HZ

PCM, EXTENSIBLE = 1, 0xFFFE
_STREAMED = (0, 0xFFFFFFFF)
_BITS = 16
_FORMAT = struct.Struct("<HHIIHH")
_SUBFORMAT_AT = 24
_MAX_HEAD_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Head:
    """What a WAV file says of itself."""

    channels: int
    data_bytes: int | None
    """None: up to the end of the file."""


def read_head(file: BinaryIO, name: str) -> Head:
    """Read up to the first sample of *file*. Raises DeviceError if it is not a WAV file with 16 bits at 16 kHz."""
    riff = file.read(12)
    if riff[:4] != b"RIFF" or riff[8:] != b"WAVE":
        raise _refused(name, "not a WAV file")
    channels = 0
    while True:
        head = file.read(8)
        if len(head) < 8:  # noqa: PLR2004 - a name and a size
            raise _refused(name, "a WAV file without samples")
        kind, size = head[:4], int.from_bytes(head[4:], "little")
        if kind == b"data":
            if not channels:
                raise _refused(name, "a WAV file that does not say its format")
            return Head(channels, None if size in _STREAMED else size)
        if size > _MAX_HEAD_BYTES:
            raise _refused(name, f"a WAV file with {size} bytes before its samples")
        body = file.read(size + size % 2)
        if kind == b"fmt ":
            channels = _channels(body, name)


def _channels(body: bytes, name: str) -> int:
    if len(body) < _FORMAT.size:
        raise _refused(name, "a WAV file with half a head")
    coding, channels, rate, _, _, bits = _FORMAT.unpack_from(body)
    if coding == EXTENSIBLE and len(body) >= _SUBFORMAT_AT + 2:
        (coding,) = struct.unpack_from("<H", body, _SUBFORMAT_AT)
    if (coding, rate, bits) != (PCM, RATE_HZ, _BITS) or not channels:
        raise _refused(name, f"{rate} Hz, {bits} bits, {channels} channels, coding {coding}")
    return int(channels)


def _refused(name: str, got: str) -> DeviceError:
    text = f"{name}: {got}; a WAV file with 16 bits at {RATE_HZ} Hz expected"
    return DeviceError(text, remedy=f"sox {name} -r {RATE_HZ} -b 16 -e signed-integer fit.wav")
