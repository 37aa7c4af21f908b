"""The samples and profiles that ship: every key mentioned, every default true, both sides of every link agreed."""

from __future__ import annotations

import dataclasses
import importlib
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

from sparkd import Service
from sparkd.config import Config, PeerConfig, PluginTable, UnitTable, decode_table, load_config
from sparkd.events import topic_matches
from sparkd.priv.settings import Settings

ROOT = Path(__file__).parent.parent
ETC = ROOT / "etc"
PLUGIN_SAMPLES = sorted((ETC / "sparkd.d").glob("*.toml"))
PROFILES = sorted((ETC / "profiles").glob("*/sparkd.toml"))
OF_THE_MACHINE = {"node.name"}
"""Keys whose default differs from machine to machine: a sample can only give an example."""
UNIT = "plugins.example.unit"
THE_PLUGINS_OWN = {field.name for field in dataclasses.fields(PluginTable)} - {"table", "origin", "origins"}


def uncommented(sample: Path) -> str:
    """Return *sample* with every default written out."""
    return "\n".join(re.sub(r"^# ", "", line) for line in sample.read_text().splitlines())


def examples(text: str) -> dict[str, dict[str, Any]]:
    """Return the keys that a sample gives an example of, by table."""
    found: dict[str, dict[str, Any]] = {}
    table = ""
    for line in text.splitlines():
        if header := re.fullmatch(r"(?:# )?\[([a-z0-9.-]+)\]", line):
            table = header[1]
        elif example := re.fullmatch(r"##   ([a-z0-9_]+ = .*)", line):
            found.setdefault(table, {}).update(tomllib.loads(example[1]))
    return found


def differing(made: Any, cls: type[Any]) -> set[str]:
    """Return the fields of *made* that a default-made *cls* has otherwise; a required field never differs."""
    found = set()
    for field in dataclasses.fields(cls):
        if field.default is not dataclasses.MISSING:
            default = field.default
        elif field.default_factory is not dataclasses.MISSING:
            default = field.default_factory()
        else:
            continue
        if getattr(made, field.name) != default:
            found.add(field.name)
    return found


def services() -> dict[str, Service[Any]]:
    """Return the services of the plugins that ship with sparkd."""
    found: dict[str, Service[Any]] = {}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    for module in project["entry-points"]["sparkd"].values():
        found |= {service.name: service for service in importlib.import_module(module).sparkd_services()}
    return found


SERVICES = services()


def test_the_sample_as_it_ships_changes_nothing() -> None:
    assert dataclasses.replace(load_config(ETC / "sparkd.toml"), files=()) == Config()


def test_every_default_in_the_sample_is_the_default(tmp_path: Path) -> None:
    file = tmp_path / "sparkd.toml"
    file.write_text(uncommented(ETC / "sparkd.toml"))
    config = load_config(file)

    for name in ("node", "bus", "rpc", "outbox"):
        assert not differing(getattr(config, name), type(getattr(Config(), name)))
    assert config.link == dataclasses.replace(Config().link, peers={"primecore": PeerConfig()})
    assert not differing(dataclasses.replace(config.plugins["example"], origin="", origins={}), PluginTable)


@pytest.mark.parametrize(
    "name", ["node", "bus", "rpc", "outbox", "link", "link.peers.primecore", "plugins.example", UNIT]
)
def test_the_sample_mentions_every_key(name: str) -> None:
    classes = {"link.peers.primecore": PeerConfig, "plugins.example": PluginTable, UNIT: UnitTable}
    cls = classes.get(name) or type(getattr(Config(), name))
    text = (ETC / "sparkd.toml").read_text()
    shown: Any = tomllib.loads(uncommented(ETC / "sparkd.toml"))
    for part in name.split("."):
        shown = shown[part]

    wanted = THE_PLUGINS_OWN if cls is PluginTable else {field.name for field in dataclasses.fields(cls)}
    assert wanted == {*shown, *examples(text).get(name, {})}


def test_the_samples_examples_are_taken() -> None:
    for table, keys in examples((ETC / "sparkd.toml").read_text()).items():
        tables = {"plugins.example": PluginTable, "plugins.example.unit": UnitTable}
        cls = tables.get(table) or type(getattr(Config(), table))
        assert decode_table(cls, keys, where=table)
        for field in dataclasses.fields(cls):
            if field.name in keys and f"{table}.{field.name}" not in OF_THE_MACHINE:
                assert field.default is None, f"{field.name} has a default that the sample can show"


