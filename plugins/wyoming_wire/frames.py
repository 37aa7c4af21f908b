"""Frames of the Wyoming protocol, read with bounds.

A frame is a line of JSON with `type`, perhaps `data`, `data_length` and `payload_length`; then so many bytes of JSON
that add to `data`; then so many bytes of payload. The reader of the package `wyoming` takes any length a peer names and
turns nonsense into the end of the stream; this one refuses both, saying what it got.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import msgspec
from anyio import DelimiterNotFound, IncompleteRead
from anyio.streams.buffered import BufferedByteReceiveStream

from sparkd import RemoteMessageError

MAX_LINE_BYTES = 64 << 10
MAX_TYPE_CHARS = 100
MAX_DATA_BYTES = 1 << 20
"""The `info` of a server with hundreds of voices has about 200 KiB."""
MAX_PAYLOAD_BYTES = 1 << 20
"""Half a minute of sound in one piece; clients send a twentieth of a second."""


@dataclass(frozen=True, slots=True)
class Frame:
    """One message of the protocol."""

    type: str
    data: Mapping[str, Any] = field(default_factory=dict)
    payload: bytes = b""

    def encode(self) -> bytes:
        """Return the frame as it goes over the wire."""
        header: dict[str, Any] = {"type": self.type}
        data = msgspec.json.encode(self.data) if self.data else b""
        if data:
            header["data_length"] = len(data)
        if self.payload:
            header["payload_length"] = len(self.payload)
        return msgspec.json.encode(header) + b"\n" + data + self.payload

    def number(self, key: str, *, default: int, lowest: int, highest: int) -> int:
        """Return the number at *key* of the data. Raises RemoteMessageError if it is none, or out of bounds."""
        value = self.data.get(key, default)
        if not isinstance(value, int) or isinstance(value, bool) or not lowest <= value <= highest:
            raise RemoteMessageError(f"{self.type}: {key} = {str(value)[:40]!r}: {lowest} to {highest} expected")
        return value

    def text(self, key: str) -> str:
        """Return the text at *key* of the data, nothing if it is missing. Raises RemoteMessageError if it is none."""
        value = self.data.get(key)
        if value is None:
            return ""
        if not isinstance(value, str):
            raise RemoteMessageError(f"{self.type}: {key} is of type {type(value).__name__}: text expected")
        return value


async def read_frame(stream: BufferedByteReceiveStream) -> Frame | None:
    """Return the next frame; None at the end of the stream. Raises RemoteMessageError for what is no frame."""
    try:
        line = await stream.receive_until(b"\n", MAX_LINE_BYTES)
    except DelimiterNotFound:
        raise RemoteMessageError(f"no line within {MAX_LINE_BYTES} bytes") from None
    except IncompleteRead:
        if stream.buffer:
            raise RemoteMessageError("the stream ended within a line") from None
        return None
    header = _object(line)
    kind = header.get("type")
    if not isinstance(kind, str) or len(kind) > MAX_TYPE_CHARS:
        raise RemoteMessageError(f"a frame without a type, or with one too long: {line[:80]!r}")
    data_bytes = _length(header, "data_length", MAX_DATA_BYTES)
    payload_bytes = _length(header, "payload_length", MAX_PAYLOAD_BYTES)
    data = {} if header.get("data") is None else header["data"]
    if not isinstance(data, dict):
        raise RemoteMessageError(f"{kind}: data is no object")
    try:
        if data_bytes:
            data |= _object(await stream.receive_exactly(data_bytes))
        payload = await stream.receive_exactly(payload_bytes) if payload_bytes else b""
    except IncompleteRead:
        raise RemoteMessageError(f"the stream ended within a frame {kind!r}") from None
    return Frame(kind, data, payload)


def _object(text: bytes) -> dict[str, Any]:
    try:
        value = msgspec.json.decode(text)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise RemoteMessageError(f"not JSON: {text[:80]!r}") from None
    if not isinstance(value, dict):
        raise RemoteMessageError(f"not a JSON object: {text[:80]!r}")
    return value


def _length(header: Mapping[str, Any], key: str, most: int) -> int:
    value = header.get(key) or 0
    if not isinstance(value, int) or not 0 <= value <= most:
        raise RemoteMessageError(f"{key} = {str(value)[:40]}: 0 to {most} expected")
    return value
