"""The off-grid drill: three nodes in network namespaces, one of which sees a battery; the mains go, and come back.

Thresholds and times towards less are the defaults. The machines' switch is a stand-in for systemctl that ends the
daemon as an orderly shutdown does; it is reached through the real sparkd-priv.
"""

from __future__ import annotations

import operator
import os
import signal
import sqlite3
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from sparkd.link.keys import KeyStore
from sparkd.testing import Node, short_folder
from tests.netlab.spaces import Space, require_rig, sweep
from tests.priv.priv_rig import Priv, priv_in, usable
from tests.system.watching import QUIET, plugin, until

NAMES = ("control-pc", "spark-agent", "nas")
ADDRESSES = {name: f"192.168.77.{at}" for at, name in enumerate(NAMES, 11)}
CONFIG = """
[node]
name = "{name}"
site = "home"
metrics_listen = ""
priv_socket = "{priv}"

[link]
listen = "{address}:7700"
heartbeat_s = 1.0
{peers}
[plugins.power-monitor]
{own}
[plugins.power-monitor.policy.critical]
shed = ["normal"]
shutdown = "poweroff"

[plugins.power-monitor.shutdown]
order = [["control-pc", "spark-agent"], ["nas"]]

[plugins.power-monitor.modes]
on_grid_after_s = 1.0
recover_after_s = 5.0
"""
PEER = """
[link.peers.{name}]
site = "home"
{dial}send = ["system"]
receive = ["system"]
calls = ["node.status"]
"""
BATTERY = 'speaks_for_site = true\n[plugins.power-monitor.power_supply.battery]\nsysfs = "{sysfs}"\n'
WRITER = """\
from dataclasses import dataclass
from sparkd import Durability, EnergyClass, event

@event("edge.sensors.counted", durability=Durability.DURABLE)
@dataclass(frozen=True, slots=True, kw_only=True)
class Counted:
    n: int
"""
WRITES = """\
mark = ctx.state_dir / "acknowledged"
n = int(mark.read_text()) if mark.exists() else 0
task_status.started()
while True:
    await ctx.bus.publish(Counted(n=n + 1), key=f"n{n + 1}")
    n += 1
    fresh = mark.with_suffix(".new")
    fresh.write_text(str(n))
    fresh.replace(mark)
    await anyio.sleep(0.02)
"""
SWITCH = """\
#!{python} -I
import os, signal, sys, time
if "poweroff" in sys.argv:
    open("{folder}/off", "a").write(f"{{time.time()}}\\n")
    os.kill(int(open("{folder}/pid").read()), signal.SIGTERM)
"""


@dataclass
class Machine:
    """A node, its namespace and its root daemon."""

    node: Node
    space: Space
    priv: Priv

    def on(self) -> None:
        self.node.start()
        assert self.node.process
        (self.node.root / "pid").write_text(str(self.node.process.pid))

    @property
    def offs(self) -> list[float]:
        """When its machine was switched off."""
        file = self.node.root / "off"
        return [float(line) for line in file.read_text().splitlines()] if file.exists() else []

    def ended(self) -> bool:
        return self.node.process is not None and self.node.process.poll() is not None

    def state(self, service: str) -> Any:
        return next(
            (one["state"] for one in self.node.call("node.status")["services"] if one["name"] == service), "absent"
        )

    def mode(self) -> Any:
        return self.node.call("power.mode")["mode"]

    def linked(self) -> int:
        return sum(link["connected"] for link in self.node.call("node.status")["links"])

    def acknowledged(self) -> int:
        return int((self.node.state / "plugins/writer/acknowledged").read_text())

    def stored(self) -> list[int]:
        """Return the keys of the records of its writer on disk, as numbers."""
        found = []
        for segment in (self.node.state / "outbox/writer").rglob("*.seg"):
            with closing(sqlite3.connect(segment)) as database:
                found += [int(key[1:]) for (key,) in database.execute("select key from records") if key]
        return sorted(found)


@dataclass
class House:
    """All machines, the battery, and what is measured."""

    sysfs: Path
    machines: dict[str, Machine] = field(default_factory=dict)

    def battery(self, **attributes: object) -> None:
        for path, value in attributes.items():
            supply, _, attribute = path.partition("__")
            (self.sysfs / "class/power_supply" / supply / attribute).write_text(f"{value}\n")