def test_every_shipped_service_has_a_sample() -> None:
    assert sorted(SERVICES) == [sample.stem for sample in PLUGIN_SAMPLES]


@pytest.mark.parametrize("sample", PLUGIN_SAMPLES, ids=lambda sample: sample.stem)
def test_a_plugins_sample_as_it_ships_runs_nothing(sample: Path) -> None:
    assert tomllib.loads(sample.read_text()) == {}


@pytest.mark.parametrize("sample", PLUGIN_SAMPLES, ids=lambda sample: sample.stem)
def test_a_plugins_sample_mentions_every_key_with_its_default(sample: Path) -> None:
    cls = SERVICES[sample.stem].config
    table = tomllib.loads(uncommented(sample))["plugins"][sample.stem]
    shown_as_example = examples(sample.read_text()).get(f"plugins.{sample.stem}", {})

    made = decode_table(cls, table, where=sample.stem)
    assert not differing(made, cls)
    assert {field.name for field in dataclasses.fields(cls)} == {*table, *shown_as_example}
    assert decode_table(cls, {**table, **shown_as_example}, where=sample.stem)
    for field in dataclasses.fields(cls):
        if field.name in shown_as_example:
            assert field.default is None, f"{field.name} has a default that the sample can show"


@pytest.mark.parametrize("profile", PROFILES, ids=lambda profile: profile.parent.name)
def test_a_profile_is_a_config_that_its_plugins_take(profile: Path) -> None:
    config = load_config(profile)

    assert config.node.name == profile.parent.name
    for name, table in config.plugins.items():
        assert decode_table(SERVICES[name].config, table.table, where=name, file=table.origin)


@pytest.mark.parametrize("profile", PROFILES, ids=lambda profile: profile.parent.name)
def test_both_sides_of_a_profiles_links_agree(profile: Path) -> None:
    nodes = {config.node.name: config for config in map(load_config, PROFILES)}
    here = nodes[profile.parent.name]

    for name, peer in here.link.peers.items():
        there = nodes[name]
        other = there.link.peers[here.node.name]
        assert peer.site == there.node.site
        assert bool(peer.address) is not bool(other.address), "one side dials"
        assert peer.address in ("", there.link.listen)
        for topic in peer.send:
            assert any(topic_matches(pattern, topic) for pattern in other.receive), f"{name} does not take {topic}"


@pytest.mark.parametrize("profile", PROFILES, ids=lambda profile: profile.parent.name)
def test_a_profiles_uplink_may_reach_its_target(profile: Path) -> None:
    config = load_config(profile)
    if "cloud-uplink" not in config.plugins:
        return
    uplink = decode_table(SERVICES["cloud-uplink"].config, config.plugins["cloud-uplink"].table, where="cloud-uplink")
    target = load_config(ETC / "profiles" / uplink.target / "sparkd.toml")

    assert "edge-ingest" in target.plugins
    assert uplink.target_site == target.node.site
    allowed = target.link.peers[config.node.name].calls
    assert {"ingest.append", "ingest.position"} <= set(allowed)
    assert "command-runner.run" in config.link.peers[uplink.target].calls


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="systemd-analyze is not installed here")
def test_systemd_takes_the_unit(tmp_path: Path) -> None:
    unit = (ROOT / "systemd" / "sparkd.service").read_text()
    installed = unit.replace("/opt/sparkd/bin", str(Path(sys.executable).parent))
    assert installed != unit
    (tmp_path / "sparkd.service").write_text(installed)

    checked = subprocess.run(
        ["systemd-analyze", "verify", tmp_path / "sparkd.service"], capture_output=True, text=True, check=False
    )

    assert (checked.returncode, checked.stdout, checked.stderr) == (0, "", "")


def test_the_sample_of_sparkd_priv_shows_every_default() -> None:
    table = tomllib.loads(uncommented(ETC / "priv.toml"))
    made = decode_table(Settings, table, where="priv")

    assert not differing(made, Settings)
    assert {field.name for field in dataclasses.fields(Settings)} == set(table)
