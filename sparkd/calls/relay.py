"""A call that passes through: from one connection to another, bodies untouched, only the id is rewritten."""

from __future__ import annotations

import msgspec

from sparkd.calls.endpoint import Answer, Endpoint
from sparkd.calls.frames import Cancel, End, Failure, Open, Request
from sparkd.errors import CallError


class Relay:
    """One exchange that stands in the tables of two endpoints: the caller's and the answerer's."""

    __slots__ = ("_answerer", "_answerer_id", "_caller", "_caller_id", "_ended", "_served_by")

    def __init__(self, caller: Endpoint, caller_id: int, answerer: Endpoint, served_by: str) -> None:
        """Stand between *caller*'s call *caller_id* and *answerer*; *served_by* says who answers, if it is known."""
        self._caller = caller
        self._caller_id = caller_id
        self._answerer = answerer
        self._answerer_id = answerer.open(self)
        self._served_by = served_by
        self._ended = False

    def start(self, request: Request, body: bytes) -> None:
        """Pass the request on. Raises CallError if the answerer cannot be reached."""
        try:
            self._answerer.send(msgspec.structs.replace(request, id=self._answerer_id), body)
        except CallError:
            self._end()
            raise

    def on_frame(self, head: Answer, body: bytes) -> None:
        """Pass a message of either side on to the other; one that cannot be delivered ends the call for both."""
        if isinstance(head, End | Open) and head.answer and self._served_by:
            head = msgspec.structs.replace(head, served_by=self._served_by)
        to, call_id = (self._caller, self._caller_id) if head.answer else (self._answerer, self._answerer_id)
        try:
            to.send(msgspec.structs.replace(head, id=call_id), body)
        except CallError as error:
            self.on_lost(to, error)
        if isinstance(head, Cancel | Failure) or (isinstance(head, End) and head.answer):
            self._end()

    def on_lost(self, endpoint: Endpoint, error: CallError) -> None:
        """End the call because *endpoint* cannot carry it; tell the other side, and this one if it can still hear."""
        if self._ended:
            return
        self._end()
        if endpoint is not self._answerer:
            self._answerer.try_send(Cancel(self._answerer_id))
        if endpoint is not self._caller or not endpoint.closed:
            self._caller.fail(self._caller_id, error)

    def _end(self) -> None:
        self._ended = True
        self._caller.forget(self._caller_id, answering=True)
        self._answerer.forget(self._answerer_id, answering=False)
