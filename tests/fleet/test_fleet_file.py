"""Reading the fleet file: every mistake is named, all at once, with table, key, what was got and what to try."""

from __future__ import annotations

import base64
import dataclasses
import json
import re
import tomllib
from pathlib import Path

import pytest

from sparkd.cli.main import main
from sparkd.errors import ConfigError
from sparkd.fleet import load_fleet
from sparkd.fleet.keys import is_clamped, is_public
from sparkd.fleet.model import endpoint, way
from sparkd.fleet.tables import Firewall, Naming, Prometheus, Shaping, Tunnel
from tests.fleet.fleet_rig import SAMPLE, link_pair, loaded, make_keys, platform, put_key, wireguard_pair

Change = tuple[str, str]
NO_TUNNEL = ('tunnel_address = "10.8.0.11"\nlink_on = "tunnel"', 'link_on = "public"')
WRONG: list[tuple[str, list[Change], str]] = [
    ("unknown table", [("[tunnel]", "[tunel]")], "[tunel]: unknown table; did you mean 'tunnel'?"),
    ("unknown key", [("port = 51820", "prot = 51820")], "[tunnel] prot: unknown key; did you mean 'port'?"),
    ("wrong type", [("port = 51820", 'port = "x"')], "[tunnel] port: got 'x' (text); a whole number expected"),
    (
        "no table",
        [("[fleet]", "firewall = 3\n[fleet]"), ("[firewall]\n", "")],
        "firewall: a table expected; write [firewall]",
    ),
    ("missing", [('hub = "control-pc"', "")], "[tunnel] hub: is missing; text expected"),
    ("node's name", [("[nodes.nas]", "[nodes.Nas]")], "[nodes.Nas]: lower-case words joined by hyphens expected"),
    ("no address", [('"10.8.0.13"', '"10.8.0.1333"')], "[nodes.primecore3] tunnel_address: an IP address expected"),
    ("no network", [("10.8.0.0/24", "10.8.0.1/24")], "subnet: a network expected, such as '10.8.0.0/24', got"),
    ("role", [('role = "nas"', 'role = "nass"')], "[nodes.nas] role: got 'nass' (text); one of 'cloud', 'edge', 'nas'"),
    ("port", [("port = 9092", "port = 90920")], "services.kafka.port: 1 to 65535 expected, got 90920"),
    ("label", [('{ board = "argon-eon" }', '{ site = "x" }')], "[nodes.nas] labels: letters, digits and _ expected"),
    ("topic", [('up = ["system.health"]', 'up = ["Health"]')], "[links.orchestration] up: topics such as"),
    ("method", [('"vision.infer"]', '"vision"]')], "[links.orchestration] calls_down: 'interface.method' or"),
    ("sqm", [("# percent = 90.0", "percent = 9.0")], "[nodes.router] sqm.percent: 50 to 100 expected, got 9"),
    ("sqm not at a router", [('role = "router"', 'role = "edge"')], "sqm: only a router shapes traffic"),
    ("mtu", [("# mtu = 1420", "mtu = 900")], "[tunnel] mtu: 1280 to 9000 expected, got 900"),
    ("metrics path", [('metrics_path = "/metrics"', 'metrics_path = "m"')], "metrics_path: a path such as '/metrics'"),
    (
        "site",
        [('site = "cloud"\npublic_address = "203.0.113.11"', 'site = "clod"')],
        "unknown site 'clod'; did you mean",
    ),
    (
        "hub",
        [('hub = "control-pc"', 'hub = "control"')],
        "[tunnel] hub: unknown node 'control'; did you mean 'control-pc'?",
    ),
    ("hub on a router", [('hub = "control-pc"', 'hub = "router"')], "[tunnel] hub: router is a router, and cannot be"),
    ("hub not in the tunnel", [('hub = "control-pc"', 'hub = "nas"')], "[tunnel] hub: nas has no tunnel_address"),
    (
        "zone",
        [('open_to = ["anywhere"]', 'open_to = ["anyware"]')],
        "unknown node or zone 'anyware'; did you mean 'any",
    ),
    ("ssh", [("# ssh_from = [", 'ssh_from = ["x", ')], "[firewall] ssh_from: unknown node or zone 'x'; known: "),
    (
        "same address",
        [('"10.8.0.13"', '"10.8.0.12"')],
        "tunnel_address: primecore2 and primecore3 have the same, 10.8.0.12",
    ),
    ("same LAN address", [("192.168.1.49", "192.168.1.92")], "lan_address at home: nas and spark-agent have the same"),
    ("outside", [('"10.8.0.13"', '"10.9.0.13"')], "10.9.0.13 is no host of the tunnel's subnet 10.8.0.0/24"),
    ("the subnet itself", [('"10.8.0.13"', '"10.8.0.255"')], "10.8.0.255 is no host of the tunnel's subnet"),
    ("LAN", [('"192.168.1.49"', '"192.168.2.49"')], "192.168.2.49 is no host of 192.168.1.0/24, the LAN of home"),
    ("no LAN", [('"203.0.113.11"', '"203.0.113.11"\nlan_address = "10.1.1.1"')], "the site cloud has no LAN; set"),
    (
        "overlap",
        [('lan = "192.168.1.0/24"', 'lan = "10.0.0.0/8"')],
        "[sites.home] lan: 10.0.0.0/8 overlaps the tunnel's",
    ),
    ("nowhere", [('lan_address = "192.168.1.49"\n', "")], "[nodes.nas]: it has no address at all"),
    (
        "no way to the hub",
        [('public = "home.example.net"', "")],
        "[nodes.primecore1]: no way to the hub control-pc; give",
    ),
    (
        "gateway",
        [('gateway = "control-pc"', 'gateway = "nas"')],
        "[sites.home] gateway: nas must be a node of this site",
    ),
    (
        "nobody dials",
        [('dial = ["nas"]', "dial = []")],
        "[links.house-storage] dial: nobody dials, and control-pc only",
    ),
    (
        "itself",
        [('dial = ["nas"]', 'dial = ["control-pc"]')],
        "[links.house-storage] dial: control-pc would dial itself",
    ),
    ("linked twice", [('dial = ["nas"]', 'dial = ["nas", "spark-agent"]')], "are linked by [links.house-storage], too"),
    (
        "does not listen",
        [('link_on = "lan"', "")],
        "listen: control-pc does not listen; set [nodes.control-pc] link_on",
    ),
    ("listens nowhere", [('link_on = "lan"', 'link_on = "public"')], "it listens on public, and has no public_address"),
    (
        "dials what it cannot",
        [('dial = ["nas"]', 'dial = ["nas", "primecore3"]'), ('gateway = "control-pc"', "")],
        "primecore3 does not reach control-pc, which listens on 192.168.1.100 (lan) only",
    ),
    (
        "nobody dials it",
        [('"10.8.0.13"', '"10.8.0.13"\nlink_on = "tunnel"')],
        "[nodes.primecore3] link_on: it listens, and",
    ),
    (
        "ports",
        [("port = 8081", "port = 8080")],
        "[nodes.primecore4.services]: kafka-ui and airflow all use tcp port 8080",
    ),
    ("link's port", [("port = 9092", "port = 7700")], "the link and kafka all use tcp port 7700"),
    ("metrics' port", [("port = 9092", "port = 9464")], "sparkd's metrics and kafka all use tcp port 9464"),
    (
        "service unreached",
        [
            ('open_to = ["lan", "tunnel"]', 'open_to = ["lan"]'),
            ('https = { port = 443, open_to = ["anywhere"] }', 'https = { port = 443, open_to = ["lan"] }'),
        ],
        "https] open_to: nobody reaches primecore1 from 'lan'; it has",
    ),
    (
        "locked out",
        [
            (
                'tunnel_address = "10.8.0.13"\nssh_from = ["tunnel", "anywhere"]',
                'tunnel_address = "10.8.0.13"\nssh_from = ["lan"]',
            )
        ],
        "[nodes.primecore3] ssh_from: nobody could log in to it any more",
    ),
    (
        "metrics unread",
        [('gateway = "control-pc"', "")],
        "[nodes.nas] metrics: primecore4, which reads them, does not reach it",
    ),
    (
        "watcher",
        [('node = "primecore4"', 'node = "primecore5"')],
        "[prometheus] node: unknown node 'primecore5'; did you mean",
    ),
    (
        "two routers",
        [("[nodes.nas]", '[nodes.second]\nrole = "router"\nsite = "home"\nlan_address = "192.168.1.2"\n[nodes.nas]')],
        "[sites.home]: router and second are both its router",
    ),
    ("not TOML", [("[sites.cloud]", "[sites.cloud")], "not TOML"),
]


