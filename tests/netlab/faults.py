"""What goes wrong with tunnels, and what the watchdogs must make of it. Each in a lab of its own."""

from __future__ import annotations

import os
import re
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from sparkd.link.keys import KeyStore
from sparkd.testing import Node, pss_bytes
from tests.netlab.lab import HOME, MOVED, Names
from tests.netlab.spaces import eventually
from tests.netlab.watched import DETECT_S, REPAIR_S, watched
from tests.plugins.dns_zone import KEY, closed_file, names

Scenario = Callable[[], dict[str, float]]
over = threading.Event()
"""Set when nobody waits for a result any more."""
CLIMB_S = 45.0
"""Until each step was tried in vain: four of them, each with 6 s to show that it helped."""


def cable_out() -> dict[str, float]:
    """No step can help, so none is made; when the cable is back, so is the tunnel."""
    with watched("hub", "spoke1") as it:
        it.net.cut("spoke1")
        it.is_down("spoke1", "hub", "no-network", as_="detected")
        it.is_down("hub", "spoke1", "peer-away", as_="detected by the hub, after that")
        it.net.mend("spoke1")
        it.is_up("spoke1", "hub", as_="up again")
        it.is_up("hub", "spoke1")
        assert it.steps("spoke1") == it.steps("hub") == []
        return it.figures


def peer_killed() -> dict[str, float]:
    """A hub that is gone is not mended from afar; when it is back with the same key, its new session is begun."""
    with watched("hub", "spoke1") as it:
        it.net.kill("hub")
        it.is_down("spoke1", "hub", "peer-down", as_="detected")
        it.is_down("hub", "spoke1", "interface-missing", as_="detected by the hub, after that")
        it.net.restart("hub")
        seen = it.is_up("spoke1", "hub", as_="up again")
        it.is_up("hub", "spoke1")
        assert seen["diagnosis"] == "peer-restarted", seen
        assert set(it.steps("spoke1")) <= {"re-resolve", "reset-peer"}, it.repairs("spoke1")
        return it.figures


def peer_rebooted() -> dict[str, float]:
    """A hub that is back within a second has forgotten the session: that is found, and a new one is begun."""
    with watched("spoke1") as it:
        it.net.kill("hub")
        it.net.restart("hub")
        begun = time.monotonic()
        it.is_down("spoke1", "hub", "no-answer", "peer-down", as_="detected")
        seen = it.is_up("spoke1", "hub", as_="up again")
        it.figures["up again"] = round(time.monotonic() - begun, 1)
        assert seen["diagnosis"] == "peer-restarted", seen
        assert set(it.steps("spoke1")) <= {"reset-peer"}, it.repairs("spoke1")
        return it.figures


def home_moved() -> dict[str, float]:
    """The name leads elsewhere: it is followed there."""
    with watched("spoke1") as it:
        it.net.move_home()
        it.is_down("spoke1", "hub", "endpoint-moved", as_="detected")
        seen = it.is_up("spoke1", "hub", as_="repaired")
        assert seen["endpoint"].startswith(MOVED)
        assert seen["diagnosis"] == "endpoint-moved"
        assert it.steps("spoke1") == ["re-resolve"]
        assert it.repairs("spoke1")[0]["helped"]
        return it.figures


def udp_blocked() -> dict[str, float]:
    """Nothing that is tried helps, all that was tried is taken back, and the operator is told, once."""
    with watched("hub", "spoke1") as it:
        port = it.net.ends["spoke1"].show("listen-port")
        it.net.block_udp("spoke1")
        begun = time.monotonic()
        it.is_down("spoke1", "hub", as_="detected")
        it.is_down("spoke1", "hub", "udp-blocked", limit_s=REPAIR_S)
        it.figures["diagnosed"] = round(time.monotonic() - begun, 1)
        eventually(
            lambda: it.repairs("spoke1")[-1:] and it.repairs("spoke1")[-1]["step"] == "tell-operator", limit_s=CLIMB_S
        )
        assert it.net.ends["spoke1"].show("listen-port") == port
        assert len(it.repairs("spoke1")) <= 4, it.repairs("spoke1")
        assert not any(one["helped"] for one in it.repairs("spoke1"))
        it.net.heal("spoke1")
        it.is_up("spoke1", "hub", as_="up again")
        it.is_up("hub", "spoke1")
        return it.figures


def mended_by_root() -> dict[str, float]:
    """The same through sparkd-priv, which alone has the right to: what it did is in its audit, and no secret."""
    with watched("spoke1", more={"spoke1": 'via = "priv"'}, priv=("spoke1",)) as it:
        assert it.nodes["spoke1"].call("tunnel.status")["via"] == "priv"
        it.net.move_home()
        it.is_up("spoke1", "hub")
        seen = it.until("spoke1", "hub", lambda seen: seen["endpoint"].startswith(MOVED), limit_s=45, as_="repaired")
        assert seen["diagnosis"] == "endpoint-moved"
        made = it.nodes["spoke1"].call("tunnel.repair", peer="hub", step="reset-peer", timeout_s=30)
        assert made["helped"], made
        audit = (it.nodes["spoke1"].root / "priv" / "audit.log").read_text()
        assert '"reset-peer"' in audit
        assert '"endpoint"' in audit
        assert it.net.ends["spoke1"].private_key not in audit + it.nodes["spoke1"].log.read_text()
        return it.figures


