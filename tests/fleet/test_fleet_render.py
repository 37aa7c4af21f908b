"""What is rendered: the same bytes each time, no secret whatever was planted, and what differs from what is there."""

from __future__ import annotations

import json
import os
import re
import stat
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

from sparkd.cli.main import main
from sparkd.config import Config, decode_table, load_config
from sparkd.errors import ConfigError
from sparkd.fleet import difference, load_fleet, render
from sparkd.fleet.difference import hide
from sparkd.fleet.render import MARK
from sparkd.fleet.toml_text import toml_tables
from tests.fleet.fleet_rig import ROOT, SPARKD, link_pair, loaded, make_keys, platform, put_key, wireguard_pair
from tests.test_samples import PROFILES, SERVICES


def tree(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in sorted(folder.rglob("*")) if file.is_file()}


def test_the_same_fleet_is_the_same_bytes(tmp_path: Path) -> None:
    file = platform(tmp_path)
    for name, seed in (("a", "1"), ("b", "2")):
        words = [sys.executable, "-m", "sparkd.cli", "fleet", "render", str(file), "--out", str(tmp_path / name)]
        subprocess.run(words, check=True, capture_output=True, env={**os.environ, "PYTHONHASHSEED": seed})

    assert tree(tmp_path / "a") == tree(tmp_path / "b")
    assert len(tree(tmp_path / "a")) > 60


def test_the_order_of_tables_means_nothing(tmp_path: Path) -> None:
    file = platform(tmp_path)
    before = render(load_fleet(file))
    parts = re.split(r"(?m)^(?=\[)", file.read_text())
    file.write_text("\n".join([parts[0], *reversed(parts[1:])]))

    after = render(load_fleet(file))

    for name in SPARKD:
        for path, text in before[name].items():
            if path != "etc/sparkd/sparkd.toml":  # a plugin's keys stand as its operator wrote them
                assert after[name][path] == text


def test_each_file_says_where_it_comes_from(tmp_path: Path) -> None:
    fleet = loaded(tmp_path)
    for node, files in render(fleet).items():
        for path, text in files.items():
            if not path.endswith((".json", ".public")):
                assert text.startswith(f"{MARK} for {node}, fleet prime-spark {fleet.digest}. ")


