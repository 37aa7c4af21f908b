"""What takes bytes from others, and what must hold for any bytes: each target raises if something does not.

A target returns normally for what is refused in the documented way, and for what is accepted and keeps its promises.
"""

from __future__ import annotations

import atexit
import contextlib
import dataclasses
import json
import os
import re
import shutil
import tempfile
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import msgspec
from anyio import EndOfStream
from anyio.abc import ByteReceiveStream
from anyio.streams.buffered import BufferedByteReceiveStream

from sparkd import events, interface
from sparkd.calls import frames as call_frames
from sparkd.calls.address import parse_address
from sparkd.calls.frames import Request
from sparkd.calls.handlers import Handlers
from sparkd.codec import MALFORMED, decode_body, decode_message, encode_header, pack, unpack
from sparkd.config import load_config, parse_pattern, secret_keys, show
from sparkd.config.secret import MAX_SECRET_BYTES, resolve
from sparkd.errors import CallError, CallErrorKind, ConfigError, LocalMessageError, RemoteMessageError
from sparkd.events import TOPIC
from sparkd.link import frames as link_frames
from sparkd.registry.probe import judge
from sparkd.registry.source import Failure, PluginSource, SourceKind
from sparkd.rpc.access import Access, Rule, Wanted
from sparkd.rpc.jsonrpc import Message, Refusal, checked, parse_line, refusal_line, result_line
from sparkd.rpc.lines import Lines
from sparkd.rpc.openrpc import document
from sparkd.rpc.peer import Peer
from sparkd.service import NAME, Manifest
from sparkd.zygote import wire
from sparkd.zygote.children import Exit
from sparkd_plugins.wyoming_wire.frames import Frame, read_frame

EVENT_TYPES = [cls for cls in vars(events).values() if "__sparkd_event__" in getattr(cls, "__dict__", {})]
MAX_BATCH = 20
MAX_LINE = 4096


def frames_of(data: bytes) -> list[bytes]:
    """Cut *data* into frames: each begins with its length in two bytes; six at the most."""
    frames: list[bytes] = []
    while data and len(frames) < 6:
        size = int.from_bytes(data[:2])
        frames.append(data[2 : 2 + size])
        data = data[2 + size :]
    return frames


def rpc_lines(data: bytes) -> None:
    """Lines of a client, arriving in pieces, become messages or answers that are one line of JSON each."""
    size = data[0] % 64 + 1 if data else 1
    lines, found = Lines(MAX_LINE), []
    for at in range(1, len(data), size):
        found += lines.feed(data[at : at + size])
    assert found == Lines(MAX_LINE).feed(data[1:]), "how they arrive changes nothing"
    for line in found:
        if line is None:
            continue
        try:
            parsed = parse_line(line, max_batch=MAX_BATCH)
        except Refusal as refusal:
            _one_line(refusal_line(refusal))
        else:
            messages = parsed if isinstance(parsed, list) else [parsed]
            assert len(messages) <= MAX_BATCH
            for message in messages:
                _message(message)


def _message(message: Message | Refusal) -> None:
    if isinstance(message, Refusal):
        _one_line(refusal_line(message))
        return
    assert isinstance(message.method, str)
    assert message.params[:1] in (b"", b"{")
    if message.id is not None:
        _one_line(result_line(message.id, b"1"))
        _one_line(refusal_line(Refusal(-1, "no", call_id=message.id)))
    if message.deadline_s is not None:
        assert message.deadline_s > 0
    with contextlib.suppress(CallError):
        parse_address(message.method)
    with contextlib.suppress(CallError):
        _one_line(result_line(b"1", checked(message.params or b"{}")))


def _one_line(line: bytes) -> None:
    assert line.count(b"\n") == 1, line
    assert line.endswith(b"\n"), line
    assert b"\r" not in line, line
    try:
        assert isinstance(json.loads(line), dict), line
    except RecursionError:  # of Python's own decoder: the text is nested, and well-formed
        msgspec.json.decode(line, type=msgspec.Raw)


