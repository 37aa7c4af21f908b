"""The ZAP handler's answers: pure bytes in, a reply out, whatever comes."""

from __future__ import annotations

import zmq
from hypothesis import given
from hypothesis import strategies as st
from zmq.utils import z85

from sparkd.link.zap import DOMAIN, Verdict, answer

KEY = zmq.curve_keypair()[0].decode()
RAW = z85.decode(KEY.encode())


def name_of(key: str) -> str | None:
    return "edge" if key == KEY else None


def request(**changes: bytes) -> list[bytes]:
    fields = {"version": b"1.0", "id": b"7", "domain": DOMAIN, "address": b"127.0.0.1", "routing": b""}
    fields |= {"mechanism": b"CURVE", "key": RAW}
    return [b"asker", b"", *(fields | changes).values()]


def test_a_trusted_key_gets_its_name_and_key_as_user_id() -> None:
    reply, verdict = answer(request(), name_of)

    assert reply == [b"asker", b"", b"1.0", b"7", b"200", b"OK", f"edge {KEY}".encode(), b""]
    assert verdict == Verdict("edge", KEY, "127.0.0.1")


def test_a_strange_key_is_told_so() -> None:
    reply, verdict = answer(request(key=bytes(32)), name_of)

    assert reply[4:6] == [b"400", b"this key is not trusted"]
    assert (verdict.name, verdict.address, len(verdict.key)) == ("", "127.0.0.1", 40)


def test_other_mechanisms_domains_and_versions_are_refused() -> None:
    for change in ({"mechanism": b"NULL"}, {"domain": b"bus"}, {"version": b"2.0"}, {"key": b"short"}):
        reply, verdict = answer(request(**change), name_of)

        assert (reply[3], reply[4], verdict.name) == (b"7", b"400", "")


@given(st.lists(st.binary(max_size=40), max_size=12))
def test_any_request_whatever_is_answered_in_the_right_form(frames: list[bytes]) -> None:
    reply, verdict = answer(frames, name_of)

    assert verdict.name == ""
    assert len(reply) >= 7
    assert reply[-4] == b"400"
    assert reply[:1] == frames[:1] or not frames
