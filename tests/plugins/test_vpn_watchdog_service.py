"""The whole watchdog, with a stand-in for `wg` alone. Tunnels that are real have tests of their own."""

from __future__ import annotations

import fcntl
import json
import socket
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

import anyio
import pytest
from prometheus_client import CollectorRegistry

from sparkd import (
    CallError,
    CallErrorKind,
    Context,
    Header,
    LinkQuality,
    MachineApi,
    PowerMode,
    Received,
    Tunnel,
    TunnelChanged,
    TunnelRepair,
)
from sparkd_plugins.vpn_watchdog import sparkd_services, ways
from sparkd_plugins.vpn_watchdog.access import ByPriv, Direct, choose_access
from sparkd_plugins.vpn_watchdog.clock import Clock
from sparkd_plugins.vpn_watchdog.config import PeerConfig, VpnWatchdogConfig
from sparkd_plugins.vpn_watchdog.service import watch

pytestmark = pytest.mark.anyio
HUB = "Gpl5XA555H+crF+1R14bn5B6DUfZXlCrrqsn23lwnTI="
PI = "jP7Q9zPUpNeTKGTcUgNED/beQTXJ712zpcca0hQRnAs="
HERE, THERE = "127.0.0.7:51829", "127.0.0.8:51829"
PEER = {
    "epoch": 0,
    "received": 0,
    "sent": 0,
    "endpoint": HERE,
    "right": HERE,
    "keepalive": 25,
    "allowed": "10.8.0.0/24",
    "wants_port": 0,
    "forgot": False,
}
WORLD: dict[str, Any] = {
    "port": 51820,
    "next_port": 40_001,
    "peers": {HUB: PEER},
    "out": {},
    "ran": [],
    "fails": "",
}
CONFIG = VpnWatchdogConfig(
    interfaces=["lo"],  # a name that the kernel knows; all else of it comes from the stand-in
    peers={"hub": PeerConfig(public_key=HUB, endpoint="hub.test:51829", probe="none")},
    via="direct",
    interval_s=0.1,
    suspect_s=1.0,
    stale_s=1.1,
    settle_s=1.0,
)
PATIENT: dict[str, Any] = {"suspect_s": 20.0, "stale_s": 30.0}
"""Where nothing may happen, be the machine as slow as it likes."""


@dataclass
class Bus:
    """Keeps what was published; power modes come from the test."""

    published: list[Any] = field(default_factory=list)
    changed: anyio.Event = field(default_factory=anyio.Event)
    modes: list[PowerMode] = field(default_factory=list)

    async def publish(self, event: object, *, topic: str | None = None) -> None:
        assert topic is None or topic.startswith("system.tunnel.")
        self.published.append(event)
        self.changed.set()
        self.changed = anyio.Event()

    @asynccontextmanager
    async def subscribe(self, what: type[PowerMode]) -> AsyncIterator[Bus]:
        yield self

    async def retained(self, what: type[PowerMode]) -> list[Received[PowerMode]]:
        header = cast("Header", None)
        return [Received(topic="system.power.mode", header=header, event=mode) for mode in self.modes]

    def __aiter__(self) -> Bus:
        return self

    async def __anext__(self) -> Received[PowerMode]:
        await anyio.sleep_forever()
        raise StopAsyncIteration