def link(data: bytes) -> None:
    """Frames of a peer mean something, or are malformed; what they mean can be said again in the same way."""
    frames = frames_of(data)
    try:
        said = link_frames.decode(frames)
    except RemoteMessageError:
        return
    match said:
        case link_frames.Event(message):
            assert link_frames.decode(link_frames.event(message)) == said
        case link_frames.Call(inner):
            assert link_frames.decode(link_frames.call(inner)) == said
        case link_frames.Hello(greeting):
            assert link_frames.decode_hello(link_frames.hello(greeting)) == greeting
        case link_frames.Join(joining):
            assert link_frames.decode_join(link_frames.joining(joining)) == joining
        case link_frames.Refused(reason) | link_frames.Bye(reason):
            assert len(reason) <= link_frames.MAX_REASON_BYTES


def calls(data: bytes) -> None:
    """Messages of calls mean something or are malformed; what they mean can be said again."""
    try:
        head, body = call_frames.decode(frames_of(data))
    except RemoteMessageError:
        return
    try:
        again = call_frames.encode(head, body)
    except LocalMessageError:
        assert isinstance(head, call_frames.Failure), "only error data may hold what cannot be said again"
        return
    if b"\xcb\x7f\xf8" not in again[0]:  # a NaN is not equal to itself
        assert call_frames.decode(again) == (head, body)
    if isinstance(head, call_frames.Failure):
        assert isinstance(call_frames.error_of(head).kind, CallErrorKind)
    if isinstance(head, Request):
        assert head.deadline_s > 0
        with contextlib.suppress(CallError):
            _address(head.method)


def _address(text: str) -> None:
    address = parse_address(text)
    assert str(address) == text, "an address has one spelling"
    assert parse_address(str(address)) == address


def event(data: bytes) -> None:
    """An event's frames are read or malformed; its header and its plain body can be said again."""
    try:
        message = decode_message(frames_of(data))
    except RemoteMessageError:
        return
    assert TOPIC.fullmatch(message.topic)
    again = decode_message([message.topic.encode(), encode_header(message.header), message.body])
    assert again == message
    for cls in EVENT_TYPES:
        with contextlib.suppress(RemoteMessageError):
            made = decode_body(cls, message.body)
            assert isinstance(made, cls)
    with contextlib.suppress(RemoteMessageError):
        plain = message.plain()
        with contextlib.suppress(LocalMessageError):
            assert repr(unpack(pack(plain))) == repr(plain)


def manifest(data: bytes) -> None:
    """Whatever a child leaves in its result pipe is a failure that says something, or manifests."""
    source = PluginSource(name="it", kind=SourceKind.DROP_IN, path="/nowhere/it.py")
    how = Exit(signal=11) if data[:1] == b"s" else Exit(code=0)
    verdict = judge(how, data[1:], source=source, limit_s=1.0, output=["last line"])
    if isinstance(verdict, Failure):
        assert isinstance(verdict.message, str)
        return
    for one in verdict:
        assert one.plugin == "it"
        assert NAME.fullmatch(one.name)
        packed = msgspec.msgpack.encode(one)
        assert msgspec.msgpack.encode(msgspec.msgpack.decode(packed, type=Manifest)) == packed
        secret_keys(one.config_schema)
    msgspec.json.encode(document(verdict, node="here", version="1"))


def zygote(data: bytes) -> None:
    """A datagram between core and zygote is one of theirs, or malformed; what it says can be said again."""
    for decode in (wire.decode_to_zygote, wire.decode_from_zygote, wire.decode_order):
        try:
            said = decode(data)
        except MALFORMED:
            continue
        if "nan" not in repr(said):
            assert decode(wire.encode(said)) == said


