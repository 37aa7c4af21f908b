"""Bytes to meaning and back: the same bytes from both libraries, and nothing but our errors for whatever comes."""

from __future__ import annotations

import contextlib
import dataclasses
import inspect
import types
import typing
from typing import Any

import msgpack
import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sparkd import LocalMessageError, Privacy, RemoteMessageError, SensorReading, Telemetry, events
from sparkd.codec import (
    Header,
    Message,
    body_decoder,
    decode_body,
    decode_header,
    decode_message,
    decode_topic,
    encode_body,
    encode_header,
    pack,
    topic_of,
    unpack,
)

EVENTS = [
    cls
    for _, cls in inspect.getmembers(events, inspect.isclass)
    if cls.__module__ == events.__name__ and "__sparkd_event__" in vars(cls)
]
NUMBERS = st.integers(-(1 << 63), (1 << 64) - 1)
HEADERS = st.builds(
    Header,
    version=st.just(1),
    node=st.text(max_size=20),
    service=st.text(max_size=20),
    seq=NUMBERS,
    wall_ns=NUMBERS,
    epoch=st.integers(0, (1 << 64) - 1),
    mono_ns=NUMBERS,
    privacy=st.sampled_from(Privacy),
    trace=st.none() | st.binary(min_size=16, max_size=16),
)
BOMBS = [b"\x91" * 100_000, b"\x81\xa1a" * 100_000, b"\x93" * 100_000, b"\x81\xa4last" + b"\x81\xa1a" * 100_000]


def values(kind: Any) -> st.SearchStrategy[Any]:
    """Return a strategy for values of an annotation, as events use them."""
    if dataclasses.is_dataclass(kind):
        assert isinstance(kind, type)
        hints = typing.get_type_hints(kind)
        return st.builds(kind, **{field.name: values(hints[field.name]) for field in dataclasses.fields(kind)})
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin is list:
        return st.lists(values(arguments[0]), max_size=4)
    if origin is dict:
        return st.dictionaries(values(arguments[0]), values(arguments[1]), max_size=4)
    if origin is tuple:
        return st.tuples(*map(values, arguments))
    if origin is types.UnionType:
        return st.one_of(*map(values, arguments))
    plain: dict[Any, st.SearchStrategy[Any]] = {
        Any: st.none() | NUMBERS | st.text(max_size=5) | st.lists(NUMBERS, max_size=3),
        int: NUMBERS,
        float: st.floats(allow_nan=False),
        bool: st.booleans(),
        str: st.text(max_size=20),
        type(None): st.none(),
    }
    return plain[kind]


def test_every_event_of_the_contract_is_covered() -> None:
    assert {"Telemetry", "Inference", "SensorReading", "NodeHealth", "Tails"} <= {cls.__name__ for cls in EVENTS}


@pytest.mark.parametrize("cls", EVENTS, ids=lambda cls: cls.__name__)
@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_both_libraries_write_the_same_bytes_for_every_event(cls: type[Any], data: st.DataObject) -> None:
    event = data.draw(values(cls))
    body = encode_body(event)

    assert body == msgpack.packb(msgspec.to_builtins(event), use_bin_type=True)
    assert unpack(body) == msgspec.msgpack.decode(body)
    assert decode_body(cls, body) == body_decoder(cls)(body) == event


@given(HEADERS)
def test_a_header_is_the_array_that_the_contract_says(header: Header) -> None:
    fields = [
        *(header.version, header.node, header.service, header.seq, header.wall_ns, header.epoch, header.mono_ns),
        *(int(header.privacy), header.trace),
    ]
    assert encode_header(header) == msgpack.packb(fields)
    assert decode_header(encode_header(header)) == header


def test_a_header_of_a_later_minor_version_has_more_fields_and_an_older_one_fewer() -> None:
    fields = [1, "n", "s", 1, 2, 3, 4, 1]

    assert decode_header(msgpack.packb(fields)).trace is None
    assert decode_header(msgpack.packb([*fields, None, "new", {"newer": 1}])).seq == 1


@pytest.mark.parametrize("version", [0, 2, -1])
def test_a_header_of_another_version_is_refused(version: int) -> None:
    with pytest.raises(RemoteMessageError, match=f"has version {version}; this side speaks 1"):
        decode_header(msgpack.packb([version, "n", "s", 1, 2, 3, 4, 1]))


def test_unknown_fields_are_ignored_and_missing_ones_are_the_peers_error() -> None:
    reading = {"sensor": "s", "quantity": "q", "value": 1.5, "unit": "u"}

    assert decode_body(SensorReading, pack({**reading, "later": [1]})) == SensorReading(**reading)  # type: ignore[arg-type]
    del reading["unit"]
    with pytest.raises(RemoteMessageError, match=r"not a valid SensorReading.*unit"):
        decode_body(SensorReading, pack(reading))


@pytest.mark.parametrize("bomb", BOMBS)
def test_a_nesting_bomb_is_malformed(bomb: bytes) -> None:
    for attempt in (
        lambda: unpack(bomb),
        lambda: decode_header(bomb),
        lambda: decode_body(Telemetry, bomb),
        lambda: decode_body(events.CommandResult, bomb),
        lambda: decode_body(Any, bomb),
        lambda: body_decoder(Telemetry)(bomb),
    ):
        with pytest.raises(RemoteMessageError):
            attempt()


@settings(max_examples=300)
@given(st.lists(st.binary(max_size=80), max_size=5))
def test_random_frames_raise_nothing_but_our_error(frames: list[bytes]) -> None:
    try:
        message = decode_message(frames)
        message.plain()
        message.decode(Telemetry)
    except RemoteMessageError:
        pass


@settings(max_examples=300)
@given(HEADERS, st.data())
def test_a_damaged_header_raises_nothing_but_our_error(header: Header, data: st.DataObject) -> None:
    good = bytearray(encode_header(header))
    good[data.draw(st.integers(0, len(good) - 1))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(RemoteMessageError):
        decode_message([b"edge.sensors", bytes(good), b"\x80"])


@pytest.mark.parametrize(
    "topic", [b"", b"Edge", b"edge.", b".edge", b"edge..x", b"edge x", b"\xff\xfe", b"edge\n", b"9"]
)
def test_a_malformed_topic_is_refused(topic: bytes) -> None:
    with pytest.raises(RemoteMessageError, match="malformed topic"):
        decode_topic(topic)


def test_a_message_says_what_it_holds() -> None:
    header = Header(1, "n", "s", 1, 0, 1, 0, Privacy.LOCAL)
    message = decode_message([b"edge.sensors", encode_header(header), pack({"a": 1})])

    assert message == Message("edge.sensors", header, pack({"a": 1}))
    assert message.plain() == {"a": 1}
    with pytest.raises(RemoteMessageError, match="2 frames instead of 3"):
        decode_message([b"edge", b""])


@pytest.mark.parametrize("value", [object(), 1 << 64, {1, 2, object()}, -(1 << 64)])
def test_what_cannot_be_said_is_our_error(value: Any) -> None:
    for say in (encode_body, pack):
        with pytest.raises(LocalMessageError, match="cannot"):
            say(value)


def test_an_event_goes_to_its_topic_or_beneath() -> None:
    assert topic_of(SensorReading, None) == "edge.sensors"
    assert topic_of(SensorReading, "edge.sensors.power") == "edge.sensors.power"
    for elsewhere in ("edge", "edge.sensorsx", "edge.sensors.", "edge.sensors.X", "system.health", ""):
        with pytest.raises(LocalMessageError, match=r"goes to 'edge\.sensors' or beneath it"):
            topic_of(SensorReading, elsewhere)
