"""A node that asks another to go off in its turn, and wakes it when the mains are back."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import pytest

from sparkd.link.keys import KeyStore
from sparkd.priv.perform import magic_packet
from sparkd.testing import Node, free_port, short_folder
from tests.priv.priv_rig import Priv, priv_in, usable
from tests.system.watching import runs, service, until

CONFIG = """
[node]
name = "{name}"
site = "home"
metrics_listen = ""
priv_socket = "{priv}"
"""
HOUSE = """
[link]
listen = "127.0.0.1:{port}"
heartbeat_s = 0.5
[link.peers.nas]
site = "home"
calls = ["node.status"]
[plugins.power-monitor]
restore_step_s = 0.0
wake = ["nas"]
wake_after_s = 0.2
[plugins.power-monitor.policy.critical]
shutdown = "poweroff"
after_s = 0.5
[plugins.power-monitor.shutdown]
order = [["nas"], ["house"]]
asks = ["nas"]
stage_limit_s = 20.0
"""
NAS = """
[link]
heartbeat_s = 0.5
[link.peers.house]
address = "127.0.0.1:{port}"
site = "home"
calls = ["node.status", "machine.shutdown"]
"""
MAC = "02:00:00:00:00:01"


@dataclass
class Two:
    house: Node
    nas: Node
    house_priv: Priv
    nas_priv: Priv


@contextmanager
def two() -> Iterator[Two]:
    if usable():
        pytest.skip(usable())
    with ExitStack() as stack:
        folder = stack.enter_context(short_folder())
        folder.chmod(0o755)
        port = free_port()
        privs = [stack.enter_context(priv_in(folder / name)) for name in ("ph", "pn")]
        nodes = []
        for name, priv, more in (("house", privs[0], HOUSE), ("nas", privs[1], NAS)):
            config = CONFIG.format(name=name, priv=priv.path) + more.format(port=port)
            node = Node(name, folder / name, config).prepare()
            priv.settings.write_text(
                f'config = "{node.config_file}"\naccount = "root"\nverbs = ["shutdown", "wake-host"]\n'
                f'[hosts]\nnas = "{MAC}"\n'
            )
            stack.callback(node.stop)
            nodes.append(node)
        keys = {node.name: KeyStore(node.state / "keys") for node in nodes}
        public = {name: store.new() for name, store in keys.items()}
        keys["house"].trust("nas", public["nas"])
        keys["nas"].trust("house", public["house"])
        for node in nodes:
            node.start()
        house, nas = nodes
        runs(house, "power-monitor")
        until(lambda: house.call("node.status")["links"][0]["connected"], bool, limit_s=20)
        yield Two(house, nas, *privs)


def offs(priv: Priv) -> int:
    return sum(words[-1] == "poweroff" for words in priv.ran() if "systemctl" in words[0] or "poweroff" in words)


def actions(node: Node) -> list[tuple[str, str, str]]:
    return [(one["action"], one["target"], one["state"]) for one in node.call("power.status")["actions"]]


def test_another_goes_off_first_and_is_woken_when_the_mains_are_back() -> None:
    with two() as home:
        home.house.call("power.hold", mode="critical", seconds=120.0)
        until(lambda: offs(home.nas_priv), bool, limit_s=20)
        assert offs(home.house_priv) == 0
        until(lambda: actions(home.house), lambda done: ("shutdown", "nas", "done") in done)  # its answer has come
        home.nas.stop()  # as its switch would have it
        until(lambda: offs(home.house_priv), bool, limit_s=30)
        until(lambda: actions(home.house), lambda done: ("shutdown", "house", "done") in done)
        assert [one for one in actions(home.house) if one[0] == "shutdown"] == [
            ("shutdown", "house", "planned"),
            ("shutdown", "nas", "done"),
            ("shutdown", "house", "done"),
        ]
        assert offs(home.house_priv) == 1

        home.house.call("power.hold", mode="on-grid", seconds=120.0)
        assert home.house_priv.wake.recv(1024) == magic_packet(MAC)
        until(lambda: actions(home.house)[-1], lambda last: last == ("wake", "nas", "done"))


def test_the_mains_come_back_in_time() -> None:
    with two() as home:
        home.house.call("power.hold", mode="critical", seconds=120.0)
        until(lambda: offs(home.nas_priv), bool, limit_s=20)
        home.house.call("power.hold", mode="on-grid", seconds=120.0)
        until(lambda: actions(home.house), lambda done: ("shutdown", "house", "cancelled") in done, limit_s=20)
        home.nas.stop()
        until(lambda: actions(home.house)[-1], lambda last: last == ("wake", "nas", "done"), limit_s=20)
        assert offs(home.house_priv) == 0


def test_root_that_does_not_allow_it_is_told_of() -> None:
    with two() as home:
        text = home.house_priv.settings.read_text()
        home.house_priv.settings.write_text(text.replace('"shutdown", ', ""))
        home.nas.stop()
        home.house.call("power.hold", mode="critical", seconds=120.0)
        seen = until(lambda: service(home.house, "power-monitor"), lambda one: one["state"] == "degraded", limit_s=30)
        assert "cannot be switched off" in seen["reason"]
        assert "shutdown is not among the verbs" in seen["reason"]
        assert ("shutdown", "house", "failed") in actions(home.house)
