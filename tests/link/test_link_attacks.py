"""Strangers, liars and broken peers: each is refused and counted, and a good peer beside them notices nothing."""

from __future__ import annotations

import os
import socket
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, ExitStack, asynccontextmanager, contextmanager
from dataclasses import replace
from pathlib import Path

import anyio
import pytest
import zmq
from hypothesis import given, settings
from hypothesis import strategies as st

from sparkd import Privacy
from sparkd.calls import frames as calls
from sparkd.codec import Header, Message
from sparkd.config import PeerConfig
from sparkd.link import Timing, frames
from sparkd.link.complaints import Complaints
from sparkd.link.door import MAX_HALF_OPEN_PER_ADDRESS
from sparkd.link.ledger import Ledger
from sparkd.link.peer import Peer
from sparkd.link.rules import PeerRules
from sparkd.link.session import Session, SessionHooks
from sparkd.service import Received
from tests.link.link_rig import (
    QUICK,
    Happenings,
    LinkNode,
    LoggedLines,
    attacker,
    attacking_as,
    edge_and_cloud,
    greeting_of,
    welcomed,
)

pytestmark = pytest.mark.anyio

NOT_CURVE = "does not speak CURVE, or has a wrong key for this node"
BROKE_OFF = "broke off or was silent during the handshake"
HUNG_UP = "hung up, or did not speak ZMTP, before it said who it is"


@asynccontextmanager
async def cloud_and_witness(root: Path, *, timing: Timing = QUICK) -> AsyncIterator[tuple[LinkNode, LinkNode]]:
    """Run `cloud`, linked with `edge`, which must notice nothing; `rogue` is in its config too."""
    both = edge_and_cloud(root)
    both.cloud.timing = timing
    both.cloud.peers["rogue"] = PeerConfig(site="home", send=["models"], receive=["test"], calls=["ingest.append"])
    async with both.linked():
        yield both.cloud, both.edge
        await still_answers(both.cloud, both.edge)
        assert both.edge.status("cloud").reconnects == 0


async def still_answers(cloud: LinkNode, edge: LinkNode) -> None:
    before = len(cloud.calls)
    edge.channels["cloud"].send(calls.encode(calls.Request(1, "ingest.append", 5.0, Privacy.SHARED)))
    await cloud.until(lambda: len(cloud.calls) > before)


def rogue_of(cloud: LinkNode) -> LinkNode:
    rogue = LinkNode("rogue", cloud.root)
    cloud.keys.trust("rogue", rogue.key)
    return rogue


async def trusted_rogue(cloud: LinkNode) -> LinkNode:
    rogue = rogue_of(cloud)
    await cloud.until(lambda: any("rogue" in str(f["trusted"]) for f in cloud.log.about("link: trusted keys read")))
    return rogue


async def refusal(cloud: LinkNode, *reasons: str) -> None:
    """Wait until a connection was refused for one of *reasons*, which is logged at the first of each address."""
    await cloud.until(lambda: any(f["why"] in reasons for f in cloud.log.about("link: connection refused")))
    assert any(reason in cloud.link.refused() for reason in reasons)


async def test_a_stranger_is_refused_and_the_log_says_how_to_trust_it(root: Path) -> None:
    async with cloud_and_witness(root) as (cloud, _):
        public, secret = (key.decode() for key in zmq.curve_keypair())
        for _ in range(3):
            with attacker(cloud.listen, public=public, secret=secret, server=cloud.key) as stranger:
                await stranger.event(zmq.EVENT_HANDSHAKE_FAILED_AUTH)

        (line,) = cloud.log.about("link: stranger refused")
        assert line["try_"] == f"if you know it: sparkctl keys trust NAME '{public}'"
        assert cloud.link.refused() == {"this key is not trusted": 3}


async def test_a_client_with_a_wrong_server_key_is_refused(root: Path) -> None:
    async with cloud_and_witness(root) as (cloud, edge):
        keys = edge.keys.load()
        with attacker(cloud.listen, public=keys.public, secret=keys.secret, server=edge.key) as mistaken:
            await mistaken.event(zmq.EVENT_DISCONNECTED)
        await refusal(cloud, NOT_CURVE)


async def test_a_client_without_encryption_is_refused(root: Path) -> None:
    async with cloud_and_witness(root) as (cloud, _):
        with attacker(cloud.listen) as plain:
            await plain.event(zmq.EVENT_DISCONNECTED)
        await refusal(cloud, NOT_CURVE, BROKE_OFF)  # whichever side sees the mismatch first