def problems(file: Path) -> tuple[str, ...]:
    with pytest.raises(ConfigError) as found:
        load_fleet(file)
    return found.value.problems


@pytest.mark.parametrize(("changes", "sentence"), [case[1:] for case in WRONG], ids=[case[0] for case in WRONG])
def test_a_mistake_is_named(tmp_path: Path, changes: list[Change], sentence: str) -> None:
    file = platform(tmp_path, *changes)

    found = problems(file)

    assert any(sentence in problem for problem in found), found
    assert all(problem.startswith(f"{file}: ") for problem in found), "each says where"


def test_all_mistakes_at_once(tmp_path: Path) -> None:
    changes = [('"10.8.0.13"', '"10.8.0.12"'), ("port = 8081", "port = 8080"), ('dial = ["nas"]', "dial = []")]

    assert len(problems(platform(tmp_path, *changes))) == 3
    decoded = [("port = 51820", "port = 0"), ('role = "nas"', 'role = "x"'), ('"10.8.0.13"', '"x"')]
    assert len(problems(platform(tmp_path, *decoded))) == 3


def test_the_platform_is_well_described(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fleet", "check", str(platform(tmp_path))]) == 0
    assert "no problems in" in capsys.readouterr().out
    assert main(["--json", "fleet", "check", str(platform(tmp_path))]) == 0
    assert json.loads(capsys.readouterr().out)["ok"]
    assert main(["fleet", "check", str(SAMPLE)]) == 4, "it ships without keys"
    assert "no such file" in capsys.readouterr().err
    assert main(["fleet", "check", str(tmp_path / "none.toml")]) == 4


def test_the_sample_shows_every_default(tmp_path: Path) -> None:
    text = re.sub(r"(?m)^# ", "", SAMPLE.read_text())
    shown = tomllib.loads(text)
    classes = {"fleet": Naming, "tunnel": Tunnel, "firewall": Firewall, "prometheus": Prometheus}
    found = loaded(tmp_path)
    file = tmp_path / "uncommented.toml"
    file.write_text(text)

    assert load_fleet(file).digest == found.digest, "each value shown behind a # is the default"
    for table, cls in classes.items():
        assert {field.name for field in dataclasses.fields(cls)} == set(shown[table])
    assert {field.name for field in dataclasses.fields(Shaping)} == set(shown["nodes"]["router"]["sqm"])


def test_ways_and_endpoints(tmp_path: Path) -> None:
    fleet = loaded(tmp_path)

    def ends(source: str, target: str) -> tuple[str, str, str]:
        found = way(fleet, source, target)
        assert found
        return found.address, found.source, found.interface

    assert ends("spark-agent", "control-pc") == ("192.168.1.100", "192.168.1.92", "")
    assert ends("primecore4", "spark-agent") == ("10.8.0.3", "10.8.0.14", "wg0")
    assert ends("nas", "primecore4") == ("10.8.0.14", "192.168.1.49", "wg0")
    assert ends("primecore4", "nas") == ("192.168.1.49", "10.8.0.14", "")
    assert endpoint(fleet, "spark-agent") == "192.168.1.100:51820"
    assert endpoint(fleet, "primecore1") == "home.example.net:51820"


def test_the_hash_is_of_what_is_said(tmp_path: Path) -> None:
    plain = loaded(tmp_path).digest

    assert loaded(tmp_path, ("[firewall]", "## a remark\n[firewall]")).digest == plain
    assert loaded(tmp_path, ("[firewall]", "[firewall]\nssh_port = 2222")).digest != plain
    put_key(tmp_path / "fleet-keys" / "nas.link.pub", link_pair()[0])
    assert loaded(tmp_path).digest != plain, "keys are part of it, wherever they stand"


def test_keys_that_two_have(tmp_path: Path) -> None:
    file = platform(tmp_path)
    keys = tmp_path / "fleet-keys"
    for kind in ("wireguard", "link"):
        put_key(keys / f"primecore1.{kind}.pub", (keys / f"control-pc.{kind}.pub").read_text().strip())

    found = problems(file)

    assert sum("control-pc and primecore1 have the same key" in problem for problem in found) == 2


def test_a_key_may_stand_in_the_file_itself(tmp_path: Path) -> None:
    public = next(pair[0] for pair in iter(wireguard_pair, None) if not is_clamped(_raw(pair[0])))
    (tmp_path / "fleet-keys").mkdir()
    make_keys(tmp_path / "fleet-keys")
    (tmp_path / "fleet-keys" / "primecore3.wireguard.pub").unlink()

    fleet = loaded(tmp_path, ('"10.8.0.13"', f'"10.8.0.13"\nwireguard_key = "{public}"'))

    assert fleet.wireguard_keys["primecore3"] == public


def test_every_public_key_is_known_as_one() -> None:
    pairs = [wireguard_pair() for _ in range(60)]

    assert all(is_public(_raw(public)) for public, _ in pairs)
    passed = sum(is_public(_raw(secret)) for _, secret in pairs)
    assert passed < 20, "one in sixteen is to be expected"


def _raw(key: str) -> bytes:

    return base64.b64decode(key)
