"""Two daemons and the link between them: calls, events, commands and keys, seen from both sides."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sparkd.errors import CallError, CallErrorKind
from sparkd.link.keys import KeyStore
from sparkd.testing import Node, Pair, prepare, running
from tests.system.watching import client, plugin, runs, until

HAND = """\
from typing import Protocol
from sparkd import interface

@interface("hand")
class Hand(Protocol):
    async def do(self, *, what: str, wait_s: float = 0.0) -> int: ...

class Doing:
    def __init__(self, file):
        self.file = file

    async def do(self, *, what, wait_s=0.0):
        with self.file.open("a") as out:
            out.write(what + "\\n")
            out.flush()
            os.fsync(out.fileno())
        await anyio.sleep(wait_s)
        return len(self.file.read_text().splitlines())
"""
SERVE = """\
await ctx.serve(Hand, Doing(ctx.state_dir / "done"))
task_status.started()
await anyio.sleep_forever()"""


def light(pair: Pair) -> Pair:
    """Change the configs: no inference, a quick telemetry, events both ways, commands for a plugin `hand`."""
    head, _, rest = pair.edge.config.partition("[plugins.hailo-inference]")
    uplink = "[plugins.cloud-uplink]" + rest.partition("[plugins.cloud-uplink]")[2]
    edge = (head + uplink).replace("interval_s = 1.0", "interval_s = 0.2").replace('["models"]', '["models", "edge"]')
    edge = edge.replace('commands_allow = ["node.status"]', 'commands_allow = ["node.status", "hand.*"]')
    cloud = pair.cloud.config.replace('send = ["models"]', 'send = ["models", "edge"]')
    cloud = cloud.replace("[plugins.edge-ingest]", "[plugins.edge-ingest]\nretry_least_s = 0.1\nretry_most_s = 0.5")
    pair.edge.config_file.write_text(edge)
    pair.cloud.config_file.write_text(cloud)
    (pair.edge.plugins / "hand.py").write_text(plugin(SERVE, name="hand", more=HAND, offer="serves=(Hand,)"))
    return pair


@pytest.fixture
def two(folder: Path) -> Iterator[Pair]:
    with running(light(prepare(folder))) as pair:
        linked(pair)
        runs(pair.edge, "hand")
        yield pair


def link(node: Node) -> dict[str, Any]:
    (found,) = node.call("node.status")["links"]
    return dict(found)


def linked(pair: Pair) -> None:
    for node in (pair.edge, pair.cloud):
        until(lambda node=node: link(node), lambda found: found["connected"])  # type: ignore[misc] # binds the node


def done(pair: Pair) -> list[str]:
    """Return what the hand on the edge has done."""
    file = pair.edge.state / "plugins" / "hand" / "done"
    return file.read_text().splitlines() if file.exists() else []


def send(pair: Pair, method: str, **params: Any) -> str:
    expires_s = params.pop("expires_s", 60.0)
    given = {"target": "control-pc", "method": method, "params": params, "expires_s": expires_s}
    return str(pair.cloud.call("commands.send", **given))


def outcome(pair: Pair, command: str, *, limit_s: float = 20.0) -> dict[str, Any]:
    """Wait until a command has come to its end."""
    look = lambda: dict(pair.cloud.call("commands.status", command_id=command))  # noqa: E731 - looked at again and again
    return until(look, lambda found: found["state"] not in ("pending", "delivered"), limit_s=limit_s)


def test_calls_across_the_link(two: Pair) -> None:
    status = two.edge.call("primecore/core:node.status")
    assert (status["node"], status["role"]) == ("primecore", "cloud")
    assert two.edge.call("primecore/node.status")["node"] == "primecore"
    assert two.cloud.call("control-pc/core:node.status")["node"] == "control-pc"

    with pytest.raises(CallError) as denied:
        two.edge.call("primecore/core:plugins.stop", name="edge-ingest")
    assert denied.value.kind is CallErrorKind.DENIED
    assert "[link.peers.control-pc] calls" in str(denied.value.data)
    assert runs(two.cloud, "edge-ingest")
    assert sum(link(two.cloud)["refused"].values()) == 1

    with pytest.raises(CallError) as unknown:
        two.edge.call("nowhere/core:node.status")
    assert unknown.value.kind is CallErrorKind.UNAVAILABLE


def test_live_events_arrive_with_their_header_and_do_not_come_back(two: Pair) -> None:
    with client(two.edge) as here, client(two.cloud) as there:
        sent = here.results("bus.subscribe", {"topics": ["edge.telemetry"]})
        came = there.results("bus.subscribe", {"topics": ["edge.telemetry"]})
        own = [next(sent) for _ in range(12)]
        remote = [next(came) for _ in range(8)]

    assert {event["node"] for event in remote} == {"control-pc"}
    assert {event["service"] for event in remote} == {"node-telemetry"}
    assert [event["seq"] for event in own] == list(range(own[0]["seq"], own[0]["seq"] + 12)), "none comes twice"
    both = {event["seq"]: event for event in own}.keys() & {event["seq"] for event in remote}
    assert len(both) >= 4
    by_seq = {event["seq"]: event for event in own}
    assert [event for event in remote if event["seq"] in both] == [by_seq[seq] for seq in sorted(both)]
    refused = [*link(two.edge)["refused"], *link(two.cloud)["refused"]]
    assert not [reason for reason in refused if "edge.telemetry" in reason]


def test_states_of_the_edge_are_known_in_the_cloud(two: Pair) -> None:
    held = until(lambda: two.cloud.call("bus.last", topic="system.health.service.hand"), lambda found: len(found) == 1)
    assert held[0]["node"] == "control-pc"
    assert held[0]["event"]["state"] == "running"


def test_a_command_runs_once_and_its_result_comes_back(two: Pair) -> None:
    status = outcome(two, send(two, "node.status"))
    assert (status["state"], status["error"]) == ("done", "")
    assert status["result"]["node"] == "control-pc"

    found = outcome(two, send(two, "hand.do", what="wave"))
    assert (found["state"], found["result"]) == ("done", 1)
    assert done(two) == ["wave"]


def test_what_is_not_allowed_does_not_run(two: Pair) -> None:
    found = outcome(two, send(two, "plugins.stop", name="hand"))

    assert found["state"] == "failed"
    assert "may not be called by command" in found["error"]
    assert runs(two.edge, "hand")


def test_a_command_that_fails_says_why(two: Pair) -> None:
    found = outcome(two, send(two, "hand.do", who="me"))

    assert found["state"] == "failed"
    assert "who" in found["error"]


@pytest.mark.timeout(90)
def test_a_command_waits_for_the_edge_or_expires(two: Pair) -> None:
    two.edge.stop()
    patient, hasty = send(two, "hand.do", what="late"), send(two, "hand.do", what="too late", expires_s=1.5)
    assert outcome(two, hasty)["state"] == "expired"
    assert two.cloud.call("commands.status", command_id=patient)["state"] == "pending"
    two.edge.start()

    assert outcome(two, patient)["state"] == "done"
    assert done(two) == ["late"]


@pytest.mark.timeout(90)
def test_killed_in_the_middle_it_has_run_once_at_the_most(two: Pair) -> None:
    command = send(two, "hand.do", what="half", wait_s=60.0)
    until(lambda: done(two), lambda lines: lines == ["half"])
    two.edge.kill()
    two.edge.start()
    found = outcome(two, command)

    assert found["state"] == "failed"
    assert "it may or may not have had its effect" in found["error"]
    assert outcome(two, send(two, "hand.do", what="next"))["result"] == 2
    assert done(two) == ["half", "next"]


@pytest.mark.timeout(90)
def test_the_cloud_killed_while_a_command_is_out_still_learns_its_result(two: Pair) -> None:
    command = send(two, "hand.do", what="slow", wait_s=2.0)
    until(lambda: done(two), lambda lines: lines == ["slow"])
    two.cloud.kill()
    two.cloud.start()

    assert outcome(two, command)["result"] == 1
    assert done(two) == ["slow"]


def test_keys_are_trusted_and_revoked_without_a_restart(folder: Path) -> None:
    pair = light(prepare(folder))
    keys = KeyStore(pair.cloud.state / "keys")
    edge_key = keys.trusted()["control-pc"]
    keys.revoke("control-pc")
    with running(pair):
        refused = until(lambda: link(pair.edge), lambda found: "does not trust" in found["reason"])
        assert not refused["connected"]
        assert edge_key in refused["remedy"]
        with pytest.raises(CallError):
            pair.edge.call("primecore/core:node.status")
        assert "stranger refused" in pair.cloud.last_words()

        keys.trust("control-pc", edge_key)
        linked(pair)
        assert pair.edge.call("primecore/core:node.status")["node"] == "primecore"

        keys.revoke("control-pc")
        for node in (pair.edge, pair.cloud):
            until(lambda node=node: link(node), lambda found: not found["connected"])  # type: ignore[misc] # binds it
        with pytest.raises(CallError):
            pair.edge.call("primecore/core:node.status")
