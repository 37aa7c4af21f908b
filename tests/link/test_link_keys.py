"""Keys that change while the link runs: the allow-list counts at once, without a restart, on open connections too."""

from __future__ import annotations

from pathlib import Path

import pytest
import zmq

from sparkd.config import PeerConfig
from tests.link.link_rig import LinkNode, attacking_as, edge_and_cloud, welcomed

pytestmark = pytest.mark.anyio


async def test_a_key_that_is_trusted_later_connects_without_a_restart(root: Path) -> None:
    both = edge_and_cloud(root, trusting=False)
    async with both.cloud.running(), both.edge.running():
        await both.edge.until(lambda: both.edge.status("cloud").reason == "no key of cloud is trusted here")
        assert both.edge.status("cloud").remedy == "on cloud: sparkctl keys show; here: sparkctl keys trust cloud KEY"
        await both.cloud.until(lambda: both.cloud.status("edge").reason == "no key of edge is trusted here")

        both.cloud.keys.trust("edge", both.edge.key)
        both.edge.keys.trust("cloud", both.cloud.key)
        await both.edge.up("cloud")


async def test_a_refused_node_says_what_the_peer_must_do_and_tries_again_by_itself(root: Path) -> None:
    both = edge_and_cloud(root, trusting=False)
    async with both.cloud.running(), both.edge.running():
        both.edge.keys.trust("cloud", both.cloud.key)
        await both.edge.until(lambda: "does not trust" in both.edge.status("cloud").reason)
        assert both.edge.status("cloud").remedy == f"on the peer: sparkctl keys trust edge '{both.edge.key}'"

        both.cloud.keys.trust("edge", both.edge.key)
        await both.edge.up("cloud")


async def test_revoking_a_key_ends_its_open_connection_and_no_other(root: Path) -> None:
    both = edge_and_cloud(root)
    other = LinkNode("other", root)
    other.peers["cloud"] = PeerConfig(address=both.cloud.listen, site="dc")
    both.cloud.peers["other"] = PeerConfig(site="home")
    other.keys.trust("cloud", both.cloud.key)
    both.cloud.keys.trust("other", other.key)
    async with both.linked(), other.running():
        await other.up("cloud")
        both.cloud.keys.revoke("edge")
        await both.cloud.down("edge")
        await both.edge.until(lambda: "does not trust" in both.edge.status("cloud").reason)

        assert both.cloud.status("edge").reason == "no key of edge is trusted here"
        assert both.cloud.status("edge").remedy == "sparkctl keys trust edge KEY"
        assert "other" in both.cloud.channels
        assert other.status("cloud").reconnects == 0


async def test_a_node_that_revokes_the_key_of_its_server_hangs_up(root: Path) -> None:
    async with edge_and_cloud(root).linked() as both:
        both.edge.keys.revoke("cloud")
        await both.edge.down("cloud")
        await both.cloud.down("edge")


async def test_a_key_that_is_replaced_stops_working(root: Path) -> None:
    async with edge_and_cloud(root).linked() as both:
        both.cloud.keys.trust("edge", zmq.curve_keypair()[0].decode())
        await both.cloud.down("edge")


async def test_a_message_after_revocation_is_not_read_whatever_became_of_the_connection(root: Path) -> None:
    both = edge_and_cloud(root)
    async with both.cloud.running():
        await both.cloud.listening()
        with attacking_as(both.edge, both.cloud.listen, both.cloud) as edge:
            await welcomed(edge, "edge")
            both.cloud.link._identities.clear()  # as if the connection could not be hung up on
            edge.send(b"P", b"token")
            await both.cloud.down("edge")
            await edge.event(zmq.EVENT_DISCONNECTED)

            assert both.cloud.status("edge").reason == "its key is not trusted any more"


async def test_a_new_key_of_ones_own_is_used_at_once(root: Path) -> None:
    async with edge_and_cloud(root).linked() as both:
        both.cloud.keys.trust("edge", both.edge.keys.new(force=True))
        await both.edge.down("cloud")
        await both.edge.up("cloud")


async def test_a_node_without_a_key_waits_for_one(root: Path) -> None:
    both = edge_and_cloud(root)
    (both.edge.keys.folder / "node.secret").unlink()
    async with both.cloud.running(), both.edge.running():
        await both.edge.until(lambda: "no usable key" in both.edge.status("cloud").reason)
        assert both.edge.status("cloud").remedy == "sparkctl keys new"

        both.cloud.keys.trust("edge", both.edge.keys.new())
        await both.edge.up("cloud")


async def test_a_bad_file_on_the_allow_list_bars_one_peer_and_is_a_problem(root: Path) -> None:
    both = edge_and_cloud(root)
    (both.cloud.keys.trusted_folder / "broken.public").write_text("nonsense")
    async with both.linked():
        (problem,) = both.cloud.link.problems()

    assert problem.endswith("broken.public: a Z85 key has 40 characters, got 8")


async def test_an_address_in_use_is_a_problem_that_clears_by_itself(root: Path) -> None:
    both = edge_and_cloud(root)
    usurper = zmq.Context()
    socket = usurper.socket(zmq.REP)
    socket.bind(f"tcp://{both.cloud.listen}")
    async with both.cloud.running(), both.edge.running():
        await both.cloud.until(both.cloud.link.problems)
        assert both.cloud.link.problems() == [f"cannot listen on {both.cloud.listen}: Address already in use"]
        socket.close()
        usurper.term()
        await both.cloud.listening()
        await both.edge.up("cloud")
        assert both.cloud.link.problems() == []
