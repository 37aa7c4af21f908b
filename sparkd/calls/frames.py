"""What two peers say about calls: pure bytes to meaning and back, no socket.

A message is two frames, `[head, body]`. The head is a msgpack array whose first element says which of the structs
below it is; new fields are appended with a default, unknown ones ignored. The body is the parameters, one item or the
result, MessagePack or (`Request.json`) JSON text: whoever passes a call on never decodes it.

Either side may open calls, and ids are counted per connection and direction. So each later message says by `answer`
whose id it means: true if its sender is the side that answers the call, false if it is the side that opened it.

    caller                                    answerer
    Request(id, credit=16)          ->
    Item*, End(answer=False)        ->        (a stream from the caller, as Credit allows)
                                    <-        Credit(answer=True)
                                    <-        Open, Item*, End(answer=True)      the result is a stream
                                    <-        End(answer=True) with the result   or it is not
                                    <-        Failure                            or there is none
    Credit(answer=False), Cancel    ->
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import msgspec

from sparkd.codec import MALFORMED
from sparkd.errors import CallError, CallErrorKind, LocalMessageError, RemoteMessageError
from sparkd.privacy import Privacy

DEFAULT_CREDIT = 16
"""Items of a stream that may be under way. At 64 KiB an item that is 1 MiB, the size of a line or an event."""
MAX_CREDIT = 1024
"""More than this is taken as this; a peer cannot make us queue without bound."""
MAX_DEADLINE_S = 86_400.0
"""A day. A longer deadline is taken as this: there is always one."""
MAX_METHOD_CHARS = 256


class Request(msgspec.Struct, array_like=True, frozen=True, gc=False, tag=1):
    """Open a call. The body holds the parameters."""

    answer: ClassVar[bool] = False
    id: int
    method: str
    deadline_s: float
    """Seconds from now, since clocks differ. Of a result; of a stream the longest silence between two items."""
    privacy: Privacy = Privacy.LOCAL
    trace: bytes | None = None
    caller: str = ""
    node: str = ""
    """Caller and node are set by the router, which knows them; what a peer claims is not believed."""
    credit: int = DEFAULT_CREDIT
    """How many items of a result stream may come before the caller sends `Credit`."""
    json: bool = False
    """Parameters, items and result of this call are JSON text instead of MessagePack."""
    hops: int = 0
    """How many links between nodes the call has crossed."""


class Open(msgspec.Struct, array_like=True, frozen=True, gc=False, tag=2):
    """The answer will be a stream."""

    answer: ClassVar[bool] = True
    id: int
    served_by: str = ""


class Item(msgspec.Struct, array_like=True, frozen=True, gc=False, tag=3):
    """One item of a stream, numbered from 0."""

    id: int
    n: int
    answer: bool


class Credit(msgspec.Struct, array_like=True, frozen=True, gc=False, tag=4):
    """The sender will take *n* more items of the other side's stream."""

    id: int
    n: int
    answer: bool


class End(msgspec.Struct, array_like=True, frozen=True, gc=False, tag=5):
    """The sender's stream is complete, or (the answerer's, without `Open`) here is the result."""

    id: int
    answer: bool
    served_by: str = ""
    """Who answered, `node/service`; set by the router."""


class Failure(msgspec.Struct, array_like=True, frozen=True, gc=False, tag=6):
    """The call has no result, and why. It ends the call."""

    answer: ClassVar[bool] = True
    id: int
    kind: str
    message: str
    data: dict[str, Any] = {}


class Cancel(msgspec.Struct, array_like=True, frozen=True, gc=False, tag=7):
    """The caller no longer wants an answer. It ends the call; nothing is sent back."""

    answer: ClassVar[bool] = False
    id: int


Head = Request | Open | Item | Credit | End | Failure | Cancel

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Head).decode


def encode(head: Head, body: bytes = b"") -> list[bytes]:
    """Return the two frames of a message. Raises LocalMessageError for error data that has no MessagePack form."""
    try:
        return [_encode(head), body]
    except MALFORMED as error:
        raise LocalMessageError(f"cannot encode {type(head).__name__}: {error}") from error


def decode(frames: Sequence[bytes]) -> tuple[Head, bytes]:
    """Return head and body of a message. Raises RemoteMessageError, never anything else."""
    if len(frames) != 2:  # noqa: PLR2004 - head and body
        raise RemoteMessageError(f"a call message has 2 frames, got {len(frames)}")
    try:
        head = _decode(frames[0])
    except MALFORMED as error:
        raise RemoteMessageError(f"malformed call message: {error}") from None
    if type(head) is Request:
        _check_request(head)
    return head, frames[1]


def _check_request(request: Request) -> None:
    if not request.deadline_s > 0 or request.credit < 0:  # not a number is not more than nothing either
        raise RemoteMessageError(f"request with deadline_s={request.deadline_s}, credit={request.credit}")
    if len(request.method) > MAX_METHOD_CHARS:
        raise RemoteMessageError(f"method name of {len(request.method)} characters; {MAX_METHOD_CHARS} at the most")


def failure(call_id: int, error: CallError) -> Failure:
    """Return *error* as the answer to a call."""
    return Failure(call_id, error.kind.value, error.message, error.data)


def error_of(answer: Failure) -> CallError:
    """Return the error a peer answered with; a kind that is not known here counts as `FAILED`."""
    data = {str(key): value for key, value in answer.data.items() if key not in {"kind", "message", "self"}}
    try:
        kind = CallErrorKind(answer.kind)
    except ValueError:
        kind, data = CallErrorKind.FAILED, {**data, "error": answer.kind}
    return CallError(kind, answer.message, **data)