def port_stuck() -> dict[str, float]:
    """A router that has one port wrong lets another through."""
    with watched("spoke1") as it:
        port = it.net.ends["spoke1"].show("listen-port")
        it.net.block_port("spoke1")
        it.is_down("spoke1", "hub", as_="detected")
        seen = it.is_up("spoke1", "hub", as_="repaired")
        assert seen["diagnosis"] == "nat-rebinding"
        assert it.steps("spoke1")[-1] == "new-port"
        assert it.repairs("spoke1")[-1]["helped"]
        assert it.net.ends["spoke1"].show("listen-port") != port
        return it.figures


def nat_rebound() -> dict[str, float]:
    """The tunnel follows by itself; the hub says why its peer has another port. Nothing is mended."""
    with watched("hub", "spoke1") as it:
        it.net.rebind()
        it.until("hub", "spoke1", lambda seen: seen["diagnosis"] == "nat-rebinding", limit_s=DETECT_S, as_="detected")
        assert ":30" in it.is_up("hub", "spoke1")["endpoint"]
        it.is_up("spoke1", "hub")
        assert it.steps("hub") == it.steps("spoke1") == []
        return it.figures


def mtu_shrunk() -> dict[str, float]:
    """Large packets vanish: that is said with the size that passes, and is over by itself."""
    with watched("spoke1", more={"spoke1": "path_mtu_s = 10.0"}) as it:
        it.until("spoke1", "hub", lambda seen: seen["path_mtu"] == 1420, limit_s=10)
        it.net.narrow("spoke1", 1280)
        seen = it.until(
            "spoke1", "hub", lambda seen: seen["diagnosis"] == "mtu-shrunk", limit_s=DETECT_S + 10, as_="detected"
        )
        assert seen["state"] == "up"
        assert 1200 <= seen["path_mtu"] <= 1220, "1280 less what WireGuard adds, 60 bytes"
        it.net.heal("spoke1")
        it.until("spoke1", "hub", lambda seen: seen["path_mtu"] == 1420 and not seen["diagnosis"], limit_s=20)
        assert it.steps("spoke1") == []
        return it.figures


def a_third_lost() -> dict[str, float]:
    """A link that loses 30 % each way is a bad link, and no broken one."""
    with watched("hub", "spoke1", more={"spoke1": "quality_s = 5.0"}) as it:
        it.net.lose("spoke1", 30)
        # half of the packets are unanswered; three each 5 s say so by luck alone, so enough of them are waited for
        seen = it.until("spoke1", "hub", lambda seen: (seen["loss_percent"] or 0) > 15, limit_s=60, as_="seen")
        assert seen["state"] in {"up", "stale"}
        for _ in _looks(30.0):
            for node, peer in (("spoke1", "hub"), ("hub", "spoke1")):
                assert it.peer(node, peer)["state"] != "down"
        assert it.steps("spoke1") == it.steps("hub") == []
        return it.figures


def slow_and_far() -> dict[str, float]:
    """Delay, jitter and bandwidth are measured, and nothing is mended."""
    with watched("spoke2", more={"spoke2": "throughput_s = 5.0\nquality_s = 5.0"}) as it:
        it.net.delay("spoke2", 0.3, jitter_s=0.02)
        seen = it.until("spoke2", "hub", lambda seen: (seen["latency_ms"] or 0) > 250, limit_s=75, as_="delay seen")
        assert 280 < seen["latency_ms"] < 420
        assert seen["jitter_ms"] > 2
        it.net.delay("spoke2", 0.0)
        it.until("spoke2", "hub", lambda seen: (seen["throughput_bps"] or 1e9) > 10e6, limit_s=30)  # None: too fast
        it.net.throttle("spoke2", 2.0)
        it.until(
            "spoke2",
            "hub",
            lambda seen: seen["throughput_bps"] is not None and 1e6 < seen["throughput_bps"] < 4e6,
            limit_s=30,
            as_="throughput seen",
        )
        assert it.steps("spoke2") == []
        return it.figures


def clock_set() -> dict[str, float]:
    """Two hours forward and back: the tunnel is as well as before, and that is said."""
    with watched("spoke1", stepped=True) as it:
        since = it.peer("spoke1", "hub")["since"]
        for step in (7200, 0):
            (it.nodes["spoke1"].root / "step").write_text(str(step))
            sign = "+" if step else "-"
            it.until(
                "spoke1",
                "hub",
                lambda seen, sign=sign: seen["diagnosis"] == "clock-step" and f"{sign}7200" in seen["reason"],  # type: ignore[misc]
                limit_s=DETECT_S,
                as_=f"detected ({sign})",
            )
            for _ in _looks(6.0):
                seen = it.peer("spoke1", "hub")
                assert (seen["state"], seen["since"]) == ("up", since)
                assert seen["handshake_age_s"] < 200
        assert it.repairs("spoke1") == []
        return it.figures


