"""The streams that a client of the socket sends along with its calls.

A request whose `meta` says `stream` is answered by a notification `stream.credit` when its handler begins to read, and
by more as it reads on. For each item of credit the client may send one `stream.item`, numbered from 0, and at the end
one `stream.end`; `request` names the call by its id. So no more than the window of items ever waits here.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import msgspec

from sparkd.calls.frames import DEFAULT_CREDIT
from sparkd.calls.streams import Inbox
from sparkd.codec import MALFORMED
from sparkd.errors import CallError, CallErrorKind, RemoteMessageError
from sparkd.rpc.jsonrpc import Message, notification_line

ITEM, END, CREDIT = "stream.item", "stream.end", "stream.credit"
REASON_CHARS = 200


class _Item(msgspec.Struct, forbid_unknown_fields=True):
    request: msgspec.Raw
    n: int
    item: msgspec.Raw


class _End(msgspec.Struct, forbid_unknown_fields=True):
    request: msgspec.Raw
    error: str = ""
    """Why the client breaks off; empty if that was all."""


@dataclass(eq=False, slots=True)
class _Upload:
    message: Message
    inbox: Inbox


class Uploads:
    """Those of one client."""

    def __init__(self, write: Callable[[bytes], None], *, most: int) -> None:
        """Say credit by *write*; take *most* at once."""
        self._write = write
        self._most = most
        self._open: dict[bytes, _Upload] = {}
        self._over = False

    @property
    def any(self) -> bool:
        """Whether a call waits for items, or for its answer."""
        return bool(self._open)

    def open(self, message: Message) -> None:
        """Expect items for the call of *message*. Raises CallError."""
        call_id = message.id
        if call_id is None or call_id in self._open:
            text = f"{message.method}: a call that sends a stream has an id that no other such call has"
            raise CallError(CallErrorKind.INVALID_PARAMS, text, field="id")
        if len(self._open) >= self._most or self._over:
            text = f"{self._most} streams are being sent here"
            raise CallError(CallErrorKind.UNAVAILABLE, text, remedy="end one of them first")
        named = msgspec.Raw(call_id)

        def grant(count: int) -> None:
            self._write(notification_line(CREDIT, request=named, credit=count))

        self._open[call_id] = _Upload(message, Inbox(DEFAULT_CREDIT, grant))

    def items(self, message: Message) -> UploadedItems | None:
        """Return what comes for the call of *message*; None if it sends nothing."""
        upload = self._open.get(message.id or b"")
        return None if upload is None else UploadedItems(upload.inbox)

    def take(self, message: Message) -> bool:
        """Take *message* if it belongs to a stream; what comes for a call that has ended is dropped."""
        if message.id is not None or message.method not in (ITEM, END):
            return False
        try:
            if message.method == ITEM:
                item = msgspec.json.decode(message.params, type=_Item)
                upload = self._open.get(bytes(item.request))
                if upload is not None:
                    self._put(upload, item)
            else:
                end = msgspec.json.decode(message.params, type=_End)
                upload = self._open.get(bytes(end.request))
                if upload is not None:
                    upload.inbox.finish(_broken_off(end.error) if end.error else None)
        except MALFORMED as error:
            self.finish(_wrong(f"{message.method}: {error}"))  # which of them it was for, nobody can say
        return True

    @staticmethod
    def _put(upload: _Upload, item: _Item) -> None:
        try:
            upload.inbox.put(item.n, bytes(item.item))
        except RemoteMessageError as error:
            upload.inbox.finish(_wrong(f"{upload.message.method}: {error}"))

    def close(self, message: Message) -> None:
        """Forget the stream of a call that has been answered."""
        self._open.pop(message.id or b"", None)

    def judge(self, refusal: Callable[[Message], CallError | None]) -> None:
        """End the streams for whose messages there is a *refusal* now."""
        for upload in self._open.values():
            refused = refusal(upload.message)
            if refused is not None:
                upload.inbox.finish(refused)

    def finish(self, error: CallError) -> None:
        """End all that have not ended, by *error*."""
        for upload in self._open.values():
            upload.inbox.finish(error)

    def no_more(self) -> None:
        """Learn that the client sends nothing more."""
        self._over = True
        self.finish(_broken_off("the client stopped sending in the midst"))


class UploadedItems:
    """What comes for one call, as JSON texts; the first credit is given when somebody begins to read."""

    __slots__ = ("_begun", "_inbox")

    def __init__(self, inbox: Inbox) -> None:
        """Read from *inbox*."""
        self._inbox = inbox
        self._begun = False

    def __aiter__(self) -> UploadedItems:
        return self

    async def __anext__(self) -> bytes:
        if not self._begun:
            self._begun = True
            self._inbox.begin()
        return await self._inbox.receive()


def _broken_off(why: str) -> CallError:
    return CallError(CallErrorKind.CANCELLED, f"the stream broke off: {why[:REASON_CHARS]}")


def _wrong(text: str) -> CallError:
    return CallError(CallErrorKind.INVALID_PARAMS, text[:REASON_CHARS], field="params")