@dataclass
class Rig:
    """The part of a Context that this service uses, and the world of its `wg`."""

    folder: Path
    config: VpnWatchdogConfig = CONFIG
    node: str = "pi"
    site: str = "home"
    bus: Bus = field(default_factory=Bus)
    states: list[str] = field(default_factory=list)
    ill: anyio.Event = field(default_factory=anyio.Event)
    machine: Any = None
    names: dict[str, tuple[str, ...]] = field(default_factory=dict)
    tunnel: Tunnel = field(init=False)

    @property
    def state_dir(self) -> Path:
        return self.folder

    @property
    def metrics(self) -> CollectorRegistry:
        return CollectorRegistry()

    @property
    def log(self) -> Rig:
        return self

    def info(self, event: str, **fields: object) -> None:
        assert "secret" not in repr(fields)

    warning = info

    def degraded(self, reason: str, *, remedy: str = "") -> None:
        self.states.append(reason)
        self.ill.set()

    async def until_degraded(self) -> None:
        with anyio.fail_after(10):
            await self.ill.wait()

    def recovered(self) -> None:
        self.states.append("recovered")

    async def serve(self, interface: type[Any], handler: Tunnel) -> None:
        assert interface is Tunnel
        self.tunnel = handler

    def call(self, interface: type[Any], *, deadline_s: float) -> Any:
        assert interface is MachineApi
        return self.machine

    def context(self) -> Context[VpnWatchdogConfig]:
        return cast("Context[VpnWatchdogConfig]", self)

    def change(self, act: Callable[[dict[str, Any]], object]) -> None:
        with (self.folder / "world.json").open("r+") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            world = json.load(file)
            act(world)
            file.seek(0)
            file.truncate()
            json.dump(world, file)

    def ran(self) -> list[str]:
        world = json.loads((self.folder / "world.json").read_text())
        return [" ".join(words[:1] + words[2:]).replace(HUB, "HUB") for words in world["ran"]]

    async def until(self, holds: Callable[[Any], bool], *, seconds: float = 25) -> Any:
        """Wait for an event; return it. Those before it were looked at, and are gone."""
        with anyio.fail_after(seconds):
            while True:
                changed = self.bus.changed
                while self.bus.published:
                    event = self.bus.published.pop(0)
                    if holds(event):
                        return event
                await changed.wait()

    async def until_state(self, state: str, diagnosis: str | None = None) -> TunnelChanged:
        def holds(event: Any) -> bool:
            return isinstance(event, TunnelChanged) and event.state == state and diagnosis in (None, event.diagnosis)

        return cast("TunnelChanged", await self.until(holds))

    async def until_repair(self, step: str) -> TunnelRepair:
        return cast(
            "TunnelRepair", await self.until(lambda event: isinstance(event, TunnelRepair) and event.step == step)
        )


@pytest.fixture
def rig(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Rig]:
    program = tmp_path / "wg"
    program.write_text(f"#!{sys.executable} -IS\n" + Path(__file__).with_name("fake_wg.py").read_text())
    program.chmod(0o755)
    (tmp_path / "world.json").write_text(json.dumps(WORLD))
    names: dict[str, tuple[str, ...]] = {"hub.test": ("127.0.0.7",)}

    async def resolve(host: str, *_: object, **__: object) -> list[Any]:
        return [(0, 0, 0, "", (address, 0)) for address in names.get(host, (host,))]

    monkeypatch.setattr(anyio, "getaddrinfo", resolve)
    monkeypatch.setattr(ways, "UDP_GAP_S", 0.05)
    with ExitStack() as listening:
        for endpoint in (HERE, THERE):  # as WireGuard does: it takes everything, and says nothing
            host, _, port = endpoint.partition(":")
            listening.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)).bind((host, int(port)))
        yield Rig(tmp_path, replace(CONFIG, wg=program), names=names)


@asynccontextmanager
async def running(rig: Rig, clock: Clock | None = None) -> AsyncIterator[Rig]:
    rig.bus.published.clear()
    async with anyio.create_task_group() as group:

        async def run(*, task_status: Any) -> None:
            await watch(rig.context(), clock=clock or Clock(), task_status=task_status)

        await group.start(run)
        yield rig
        group.cancel_scope.cancel()


def point(rig: Rig, address: str) -> None:
    rig.names["hub.test"] = (address,)


async def test_a_tunnel_that_works_is_told_and_left_alone(rig: Rig) -> None:
    rig.config = replace(rig.config, **PATIENT)
    async with running(rig):
        told = await rig.until_state("up")
        await anyio.sleep(1)  # nothing is waited for: nothing may happen
        status = await rig.tunnel.status()

    assert (told.peer, told.interface, told.diagnosis, told.endpoint) == ("hub", "lo", "", HERE)
    assert (status.node, status.via, status.interfaces) == ("pi", "direct", {"lo": ""})
    (peer,) = status.peers
    assert (peer.state, peer.public_key, peer.keepalive_s, peer.repairs_last_hour) == ("up", HUB, 25, 0)
    assert peer.handshake_age_s is not None
    assert rig.ran() == []
    assert rig.states == []


