"""Daemons in the lab's namespaces, each with vpn-watchdog, and watching them from outside."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

from sparkd.testing import Node, short_folder
from tests.netlab.ends import PORT
from tests.netlab.lab import NODES, WEB, Lab, Names, lab
from tests.netlab.spaces import eventually

DETECT_S = 15.0
REPAIR_S = 30.0
CONFIG = """\
[node]
name = "{node}"
site = "{node}"
metrics_listen = ""

[plugins.{plugin}]
interfaces = ["{interface}"]
captive_url = "http://{web}/generate_204"
{more}
{peers}
"""
PEER = """
[plugins.{plugin}.peers.{name}]
public_key = "{key}"
probe = "{address}"
{endpoint}
"""
STEPPED = '''"""The watchdog as it is, by a clock whose wall time a test may set."""

from dataclasses import replace
from pathlib import Path

from sparkd import hookimpl
from sparkd_plugins import vpn_watchdog
from sparkd_plugins.vpn_watchdog.clock import Clock
from sparkd_plugins.vpn_watchdog.service import watch


class Stepped(Clock):
    def wall(self):
        return super().wall() + float(Path({file!r}).read_text())


async def run(ctx, *, task_status):
    await watch(ctx, clock=Stepped(), task_status=task_status)


@hookimpl
def sparkd_services():
    (one,) = vpn_watchdog.sparkd_services()
    return [replace(one, run=run)]
'''


@dataclass
class Watched:
    """A lab, and a daemon on each of its nodes (or some)."""

    net: Lab
    nodes: dict[str, Node]
    figures: dict[str, float] = field(default_factory=dict)
    """Seconds that things took, for who wants to know."""

    def peer(self, node: str, of: str) -> dict[str, Any]:
        """Return how *node* sees its peer *of*; nothing if it does not know it yet."""
        return next((one for one in self.peers(node) if one["peer"] == of), {})

    def peers(self, node: str) -> list[dict[str, Any]]:
        """Return how *node* sees all its peers."""
        found: list[dict[str, Any]] = self.nodes[node].call("tunnel.peers")
        return found

    def pid(self, node: str) -> int:
        """Return the process of the watchdog of *node*."""
        services = self.nodes[node].call("node.status")["services"]
        return next(int(one["pid"]) for one in services if one["name"] == "vpn-watchdog")

    def repairs(self, node: str) -> list[dict[str, Any]]:
        """Return what *node* mended, oldest first."""
        found: list[dict[str, Any]] = self.nodes[node].call("tunnel.repairs")
        return found

    def steps(self, node: str) -> list[str]:
        """Return the repairs that *node* made; telling the operator is none."""
        return [one["step"] for one in self.repairs(node) if one["step"] != "tell-operator"]

    def until(
        self, node: str, of: str, wanted: Callable[[dict[str, Any]], object], *, limit_s: float, as_: str = ""
    ) -> dict[str, Any]:
        """Wait until *node* sees *of* as wanted; return that, and note the seconds it took *as_*."""
        begun, last = time.monotonic(), {}

        def look() -> dict[str, Any]:
            nonlocal last
            last = self.peer(node, of)
            return last if wanted(last) else {}

        try:
            seen = eventually(look, limit_s=limit_s)
        except AssertionError:
            raise AssertionError(f"{node} sees {last}\nrepairs {self.repairs(node)}") from None
        if as_:
            self.figures[as_] = round(time.monotonic() - begun, 1)
        return seen

    def is_up(self, node: str, of: str, *, limit_s: float = REPAIR_S, as_: str = "") -> dict[str, Any]:
        """Wait until *of* is up for *node*."""
        return self.until(node, of, lambda seen: seen.get("state") == "up", limit_s=limit_s, as_=as_)

    def is_down(self, node: str, of: str, *words: str, limit_s: float = DETECT_S, as_: str = "") -> dict[str, Any]:
        """Wait until *of* is down for *node*, and one of *words* says why (anything, if there are none)."""

        def down(seen: dict[str, Any]) -> bool:
            return seen.get("state") == "down" and (not words or seen["diagnosis"] in words)

        return self.until(node, of, down, limit_s=limit_s, as_=as_)


@contextmanager
def watched(
    *nodes: str,
    more: Mapping[str, str] | None = None,
    core: Mapping[str, str] | None = None,
    stepped: bool = False,
    priv: Sequence[str] = (),
    names: Names | None = None,
    prepare: Callable[[dict[str, Node]], None] | None = None,
) -> Iterator[Watched]:
    """Make a lab, and run a daemon on each of *nodes* (all), with *more* lines in the watchdog's table there.

    *core* are lines before that table. The nodes in *priv* have a sparkd-priv. With *stepped* the wall clock of the
    watchdogs is set by the file `step`. Every daemon sees all its peers up by now.
    """
    with short_folder() as folder, lab(names=names) as net, ExitStack() as stack:
        made = Watched(net, {})
        for name in nodes or NODES:
            text = _config(net, name, (more or {}).get(name, ""), plugin="stepped" if stepped else "vpn-watchdog")
            text = text.replace("[plugins", (core or {}).get(name, "") + "\n[plugins", 1)
            made.nodes[name] = Node(name, folder / name, text, prefix=net.spaces[name].prefix).prepare()
            if stepped:
                _step(made.nodes[name])
        for name in priv:
            _start_priv(made, name, stack)
        if prepare is not None:
            prepare(made.nodes)
        for node in made.nodes.values():
            stack.callback(node.stop)
            node.start()
        for name, node in made.nodes.items():
            _runs(node)
            for peer in NODES[1:] if name == "hub" else NODES[:1]:
                made.is_up(name, peer)
        try:
            yield made
        except AssertionError as error:
            for name, node in made.nodes.items():
                error.add_note(f"--- {name}:\n{node.last_words()}")
            raise


def _runs(node: Node) -> None:
    def look() -> list[str]:
        services = node.call("node.status")["services"]
        seen[:] = [f"{one['name']} {one['state']} {one['reason']}" for one in services]
        return [one for one in seen if one.startswith("vpn-watchdog running")]

    seen: list[str] = []
    try:
        eventually(look)
    except AssertionError:
        raise AssertionError(f"{node.name}: {seen}\n{node.last_words()}") from None


def _step(node: Node) -> None:
    file = node.root / "step"
    file.write_text("0")
    (node.plugins / "stepped.py").write_text(STEPPED.format(file=str(file)))


def _start_priv(made: Watched, name: str, stack: ExitStack) -> None:
    """Start a sparkd-priv in the node's namespace, with a socket made for it, as systemd would."""
    node, space = made.nodes[name], made.net.spaces[name]
    folder = node.root / "priv"
    folder.mkdir(mode=0o700)
    interface = made.net.ends[name].interface
    (folder / "priv.toml").write_text(f'verbs = ["wg-show", "wg-set"]\n[interfaces]\n{interface} = "auto"\n')
    listening = stack.enter_context(socket.socket(socket.AF_UNIX))
    listening.bind(str(folder / "sock"))
    listening.listen()
    begin = f'LISTEN_PID=$$ exec "$0" -m sparkd.priv --config "{folder}/priv.toml" 3<&{listening.fileno()}'
    process = subprocess.Popen(
        [*space.prefix, "bash", "-c", begin, sys.executable],
        env={**os.environ, "LISTEN_FDS": "1", "RUNTIME_DIRECTORY": str(folder), "LOGS_DIRECTORY": str(folder)},
        pass_fds=(listening.fileno(),),
    )
    stack.callback(process.wait, 60)
    stack.callback(process.terminate)
    node.config = node.config.replace("[node]", f'[node]\npriv_socket = "{folder}/sock"', 1)
    node.config_file.write_text(node.config)


def _config(net: Lab, node: str, more: str, *, plugin: str) -> str:
    more = more if "via" in more else f'via = "direct"\n{more}'
    peers = ""
    for other in NODES[1:] if node == "hub" else NODES[:1]:
        end = net.ends[other]
        endpoint = f'endpoint = "hub.lab:{PORT}"' if other == "hub" else ""
        peers += PEER.format(plugin=plugin, name=other, key=end.public_key, address=end.address, endpoint=endpoint)
    return CONFIG.format(node=node, plugin=plugin, interface=net.ends[node].interface, web=WEB, more=more, peers=peers)
