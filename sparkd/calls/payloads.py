"""Long parameters and results between two services of one node: through shared memory, whoever stands between.

Theory of operation: what is sent is written as a parcel, for its one receiver, and the message carries a reference.
The router passes that on like any other body. The receiver maps it and removes its file, so that it lives as long as
something decoded from it does; the caller removes what was never fetched when its call ends. A reference never leaves
the node: towards another one the router puts the bytes in its place, and takes none from there.
"""

from __future__ import annotations

from collections.abc import AsyncIterator

import msgspec

from sparkd.calls.endpoint import MAX_FRAME_BYTES
from sparkd.calls.frames import Request
from sparkd.calls.incoming import Dispatch
from sparkd.calls.outgoing import Call, Result
from sparkd.calls.stub import Answer, Requester
from sparkd.codec import Buffer
from sparkd.errors import CallError, CallErrorKind, LocalMessageError, RemoteMessageError
from sparkd.reference import decode_reference, encode_reference, is_reference
from sparkd.shm import NoRoomError, NoSharedMemoryError, SharedReader, SharedWriter

SHARED_BYTES = 512 << 10
"""Design §5: what is longer goes through shared memory."""
RESULT_KEPT_S = 30.0
"""How long a result waits for a caller that does not fetch it."""
MAX_KEPT_S = 600.0


class Payloads:
    """The long bodies of one service's calls."""

    def __init__(self, reader: SharedReader, writer: SharedWriter | None) -> None:
        """Read by *reader*, write by *writer*; without one everything goes inline."""
        self._reader, self._writer = reader, writer

    def serving(self, dispatch: Dispatch) -> Dispatch:
        """Return *dispatch* with long parameters read and long results written."""

        async def answer(request: Request, body: Buffer, items: AsyncIterator[bytes]) -> bytes | AsyncIterator[bytes]:
            result = await dispatch(request, self._incoming(request.method, body), items)
            if not isinstance(result, bytes) or request.json or request.hops:  # those cannot follow a reference
                return result
            return self._outgoing(request.method, result, keep_s=RESULT_KEPT_S)

        return answer

    def calling(self, request: Requester) -> Requester:
        """Return *request* with long parameters written and long results read."""

        async def make(call: Call, body: bytes, items: AsyncIterator[bytes] | None) -> Answer:
            sent = self._outgoing(call.method, body, keep_s=min(call.deadline_s, MAX_KEPT_S))
            try:
                answer: Answer = await request(call, sent, items)
            finally:
                if sent is not body and self._writer is not None:
                    self._writer.withdraw(decode_reference(sent))
            if isinstance(answer, Result):
                return msgspec.structs.replace(answer, body=self._incoming(call.method, answer.body))
            return answer

        return make

    def _outgoing(self, method: str, body: bytes, *, keep_s: float) -> bytes:
        if len(body) <= SHARED_BYTES or self._writer is None:
            return body
        try:
            return encode_reference(self._writer.put([body], keep_s=keep_s))
        except LocalMessageError as error:
            raise CallError(CallErrorKind.FAILED, f"{method}: a message of {error}", error="too-large") from None
        except NoSharedMemoryError:
            return body  # the endpoint says so if it is too long for a message
        except NoRoomError as error:
            if len(body) <= MAX_FRAME_BYTES:
                return body
            remedy = "try again when others have read, or raise [bus] shm_max_bytes"
            raise CallError(CallErrorKind.UNAVAILABLE, f"{method}: {error}", remedy=remedy) from None

    def _incoming(self, method: str, body: Buffer) -> Buffer:
        if not is_reference(body):
            return body
        try:
            return self._reader.map(decode_reference(body), fetch=True)
        except RemoteMessageError as error:
            raise _lost(method, error) from None


def whole(reader: SharedReader | None, body: bytes) -> bytes:
    """Return *body*, or a copy of what it refers to, for who cannot follow a reference. Raises CallError."""
    if reader is None or not is_reference(body):
        return body
    try:
        reference = decode_reference(body)
        if reference.length > MAX_FRAME_BYTES:
            message = (
                f"a message of {reference.length} bytes; {MAX_FRAME_BYTES} at the most to another node or the core"
            )
            raise CallError(CallErrorKind.FAILED, message, error="too-large")
        return reader.read(reference, fetch=True)
    except RemoteMessageError as error:
        raise _lost("", error) from None


def _lost(method: str, error: RemoteMessageError) -> CallError:
    where = f"{method}: " if method else ""
    return CallError(CallErrorKind.UNAVAILABLE, f"{where}what was sent is gone: {error}", remedy="call again")