async def test_random_bytes_are_hung_up_on(root: Path) -> None:
    async with cloud_and_witness(root) as (cloud, _):
        with connected(cloud) as connection:
            connection.sendall(b"GET / HTTP/1.1\r\n\r\n" + os.urandom(500))
            assert await ended(connection)
        await refusal(cloud, HUNG_UP)


async def test_a_silent_connection_is_ended_in_time(root: Path) -> None:
    async with cloud_and_witness(root) as (cloud, _):
        with connected(cloud) as connection:
            assert await ended(connection)
        await cloud.until(cloud.link.refused)


async def test_a_peer_that_passes_the_handshake_and_says_nothing_is_hung_up_on(root: Path) -> None:
    async with cloud_and_witness(root) as (cloud, _):
        with attacking_as(await trusted_rogue(cloud), cloud.listen, cloud) as mute:
            await mute.event(zmq.EVENT_DISCONNECTED)
        await refusal(cloud, "did not say who it is in time")


async def test_a_flood_of_connections_is_cut_down_to_a_few(root: Path) -> None:
    patient = replace(QUICK, handshake_s=20)  # so that only the bound ends them
    async with cloud_and_witness(root, timing=patient) as (cloud, edge):
        with ExitStack() as stack:
            flood = [stack.enter_context(connected(cloud)) for _ in range(300)]
            await still_answers(cloud, edge)
            door = cloud.link._listener._door  # type: ignore[union-attr] # a twin looks inside
            for connection in flood[MAX_HALF_OPEN_PER_ADDRESS:]:
                assert await ended(connection)

            assert door.half_open <= MAX_HALF_OPEN_PER_ADDRESS
            assert cloud.link.refused()["too many connections that have not said who they are"] >= 200


@pytest.mark.parametrize(
    ("first", "reason"),
    [
        ([b"H", b"\xc1"], "malformed greeting"),
        ([b"H", b""], "malformed greeting"),
        ([b"H", greeting_of("rogue"), b"more"], "malformed message"),
        ([b"H", greeting_of("rogue", version=2)], "link protocol version 2 is not spoken here, only 1"),
        ([b"H", b"\x91\x02"], "link protocol version 2 is not spoken here, only 1"),
        ([b"H", greeting_of("edge")], "this key is trusted as rogue, not as 'edge'"),
        ([b"P", b"token"], "the first message is a Ping, not a greeting"),
        ([b"?"] * 50, "malformed message"),
    ],
)
async def test_a_first_message_that_is_no_true_greeting_is_refused_with_the_reason(
    root: Path, first: list[bytes], reason: str
) -> None:
    async with cloud_and_witness(root) as (cloud, _):
        with attacking_as(await trusted_rogue(cloud), cloud.listen, cloud) as liar:
            liar.send(*first)
            kind, told = await liar.receive()

            assert kind == b"R"
            assert told.decode().startswith(reason)
            await liar.event(zmq.EVENT_DISCONNECTED)


async def test_a_trusted_peer_that_is_not_in_the_config_is_refused(root: Path) -> None:
    async with cloud_and_witness(root) as (cloud, _):
        unknown = LinkNode("unknown", cloud.root)
        cloud.keys.trust("unknown", unknown.key)
        await cloud.until(lambda: "unknown" in str(cloud.log.about("link: trusted keys read")[-1]))
        with attacking_as(unknown, cloud.listen, cloud) as peer:
            peer.send(b"H", greeting_of("unknown"))

            assert await peer.receive() == [b"R", b"cloud has no [link.peers.unknown] in its config"]


async def test_an_oversize_frame_costs_its_sender_the_connection(root: Path) -> None:
    async with cloud_and_witness(root) as (cloud, _):
        with attacking_as(await trusted_rogue(cloud), cloud.listen, cloud) as rogue:
            await welcomed(rogue, "rogue")
            rogue.send(b"C", b"head", bytes(2 << 20))
            await rogue.event(zmq.EVENT_DISCONNECTED)
            await cloud.down("rogue")

            assert cloud.status("rogue").reason.startswith("the connection was lost")


async def test_an_event_that_pretends_to_be_of_another_node_is_refused(root: Path) -> None:
    async with cloud_and_witness(root) as (cloud, _):
        with attacking_as(await trusted_rogue(cloud), cloud.listen, cloud) as rogue:
            await welcomed(rogue, "rogue")
            for node, topic in (("edge", "test.x"), ("rogue", "models.updates"), ("rogue", "test." + "x" * 300)):
                header = Header(1, node, "s", 1, 0, 1, 0, Privacy.SHARED)
                rogue.send(*frames.event(Message(topic, header, b"\x80")))
            rogue.send(b"P", b"token")
            assert await rogue.receive() == [b"Q", b"token"]

            assert cloud.status("rogue").refused == {
                "receive: event of another node, test.x": 1,
                "receive: topic models.updates": 1,
                "receive: malformed": 1,
            }