_FOLDER = Path(tempfile.mkdtemp(prefix="sparkd-fuzz-", dir="/dev/shm" if Path("/dev/shm").is_dir() else None))
_CONFIG = _FOLDER / "sparkd.toml"
_OWNER = os.getpid()


def _remove_folder() -> None:
    if os.getpid() == _OWNER:  # a child that fuzzes leaves it to the next
        shutil.rmtree(_FOLDER, ignore_errors=True)


atexit.register(_remove_folder)


def config(data: bytes) -> None:
    """A config file is taken whole, and can be shown, or every problem is a sentence that names the file."""
    _CONFIG.write_bytes(data)
    try:
        taken = load_config(_CONFIG)
    except ConfigError as error:
        _check_problems(error)
        return
    tomllib.loads(data.decode())
    msgspec.json.encode(show(taken), enc_hook=str)
    access = Access.of(taken.rpc, taken.access, node=taken.node.name)
    access.judge(Peer(1, 1, 1, frozenset({1})), Wanted("here", "core", "node", "status", reads=True))


def _check_problems(error: ConfigError) -> None:
    assert error.problems
    for problem in error.problems:
        assert problem.startswith(str(_CONFIG)), problem
        assert len(problem) < 100_000, len(problem)


_SECRET = "the-secret-itself-0123456789"
_CLOSED = _FOLDER / "closed"
_CLOSED.write_text(_SECRET)
_CLOSED.chmod(0o600)
_PATHS = re.compile(r"[^A-Za-z0-9._-]")


def secret(data: bytes) -> None:
    """A secret's name leads to a secret, or to a sentence; neither shows the secret."""
    os.environ["CREDENTIALS_DIRECTORY"] = str(_FOLDER)
    try:
        written = msgspec.msgpack.decode(data)
    except MALFORMED:
        return
    if isinstance(written, dict) and isinstance(written.get("file"), str):  # no device of this machine is opened
        written["file"] = f"{_FOLDER}/{_PATHS.sub('', written['file'])}"
    try:
        found = resolve(written)
    except ValueError as error:
        said = str(error)
    else:
        said = f"{found} {found!r}"
        assert len(found.reveal()) <= MAX_SECRET_BYTES
    assert _SECRET not in said


@dataclasses.dataclass(frozen=True, slots=True)
class Leaf:
    """A value within parameters."""

    name: str
    data: bytes = b""
    more: list[Leaf] = dataclasses.field(default_factory=list)


@interface("fuzzed")
class Fuzzed(Protocol):
    async def take(
        self, *, number: int = 0, real: float = 0.0, text: str = "", leaf: Leaf | None = None, table: Any = None
    ) -> Any: ...


class _Taken:
    async def take(self, **params: Any) -> Any:
        return params


_HANDLERS = Handlers(on_error=lambda method, error: _raise(error))
_HANDLERS.bind(Fuzzed, _Taken())


def _raise(error: BaseException) -> None:
    raise AssertionError from error


def params(data: bytes) -> None:
    """Parameters are taken or refused by name; those that came as JSON mean the same as MessagePack."""
    as_json = data[:1] != b"m"
    accepted = _dispatch(data[1:], json=as_json)
    if accepted is None or not as_json:
        return
    plain = msgspec.json.decode(accepted)
    try:
        as_packed = msgspec.msgpack.encode(_binary(plain))
    except OverflowError:  # JSON has numbers beyond 64 bits
        return
    packed = _dispatch(as_packed, json=False)
    assert packed is not None, "what JSON may say, MessagePack may say"
    assert msgspec.to_builtins(msgspec.msgpack.decode(packed)) == plain


def _binary(plain: Any) -> Any:
    """Return taken parameters with the bytes that JSON writes as base64 as bytes."""
    return _leaf(plain) if isinstance(plain, dict) else plain


def _leaf(plain: dict[str, Any]) -> dict[str, Any]:
    leaf = plain.get("leaf")
    return {**plain, "leaf": None if leaf is None else _bytes_in(leaf)}


