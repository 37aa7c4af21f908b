"""What `wg show` prints, as recorded from wireguard-tools 1.0.20210914 with wireguard-go; and garbage in its place."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sparkd_plugins.vpn_watchdog.wg import (
    FAST,
    SLOW,
    Reading,
    Setting,
    join_endpoint,
    name_of,
    only_address,
    read,
    split_endpoint,
)

HUB = "Gpl5XA555H+crF+1R14bn5B6DUfZXlCrrqsn23lwnTI="
PI = "jP7Q9zPUpNeTKGTcUgNED/beQTXJ712zpcca0hQRnAs="
RECORDED = {
    "latest-handshakes": f"{HUB}\t1795458657\n{PI}\t0\n",
    "transfer": f"{HUB}\t92\t180\n{PI}\t0\t148\n",
    "endpoints": f"{HUB}\t192.0.2.2:51820\n{PI}\t(none)\n",
    "persistent-keepalive": f"{HUB}\t25\n{PI}\toff\n",
    "allowed-ips": f"{HUB}\t10.9.0.0/24 10.9.0.2/32\n{PI}\t10.9.0.1/32 fd00::1/128\n",
    "listen-port": "51820\n",
}


def test_what_wg_prints_is_read() -> None:
    snapshot = read(RECORDED)

    assert snapshot.readings == {
        HUB: Reading(epoch=1795458657, received=92, sent=180, endpoint="192.0.2.2:51820"),
        PI: Reading(epoch=0, received=0, sent=148, endpoint=""),
    }
    assert snapshot.settings == {
        HUB: Setting(keepalive_s=25, allowed=("10.9.0.0/24", "10.9.0.2/32")),
        PI: Setting(keepalive_s=0, allowed=("10.9.0.1/32", "fd00::1/128")),
    }
    assert (snapshot.listen_port, snapshot.garbage) == (51820, ())


def test_the_fast_words_alone_are_enough_for_readings() -> None:
    assert read({word: RECORDED[word] for word in FAST}).readings == read(RECORDED).readings


@pytest.mark.parametrize(
    ("word", "text", "complaint"),
    [
        ("latest-handshakes", f"{HUB}\tsoon\n", "latest-handshakes: the value of a peer"),
        ("latest-handshakes", f"{HUB}\t-5\n", "latest-handshakes: the value of a peer"),
        ("latest-handshakes", f"{HUB}\t{'9' * 40}\n", "latest-handshakes: the value of a peer"),
        ("latest-handshakes", f"{HUB}\t\u0661\n", "latest-handshakes: the value of a peer"),
        ("latest-handshakes", f"{HUB[:20]}\n", "latest-handshakes: line 1"),
        ("latest-handshakes", f"{HUB}\t1\t2\n", "latest-handshakes: line 1"),
        ("transfer", f"{HUB}\t92\n", "transfer: line 1"),
        ("endpoints", f"{HUB}\thub.example.net:51820\n", "endpoints: the value of a peer"),
        ("endpoints", f"{HUB}\t192.0.2.2:0\n", "endpoints: the value of a peer"),
        ("endpoints", "Unable to access interface: Operation not permitted\n", "endpoints: line 1"),
    ],
)
def test_garbage_is_left_out_and_told(word: str, text: str, complaint: str) -> None:
    snapshot = read(RECORDED | {word: text})

    assert complaint in snapshot.garbage
    assert HUB not in snapshot.readings or snapshot.readings[HUB].endpoint == ""


@given(st.dictionaries(st.sampled_from(FAST + SLOW), st.text(alphabet=st.sampled_from(f"{HUB}\t\n 019.:[]/(none)-"))))
@settings(max_examples=300, deadline=None)
def test_no_text_is_more_than_garbage(shown: dict[str, str]) -> None:
    for reading in read(RECORDED | shown).readings.values():
        assert reading.epoch >= 0
        assert reading.received >= 0


def test_a_flood_of_peers_is_bounded() -> None:
    keys = [f"{number:042d}E=" for number in range(3000)]
    shown = {
        "latest-handshakes": "".join(f"{key}\t1\n" for key in keys),
        "transfer": "".join(f"{key}\t1\t1\n" for key in keys),
    }

    assert len(read(shown).readings) == 500


def test_names_addresses_and_endpoints() -> None:
    assert name_of(HUB) == "peer-1a99795c"
    assert only_address(("10.9.0.0/24", "10.9.0.2/32")) == "10.9.0.2"
    assert only_address(("fd00::1/128",)) == "fd00::1"
    assert only_address(("0.0.0.0/0",)) == ""
    for endpoint in ("192.0.2.1:5", "[2001:db8::1]:51820"):
        assert join_endpoint(*split_endpoint(endpoint)) == endpoint