def test_one_node_only(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = platform(tmp_path)
    assert main(["fleet", "render", str(file), "--out", str(tmp_path / "out"), "--node", "nas"]) == 0
    assert [folder.name for folder in (tmp_path / "out").iterdir()] == ["nas"]
    assert main(["fleet", "render", str(file), "--out", str(tmp_path / "out"), "--node", "nass"]) == 4
    assert "no node 'nass'" in capsys.readouterr().err


def test_what_is_not_wanted_any_more_goes_and_what_is_others_stays(tmp_path: Path) -> None:
    out = tmp_path / "out"
    main(["fleet", "render", str(platform(tmp_path)), "--out", str(out)])
    own = out / "nas" / "etc" / "motd"
    own.write_text("mine")
    gone = out / "nas" / "var/lib/sparkd/keys/trusted/control-pc.public"
    assert gone.exists()

    changed = platform(tmp_path, ('dial = ["nas"]', 'dial = ["primecore2"]'))
    main(["fleet", "render", str(changed), "--out", str(out)])

    assert own.read_text() == "mine"
    assert not gone.exists()


@pytest.mark.parametrize("profile", PROFILES, ids=lambda profile: profile.parent.name)
def test_the_fleet_and_the_profiles_agree(tmp_path: Path, profile: Path) -> None:
    name = profile.parent.name
    made = config_of(tmp_path, name)
    shipped = load_config(profile)

    assert (made.node.name, made.node.role, made.node.site) == (name, shipped.node.role, shipped.node.site)
    assert made.link.listen == shipped.link.listen
    assert made.link.peers == shipped.link.peers


@pytest.mark.parametrize("name", SPARKD)
def test_the_rendered_config_is_one_that_its_plugins_take(tmp_path: Path, name: str) -> None:
    made = config_of(tmp_path, name)

    assert made.node.metrics_listen.endswith(":9464")
    assert not made.node.metrics_listen.startswith(("127.", "0.")), "where Prometheus reaches it, and nowhere else"
    for plugin, table in made.plugins.items():
        assert decode_table(SERVICES[plugin].config, table.table, where=plugin, file=table.origin)


def test_the_watchdog_of_tunnels_knows_its_peers_by_name(tmp_path: Path) -> None:
    fleet = loaded(tmp_path)
    own = SERVICES["vpn-watchdog"].config
    hub, spoke = (config_of(tmp_path, name).plugins["vpn-watchdog"] for name in ("control-pc", "primecore1"))

    made = decode_table(own, hub.table, where="vpn-watchdog")
    assert {name: peer.public_key for name, peer in made.peers.items()} == {
        name: fleet.wireguard_keys[name] for name in fleet.spokes()
    }
    assert made.peers["spark-agent"].probe == "10.8.0.3"
    (peer,) = decode_table(own, spoke.table, where="vpn-watchdog").peers.values()
    assert (peer.probe, peer.endpoint) == ("10.8.0.2", "home.example.net:51820")
    written = "[nodes.primecore1.plugins.vpn-watchdog]\ninterval_s = 7.0\npeers.control-pc.probe_port = 22\n"
    changed = loaded(tmp_path, ("[nodes.primecore1.plugins.vpn-watchdog]\n", written))
    table = tomllib.loads(render(changed)["primecore1"]["etc/sparkd/sparkd.toml"])["plugins"]["vpn-watchdog"]
    assert (table["interval_s"], table["peers"]["control-pc"]["probe_port"]) == (7.0, 22)
    assert table["peers"]["control-pc"]["public_key"] == fleet.wireguard_keys["control-pc"]


def config_of(folder: Path, name: str) -> Config:
    file = folder / "sparkd.toml"
    file.write_text(render(loaded(folder), only=name)[name]["etc/sparkd/sparkd.toml"])
    return load_config(file)


def test_tables_of_plugins_come_through_whole(tmp_path: Path) -> None:
    table: dict[str, Any] = {
        "text": 'quotes " and \\ and \n and \x7f', "number": 1.5, "big": 10**12, "on": True, "list": ["a", 1, [2]],
        "password": {"credential": "db"}, "deep": {"deeper": {"x": 1}}, "rows": [{"a": 1}], "odd key": {"y": -0.25},
    }  # fmt: skip
    lines = tomllib.loads(_toml(table))
    assert lines["plugins"]["x"] == table
    given = _toml(table).replace("plugins.x", "nodes.nas.plugins.x")
    made = render(loaded(tmp_path, ("[links.records]", f"{given}\n[links.records]")))["nas"]["etc/sparkd/sparkd.toml"]

    assert tomllib.loads(made)["plugins"]["x"] == table


def _toml(table: dict[str, Any]) -> str:

    return toml_tables("plugins.x", table)


PLACES = (
    ("a value", '"10.8.0.13"', '"{}"'),
    ("a wrong type", "port = 51820", 'port = "{}"'),
    ("an unknown key", "port = 51820", 'port = 51820\nprivate = "{}"'),
    ("a key's name", "port = 51820", 'port = 51820\n"{}" = 1'),
    ("a table's name", "[sites.cloud]", '[sites.cloud]\n[nodes."{}"]'),
    ("a label", '"argon-eon"', '"{}"'),
    ("a plugin's table", "disk_ok_percent = 80.0", 'disk_ok_percent = 80.0\nnote = "see {}"'),
    ("a list", 'dial = ["nas"]', 'dial = ["nas", "{}"]'),
    ("a file's name", '"10.8.0.13"', '"10.8.0.13"\nwireguard_key = {{ file = "{}" }}'),
    ("an address", '"home.example.net"', '"{}"'),
    ("a topic", 'up = ["system.health"]', 'up = ["{}"]'),
    ("the fleet's name", '"prime-spark"', '"{}"'),
)


@pytest.mark.parametrize(("old", "new"), [place[1:] for place in PLACES], ids=[place[0] for place in PLACES])
def test_a_private_key_in_the_fleet_file_is_refused_and_never_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], old: str, new: str
) -> None:
    for secret in (wireguard_pair()[1], tame_link_secret()):
        file = platform(tmp_path, (old, new.format(secret)))
        for verb in (["check"], ["render", "--out", str(tmp_path / "out")], ["diff", "--dir", str(tmp_path / "out")]):
            assert main(["fleet", verb[0], str(file), *verb[1:]]) == 4
            said = capsys.readouterr()
            assert secret not in said.out + said.err
            assert secret[:20] not in said.out + said.err
        assert not (tmp_path / "out").exists()