async def test_an_endpoint_whose_name_leads_elsewhere_is_followed(rig: Rig) -> None:
    async with running(rig):
        await rig.until_state("up")
        rig.change(lambda world: world["peers"][HUB].update(right=THERE))
        point(rig, "127.0.0.8")
        down = await rig.until_state("down", "endpoint-moved")
        repaired = await rig.until_repair("re-resolve")
        up = await rig.until_state("up")
        records = await rig.tunnel.repairs()

    assert "hub.test:51829 stands for another address" in down.reason
    assert (repaired.helped, repaired.undone, repaired.diagnosis) == (True, False, "endpoint-moved")
    assert (up.endpoint, up.diagnosis) == (THERE, "endpoint-moved")
    assert rig.ran() == [f"set peer HUB endpoint {THERE}"]
    assert [(record.step, record.helped) for record in records] == [("re-resolve", True)]
    assert rig.states[-1] == "recovered"


async def test_a_peer_that_forgot_its_session_is_reset_and_keeps_what_it_had(rig: Rig) -> None:
    async with running(rig):
        await rig.until_state("up")
        rig.change(lambda world: world["peers"][HUB].update(forgot=True))
        repaired = await rig.until_repair("reset-peer")
        await rig.until_state("up")

    assert repaired.helped
    assert [words.split()[0] for words in rig.ran()] == ["showconf", "set", "syncconf"]
    assert rig.ran()[1] == "set peer HUB remove"
    peer = json.loads((rig.folder / "world.json").read_text())["peers"][HUB]
    assert (peer["endpoint"], peer["keepalive"], peer["allowed"]) == (HERE, 25, "10.8.0.0/24")


async def test_a_port_that_helps_is_kept(rig: Rig) -> None:
    rig.change(lambda world: world.update(next_port=40_001))
    async with running(rig):
        await rig.until_state("up")
        rig.change(lambda world: world["peers"][HUB].update(wants_port=40_001))
        assert not (await rig.until_repair("reset-peer")).helped
        repaired = await rig.until_repair("new-port")
        up = await rig.until_state("up")

    assert (repaired.helped, repaired.undone, up.diagnosis) == (True, False, "nat-rebinding")
    assert json.loads((rig.folder / "world.json").read_text())["port"] == 40_001


async def test_what_does_not_help_is_undone_and_the_operator_told_once(rig: Rig) -> None:
    machine = Machine(refuses="interface-restart is not among the verbs of /etc/sparkd/priv.toml")
    rig.machine = machine
    async with running(rig):
        await rig.until_state("up")
        rig.change(lambda world: world["peers"][HUB].update(right="nowhere"))
        assert not (await rig.until_repair("reset-peer")).helped
        port = await rig.until_repair("new-port")
        restart = await rig.until_repair("restart-interface")
        told = await rig.until_repair("tell-operator")
        (peer,) = await rig.tunnel.peers()

    assert (port.helped, port.undone) == (False, True)
    assert rig.ran()[-2:] == ["set listen-port 0", "set listen-port 51820"]
    assert "not among the verbs" in restart.detail
    assert machine.asked == ["restart lo"]
    assert "nothing that could be tried helped" in told.detail
    assert (peer.state, peer.repairs_last_hour) == ("down", 3)
    assert peer.repair_in_s is not None
    assert 0 < peer.repair_in_s <= 60
    assert any("hub (lo)" in state for state in rig.states)


async def test_what_works_for_another_peer_is_not_taken_from_it(rig: Rig) -> None:
    machine = Machine()
    rig.machine = machine
    rig.change(lambda world: world["peers"].update({PI: PEER | {"right": THERE, "endpoint": THERE}}))
    async with running(rig):
        await rig.until(lambda event: isinstance(event, TunnelChanged) and event.peer != "hub" and event.state == "up")
        rig.change(lambda world: world["peers"][HUB].update(right="nowhere"))
        await rig.until_repair("reset-peer")
        await rig.until_repair("tell-operator")

    assert "set listen-port 0" not in rig.ran()
    assert machine.asked == []


async def test_a_clock_that_is_set_by_hours_is_told_and_repairs_nothing(rig: Rig) -> None:
    rig.config = replace(rig.config, **PATIENT)
    clock = Skewed()
    async with running(rig, clock):
        await rig.until_state("up")
        for step_s in (7200.0, -7200.0):
            clock.skew_s += step_s
            told = await rig.until_state("up", "clock-step")
            assert f"{step_s:+.0f} s" in told.reason or "7200" in told.reason
            clock.ahead_s += 121  # until it is no news any more
            await rig.until_state("up", "")
        await anyio.sleep(0.5)  # nothing is waited for: nothing may happen

    assert rig.ran() == []
    assert rig.states == []


