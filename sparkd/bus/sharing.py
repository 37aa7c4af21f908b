"""Long bodies: out through shared memory in the place of a frame, in from there.

A body of up to `INLINE_BYTES` never comes here but to be looked at. A longer one is written into shared memory once and
a reference to it is sent; a reader maps it. Who passes events on gets a copy of what an event may hold anyway, and the
bare reference for what is longer: that stays on the node.
"""

from __future__ import annotations

from pathlib import Path
from typing import TypeAlias

from sparkd.arrays import about, encode_pieces, holds_arrays, total_bytes
from sparkd.codec import MAX_EVENT_BYTES, Buffer, encode_body
from sparkd.errors import LocalMessageError
from sparkd.reference import MARKS, decode_reference, encode_reference, is_reference
from sparkd.shm import FOLDER, NoRoomError, NoSharedMemoryError, SharedReader, SharedWriter

INLINE_BYTES = 64 << 10
"""Design §4: what is longer goes through shared memory."""

MAX_PLAIN = 1000
PLAIN: set[type] = set()
"""Classes of events known to have no arrays: to find out takes longer than to look here."""

Body: TypeAlias = bytes | list[Buffer]
"""A body in one piece to be sent as it is, or in pieces because it is long."""


class Sharing:
    """What one client of the bus shares with others."""

    def __init__(self, runtime: Path, *, service: str, max_total_bytes: int) -> None:
        """Share beneath the folder *runtime* as *service*; without *max_total_bytes* only read."""
        self.reader = SharedReader(runtime / FOLDER)
        self.writer: SharedWriter | None = None
        if max_total_bytes:
            self.writer = SharedWriter(runtime / FOLDER, service=service, max_total_bytes=max_total_bytes)
        self.unshared = 0
        """Events dropped because readers held all shared memory."""

    def wire(self, topic: str, event: object, body: Body) -> bytes | None:
        """Return the frame to be sent for *body*; None if it must be dropped, for there is no room now.

        Raises LocalMessageError for what is too long, or where there is no shared memory at all.
        """
        if isinstance(body, bytes):
            return body
        length, why = total_bytes(body), "[bus] shm_max_bytes is 0"
        try:
            if self.writer is not None:
                return encode_reference(self.writer.put(body, about=about(event)))
        except NoSharedMemoryError as error:
            why = str(error)
        except NoRoomError:
            if length > MAX_EVENT_BYTES:
                self.unshared += 1
                return None
        except LocalMessageError as error:
            raise LocalMessageError(f"{topic}: an event of {error}") from None
        if length > MAX_EVENT_BYTES:
            raise LocalMessageError(f"{topic}: an event of {length} bytes; {MAX_EVENT_BYTES} at the most, since {why}")
        return b"".join(body)

    def trim(self) -> None:
        """Give back what has been idle."""
        if self.writer is not None:
            self.writer.trim()

    def close(self) -> None:
        """Share nothing more."""
        if self.writer is not None:
            self.writer.close()


def encode(event: object) -> Body:
    """Return the body of *event*. Raises LocalMessageError for what cannot be said."""
    kind = type(event)
    if kind not in PLAIN:
        if holds_arrays(kind):
            pieces = encode_pieces(event)
            return pieces if total_bytes(pieces) > INLINE_BYTES else b"".join(pieces)
        if len(PLAIN) < MAX_PLAIN:
            PLAIN.add(kind)
    body = encode_body(event)
    return body if len(body) <= INLINE_BYTES else [body]


def check_kept(topic: str, kind: str, body: Body) -> bytes:
    """Return *body* whole, for what is kept somewhere. Raises LocalMessageError if it is too long for that."""
    length = total_bytes(body) if isinstance(body, list) else len(body)
    if length > MAX_EVENT_BYTES:
        message = f"{topic} is {kind}: an event of {length} bytes; {MAX_EVENT_BYTES} at the most"
        raise LocalMessageError(f"{message}, only transient events may be longer")
    return b"".join(body) if isinstance(body, list) else body


def is_shared(body: bytes) -> bool:
    """Whether *body* is a reference; cheap for what is none."""
    return body[:1] in MARKS and is_reference(body)


def mapped(reader: SharedReader, body: bytes) -> memoryview:
    """Return what the reference *body* refers to, uncopied. Raises GoneError, RemoteMessageError."""
    return reader.map(decode_reference(body))


def copied(reader: SharedReader, body: bytes) -> bytes:
    """Return a copy of what the reference *body* refers to if an event may be as long; *body* itself if not."""
    reference = decode_reference(body)
    return body if reference.length > MAX_EVENT_BYTES else reader.read(reference)