async def test_garbage_from_a_greeted_peer_is_counted_and_logged_once(root: Path) -> None:
    async with cloud_and_witness(root) as (cloud, _):
        with attacking_as(await trusted_rogue(cloud), cloud.listen, cloud) as rogue:
            await welcomed(rogue, "rogue")
            garbage = [
                [os.urandom(20)],
                [b"E"],
                [b"E", b"x", b"y"],
                [b"C", b"\xc1", b""],
                [b"H", b""],
                [b"x"] * 99,
                [b""],
            ]
            for message in garbage:
                rogue.send(*message)
            rogue.send(b"P", b"token")
            assert await rogue.receive() == [b"Q", b"token"]

            assert cloud.status("rogue").refused == {"receive: malformed": len(garbage)}
            assert len(cloud.log.about("link: malformed message")) == 1


EVENT = Message("test.x", Header(1, "rogue", "s", 1, 0, 1, 0, Privacy.SHARED), b"\x80")
VALID = [frames.event(EVENT), frames.call(calls.encode(calls.Request(1, "ingest.append", 5.0, Privacy.SHARED)))]

some_frames = st.lists(st.binary(max_size=60), max_size=5)
kinds = st.sampled_from([b"H", b"W", b"R", b"E", b"C", b"P", b"Q", b""])


@given(st.lists(st.tuples(kinds, some_frames)), st.sampled_from(VALID), st.integers(0, 3), st.binary(max_size=60))
@settings(max_examples=200, deadline=None)
def test_no_bytes_whatever_harm_a_session(
    messages: list[tuple[bytes, list[bytes]]], valid: list[bytes], index: int, replacement: bytes
) -> None:
    anyio.run(attack_session, [*([kind, *rest] for kind, rest in messages), spoiled(valid, index, replacement)])


def spoiled(message: list[bytes], index: int, replacement: bytes) -> list[bytes]:
    return [replacement if at == index and at else frame for at, frame in enumerate(message)]


async def attack_session(messages: list[list[bytes]]) -> None:
    """Feed a session what a peer might send."""
    ended: list[str] = []
    settings_of_rogue = PeerConfig(site="home", receive=["test"], calls=["ingest.append"])
    rules = PeerRules(node="cloud", site="dc", peer="rogue", settings=settings_of_rogue)
    sent = SentMessages()
    session = Session(
        Peer("rogue", settings_of_rogue, rules),
        sent,
        bus=SilentBus(),
        hooks=SessionHooks(
            call_frames=lambda _peer, _frames: None,
            retained=lambda _topics: (),
            call_refused=lambda _peer, _request, _body, _rule: None,
            ended=lambda _session, reason: ended.append(reason),
        ),
        complaints=Complaints(LoggedLines(Happenings())),
        ledger=Ledger(),
        max_message_bytes=1 << 20,
        heartbeat_s=1.0,
    )
    for message in [[], *messages]:
        session.on_message(message)
    session.on_message([b"P", b"alive"])

    assert not ended
    assert sent.messages[-1] == [b"Q", b"alive"]


class SentMessages:
    """A transport that keeps what it is given."""

    def __init__(self) -> None:
        self.messages: list[list[bytes]] = []

    def send(self, frames: Sequence[bytes]) -> bool:
        self.messages.append(list(frames))
        return True

    def close(self, reason: str, *, farewell: bool) -> None:
        raise AssertionError(reason)


class SilentBus:
    """A bus that nobody reads."""

    def subscribe_messages(self, *topics: str) -> AbstractAsyncContextManager[AsyncIterator[Received[Message]]]:
        raise NotImplementedError

    def publish_message(self, message: Message) -> None:
        assert message.header.node == "rogue"


@contextmanager
def connected(node: LinkNode) -> Iterator[socket.socket]:
    """Connect by plain TCP."""
    host, _, port = node.listen.rpartition(":")
    with socket.create_connection((host, int(port)), timeout=5) as connection:
        yield connection


async def ended(connection: socket.socket) -> bool:
    """Wait until the other side has closed a connection."""

    def wait() -> bool:
        try:
            while connection.recv(4096):
                pass
        except ConnectionResetError:
            pass
        return True

    return await anyio.to_thread.run_sync(wait)