class Skewed(Clock):
    """The machine's clocks, set by a test."""

    skew_s = 0.0
    ahead_s = 0.0

    def wall(self) -> float:
        return super().wall() + self.skew_s + self.ahead_s

    def mono(self) -> float:
        return super().mono() + self.ahead_s


async def test_one_that_is_asleep_is_neither_told_of_nor_repaired_and_that_outlives_a_restart(rig: Rig) -> None:
    rig.change(lambda world: world["peers"][HUB].update(right="nowhere"))
    async with running(rig):
        await rig.until(lambda event: isinstance(event, TunnelChanged))
        status = await rig.tunnel.asleep(peer="hub", asleep=True)
        assert (status.state, status.reason) == ("asleep", "an operator said that it is asleep")
        before = rig.ran()
        await anyio.sleep(1)  # nothing is waited for: nothing may happen
        assert rig.ran() == before
    async with running(rig):
        await rig.until_state("asleep")
        assert (await rig.tunnel.asleep(peer=HUB, asleep=False)).state != "asleep"
        await rig.until_state("down")


async def test_one_sleeps_by_the_power_mode_of_its_node(rig: Rig) -> None:
    rig.config = replace(rig.config, peers={"hub": replace(CONFIG.peers["hub"], asleep_modes=["critical"])})
    rig.bus.modes = [PowerMode(mode="critical", scope="node", name="hub"), PowerMode(mode="low", name="pi")]
    async with running(rig):
        told = await rig.until_state("asleep")

    assert told.reason == "it is switched off while the power mode is critical"


async def test_an_interface_that_is_not_there_is_a_state_and_is_started_if_it_never_was(rig: Rig) -> None:
    machine = Machine()
    rig.machine = machine
    rig.change(lambda world: world.update(fails="Unable to access interface: No such device"))
    machine.then = lambda: rig.change(lambda world: world.update(fails=""))
    async with running(rig):
        await rig.until_state("up")
        assert machine.asked == ["restart lo"]
        rig.change(lambda world: world.update(fails="Unable to access interface: No such device"))
        down = await rig.until_state("down", "interface-missing")
        await rig.until_repair("tell-operator")
        await anyio.sleep(0.5)  # somebody took it down: nothing is waited for
        status = await rig.tunnel.status()

    assert "No such device" in down.reason
    assert "No such device" in status.interfaces["lo"]
    assert machine.asked == ["restart lo"]


async def test_a_missing_program_is_told_with_a_remedy(rig: Rig) -> None:
    rig.config = replace(rig.config, wg=rig.folder / "no-such-wg", repair=False)
    async with running(rig):
        await rig.until_degraded()

    assert "no-such-wg: No such file" in rig.states[0]


async def test_a_keepalive_that_is_off_is_told_or_set(rig: Rig) -> None:
    rig.config = replace(rig.config, **PATIENT)
    rig.change(lambda world: world["peers"][HUB].update(keepalive=0))
    async with running(rig):
        told = await rig.until_state("up", "keepalive")
        assert "25 s is wanted" in told.reason
        assert rig.ran() == []
    rig.config = replace(rig.config, set_keepalive=True)
    async with running(rig):
        await rig.until_state("up", "keepalive")
        await rig.until_state("up", "")

    assert rig.ran() == ["set peer HUB persistent-keepalive 25"]


async def test_a_peer_of_the_config_that_is_nowhere_is_told(rig: Rig) -> None:
    rig.config = replace(rig.config, peers={"pi": PeerConfig(public_key=PI)})
    async with running(rig):
        told = await rig.until_state("up")

    assert told.peer == "peer-1a99795c"
    assert "pi is not a peer of lo" in rig.states


async def test_an_operator_may_probe_and_repair(rig: Rig) -> None:
    rig.config = replace(rig.config, **PATIENT)
    async with running(rig):
        await rig.until_state("up")
        (status,) = await rig.tunnel.probe(peer="hub")
        record = await rig.tunnel.repair(peer="hub", step="reset-peer")
        for wrong in ({"peer": "nobody", "step": "reset-peer"}, {"peer": "hub", "step": "reboot"}):
            with pytest.raises(CallError) as caught:
                await rig.tunnel.repair(**wrong)
            assert caught.value.kind is CallErrorKind.INVALID_PARAMS
        with pytest.raises(CallError, match="nothing to do"):
            await rig.tunnel.repair(peer="hub", step="re-resolve")

    assert status.state == "up"
    assert (record.step, record.helped) == ("reset-peer", True)


