"""What two nodes say to each other over the link: frames to meaning and back. No socket here.

The first frame of a message is its kind, one byte; what follows depends on it:

    H  greeting                 who the dialing side is                  first message of a connection
    W  greeting                 who the listening side is                its answer: the connection is up
    J  joining                  a guest's own key, by an invitation      first message instead of H
    R  reason                   why the connection is refused            or its answer is this; nothing follows
    E  topic, header, body      an event, as on the bus
    C  head, body               a message of a call (`sparkd.calls.frames`)
    P, Q  token                 are you there; yes I am
    B  reason                   the sender will close

A greeting is a msgpack array, append only, whose first element is the version of this protocol; whatever the version,
that element is an integer, so sides that do not understand each other can say so.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import msgspec

from sparkd import codec
from sparkd.codec import MALFORMED, Message
from sparkd.errors import RemoteMessageError

PROTOCOL = 1
MAX_FRAMES = 4
MAX_REASON_BYTES = 1024
MAX_TOKEN_BYTES = 16


class Greeting(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """Who a side is. All but the name, which must be the one its key is trusted under, is its own word."""

    version: int
    node: str
    node_id: str
    site: str
    role: str
    sparkd: str
    """Version of the program."""
    instance: str
    """Random, made at each start of the program: tells a lost connection's successor from a second program."""
    max_message_bytes: int
    """What the side takes; the other sends nothing larger."""


@dataclass(frozen=True, slots=True)
class Hello:
    """The dialing side's greeting."""

    greeting: Greeting


class Joining(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """What a guest says of itself: the connection it comes by was made with an invitation's key."""

    version: int
    node: str
    key: str
    """The guest's own public key, Z85."""


@dataclass(frozen=True, slots=True)
class Join:
    """A guest gives its key."""

    joining: Joining


@dataclass(frozen=True, slots=True)
class Welcome:
    """The listening side's greeting: the connection is up."""

    greeting: Greeting


@dataclass(frozen=True, slots=True)
class Refused:
    """The listening side will not talk, and why."""

    reason: str


@dataclass(frozen=True, slots=True)
class Event:
    """An event of the sender's node."""

    message: Message


@dataclass(frozen=True, slots=True)
class Call:
    """The frames of a message of a call, not decoded."""

    frames: list[bytes]


@dataclass(frozen=True, slots=True)
class Ping:
    """Asks for a `Pong` with the same token."""

    token: bytes


@dataclass(frozen=True, slots=True)
class Pong:
    """Answers a `Ping`."""

    token: bytes


@dataclass(frozen=True, slots=True)
class Bye:
    """The sender is about to close, and why."""

    reason: str


Said = Hello | Join | Welcome | Refused | Event | Call | Ping | Pong | Bye

_decode_greeting = msgspec.msgpack.Decoder(Greeting).decode
_decode_joining = msgspec.msgpack.Decoder(Joining).decode
_encode = msgspec.msgpack.Encoder().encode


def hello(greeting: Greeting) -> list[bytes]:
    """Return the frames of the dialing side's greeting."""
    return [b"H", _encode(greeting)]


def welcome(greeting: Greeting) -> list[bytes]:
    """Return the frames of the listening side's greeting."""
    return [b"W", _encode(greeting)]


def joining(said: Joining) -> list[bytes]:
    """Return the frames by which a guest gives its key."""
    return [b"J", _encode(said)]


def refused(reason: str) -> list[bytes]:
    """Return the frames of a refusal."""
    return [b"R", reason.encode()[:MAX_REASON_BYTES]]


def event(message: Message) -> list[bytes]:
    """Return the frames of an event."""
    return [b"E", message.topic.encode("ascii"), codec.encode_header(message.header), message.body]


def call(frames: Sequence[bytes]) -> list[bytes]:
    """Return the frames of a message of a call."""
    return [b"C", *frames]


def ping(token: bytes) -> list[bytes]:
    """Return the frames of a ping."""
    return [b"P", token]


def pong(token: bytes) -> list[bytes]:
    """Return the frames of its answer."""
    return [b"Q", token]


def bye(reason: str) -> list[bytes]:
    """Return the frames of a farewell."""
    return [b"B", reason.encode()[:MAX_REASON_BYTES]]


def decode(frames: Sequence[bytes]) -> Said:
    """Return what *frames* say. Raises RemoteMessageError, never anything else."""
    if not frames:
        raise RemoteMessageError("empty message")
    kind, rest = frames[0], frames[1:]
    if kind == b"E":
        return Event(codec.decode_message(rest)) if rest else _malformed(kind, rest)
    if kind == b"C":
        return Call(list(rest)) if len(rest) == 2 else _malformed(kind, rest)  # noqa: PLR2004 - head and body
    decoder = _ONE_FRAME.get(kind)
    if decoder is None or len(rest) != 1:
        return _malformed(kind, rest)
    return decoder(rest[0])


def decode_hello(frames: Sequence[bytes]) -> Greeting:
    """Return the greeting that the first message of a connection must be. Raises RemoteMessageError."""
    said = decode(frames)
    if not isinstance(said, Hello):
        raise RemoteMessageError(f"the first message is a {type(said).__name__}, not a greeting")
    return said.greeting


def decode_join(frames: Sequence[bytes]) -> Joining:
    """Return what the first message of a guest must be. Raises RemoteMessageError."""
    said = decode(frames)
    if not isinstance(said, Join):
        raise RemoteMessageError(f"the first message by an invitation is a {type(said).__name__}, not a key")
    return said.joining


def _malformed(kind: bytes, rest: Sequence[bytes]) -> Said:
    raise RemoteMessageError(f"malformed message: kind {kind[:16]!r} with {len(rest)} more frames")


def _greeting(frame: bytes) -> Greeting:
    try:
        greeting = _decode_greeting(frame)
    except MALFORMED as error:
        version = _version(frame)
        if version not in {None, PROTOCOL}:
            raise RemoteMessageError(_other_version(version)) from None
        raise RemoteMessageError(f"malformed greeting: {error}") from None
    if greeting.version != PROTOCOL:
        raise RemoteMessageError(_other_version(greeting.version))
    return greeting


def _joining(frame: bytes) -> Joining:
    try:
        said = _decode_joining(frame)
    except MALFORMED as error:
        raise RemoteMessageError(f"malformed joining: {error}") from None
    if said.version != PROTOCOL:
        raise RemoteMessageError(_other_version(said.version))
    return said


def _version(frame: bytes) -> object:
    try:
        fields = msgspec.msgpack.decode(frame, type=list[msgspec.Raw])
        return msgspec.msgpack.decode(fields[0], type=int)
    except (*MALFORMED, IndexError):
        return None


def _other_version(version: object) -> str:
    return f"link protocol version {version} is not spoken here, only {PROTOCOL}; update the older node"


def _token(frame: bytes) -> bytes:
    if len(frame) > MAX_TOKEN_BYTES:
        raise RemoteMessageError(f"ping with a token of {len(frame)} bytes; {MAX_TOKEN_BYTES} at the most")
    return frame


def _text(frame: bytes) -> str:
    return frame[:MAX_REASON_BYTES].decode("utf-8", "replace")


_ONE_FRAME: dict[bytes, Callable[[bytes], Said]] = {
    b"H": lambda frame: Hello(_greeting(frame)),
    b"J": lambda frame: Join(_joining(frame)),
    b"W": lambda frame: Welcome(_greeting(frame)),
    b"R": lambda frame: Refused(_text(frame)),
    b"P": lambda frame: Ping(_token(frame)),
    b"Q": lambda frame: Pong(_token(frame)),
    b"B": lambda frame: Bye(_text(frame)),
}
