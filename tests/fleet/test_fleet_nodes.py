"""Rendered configs at work: sparkd's own check takes them, two daemons link by them, and all are asked at once."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from sparkd.cli.main import main
from sparkd.fleet import load_fleet
from sparkd.fleet.status import ask_all, power_of, tunnel_of
from sparkd.link.keys import KeyStore
from sparkd.testing import Node, free_port, short_folder
from tests.fleet.fleet_rig import loaded, put_key, wireguard_pair
from tests.system.watching import plugin, runs, until

FLEET = """
[fleet]
name = "loopback"
[sites.home]
lan = "127.0.0.0/8"
[tunnel]
hub = "den"
subnet = "10.99.0.0/24"
[prometheus]
node = "den"
sparkd_port = {metrics}
[nodes.den]
site = "home"
lan_address = "127.0.0.2"
tunnel_address = "10.99.0.1"
link_on = "lan"
link_port = {link}
[nodes.attic]
site = "home"
lan_address = "127.0.0.3"
plugins.node-telemetry = {{ interval_s = 0.5 }}
[nodes.cellar]
site = "home"
lan_address = "127.0.0.4"
[nodes.shed]
site = "home"
lan_address = "127.0.0.5"
[nodes.gate]
role = "router"
site = "home"
lan_address = "127.0.0.6"
[links.all]
dial = ["attic", "cellar"]
listen = "den"
up = ["edge", "system"]
down = ["system.power"]
calls_up = ["node.status"]
calls_down = ["node.status"]
"""
POWER = "from sparkd import PowerMode\n"
SAY = """\
task_status.started()
await ctx.bus.publish(PowerMode(mode="off-grid", name="attic"))
await anyio.sleep_forever()"""
NAMES = ("den", "attic", "cellar")


class Rendered:
    """A fleet on loopback in a folder: its file, and a node for each of `NAMES` with what was rendered for it."""

    def __init__(self, root: Path) -> None:
        self.file = root / "fleet.toml"
        self.file.write_text(FLEET.format(metrics=free_port(), link=free_port()))
        keys = root / "fleet-keys"
        keys.mkdir()
        self.nodes = {name: Node(name, root / name[0], "") for name in NAMES}
        for name, node in self.nodes.items():
            node.prepare()
            put_key(keys / f"{name}.link.pub", KeyStore(node.state / "keys").new())
        put_key(keys / "den.wireguard.pub", wireguard_pair()[0])
        self.out = root / "out"
        assert main(["fleet", "render", str(self.file), "--out", str(self.out)]) == 0
        for name, node in self.nodes.items():
            shutil.copy(self.out / name / "etc/sparkd/sparkd.toml", node.config_file)
            shutil.copytree(
                self.out / name / "var/lib/sparkd/keys/trusted", node.state / "keys/trusted", dirs_exist_ok=True
            )

    @contextmanager
    def running(self, *names: str) -> Iterator[None]:
        with ExitStack() as stack:
            for name in names:
                stack.callback(self.nodes[name].stop)
                self.nodes[name].start()
            yield

    def links(self, name: str) -> dict[str, bool]:
        return {one["peer"]: one["connected"] for one in self.nodes[name].call("node.status")["links"]}

    def socket(self, name: str) -> list[str]:
        return ["--socket", str(self.nodes[name].socket_path)]


@pytest.fixture
def fleet() -> Iterator[Rendered]:
    with short_folder() as root:
        yield Rendered(root)


@pytest.mark.parametrize("name", NAMES)
def test_sparkds_own_check_takes_what_is_rendered(
    fleet: Rendered, name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    node = fleet.nodes[name]
    for folder, place in (("RUNTIME", "run"), ("STATE", "state"), ("CACHE", "cache")):
        monkeypatch.setenv(f"{folder}_DIRECTORY", str(node.root / place))
    capsys.readouterr()

    code = main(["--config", str(node.config_file), "check"])

    assert (code, capsys.readouterr().out.partition(" in ")[0]) == (0, "no problems")


def test_rendered_nodes_link_and_are_asked_at_once(fleet: Rendered, capsys: pytest.CaptureFixture[str]) -> None:
    (fleet.nodes["attic"].plugins / "it.py").write_text(plugin(SAY, more=POWER, offer="publishes=(PowerMode,)"))
    with fleet.running("den", "attic"):
        until(lambda: fleet.links("den"), lambda links: links == {"attic": True, "cellar": False})
        until(lambda: fleet.links("attic"), lambda links: links == {"den": True})
        runs(fleet.nodes["attic"], "node-telemetry")
        runs(fleet.nodes["attic"], "it")
        told = lambda: fleet.nodes["den"].call("bus.last", topic="system.power.mode")  # noqa: E731 - looked at again and again
        until(told, bool)
        capsys.readouterr()

        code = main([*fleet.socket("den"), "--json", "fleet", "status", str(fleet.file)])
        rows = {row["node"]: row for row in json.loads(capsys.readouterr().out)}
        assert main([*fleet.socket("den"), "fleet", "status", str(fleet.file)]) == code
        shown = capsys.readouterr().out
        assert main([*fleet.socket("den"), "--node", "attic", "--json", "fleet", "status", str(fleet.file)]) == 0
        assert [row["node"] for row in json.loads(capsys.readouterr().out)] == ["attic"]
        assert main([*fleet.socket("den"), "--node", "atic", "fleet", "status", str(fleet.file)]) == 4

    assert code == 5
    assert list(rows) == ["attic", "cellar", "den", "gate", "shed"]
    assert (rows["attic"]["state"], rows["attic"]["power"]) == ("well", "off-grid")
    assert rows["attic"]["version"] == rows["den"]["version"] != ""
    assert (rows["attic"]["services"], rows["attic"]["links"]) == (2, 1)
    assert (rows["den"]["state"], rows["den"]["links_down"]) == ("troubled", ["cellar"])
    assert rows["cellar"]["state"] == "unreachable"
    assert "cellar" in rows["cellar"]["reason"]
    assert rows["shed"]["state"] == "unreachable", "it has no link from here, and that is the reason"
    assert rows["shed"]["reason"]
    assert rows["gate"]["state"] == "no sparkd"
    assert "off-grid" in shown
    assert "no link to cellar" in shown


def test_without_a_daemon(fleet: Rendered, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*fleet.socket("den"), "fleet", "status", str(fleet.file)]) == 3
    assert "no daemon answers" in capsys.readouterr().err


def test_a_key_that_is_trusted_no_more_is_a_difference(fleet: Rendered, capsys: pytest.CaptureFixture[str]) -> None:
    root = fleet.out / "den"
    diff = ["fleet", "diff", str(fleet.file), "--node", "den", "--root", str(root)]
    capsys.readouterr()
    assert main(diff) == 0
    shutil.copy(root / "var/lib/sparkd/keys/trusted/attic.public", root / "var/lib/sparkd/keys/trusted/gone.public")

    assert main(diff) == 1
    assert "sparkctl keys revoke gone" in capsys.readouterr().out
    assert main(["fleet", "render", str(fleet.file), "--out", str(fleet.out)]) == 0
    assert main(diff) == 0, "rendering takes away what it would not write"


def test_a_peer_that_answers_nonsense_costs_its_own_row(tmp_path: Path) -> None:
    fleet = loaded(tmp_path)
    status = {"node": "control-pc", "version": "1", "services": [], "links": [], "problems": []}
    answers: dict[str, Any] = {
        "node.status": status,
        "bus.last": [{"node": "control-pc", "event": 5}],
        "nas/core:node.status": {"services": 3},
        "primecore1/core:node.status": None,
        "primecore2/core:node.status": {**status, "node": "primecore2", "services": [{"name": "x", "state": "broken"}]},
    }

    def ask(method: str, _params: Any) -> Any:
        if method not in answers:
            raise TimeoutError
        return answers[method]

    rows = {row.node: row for row in ask_all(fleet, ask)}

    assert rows["control-pc"].state == "well"
    assert rows["nas"].reason.startswith("its answer is no status")
    assert rows["primecore1"].state == "unreachable"
    assert (rows["primecore2"].state, rows["primecore2"].not_running) == ("troubled", ["x (broken)"])
    assert rows["primecore4"].reason == "no answer in time"


def test_power_and_tunnels_as_they_were_told() -> None:
    told = [
        ("system.power.mode", "a", {"mode": "low", "scope": "node", "name": "a"}),
        ("system.power.mode", "a", {"mode": "off-grid", "scope": "site", "name": "home"}),
        ("system.tunnel.peer", "a", {"peer": "x", "state": "up"}),
        ("system.tunnel.peer", "a", {"peer": "y", "state": "down"}),
        ("system.tunnel.peer", "b", {"peer": "x", "state": "up"}),
    ]

    assert [power_of(told, name, "home") for name in ("a", "b")] == ["low", "off-grid"]
    assert power_of(told, "c", "cloud") == ""
    assert [tunnel_of(told, name) for name in ("a", "b", "c")] == ["1 down, 1 up", "up", ""]


def test_the_example_is_a_fleet(fleet: Rendered) -> None:
    assert set(load_fleet(fleet.file).nodes) == {*NAMES, "shed", "gate"}