async def test_the_limit_an_hour_outlives_a_restart(rig: Rig) -> None:
    rig.config = replace(rig.config, repairs_per_hour=1, peers=CONFIG.peers)
    async with running(rig):
        await rig.until_state("up")
        rig.change(lambda world: world["peers"][HUB].update(forgot=True))
        assert (await rig.until_repair("reset-peer")).helped
    rig.change(lambda world: world["peers"][HUB].update(right="nowhere"))
    async with running(rig):
        await rig.until_state("down")
        told = await rig.until_repair("tell-operator")

    assert "1 repairs were made within an hour" in told.detail
    assert sum("remove" in words for words in rig.ran()) == 1


async def test_garbage_of_wg_is_told_and_changes_nothing(rig: Rig) -> None:
    rig.config = replace(rig.config, **PATIENT)
    async with running(rig):
        await rig.until_state("up")
        rig.change(lambda world: world["peers"].update({"\x1b[2J not a key": PEER}))
        await rig.until_degraded()
        (peer,) = await rig.tunnel.peers()

    assert "what wg says is not understood (latest-handshakes: line 2" in rig.states[0]
    assert peer.state == "up"
    assert rig.ran() == []


@dataclass
class Machine:
    """Stands for the core's `machine`."""

    refuses: str = ""
    asked: list[str] = field(default_factory=list)
    then: Callable[[], None] = lambda: None

    async def restart_interface(self, *, interface: str) -> str:
        self.asked.append(f"restart {interface}")
        if self.refuses:
            raise CallError(CallErrorKind.UNAVAILABLE, self.refuses, remedy="ask root")
        self.then()
        return f"{interface} restarted by wg-quick"

    async def wg_show(self, *, interface: str, what: list[str]) -> dict[str, str]:
        if self.refuses:
            raise CallError(CallErrorKind.UNAVAILABLE, self.refuses, remedy="ask root")
        return dict.fromkeys(what, interface)


async def test_wg_is_run_by_sparkd_priv_where_this_service_may_not(rig: Rig) -> None:
    rig.machine = Machine()
    rig.config = replace(rig.config, via="priv")
    access = choose_access(rig.context())

    assert isinstance(access, ByPriv)
    assert await access.show("lo", ["peers"]) == {"peers": "lo"}
    assert isinstance(choose_access(Rig(rig.folder, CONFIG).context()), Direct)


def test_the_manifest_says_what_is_served_and_published() -> None:
    (service,) = sparkd_services()

    assert (service.name, service.config, service.serves) == ("vpn-watchdog", VpnWatchdogConfig, (Tunnel,))
    assert service.publishes == (TunnelChanged, LinkQuality, TunnelRepair)


@pytest.mark.parametrize(
    ("wrong", "key"),
    [
        ({"interval_s": 0.0}, "interval_s"),
        ({"repairs_per_hour": -1}, "repairs_per_hour"),
        ({"interfaces": ["wg/0"]}, "interfaces"),
        ({"steps": ["reboot"]}, "steps"),
        ({"captive_url": "https://example.net"}, "captive_url"),
        ({"peers": {"A": PeerConfig(public_key=HUB)}}, "peers.A"),
        ({"peers": {"a": PeerConfig(public_key=HUB), "b": PeerConfig(public_key=HUB)}}, "peers.b"),
        ({"suspect_s": 200.0}, "suspect_s"),
    ],
)
def test_a_config_that_cannot_be_meant_is_refused(wrong: dict[str, Any], key: str) -> None:
    with pytest.raises(ValueError, match=f"^{key}: "):
        VpnWatchdogConfig(**wrong)


@pytest.mark.parametrize(
    "wrong",
    [
        {"public_key": "short"},
        {"endpoint": "hub.test"},
        {"endpoint": "hub.test:0"},
        {"endpoint": "hub test:1"},
        {"probe": "hub.test"},
        {"probe_port": 0},
        {"asleep_modes": ["tired"]},
    ],
)
def test_a_peer_that_cannot_be_meant_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"expected|does not appear|known are"):
        PeerConfig(**{"public_key": HUB} | wrong)
