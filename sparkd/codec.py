"""Bytes to meaning and back: the three frames of an event, and MessagePack for everything else. No socket here.

An event is `topic | header | body`. The header is a msgpack array, append only:
`[version, node, service, seq, wall_ns, epoch, mono_ns, privacy, trace]`. `seq` counts per (service, topic), `epoch` is
64 random bits made at each start of the publisher, `trace` 16 bytes of a W3C trace id or nil. The body is a msgpack
map of a typed event. Typed values go through msgspec, which writes the same bytes as `msgpack` (a test holds them
equal) at half the cost; a nesting bomb's RecursionError counts as malformed.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias, TypeVar

import msgpack
import msgspec

from sparkd.errors import LocalMessageError, RemoteMessageError
from sparkd.events import TOPIC, event_type
from sparkd.privacy import Privacy

T = TypeVar("T")

Buffer: TypeAlias = bytes | memoryview
"""What may be decoded. Fields of type `memoryview` are views into it."""

WIRE_VERSION = 1
MAX_EVENT_BYTES = 1 << 20
"""Larger payloads go as a blob reference (design §5); the bus is for what fits a datagram's manners."""

MALFORMED = (msgspec.MsgspecError, ValueError, TypeError, RecursionError, OverflowError)
"""Everything the decoders raise for bytes a peer made up."""


class Header(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """The second frame of an event. New fields are appended with a default; unknown ones are ignored."""

    version: int
    node: str
    service: str
    seq: int
    wall_ns: int
    epoch: int
    mono_ns: int
    privacy: Privacy
    trace: bytes | None = None


class Message(msgspec.Struct, frozen=True, gc=False):
    """An event as it came: the topic, the decoded header and the body still in bytes."""

    topic: str
    header: Header
    body: bytes

    def decode(self, cls: type[T]) -> T:
        """Return the body as an event of type *cls*. Raises RemoteMessageError if it is not one."""
        event: T = decode_body(cls, self.body)
        return event

    def plain(self) -> Any:
        """Return the body as dicts, lists and scalars. Raises RemoteMessageError if it is malformed."""
        return unpack(self.body)


_encoder = msgspec.msgpack.Encoder()
_header_decoder = msgspec.msgpack.Decoder(Header)
_decoders: dict[Any, msgspec.msgpack.Decoder[Any]] = {}


def decode_topic(frame: bytes) -> str:
    """Return the topic in *frame*. Raises RemoteMessageError if it is none."""
    topic = frame.decode("ascii", "replace")
    if not TOPIC.fullmatch(topic):
        raise RemoteMessageError(f"malformed topic {topic[:80]!r}")
    return topic


def decode_header(frame: bytes) -> Header:
    """Return the header in *frame*. Raises RemoteMessageError if it is malformed or of a version not known here."""
    try:
        header = _header_decoder.decode(frame)
    except MALFORMED as error:
        raise RemoteMessageError(f"malformed event header: {error}") from None
    if header.version != WIRE_VERSION:
        raise RemoteMessageError(f"event header has version {header.version}; this side speaks {WIRE_VERSION}")
    return header


def decode_message(frames: Sequence[bytes]) -> Message:
    """Return the event in *frames*, its body undecoded. Raises RemoteMessageError, never anything else."""
    try:
        topic, header, body = frames
    except ValueError:
        raise RemoteMessageError(f"malformed event: {len(frames)} frames instead of 3") from None
    return Message(decode_topic(topic), decode_header(header), body)


def encode_body(value: object) -> bytes:
    """Return an event, a dataclass or plain values as MessagePack. Raises LocalMessageError for what it cannot say."""
    try:
        return _encoder.encode(value)
    except MALFORMED as error:
        raise LocalMessageError(f"cannot encode {type(value).__name__}: {error}") from error


def decode_body(cls: type[T] | Any, body: Buffer) -> Any:
    """Return *body* as *cls*, checked against its annotations. Raises RemoteMessageError if it does not fit."""
    decoder = _decoders.get(cls)
    if decoder is None:
        decoder = _decoders[cls] = msgspec.msgpack.Decoder(cls)
    try:
        return decoder.decode(body)
    except MALFORMED as error:
        raise RemoteMessageError(f"not a valid {getattr(cls, '__name__', cls)}: {error}") from None


def body_decoder(cls: type[T]) -> Callable[[Buffer], T]:
    """Return `decode_body` for events of type *cls* alone, for those who decode many."""
    decode = msgspec.msgpack.Decoder(cls).decode

    def decode_one(body: Buffer) -> T:
        try:
            return decode(body)
        except MALFORMED as error:
            raise RemoteMessageError(f"not a valid {cls.__name__}: {error}") from None

    return decode_one


def encode_header(header: Header) -> bytes:
    """Return *header* as the second frame of an event."""
    return _encoder.encode(header)


def pack(value: Any) -> bytes:
    """Return plain values (dicts, lists, scalars, bytes) as MessagePack. Raises LocalMessageError for others."""
    try:
        packed: bytes = msgpack.packb(value)
    except (TypeError, ValueError, OverflowError) as error:
        raise LocalMessageError(f"cannot pack {type(value).__name__}: {error}") from error
    return packed


def unpack(body: Buffer) -> Any:
    """Return plain values from MessagePack. Raises RemoteMessageError for anything malformed."""
    try:
        return msgpack.unpackb(body, strict_map_key=False)
    except (ValueError, TypeError, RecursionError, OverflowError, msgpack.UnpackException) as error:
        raise RemoteMessageError(f"malformed MessagePack: {error!r}") from None


def new_epoch() -> int:
    """Return 64 random bits: which life of a publisher or stream a sequence number belongs to."""
    return int.from_bytes(os.urandom(8))


def new_trace() -> bytes:
    """Return a fresh W3C trace id: 16 random bytes (https://www.w3.org/TR/trace-context/#trace-id)."""
    return os.urandom(16)


def topic_of(cls: type[Any], topic: str | None) -> str:
    """Return the topic an event of type *cls* goes to; *topic*, if given, must be the declared one or beneath it.

    Raises LocalMessageError for a topic elsewhere or malformed.
    """
    declared = event_type(cls).topic
    if topic is None or topic == declared:
        return declared
    if not topic.startswith(declared + ".") or not TOPIC.fullmatch(topic):
        raise LocalMessageError(f"{cls.__name__} goes to {declared!r} or beneath it, not to {topic!r}")
    return topic