def _bytes_in(leaf: dict[str, Any]) -> dict[str, Any]:
    data = msgspec.convert(leaf["data"], bytes)
    return {**leaf, "data": data, "more": [_bytes_in(more) for more in leaf["more"]]}


def _dispatch(body: bytes, *, json: bool) -> bytes | None:
    """Call the handler as the router would; return what it got, encoded, or None if it was refused."""
    request = Request(1, "fuzzed.take", 1.0, json=json)
    running = _HANDLERS.dispatch(request, body, None)  # type: ignore[arg-type] # it takes no stream
    try:
        running.send(None)
    except StopIteration as done:
        taken: bytes = done.value
        return taken
    except CallError as error:
        _check_refusal(error)
        return None
    raise AssertionError("it waits for nothing")


def _check_refusal(error: CallError) -> None:
    assert error.kind is CallErrorKind.INVALID_PARAMS, error
    assert isinstance(error.data["field"], str)
    msgspec.json.encode(error.data)


def names(data: bytes) -> None:
    """Addresses and patterns are one spelling each; what a deny names is never let through by another spelling."""
    text = data.decode("utf-8", "surrogateescape")
    with contextlib.suppress(CallError):
        _address(text)
    first, _, second = text.partition("\n")
    try:
        pattern, address = parse_pattern(first), parse_address(second)
    except (ValueError, CallError):
        return
    assert parse_pattern(pattern.text) == pattern
    peer = Peer(1, 5, 5, frozenset({5}))
    everything = Rule("all", frozenset({5}), frozenset(), everybody=False, calls=(parse_pattern("*/*"),), deny=())
    less = dataclasses.replace(everything, name="less", calls=(), deny=(pattern,))
    wanted = Wanted(address.node or "here", address.service or "core", address.interface, address.method, reads=False)
    verdicts = {
        Access(node="here", uid=1, rules=rules).judge(peer, wanted)
        for rules in ((everything, less), (less, everything))
    }
    assert len(verdicts) == 1, "order means nothing"
    if (pattern.interface, pattern.method) == (address.interface, address.method) and not pattern.topic:
        meant = pattern.node in ("", "*", wanted.node) and pattern.service in ("", wanted.service)
        assert verdicts.pop().allowed is not meant


class Given(ByteReceiveStream):
    """A stream of bytes that are all there."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    async def receive(self, max_bytes: int = 65_536) -> bytes:
        if not self._data:
            raise EndOfStream
        piece, self._data = self._data[:max_bytes], self._data[max_bytes:]
        return piece

    async def aclose(self) -> None:
        pass


def first_frame(stream: BufferedByteReceiveStream) -> Frame | None:
    """Return the next frame of a stream that never waits: no event loop is needed."""
    try:
        read_frame(stream).send(None)
    except StopIteration as done:
        frame: Frame | None = done.value
        return frame
    raise AssertionError("it waited")


def wyoming(data: bytes) -> None:
    """Frames of Wyoming: refused, or the same after another trip over the wire."""
    stream = BufferedByteReceiveStream(Given(data))
    with contextlib.suppress(RemoteMessageError):
        while (frame := first_frame(stream)) is not None:
            again = first_frame(BufferedByteReceiveStream(Given(frame.encode())))
            assert again == frame, (frame, again)
            with contextlib.suppress(RemoteMessageError):
                assert 1 <= frame.number("rate", default=1, lowest=1, highest=9) <= 9
                assert isinstance(frame.text("text"), str)


TARGETS: dict[str, Callable[[bytes], None]] = {
    "rpc-lines": rpc_lines,
    "link": link,
    "calls": calls,
    "event": event,
    "manifest": manifest,
    "zygote": zygote,
    "config": config,
    "secret": secret,
    "params": params,
    "names": names,
    "wyoming": wyoming,
}
