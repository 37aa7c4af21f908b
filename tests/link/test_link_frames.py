"""Every message of the link says what it said before it was encoded; anything else is the peer's error."""

from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparkd import Privacy, RemoteMessageError
from sparkd.codec import Header, Message, pack
from sparkd.link import frames

GREETING = frames.Greeting(frames.PROTOCOL, "edge", "0" * 32, "home", "edge", "1.0", "i", 1 << 20)
EVENT = Message("test.x", Header(1, "edge", "s", 1, 0, 1, 0, Privacy.LOCAL, b"t" * 16), b"\x80")


@pytest.mark.parametrize(
    ("encoded", "said"),
    [
        (frames.hello(GREETING), frames.Hello(GREETING)),
        (frames.welcome(GREETING), frames.Welcome(GREETING)),
        (frames.refused("because"), frames.Refused("because")),
        (frames.event(EVENT), frames.Event(EVENT)),
        (frames.call([b"head", b"body"]), frames.Call([b"head", b"body"])),
        (frames.ping(b"t"), frames.Ping(b"t")),
        (frames.pong(b"t"), frames.Pong(b"t")),
        (frames.bye("done"), frames.Bye("done")),
    ],
)
def test_what_is_encoded_is_decoded(encoded: list[bytes], said: frames.Said) -> None:
    assert frames.decode(encoded) == said


def test_a_later_greeting_with_more_fields_is_understood() -> None:
    longer = pack([frames.PROTOCOL, "edge", "0", "home", "edge", "9.9", "i", 1024, "new", {"newer": 1}])

    assert frames.decode_hello([b"H", longer]).sparkd == "9.9"


@pytest.mark.parametrize("fields", [[2], [2, "edge"], [0, "a", "b", "c", "d", "e", "f", 1]])
def test_another_version_is_named_whatever_follows_it(fields: list[object]) -> None:
    with pytest.raises(RemoteMessageError, match=f"version {fields[0]} is not spoken here, only {frames.PROTOCOL}"):
        frames.decode_hello([b"H", pack(fields)])


def test_reasons_are_cut_to_their_limit() -> None:
    assert frames.decode(frames.bye("é" * 5000)) == frames.Bye("é" * (frames.MAX_REASON_BYTES // 2))


@given(st.lists(st.binary(max_size=100), max_size=8), st.sampled_from([b"", *(bytes([kind]) for kind in b"HWRECPQB")]))
def test_any_frames_whatever_are_understood_or_refused(rest: list[bytes], kind: bytes) -> None:
    for message in (rest, [kind, *rest]):
        with suppress(RemoteMessageError):
            assert frames.decode(message)