@contextmanager
def house() -> Iterator[House]:
    require_rig()
    if usable():
        pytest.skip(usable())
    sweep()
    stem = f"lab{os.getpid()}n7"
    with ExitStack() as stack:
        folder = stack.enter_context(short_folder())
        folder.chmod(0o755)
        made = House(folder / "sys")
        for supply, attributes in (
            ("AC", {"type": "Mains", "online": "1"}),
            ("BAT", {"type": "UPS", "status": "Charging", "capacity": "90", "present": "1"}),
        ):
            (made.sysfs / "class/power_supply" / supply).mkdir(parents=True)
            for attribute, value in attributes.items():
                (made.sysfs / "class/power_supply" / supply / attribute).write_text(value)
        switch = Space(stem, "switch").make()
        stack.callback(switch.remove)
        switch.ip("link add br0 type bridge", "link set br0 up")
        for at, name in enumerate(NAMES):
            space = Space(stem, name.replace("-", "")).make()
            stack.callback(space.remove)
            switch.ip(f"link add p{at} type veth peer name eth0 netns {space.name}", f"link set p{at} master br0 up")
            space.ip(f"address add {ADDRESSES[name]}/24 dev eth0", "link set eth0 up")
            priv = stack.enter_context(priv_in(folder / f"p{at}"))
            machine = made.machines[name] = Machine(
                _node(folder / f"n{at}", name, space, priv, made.sysfs), space, priv
            )
            stack.callback(machine.node.stop)
        _trust(list(made.machines.values()))
        yield made


def _node(root: Path, name: str, space: Space, priv: Priv, sysfs: Path) -> Node:
    peers = ""
    for other in NAMES:
        dials = NAMES.index(name) > NAMES.index(other)
        if other != name:
            peers += PEER.format(name=other, dial=f'address = "{ADDRESSES[other]}:7700"\n' if dials else "")
    own = BATTERY.format(sysfs=sysfs) if name == "control-pc" else ""
    config = CONFIG.format(name=name, address=ADDRESSES[name], priv=priv.path, peers=peers, own=own)
    node = Node(name, root, config, prefix=space.prefix).prepare()
    more = "from sparkd import EnergyClass"
    waits = plugin(QUIET, name="trainer", more=more, offer="energy=EnergyClass.DEFERRABLE")
    (node.plugins / "trainer.py").write_text(waits)
    writes = plugin(WRITES, name="writer", more=WRITER, offer="publishes=(Counted,), energy=EnergyClass.ESSENTIAL")
    (node.plugins / "writer.py").write_text(writes)
    priv.settings.write_text(f'config = "{node.config_file}"\naccount = "root"\nverbs = ["shutdown"]\n')
    (priv.folder / "programs/systemctl").write_text(SWITCH.format(python=sys.executable, folder=root))
    return node


def _trust(machines: list[Machine]) -> None:
    stores = {machine.node.name: KeyStore(machine.node.state / "keys") for machine in machines}
    public = {name: store.new() for name, store in stores.items()}
    for name, store in stores.items():
        for other, key in public.items():
            if other != name:
                store.trust(other, key)


@pytest.mark.timeout(180)
@pytest.mark.slow
def test_the_mains_go_and_come_back() -> None:
    with house() as home:
        machines = list(home.machines.values())
        for machine in machines:
            machine.on()
        for machine in machines:
            until(machine.mode, lambda mode: mode == "on-grid", limit_s=20)
            until(machine.linked, lambda count: count == 2, limit_s=20)
            until(partial(machine.state, "trainer"), lambda state: state == "running", limit_s=20)

        lost = time.monotonic()
        home.battery(AC__online=0, BAT__status="Discharging")
        for machine in machines:
            until(machine.mode, lambda mode: mode == "off-grid", limit_s=5)
        everywhere_s = time.monotonic() - lost
        for machine in machines:
            until(partial(machine.state, "trainer"), lambda state: state == "shed", limit_s=5)
        rest_s = time.monotonic() - lost
        sys.stderr.write(f"off-grid everywhere {everywhere_s:.2f} s, deferrable services at rest {rest_s:.2f} s\n")
        assert everywhere_s <= 3
        assert rest_s <= 5
        assert all(machine.state("writer") == "running" for machine in machines)

        home.battery(BAT__capacity=81)
        home.battery(BAT__capacity=5)
        for machine in machines:
            until(machine.ended, bool, limit_s=60)
        assert [len(machine.offs) for machine in machines] == [1, 1, 1]
        assert home.machines["nas"].offs > max(machine.offs for machine in machines[:2])
        before = {machine.node.name: machine.acknowledged() for machine in machines}
        for machine in machines:
            assert machine.node.process
            assert machine.node.process.returncode == 0
            assert machine.stored()[: before[machine.node.name]] == list(range(1, before[machine.node.name] + 1))

        home.battery(AC__online=1, BAT__status="Charging")
        for machine in machines:
            machine.on()
        for machine in machines:
            until(machine.mode, lambda mode: mode == "on-grid", limit_s=30)
            until(partial(machine.state, "trainer"), lambda state: state == "running", limit_s=30)
            until(machine.acknowledged, partial(operator.lt, before[machine.node.name]), limit_s=20)
            machine.node.kill(signal.SIGTERM)
        for machine in machines:
            until(machine.ended, bool, limit_s=20)
            count = machine.acknowledged()
            assert machine.stored()[:count] == list(range(1, count + 1))