def captive_portal() -> dict[str, float]:
    """Somebody must log in first; nothing that could be mended."""
    with watched("spoke1") as it:
        it.net.imprison()
        it.is_down("spoke1", "hub", "captive-portal", as_="detected")
        it.net.release()
        it.is_up("spoke1", "hub", as_="up again")
        assert it.steps("spoke1") == []
        return it.figures


PUBLIC_NAME = """
[plugins.vpn-watchdog.public_name]
name = "hub.lab"
ask = ["peer:spoke2"]
way = "rfc2136"
server = "80.9.9.53"
zone = "lab"
key_name = "home-key"
key = {{ file = "{file}" }}
interval_s = 5.0
"""
LINKS = {
    "hub": '[link.peers.spoke2]\naddress = "10.8.0.3:7700"\n',
    "spoke2": '[link]\nlisten = "10.8.0.3:7700"\n[link.peers.hub]\ncalls = ["tunnel.peers"]\n',
}


def public_name() -> dict[str, float]:
    """The provider gives the home another address: the hub has the name follow, and the spokes follow the name."""
    held: Names = names()
    with watched(core=LINKS, names=held, prepare=_acquaint) as it:
        hub = it.nodes["hub"]
        _told(hub, HOME)
        it.net.move_home(tell_dns=False)
        begun = time.monotonic()
        told = _told(hub, MOVED)
        it.figures["name updated"] = round(time.monotonic() - begun, 1)
        assert told["by"] == "peer:spoke2", told
        it.until("spoke1", "hub", lambda seen: seen["state"] == "up" and seen["endpoint"].startswith(MOVED), limit_s=45)
        it.figures["spoke up again"] = round(time.monotonic() - begun, 1)
        assert [address for _, address in held.updates] == [HOME, MOVED]
        assert not re.search(re.escape(KEY), "".join(node.log.read_text() for node in it.nodes.values()))
        return it.figures


def _acquaint(nodes: dict[str, Node]) -> None:
    hub, spoke = (KeyStore(nodes[name].state / "keys") for name in ("hub", "spoke2"))
    hub_key, spoke_key = hub.new(), spoke.new()
    hub.trust("spoke2", spoke_key)
    spoke.trust("hub", hub_key)
    node = nodes["hub"]
    node.config += PUBLIC_NAME.format(file=closed_file(node.root, KEY))
    node.config_file.write_text(node.config)


def _told(hub: Node, address: str) -> dict[str, str]:
    def look() -> dict[str, str] | None:
        found: dict[str, str] = hub.call("tunnel.status")["public_name"]
        return found if found["address"] == address else None

    return eventually(look, limit_s=30) or {}


def _looks(for_s: float) -> Iterator[None]:
    """Come back once a second, for so long, or until all is over."""
    end = time.monotonic() + for_s
    while time.monotonic() < end and not over.is_set():
        yield
        over.wait(1.0)


def healthy(for_s: float) -> dict[str, float]:
    """Nothing goes wrong: nobody mends anything, and no state changes. Returns what it cost."""
    with watched() as it:
        before = {(node, peer["peer"]): peer["since"] for node in it.nodes for peer in it.peers(node)}
        pids = {node: it.pid(node) for node in it.nodes}
        begun = {node: seconds(pid) for node, pid in pids.items()}
        for _ in _looks(for_s):
            for node, peer in before:
                assert it.peer(node, peer)["state"] == "up"
        for node in it.nodes:
            assert it.repairs(node) == []
            for peer in it.peers(node):
                assert peer["since"] == before[node, peer["peer"]], f"{node} lost {peer['peer']} for a while"
                assert peer["diagnosis"] == ""
            assert it.pid(node) == pids[node], f"the watchdog of {node} was restarted"
            it.figures[f"{node}: PSS, MB"] = round(pss_bytes(pids[node]) / 1e6, 1)
            it.figures[f"{node}: processor, %"] = round(100 * (seconds(pids[node]) - begun[node]) / for_s, 2)
            it.figures[f"{node}: loss, %"] = max(peer["loss_percent"] for peer in it.peers(node))
        return it.figures


def seconds(pid: int) -> float:
    """Return the processor time a process has used."""
    words = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(words[11]) + int(words[12])) / os.sysconf("SC_CLK_TCK")


FAULTS: tuple[Scenario, ...] = (
    udp_blocked,
    peer_killed,
    slow_and_far,
    mtu_shrunk,
    clock_set,
    public_name,
    a_third_lost,
    mended_by_root,
    port_stuck,
    peer_rebooted,
    home_moved,
    cable_out,
    captive_portal,
    nat_rebound,
)
"""The longest first: they run side by side."""
