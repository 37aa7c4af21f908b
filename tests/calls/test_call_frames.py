from __future__ import annotations

import contextlib
import math

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparkd.calls.frames import (
    Cancel,
    Credit,
    End,
    Failure,
    Head,
    Item,
    Open,
    Request,
    decode,
    encode,
    error_of,
    failure,
)
from sparkd.errors import CallError, CallErrorKind, LocalMessageError, RemoteMessageError
from sparkd.privacy import Privacy

HEADS: list[Head] = [
    Request(1, "vision.infer", 10.0, Privacy.SHARED, b"t" * 16, "gateway", "home", 4, json=True, hops=1),
    Open(2, "home/vision"),
    Item(3, 7, answer=True),
    Credit(4, 8, answer=False),
    End(5, answer=True, served_by="home/vision"),
    Failure(6, "denied", "no", {"rule": "r"}),
    Cancel(2**64 - 1),
]


@pytest.mark.parametrize("head", HEADS, ids=lambda head: type(head).__name__)
def test_every_head_survives_the_wire(head: Head) -> None:
    assert decode(encode(head, b"body")) == (head, b"body")


def test_a_head_is_a_plain_msgpack_array_that_begins_with_its_tag() -> None:
    assert msgpack.unpackb(encode(Item(3, 7, answer=True))[0]) == [3, 3, 7, True]


def test_fields_appended_by_a_newer_peer_are_ignored() -> None:
    assert decode([msgpack.packb([3, 3, 7, True, "new"]), b""])[0] == Item(3, 7, answer=True)


@pytest.mark.parametrize(
    "frames",
    [
        [],
        [b""],
        [b"", b""],
        [b"", b"", b""],
        [msgpack.packb([99, 1]), b""],
        [msgpack.packb([3, "x", 1, True]), b""],
        [msgpack.packb({"id": 1}), b""],
        [msgpack.packb([1, 1, "a.b", math.nan]), b""],
        [msgpack.packb([1, 1, "a.b", 0.0]), b""],
        [msgpack.packb([1, 1, "a.b", -math.inf]), b""],
        [msgpack.packb([1, 1, "a.b", -1.0]), b""],
        [msgpack.packb([1, 1, "a." + "b" * 1000, 1.0]), b""],
        [msgpack.packb([1, 1, "a.b", 1.0, 9]), b""],
        [msgpack.packb([1, 1, "a.b", 1.0, 1, None, "", "", -1]), b""],
        [b"\x91" * 100_000, b""],
    ],
)
def test_malformed_frames_are_the_peers_error(frames: list[bytes]) -> None:
    with pytest.raises(RemoteMessageError):
        decode(frames)


@given(st.lists(st.binary(max_size=64), max_size=4))
def test_random_frames_never_raise_anything_else(frames: list[bytes]) -> None:
    with contextlib.suppress(RemoteMessageError):
        decode(frames)


@pytest.mark.parametrize("kind", CallErrorKind)
def test_an_error_arrives_as_it_was_raised(kind: CallErrorKind) -> None:
    head, _ = decode(encode(failure(1, CallError(kind, "why", field="x", remedy="do"))))
    assert isinstance(head, Failure)

    error = error_of(head)

    assert (error.kind, error.message, error.data) == (kind, "why", {"field": "x", "remedy": "do"})


def test_an_unknown_kind_of_error_and_reserved_names_in_its_data_do_no_harm() -> None:
    error = error_of(Failure(1, "melted", "why", {"kind": 1, "message": 2, "self": 3, "a": 4}))

    assert error.kind is CallErrorKind.FAILED
    assert error.data == {"a": 4, "error": "melted"}


def test_error_data_that_cannot_be_said_is_our_bug() -> None:
    with pytest.raises(LocalMessageError):
        encode(failure(1, CallError(CallErrorKind.FAILED, "x", it=object())))
