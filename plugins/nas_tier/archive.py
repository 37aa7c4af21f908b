"""Archives: everything in one stream of bytes, checked piece by piece. What `export` gives, `import` takes.

    magic | frame ... | frame      a frame: length (4 bytes, big-endian), CRC-32 (4 bytes), MessagePack [kind, content]

Kinds: `head` {format, node, at}, `record` a record, `chunk` bytes of the value of the record before, `end` {records,
bytes}. An archive without its end was cut off. Pure, but for the streams.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import msgspec

from sparkd import CHUNK_BYTES, CallError, CallErrorKind, MemoryRecord

MAGIC = b"sparkd-memory-1\n"
FRAME = struct.Struct(">II")
MAX_FRAME = CHUNK_BYTES + (1 << 20)
"""A record with its value, text and vectors fits."""
_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(tuple[str, msgspec.Raw]).decode


def frame(kind: str, content: Any) -> bytes:
    """Return a frame."""
    body = _encode((kind, content))
    return FRAME.pack(len(body), zlib.crc32(body)) + body


def bad(what: str) -> CallError:
    """Return the error for an archive that cannot be read."""
    remedy = "take another copy; what came before is kept, and taking it again does no harm"
    return CallError(CallErrorKind.FAILED, f"the archive {what}", error="damaged", remedy=remedy)


@dataclass(slots=True)
class _Bytes:
    """A stream that is read in pieces of given size."""

    chunks: AsyncIterator[bytes]
    held: bytearray = field(default_factory=bytearray)

    async def take(self, size: int) -> bytes:
        """Return *size* bytes; fewer at the end."""
        while len(self.held) < size:
            chunk = await anext(self.chunks, None)
            if chunk is None:
                break
            self.held += chunk
        taken = bytes(self.held[:size])
        del self.held[:size]
        return taken


async def frames(chunks: AsyncIterator[bytes]) -> AsyncIterator[tuple[str, msgspec.Raw]]:
    """Iterate over the frames of an archive; the last is its end. Raises CallError for what is none."""
    stream = _Bytes(chunks)
    if await stream.take(len(MAGIC)) != MAGIC:
        raise bad("does not begin as one of sparkd's memory")
    while True:
        header = await stream.take(FRAME.size)
        if len(header) < FRAME.size:
            raise bad("was cut off: its end is missing")
        length, checksum = FRAME.unpack(header)
        if length > MAX_FRAME:
            raise bad(f"is damaged: a piece of {length} bytes")
        body = await stream.take(length)
        if len(body) < length:
            raise bad("was cut off in the midst of a piece")
        if zlib.crc32(body) != checksum:
            raise bad("is damaged: a checksum is wrong")
        try:
            kind, content = _decode(body)
        except (msgspec.DecodeError, RecursionError) as error:
            raise bad(f"is damaged: {error}") from error
        yield kind, content
        if kind == "end":
            return


def record_of(content: msgspec.Raw) -> MemoryRecord:
    """Return the record in a frame. Raises CallError."""
    try:
        return msgspec.msgpack.decode(content, type=MemoryRecord)
    except (msgspec.DecodeError, RecursionError) as error:
        raise bad(f"holds a record that is none: {error}") from error


def bytes_of(content: msgspec.Raw) -> bytes:
    """Return the bytes in a frame. Raises CallError."""
    try:
        return msgspec.msgpack.decode(content, type=bytes)
    except msgspec.DecodeError as error:
        raise bad(f"holds bytes that are none: {error}") from error