def tame_link_secret() -> str:
    """Return a secret key of the link that TOML and its strings take as it is, and mixed as most are."""
    while True:
        secret = link_pair()[1]
        if not set('"\\{}') & set(secret) and secret.count("/") <= 1 and len(set("^!*<>()[]@$") & set(secret)) > 2:
            return secret


def test_a_private_key_in_the_place_of_a_public_one_is_refused(tmp_path: Path) -> None:
    """WireGuard's always, for they are clamped; one of the link in 31 of 32 cases."""
    refused = 0
    for _ in range(20):
        with pytest.raises(ConfigError) as found:
            loaded(tmp_path, ('"10.8.0.13"', f'"10.8.0.13"\nwireguard_key = "{wireguard_pair()[1]}"'))
        assert len(str(found.value)) < 400
        secret = link_pair()[1]
        told = ""
        try:
            loaded(tmp_path, ('"10.8.0.13"', f"\"10.8.0.13\"\nlink_key = '{secret}'"))
        except ConfigError as error:
            told = str(error)
        refused += bool(told)
        assert secret not in told
    assert refused >= 15


def test_files_of_private_keys_are_refused_and_never_said(tmp_path: Path) -> None:
    file, keys = platform(tmp_path), tmp_path / "fleet-keys"
    _, secret = wireguard_pair()
    shut = keys / "primecore1.wireguard.pub"
    put_key(shut, secret)
    shut.chmod(0o600)
    link = keys / "nas.link.pub"
    put_key(link, secret)
    put_key(keys / "primecore2.wireguard.pub", f"[Interface]\nPrivateKey = {secret}")
    (tmp_path / "wg0.key").write_text(secret)
    text = file.read_text().replace('"10.8.0.13"', '"10.8.0.13"\nwireguard_key = { file = "wg0.key" }')
    file.write_text(text)

    with pytest.raises(ConfigError) as found:
        load_fleet(file)

    assert len(found.value.problems) == 4
    assert secret not in str(found.value)
    assert "closed to others, as private keys are" in str(found.value)
    assert "never name a private key" in str(found.value)


def test_secrets_of_plugins_are_named_only(tmp_path: Path) -> None:
    for line in ('password = "hunter2"', 'url = "https://me:hunter2@example.net/"', 'api_key = "hunter2"'):
        with pytest.raises(ConfigError, match="a secret is named, never written") as found:
            loaded(tmp_path, ("disk_ok_percent = 80.0", line))
        assert "hunter2" not in str(found.value)
    assert loaded(tmp_path, ("disk_ok_percent = 80.0", 'password = { credential = "db" }'))


def test_no_private_key_of_the_machine_is_in_what_is_rendered(tmp_path: Path) -> None:
    file = platform(tmp_path)
    private = make_keys(tmp_path / "fleet-keys")
    for name, secret in private.items():
        (tmp_path / "fleet-keys" / f"{name}.key").write_text(secret)
    main(["fleet", "render", str(file), "--out", str(tmp_path / "out")])

    whole = b"".join(tree(tmp_path / "out").values()).decode()
    assert not any(secret in whole for secret in private.values())
    assert "PrivateKey =" not in whole
    assert "private-key /etc/wireguard/%i.key" in whole
    for path in (tmp_path / "out").rglob("*"):
        assert not path.is_file() or not stat.S_IMODE(path.stat().st_mode) & 0o022


