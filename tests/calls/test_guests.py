"""Hosts of other users: who is let in, for how long, and who may use the bus meanwhile."""

from __future__ import annotations

import anyio
import pytest

from sparkd.bus.zap import LocalPeers
from sparkd.calls.guests import MAX_UNKNOWN, Guests, Peer
from sparkd.errors import CallError

pytestmark = pytest.mark.anyio
PEER = Peer(pid=4711, uid=65_534)
ADDRESS = "localhost:65534:65534:4711"


async def test_a_guest_may_use_the_bus_from_its_hello_to_its_end() -> None:
    guests = Guests(expected={"it"})
    peers = LocalPeers({}, processes=guests.processes)
    endpoint = object()
    guest = guests.admit(PEER, lambda: None)
    assert guest is not None
    guests.attach(endpoint, guest)

    before = [peers.admit(socket, ADDRESS) for socket in ("bus.pub", "bus.sub")]
    guests.check(endpoint, "it")
    during = [peers.admit(socket, ADDRESS) for socket in ("bus.pub", "bus.sub")]
    another = peers.admit("bus.pub", "localhost:65534:65534:4712")
    guests.leave(endpoint)
    after = [peers.admit(socket, ADDRESS) for socket in ("bus.pub", "bus.sub")]

    assert (before, during, another, after) == ([False, False], [True, True], False, [False, False])


async def test_nobody_is_let_in_while_none_is_expected() -> None:
    refused: list[Peer] = []

    assert Guests(on_refused=refused.append).admit(PEER, lambda: None) is None
    assert refused == [PEER]


async def test_few_may_be_unknown_at_once_and_each_not_for_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sparkd.calls.guests.HELLO_LIMIT_S", 0.05)
    guests, cut = Guests(expected={"it"}), anyio.Event()
    endpoints = [object() for _ in range(MAX_UNKNOWN)]
    for endpoint in endpoints:
        guest = guests.admit(PEER, cut.set)
        assert guest is not None
        guests.attach(endpoint, guest)

    assert guests.admit(PEER, cut.set) is None
    with anyio.fail_after(5):
        await cut.wait()
    for endpoint in endpoints:
        guests.leave(endpoint)
    again = guests.admit(PEER, cut.set)
    assert again is not None
    again.timer.cancel()


async def test_the_token_of_a_service_that_is_no_unit_is_of_no_use_to_another_user() -> None:
    guests = Guests(expected={"it"})
    guest = guests.admit(PEER, lambda: None)
    assert guest is not None
    guests.attach(guest, guest)

    with pytest.raises(CallError, match="does not run as user 65534"):
        guests.check(guest, "other")
    guests.leave(guest)
    assert guests.processes == set()
    guests.check(object(), "other")  # of our own user: its token was enough
