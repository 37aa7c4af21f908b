"""Invitations: a code that is good once, for one node, for a while, and tells who overhears nothing nothing."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import anyio
import pytest
import zmq

from sparkd.config import PeerConfig
from sparkd.errors import ConfigError, LocalMessageError
from sparkd.link import Code, Invites, KeyStore, join, read_code
from tests.link.link_rig import LinkNode, free_address

pytestmark = pytest.mark.anyio


@pytest.fixture
def invites(tmp_path: Path) -> Invites:
    store = KeyStore(tmp_path / "keys")
    store.new()
    return Invites(store)


def issue(invites: Invites, *, life_s: float = 600.0) -> Code:
    return invites.issue(guest="edge", inviter="cloud", address="127.0.0.1:7700", life_s=life_s)


def test_a_code_says_what_was_put_into_it(invites: Invites) -> None:
    code = issue(invites)

    assert read_code(f" {code.text()[:50]}\n{code.text()[50:]} ") == code
    assert code.secret not in repr(code)


@pytest.mark.parametrize("mend", [lambda t: t[:-1], lambda t: t[:20] + "A" + t[21:], lambda t: t + "A", lambda _t: "x"])
def test_a_damaged_code_is_told_and_not_repeated(invites: Invites, mend: Callable[[str], str]) -> None:
    text = issue(invites).text()
    damaged = mend(text)

    with pytest.raises(ConfigError) as told:
        read_code(damaged)
    assert damaged[10:] == "" or damaged[10:] not in str(told.value)


def test_an_invitation_ends_by_the_clock_that_does_not_step(invites: Invites) -> None:
    issue(invites, life_s=1e-6)

    assert invites.guests() == {}


def test_a_newer_invitation_takes_the_place_of_an_older(invites: Invites) -> None:
    old, new = issue(invites), issue(invites)

    assert list(invites.guests()) == [zmq.curve_public(new.secret.encode()).decode()]
    assert zmq.curve_public(old.secret.encode()).decode() not in invites.guests()


def test_an_invitation_of_another_boot_is_none(invites: Invites) -> None:
    issue(invites)
    file = invites.folder / "edge.invite"
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    file.write_text(file.read_text().replace(boot, "another"))

    assert invites.guests() == {}


@pytest.mark.parametrize(("guest", "life_s"), [("cloud", 600.0), ("Edge!", 600.0), ("edge", 0.0), ("edge", 1e9)])
def test_an_invitation_that_makes_no_sense_is_refused(invites: Invites, guest: str, life_s: float) -> None:
    with pytest.raises(ConfigError):
        invites.issue(guest=guest, inviter="cloud", address="127.0.0.1:7700", life_s=life_s)
    assert list(invites.folder.glob("*")) == []


def host(root: Path) -> LinkNode:
    cloud = LinkNode("cloud", root, site="dc", listen=free_address())
    cloud.peers["edge"] = PeerConfig(site="home", send=["models"], receive=["test"])
    return cloud


async def joined(code: Code, node: str, public: str) -> str:
    """Join; return why that was refused, or nothing."""
    try:
        await anyio.to_thread.run_sync(lambda: join(code, node=node, public=public, limit_s=3.0))
    except (ConfigError, LocalMessageError) as error:
        return str(error)
    return ""


async def invited(cloud: LinkNode) -> Code:
    """Open an invitation at a running node, and wait until it has seen it."""
    address = await cloud.listening()
    code = Invites(cloud.keys).issue(guest="edge", inviter="cloud", address=address)
    with anyio.fail_after(5):
        while not cloud.link._guests:  # nothing outside tells, and the test must not race it
            await anyio.sleep(0.01)
    return code


async def test_a_guest_joins_and_is_linked_without_a_restart_of_either_side(root: Path) -> None:
    cloud, edge = host(root), LinkNode("edge", root)
    async with cloud.running():
        code = await invited(cloud)
        assert await joined(code, "edge", edge.key) == ""
        edge.keys.trust("cloud", code.server_key)
        edge.peers["cloud"] = PeerConfig(address=code.address, site="dc")
        async with edge.running():
            await edge.up("cloud")
            await cloud.up("edge")


async def test_an_invitation_is_good_once(root: Path) -> None:
    cloud, edge, thief = host(root), LinkNode("edge", root), LinkNode("thief", root)
    async with cloud.running():
        code = await invited(cloud)
        assert await joined(code, "edge", edge.key) == ""
        assert await joined(code, "edge", thief.key) != ""
        assert cloud.keys.trusted() == {"edge": edge.key}


async def test_only_one_of_many_who_use_a_code_at_once_gets_in(root: Path) -> None:
    cloud = host(root)
    guests = [LinkNode(f"guest-{number}", root) for number in range(6)]
    answers: list[str] = []
    async with cloud.running():
        code = await invited(cloud)

        async def try_it(key: str) -> None:
            answers.append(await joined(code, "edge", key))

        async with anyio.create_task_group() as tasks:
            for guest in guests:
                tasks.start_soon(try_it, guest.key)
        assert answers.count("") == 1
        assert len(cloud.keys.trusted()) == 1


async def test_the_guest_must_be_the_one_that_was_invited(root: Path) -> None:
    cloud, edge = host(root), LinkNode("edge", root)
    async with cloud.running():
        code = await invited(cloud)
        assert "the invitation is for edge" in await joined(code, "other", edge.key)
        assert "Z85" in await joined(code, "edge", "no key at all")
        assert cloud.keys.trusted() == {}
        assert await joined(code, "edge", edge.key) == "", "a mistake does not use it up"


async def test_an_invitation_opens_nothing_but_the_joining(root: Path) -> None:
    cloud = host(root)
    async with cloud.running():
        code = await invited(cloud)
        context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        try:
            with context.socket(zmq.DEALER) as socket:
                socket.linger = 0
                socket.curve_secretkey = code.secret.encode()
                socket.curve_publickey = zmq.curve_public(code.secret.encode())
                socket.curve_serverkey = code.server_key.encode()
                socket.connect(f"tcp://{code.address}")
                socket.send_multipart([b"E", b"test", b"", b""])
                assert await anyio.to_thread.run_sync(lambda: socket.poll(3000))
                kind, reason = socket.recv_multipart()
                assert kind == b"R"
                assert b"malformed" in reason or b"not a key" in reason
        finally:
            context.destroy(linger=0)
        assert cloud.keys.trusted() == {}


async def test_a_stranger_without_a_code_is_refused_as_before(root: Path) -> None:
    cloud, edge = host(root), LinkNode("edge", root)
    async with cloud.running():
        code = await invited(cloud)
        _, other = zmq.curve_keypair()
        forged = Code(
            inviter=code.inviter, guest="edge", address=code.address, server_key=code.server_key, secret=other.decode()
        )
        assert "does not answer" in await joined(forged, "edge", edge.key)
        assert cloud.keys.trusted() == {}