def test_diff_of_a_rendered_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file, out = platform(tmp_path), tmp_path / "out"
    main(["fleet", "render", str(file), "--out", str(out)])
    capsys.readouterr()
    diff = ["fleet", "diff", str(file), "--dir", str(out)]

    assert main(diff) == 0
    assert capsys.readouterr().out == ""

    platform(tmp_path, ("port = 9092", "port = 9093"))
    assert main(diff) == 1
    shown = capsys.readouterr().out
    assert "-    iifname" in shown
    assert "tcp dport 9093 accept" in shown
    assert shown.count("--- ") == 2, "the hash in the first lines of all the others does not count"
    assert main([*diff, "--node", "nas"]) == 0
    capsys.readouterr()
    assert main(["--json", *diff]) == 1
    assert list(json.loads(capsys.readouterr().out)["differences"]) == ["primecore4"]
    (out / "nas" / "etc/sparkd/sparkd.toml").unlink()
    assert main([*diff, "--node", "nas"]) == 1
    assert main(["fleet", "diff", str(file)]) == 4


def test_diff_with_this_machine_shows_no_secret(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file, root = platform(tmp_path), tmp_path / "root"
    secret, shared, other = wireguard_pair()[1], wireguard_pair()[1], wireguard_pair()[0]
    main(["fleet", "render", str(file), "--out", str(tmp_path / "out"), "--node", "nas"])
    (root / "etc/wireguard").mkdir(parents=True)
    (root / "etc/sparkd").mkdir()
    old = f"[Interface]\nPrivateKey = {secret}\n#PrivateKey={secret}\n[Peer]\nPublicKey = {other}\n"
    more = f"PresharedKey={shared}\n# it was {secret}\nPostUp = wg set wg0 private-key <(echo {secret})\n"
    (root / "etc/wireguard/wg0.conf").write_text(old + more)
    (root / "etc/sparkd/sparkd.toml").write_text(
        '[plugins.x]\npassword = "hunter2"\ntoken = """\nhunter3\n"""\nurl = "http://me:hunter4@x/"\n'
        'kept = { file = "/x" }\npasswords = [\n  "hunter5",\n  "hunter6",\n]\n[plugins.x.secrets]\na.b = "hunter7"\n'
        f'key = "{link_pair()[1]}"\n'
    )
    capsys.readouterr()

    assert main(["fleet", "diff", str(file), "--node", "control-pc", "--root", str(root)]) == 1

    shown = capsys.readouterr().out
    assert secret not in shown
    assert shared not in shown
    assert "hunter" not in shown
    assert "-PrivateKey = [hidden]" in shown
    assert "/etc/wireguard/%i.key" in shown, "a file that is named is not hidden"
    assert '-kept = { file = "/x" }' in shown


def test_public_keys_are_shown(tmp_path: Path) -> None:
    fleet = loaded(tmp_path)
    for key in (*fleet.wireguard_keys.values(), *fleet.link_keys.values()):
        assert hide(fleet, f"PublicKey = {key}\n") == f"PublicKey = {key}\n"


def test_what_cannot_be_read_is_a_difference(tmp_path: Path) -> None:
    fleet = loaded(tmp_path)
    (tmp_path / "root/etc/sparkd/sparkd.toml").mkdir(parents=True)

    assert "cannot be read" in difference(fleet, {"etc/sparkd/sparkd.toml": "x"}, tmp_path / "root")


def test_the_shipped_fleet_file_stands_beside_the_profiles() -> None:
    assert {profile.parent.name for profile in PROFILES} == set(SPARKD)
    assert (ROOT / "etc" / "fleet.toml").is_file()
