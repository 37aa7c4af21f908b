"""Two nodes linked over loopback: events and calls pass, what ends a link is said, and it comes back."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import anyio
import pytest
import zmq

from sparkd import Privacy, event
from sparkd.calls import frames as calls
from sparkd.codec import Header, Message, encode_body
from sparkd.config import PeerConfig
from sparkd.errors import CallError, CallErrorKind
from sparkd.link import Channel
from tests.link.link_rig import (
    LinkNode,
    attacking_as,
    edge_and_cloud,
    free_address,
    greeting_of,
    trust_each_other,
    welcomed,
    wire_to,
)

pytestmark = pytest.mark.anyio


@event("test.count", privacy=Privacy.SHARED)
@dataclass(frozen=True, slots=True, kw_only=True)
class Count:
    n: int
    filling: str = ""


@event("models.updates", privacy=Privacy.SHARED)
@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    name: str


def request(method: str, *, body: bytes = b"body") -> list[bytes]:
    return calls.encode(calls.Request(1, method, 5.0, Privacy.SHARED), body)


def event_of(node: str, n: int) -> Message:
    return Message("test.count", Header(1, node, "s", n, 0, 1, 0, Privacy.SHARED), encode_body(Count(n=n)))


async def take(messages: Any) -> Message:
    with anyio.fail_after(10):
        message: Message = (await anext(messages)).event
        return message


async def test_an_event_is_on_the_bus_of_the_other_node_with_its_header(root: Path) -> None:
    async with (
        edge_and_cloud(root).linked() as both,
        both.cloud.bus.subscribe_messages("test") as there,
        both.edge.bus.subscribe_messages("test") as here,
    ):
        await both.edge.bus.publish(Count(n=1), trace=b"t" * 16)
        sent, arrived = await take(here), await take(there)

    assert arrived == sent
    assert (arrived.header.node, arrived.header.trace) == ("edge", b"t" * 16)


async def test_events_pass_both_ways_and_only_on_the_topics_that_are_listed(root: Path) -> None:
    async with edge_and_cloud(root).linked() as both, both.edge.bus.subscribe_messages("models", "test") as at_edge:
        await both.cloud.bus.publish(Count(n=1))
        await both.cloud.bus.publish(Model(name="m"))

        assert (await take(at_edge)).topic == "models.updates"


async def test_an_event_of_another_node_is_never_forwarded_again(root: Path) -> None:
    async with edge_and_cloud(root).linked() as both, both.cloud.bus.subscribe_messages("test") as there:
        both.edge.bus.publish_message(event_of("elsewhere", 1))
        await both.edge.bus.publish(Count(n=2))

        assert (await take(there)).decode(Count).n == 2


async def test_a_peer_that_connects_is_told_the_last_values_of_state_topics(root: Path) -> None:
    both = edge_and_cloud(root)
    both.edge.retained = [event_of("elsewhere", 1), event_of("edge", 2)]
    async with both.cloud.running(), both.cloud.bus.subscribe_messages("test") as there, both.edge.running():
        assert (await take(there)).decode(Count).n == 2


async def test_calls_pass_both_ways_untouched(root: Path) -> None:
    async with edge_and_cloud(root).linked() as both:
        both.edge.channels["cloud"].send(request("ingest.append"))
        both.cloud.channels["edge"].send(request("vision.infer"))
        await both.cloud.until(lambda: both.cloud.calls)
        await both.edge.until(lambda: both.edge.calls)

    assert both.cloud.calls == [("edge", request("ingest.append"))]
    assert both.edge.calls == [("cloud", request("vision.infer"))]


async def test_a_method_that_is_not_listed_is_denied_with_the_rule(root: Path) -> None:
    async with edge_and_cloud(root).linked() as both:
        both.edge.channels["cloud"].send(request("power.off"))
        await both.edge.until(lambda: both.edge.calls)

        head, _ = calls.decode(both.edge.calls[0][1])
        assert isinstance(head, calls.Failure)
        assert calls.error_of(head).kind is CallErrorKind.DENIED
        assert head.data == {"rule": "power.off is not in [link.peers.edge] calls"}
        assert both.cloud.calls == []
        assert both.cloud.status("edge").refused == {"called: power.off": 1}


async def test_a_message_that_is_too_large_is_refused_here_with_both_numbers(root: Path) -> None:
    async with edge_and_cloud(root).linked() as both, both.cloud.bus.subscribe_messages("test") as there:
        with pytest.raises(CallError, match=r"of 10486\d\d bytes is too large .* takes 1048576") as refused:
            both.edge.channels["cloud"].send(request("ingest.append", body=bytes(1_048_576)))
        await both.edge.bus.publish(Count(n=1, filling="x" * 1_048_550))
        await both.edge.bus.publish(Count(n=2))

        assert (await take(there)).decode(Count).n == 2
        assert refused.value.kind is CallErrorKind.FAILED
        assert both.edge.status("cloud").refused == {"send: call too large": 1, "send test.count: too large": 1}
        assert both.edge.status("cloud").reconnects == 0


async def test_a_sender_heeds_the_smaller_limit_of_its_peer(root: Path) -> None:
    both = edge_and_cloud(root)
    both.cloud.max_message_bytes = 100_000
    async with both.linked():
        with pytest.raises(CallError, match="takes 100000"):
            both.edge.channels["cloud"].send(request("ingest.append", body=bytes(200_000)))


async def test_a_listening_node_that_restarts_is_dialed_again(root: Path) -> None:
    both = edge_and_cloud(root)
    async with both.edge.running():
        async with both.cloud.running():
            await both.edge.up("cloud")
        await both.edge.down("cloud")
        with pytest.raises(KeyError):
            both.edge.channels["cloud"]
        async with both.cloud.running():
            await both.edge.up("cloud")
            await both.cloud.up("edge")

            assert both.edge.status("cloud").reconnects == 1

    states = [(change.connected, change.reason) for change in both.edge.changes]
    assert [up for up, _ in states[:3]] == [True, False, True]
    assert states[1][1] in {"cloud closed: stopping", "the connection was lost"}  # a farewell may go under


async def test_a_call_without_a_connection_fails_at_once(root: Path) -> None:
    both = edge_and_cloud(root)
    async with both.edge.running():
        async with both.cloud.running():
            await both.edge.up("cloud")
            channel = both.edge.channels["cloud"]
        await both.edge.down("cloud")
        with pytest.raises(CallError, match="cloud: gone") as refused:
            channel.send(request("ingest.append"))

    assert refused.value.kind is CallErrorKind.UNAVAILABLE


async def test_status_tells_what_is_wrong_and_what_to_do(root: Path) -> None:
    both = edge_and_cloud(root)
    async with both.edge.running():
        await both.edge.until(lambda: both.edge.log.about("link: not connected"))
        status = both.edge.status("cloud")

    assert (status.connected, status.direction, status.reason) == (False, "dial", "nothing listens there")
    assert status.remedy == "is sparkd running on cloud, and reachable from here?"


async def test_status_of_a_living_link_has_its_round_trip_time(root: Path) -> None:
    async with edge_and_cloud(root).linked() as both:
        with anyio.fail_after(5):
            while both.edge.status("cloud").rtt_ms is None:
                await anyio.lowlevel.checkpoint()
        status = both.edge.status("cloud")

    assert (status.connected, status.reason) == (True, "")
    assert 0 < (status.rtt_ms or 0) < 5000


async def test_two_nodes_that_dial_each_other_have_one_connection(root: Path) -> None:
    one, two = LinkNode("one", root, listen=free_address()), LinkNode("two", root, listen=free_address())
    one.peers["two"] = PeerConfig(address=two.listen, site="home", calls=["a.b"])
    two.peers["one"] = PeerConfig(address=one.listen, site="home", calls=["a.b"])
    trust_each_other(one, two)
    async with one.running(), two.running():
        await one.up("two")
        await two.up("one")
        one.channels["two"].send(request("a.b"))
        two.channels["one"].send(request("a.b"))
        await one.until(lambda: one.calls)
        await two.until(lambda: two.calls)

        directions = {one.status("two").direction, two.status("one").direction}
        assert directions == {"dial", "listen"}


async def test_a_second_program_with_the_same_key_is_refused_while_the_first_lives(root: Path) -> None:
    async with edge_and_cloud(root).linked() as both:
        with attacking_as(both.edge, both.cloud.listen, both.cloud) as second:
            second.send(b"H", greeting_of("edge"))
            kind, reason = await second.receive()

        assert kind == b"R"
        assert reason.startswith(b"edge is connected already, from 127.0.0.1:")
        assert both.edge.status("cloud").connected


async def test_a_lost_connections_successor_takes_its_place(root: Path) -> None:
    both = edge_and_cloud(root)
    async with both.cloud.running():
        await both.cloud.listening()
        with attacking_as(both.edge, both.cloud.listen, both.cloud) as first:
            first.send(b"H", greeting_of("edge", instance="i"))
            assert (await first.receive())[0] == b"W"
            with attacking_as(both.edge, both.cloud.listen, both.cloud) as second:
                second.send(b"H", greeting_of("edge", instance="i"))
                assert (await second.receive())[0] == b"W"
                await first.event(zmq.EVENT_DISCONNECTED)

                assert both.cloud.status("edge").reconnects == 1


async def test_a_peer_whose_core_is_stuck_is_said_to_be(root: Path) -> None:
    both = edge_and_cloud(root)
    async with both.cloud.running():
        await both.cloud.listening()
        with attacking_as(both.edge, both.cloud.listen, both.cloud) as mute:
            await welcomed(mute, "edge")
            await both.cloud.until(lambda: both.cloud.log.about("link: no answer"))

            status = both.cloud.status("edge")
            assert (status.connected, status.reason[:35]) == (True, "connected, but does not answer: its")


async def test_a_silent_network_is_noticed_by_both_sides_and_forgiven_when_it_speaks(root: Path) -> None:
    both = edge_and_cloud(root)
    async with both.cloud.running(), wire_to(both.cloud.listen) as wire:
        await both.cloud.listening()
        both.edge.peers["cloud"] = replace(both.edge.peers["cloud"], address=wire.address)
        async with both.edge.running():
            await both.edge.up("cloud")
            wire.cut()
            await both.edge.down("cloud")
            await both.cloud.down("edge")
            wire.mend()
            await both.edge.up("cloud")


async def test_a_peer_that_does_not_read_loses_live_events_and_gets_no_calls(root: Path) -> None:
    both = edge_and_cloud(root)
    async with both.cloud.running():
        await both.cloud.listening()
        with attacking_as(both.edge, both.cloud.listen, both.cloud) as deaf:
            deaf.send(b"H", greeting_of("edge", max_message_bytes=1 << 20))
            await both.cloud.up("edge")
            channel = both.cloud.channels["edge"]
            sent, refusal = fill(channel)

            assert sent < 3000
            assert refusal == "unavailable: edge: peer does not read"
            assert both.cloud.status("edge").connected


def fill(channel: Channel) -> tuple[int, str]:
    """Send calls until one is refused; return how many were taken, and why it was."""
    for sent in range(100_000):
        try:
            channel.send(request("a.b", body=bytes(50_000)))
        except CallError as error:
            return sent, str(error)
    raise AssertionError("never refused")


async def test_events_said_while_the_link_was_cut_are_lost_and_counted(root: Path) -> None:
    async with edge_and_cloud(root).linked() as both, both.cloud.bus.subscribe(Count) as there:
        await both.edge.bus.publish(Count(n=1))
        assert (await anext(there)).event.n == 1
        both.cloud.keys.revoke("edge")
        await both.edge.down("cloud")
        for n in range(2, 7):
            await both.edge.bus.publish(Count(n=n))
        both.cloud.keys.trust("edge", both.edge.key)
        await both.edge.up("cloud")
        await both.edge.forwarding("cloud")
        sent = seen = 0
        while not seen:  # forwarding begins a moment after the link is up: what is sent before is lost too
            sent += 1
            await both.edge.bus.publish(Count(n=7))
            with anyio.move_on_after(0.5):
                seen += (await anext(there)).event.n == 7
        assert there.lost == 5 + sent - seen
