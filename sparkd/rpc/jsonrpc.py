"""JSON-RPC 2.0 as text: lines to messages, answers to lines. Pure; https://www.jsonrpc.org/specification.

Parameters and results are never decoded here: they stay JSON text from the socket to the handler that knows their
types, and back. Only their place in the line is found, which also proves that they are JSON.

Beyond the specification: parameters go by name only, and a request may carry a member `meta` with `privacy`,
`deadline_s` and `trace` of the call, and with `stream` if items follow (`uploads.py`). The answer's member `served_by`
names who gave it, unless it was this node's core.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import msgspec

from sparkd.codec import MALFORMED
from sparkd.errors import CallError, CallErrorKind
from sparkd.privacy import Privacy

PARSE_ERROR = -32700
INVALID_REQUEST = -32600
INTERNAL_ERROR = -32603
BUSY = -32005

CODES: dict[CallErrorKind, int] = {
    CallErrorKind.UNKNOWN_METHOD: -32601,
    CallErrorKind.INVALID_PARAMS: -32602,
    CallErrorKind.FAILED: -32000,
    CallErrorKind.UNAVAILABLE: -32001,
    CallErrorKind.DEADLINE: -32002,
    CallErrorKind.DENIED: -32003,
    CallErrorKind.CANCELLED: -32004,
}
"""The code of each kind of error; `error.data.kind` holds the kind itself. BUSY is -32005: too many connections."""

MAX_ID_CHARS = 256


class Meta(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """What a request may say about its call."""

    privacy: str | None = None
    deadline_s: float | None = None
    trace: str | None = None
    """32 hex digits."""
    stream: bool = False
    """Whether items follow."""


class _Wire(msgspec.Struct):
    jsonrpc: Any = None
    method: Any = None
    params: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    id: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    meta: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET


@dataclass(frozen=True, slots=True)
class Message:
    """A request, or a notification if it has no id."""

    method: str
    params: bytes
    """A JSON object, or nothing."""
    id: bytes | None
    """As the client wrote it."""
    privacy: Privacy | None = None
    deadline_s: float | None = None
    trace: bytes | None = None
    streams: bool = False
    """Whether items follow, each a notification."""


class Refusal(Exception):  # noqa: N818 - an answer, not a fault of ours
    """A line, or one message of a batch, that gets an error for an answer."""

    def __init__(self, code: int, message: str, *, call_id: bytes = b"null", **data: Any) -> None:
        """Answer *call_id* with *code* and *message*."""
        super().__init__(message)
        self.code = code
        self.message = message
        self.call_id = call_id
        self.data = data

    @classmethod
    def of(cls, error: CallError, call_id: bytes) -> Refusal:
        """Return *error* as the answer to *call_id*."""
        return cls(CODES[error.kind], error.message, call_id=call_id, kind=error.kind.value, **_free(error.data))


def _free(data: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in data.items() if name not in {"self", "code", "message", "call_id", "kind"}}


_decode_wire = msgspec.json.Decoder(_Wire).decode
_decode_batch = msgspec.json.Decoder(list[msgspec.Raw]).decode
_decode_meta = msgspec.json.Decoder(Meta).decode
_decode_id = msgspec.json.Decoder(str | int | float | None).decode
_is_json = msgspec.json.Decoder(msgspec.Raw).decode
_TRACE = re.compile(r"[0-9a-f]{32}")


def parse_line(line: bytes, *, max_batch: int) -> Message | list[Message | Refusal]:
    """Return the message on *line*, or those of a batch. Raises Refusal if the whole line is refused."""
    if not _is_utf8(line):  # msgspec passes over strings that it need not decode, and parameters go on as they came
        raise Refusal(PARSE_ERROR, "not JSON: not UTF-8")
    if line.lstrip(b" \t\r")[:1] != b"[":
        return _parse_message(line)
    try:
        batch = _decode_batch(line)
    except MALFORMED as error:
        raise Refusal(PARSE_ERROR, f"not JSON: {error}") from None
    if not batch:
        raise Refusal(INVALID_REQUEST, "an empty batch")
    if len(batch) > max_batch:
        raise Refusal(INVALID_REQUEST, f"a batch of {len(batch)} messages; {max_batch} at the most")
    return [_message_or_refusal(bytes(item)) for item in batch]


def _message_or_refusal(text: bytes) -> Message | Refusal:
    try:
        return _parse_message(text)
    except Refusal as refusal:
        return refusal


def _parse_message(text: bytes) -> Message:
    try:
        wire = _decode_wire(text)
    except msgspec.ValidationError:
        raise Refusal(INVALID_REQUEST, "a message is a JSON object") from None
    except MALFORMED as error:
        raise Refusal(PARSE_ERROR, f"not JSON: {error}") from None
    call_id = _call_id(wire)
    answer_to = b"null" if call_id is None else call_id
    if wire.jsonrpc != "2.0":
        raise Refusal(INVALID_REQUEST, 'the member "jsonrpc" must be "2.0"', call_id=answer_to)
    if not isinstance(wire.method, str):
        raise Refusal(INVALID_REQUEST, 'the member "method" must be a string', call_id=answer_to)
    return _message(wire, wire.method, call_id, answer_to)


def _call_id(wire: _Wire) -> bytes | None:
    if wire.id is msgspec.UNSET:
        return None
    text = bytes(wire.id)
    try:
        _decode_id(text)
    except MALFORMED:
        raise Refusal(INVALID_REQUEST, 'the member "id" must be a string, a number or null') from None
    if len(text) > MAX_ID_CHARS:
        raise Refusal(INVALID_REQUEST, f'the member "id" may have {MAX_ID_CHARS} characters')
    return text


def _params(wire: _Wire, call_id: bytes) -> bytes:
    if wire.params is msgspec.UNSET:
        return b""
    params = bytes(wire.params)
    if params[:1] != b"{":
        what = "got an array" if params[:1] == b"[" else f"got {params[:20].decode(errors='replace')}"
        error = CallError(CallErrorKind.INVALID_PARAMS, f"parameters go by name, in an object; {what}", field="params")
        raise Refusal.of(error, call_id)
    return params


def _message(wire: _Wire, method: str, call_id: bytes | None, answer_to: bytes) -> Message:
    params = _params(wire, answer_to)
    if wire.meta is msgspec.UNSET:
        return Message(method, params, call_id)
    try:
        meta = _decode_meta(bytes(wire.meta))
        privacy = None if meta.privacy is None else Privacy.parse(meta.privacy)
        if meta.deadline_s is not None and not meta.deadline_s > 0:
            raise ValueError("deadline_s must be positive")
        if meta.trace is not None and not _TRACE.fullmatch(meta.trace):
            raise ValueError("trace must be 32 hex digits")
    except MALFORMED as error:
        raise Refusal(INVALID_REQUEST, f'the member "meta": {error}', call_id=answer_to) from None
    trace = None if meta.trace is None else bytes.fromhex(meta.trace)
    return Message(method, params, call_id, privacy, meta.deadline_s, trace, meta.stream)


def result_line(call_id: bytes, body: bytes, *, served_by: str = "") -> bytes:
    """Return the answer with the result *body*, JSON text."""
    by = b',"served_by":' + _encode(served_by) if served_by else b""
    return b'{"jsonrpc":"2.0","id":' + call_id + b',"result":' + body + by + b"}\n"


def error_object(refusal: Refusal) -> dict[str, Any]:
    """Return the member `error` that says *refusal*."""
    return {"code": refusal.code, "message": refusal.message, "data": refusal.data}


def refusal_line(refusal: Refusal) -> bytes:
    """Return the answer that says *refusal*."""
    return b'{"jsonrpc":"2.0","id":' + refusal.call_id + b',"error":' + _encode(error_object(refusal)) + b"}\n"


def batch_line(answers: list[bytes]) -> bytes:
    """Return the answer to a batch from the answers to its messages; empty ones, of notifications, are left out."""
    return b"[" + b",".join(answer.rstrip(b"\n") for answer in answers if answer) + b"]\n"


def notification_line(method: str, **params: Any) -> bytes:
    """Return a notification; a parameter may be `msgspec.Raw`, JSON text already."""
    return _encode({"jsonrpc": "2.0", "method": method, "params": params}) + b"\n"


def checked(body: bytes) -> bytes:
    """Return *body* if it is one JSON text that cannot end a line early, else the same text without line breaks.

    Raises CallError (`FAILED`) if it is not JSON: what another process or node sends may not speak for the core.
    """
    try:
        _is_json(body)
        if not _is_utf8(body):
            raise ValueError("not UTF-8")
        return body if b"\n" not in body and b"\r" not in body else msgspec.json.format(body, indent=-1)
    except MALFORMED as error:
        raise CallError(CallErrorKind.FAILED, f"the answer is not JSON: {error}", error="protocol") from None


def _is_utf8(text: bytes) -> bool:
    if text.isascii():
        return True
    try:
        text.decode()
    except UnicodeDecodeError:
        return False
    return True


def _encode(value: Any) -> bytes:
    return msgspec.json.encode(value, enc_hook=str)
