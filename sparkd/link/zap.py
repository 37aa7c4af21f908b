"""Who may connect: the ZAP handler of the link (https://rfc.zeromq.org/spec/27/).

libzmq asks about each connection's public key over an inproc socket of the same Context, one request at a time per
connection, and gives the answer's user id to every message of that connection. A handler that raises or leaves a
request unanswered would hold up every later handshake, so `answer` takes any bytes whatever and always returns a reply.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import zmq  # noqa: TID251 - the link speaks ZeroMQ
from zmq.utils import z85  # noqa: TID251 - CURVE keys come as raw bytes

from sparkd.link.keys import identity
from sparkd.link.wire import LinkSocket

ENDPOINT = "inproc://zeromq.zap.01"
DOMAIN = b"sparkd-link"
_VERSION = b"1.0"
_FIXED = 6  # version, request id, domain, address, routing id, mechanism; the credentials follow
_KEY_BYTES = 32


@dataclass(frozen=True, slots=True)
class Verdict:
    """What was decided about a connection."""

    name: str
    """The peer, or nothing if it was refused."""
    key: str
    """The public key it showed, in Z85; nothing if it showed none."""
    address: str
    reason: str = ""


def answer(frames: Sequence[bytes], name_of: Callable[[str], str | None]) -> tuple[list[bytes], Verdict]:
    """Return the reply to a ZAP request, envelope included, and what was decided. Never raises."""
    envelope, request = _split(frames)
    request_id = request[1] if len(request) > 1 else b""
    verdict = _judge(request, name_of)
    if verdict.name:
        reply = [_VERSION, request_id, b"200", b"OK", identity(verdict.name, verdict.key).encode(), b""]
    else:
        reply = [_VERSION, request_id, b"400", verdict.reason.encode("ascii", "replace")[:255], b"", b""]
    return [*envelope, *reply], verdict


def _split(frames: Sequence[bytes]) -> tuple[list[bytes], list[bytes]]:
    """Return the routing envelope, with its empty delimiter, and the request proper."""
    for index, frame in enumerate(frames):
        if index and not frame:
            return list(frames[: index + 1]), list(frames[index + 1 :])
    return [*frames[:1], b""], list(frames[1:])


def _judge(request: Sequence[bytes], name_of: Callable[[str], str | None]) -> Verdict:
    address = request[3].decode("ascii", "replace")[:100] if len(request) > _FIXED else ""
    if len(request) != _FIXED + 1 or request[0] != _VERSION:
        return Verdict("", "", address, "malformed request")
    if request[2] != DOMAIN or request[5] != b"CURVE" or len(request[6]) != _KEY_BYTES:
        return Verdict("", "", address, "only CURVE is spoken here")
    key = z85.encode(request[6]).decode()
    name = name_of(key)
    return Verdict(name, key, address) if name else Verdict("", key, address, "this key is not trusted")


@contextmanager
def serving(
    context: zmq.Context[zmq.Socket[bytes]],
    name_of: Callable[[str], str | None],
    on_verdict: Callable[[Verdict], None],
) -> Iterator[None]:
    """Answer for *context*; enter this before its sockets are bound. *on_verdict* is told of each decision."""
    raw = context.socket(zmq.ROUTER)
    raw.bind(ENDPOINT)

    def on_frames(frames: list[zmq.Frame]) -> None:
        reply, verdict = answer([frame.bytes for frame in frames], name_of)
        try:
            socket.send(reply)
        except BrokenPipeError:
            return  # the connection that asked is gone
        on_verdict(verdict)

    with LinkSocket(raw, on_frames) as socket:
        yield
