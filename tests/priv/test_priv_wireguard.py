"""sparkd-priv and WireGuard: what it shows, what it sets, and that no secret passes through it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import msgspec
import pytest

from sparkd.daemon.machine_answers import MachineAnswers
from sparkd.deeds import Done, InterfaceRestart, Refused, WgSet, WgShow, decode_deed
from sparkd.errors import CallError, CallErrorKind, RemoteMessageError
from sparkd.priv import wireguard
from sparkd.priv.keepers import keeper_of
from sparkd.priv.programs import ProgramFailedError, Programs
from sparkd.testing import short_folder
from tests.priv.priv_rig import Priv, priv_in, usable

if TYPE_CHECKING:
    from sparkd.daemon.core import Core

pytestmark = pytest.mark.skipif(bool(usable()), reason=usable() or "it can")
HUB = "Gpl5XA555H+crF+1R14bn5B6DUfZXlCrrqsn23lwnTI="
OTHER = "jP7Q9zPUpNeTKGTcUgNED/beQTXJ712zpcca0hQRnAs="
PSK = "q7uQ0m1CqV5rN0oT4oJ1xk8m0nq0n5nJmJqv0w9pWmE="
PRIVATE = "cGVyaGFwcyB0aGUgc2VjcmV0IG9mIGEgbWFjaGluZSE="
CONF = (
    f"[Interface]\nListenPort = 51820\nPrivateKey = {PRIVATE}\n\n[Peer]\nPublicKey = {HUB}\nPresharedKey = {PSK}\n"
    f"AllowedIPs = 10.8.0.0/24\nEndpoint = 192.0.2.1:51820\nPersistentKeepalive = 25\n\n[Peer]\nPublicKey = {OTHER}\n"
)
SET = {"verb": "wg-set", "interface": "wg0"}
SHOW = {"verb": "wg-show", "interface": "wg0"}


@pytest.fixture
def priv() -> Iterator[Priv]:
    with short_folder() as folder:
        folder.chmod(0o755)
        with priv_in(folder) as running:
            running.settings.write_text(
                'verbs = ["wg-show", "wg-set", "interface-restart"]\n'
                + running.settings.read_text()
                + '[interfaces]\nwg0 = "auto"\n'
            )
            programs(running, "wg-peers").write_text(f"{HUB}\n{OTHER}\n")
            programs(running, "wg-conf").write_text(CONF)
            yield running


def programs(priv: Priv, name: str) -> Path:
    return priv.folder / "programs" / name


def ran(priv: Priv) -> list[list[str]]:
    return [words[1:] for words in priv.ran() if words[0] == "wg"]


def refusal(reply: object) -> Refused:
    assert isinstance(reply, Refused), reply
    return reply


@pytest.mark.parametrize(
    "wrong",
    [
        SHOW | {"what": ["dump"]},
        SHOW | {"what": ["private-key"]},
        SHOW | {"what": ["preshared-keys"]},
        SHOW | {"what": []},
        SHOW | {"what": ["peers", "dump"]},
        SHOW | {"what": "peers"},
        SHOW | {"what": ["peers"] * 10},
        {"verb": "wg-show", "interface": "all", "what": ["peers", "x"]},
        {"verb": "wg-show", "interface": "-wg0", "what": ["peers"]},
        SET | {"change": "private-key", "peer": HUB},
        SET | {"change": "allowed-ips", "peer": HUB},
        SET | {"change": "remove", "peer": HUB},
        SET | {"change": "endpoint", "peer": HUB},
        SET | {"change": "endpoint", "peer": HUB, "endpoint": "hub.example.net:51820"},
        SET | {"change": "endpoint", "peer": HUB, "endpoint": "192.0.2.1"},
        SET | {"change": "endpoint", "peer": HUB, "endpoint": "192.0.2.1:0"},
        SET | {"change": "endpoint", "peer": HUB, "endpoint": "192.0.2.1:65536"},
        SET | {"change": "endpoint", "peer": HUB, "endpoint": "2001:db8::1:51820"},
        SET | {"change": "endpoint", "peer": HUB, "endpoint": "[192.0.2.1]:51820"},
        SET | {"change": "endpoint", "peer": HUB, "endpoint": "[fe80::1%eth0]:51820"},
        SET | {"change": "endpoint", "peer": HUB, "endpoint": "192.0.2.1:\u0665\u0661"},
        SET | {"change": "endpoint", "peer": "", "endpoint": "192.0.2.1:51820"},
        SET | {"change": "endpoint", "peer": HUB[:-1], "endpoint": "192.0.2.1:51820"},
        SET | {"change": "endpoint", "peer": HUB[:-2] + "J=", "endpoint": "192.0.2.1:51820"},
        SET | {"change": "endpoint", "peer": HUB + "\n", "endpoint": "192.0.2.1:51820"},
        SET | {"change": "listen-port", "peer": HUB, "value": 1},
        SET | {"change": "listen-port", "value": 65536},
        SET | {"change": "persistent-keepalive", "peer": HUB, "value": -1},
        SET | {"change": "persistent-keepalive", "peer": HUB, "endpoint": "192.0.2.1:51820"},
        SET | {"change": "reset-peer"},
    ],
    ids=str,
)
def test_what_wg_must_not_be_asked_has_no_form(wrong: dict[str, object]) -> None:
    with pytest.raises(RemoteMessageError):
        decode_deed(msgspec.msgpack.encode(wrong))


@pytest.mark.parametrize("endpoint", ["192.0.2.1:51820", "[2001:db8::1]:1"])
def test_an_address_and_a_port_are_an_endpoint(endpoint: str) -> None:
    deed = decode_deed(msgspec.msgpack.encode(SET | {"change": "endpoint", "peer": HUB, "endpoint": endpoint}))

    assert deed == WgSet(interface="wg0", change="endpoint", peer=HUB, endpoint=endpoint)


def test_each_word_is_shown_as_wg_says_it(priv: Priv) -> None:
    programs(priv, "wg-transfer").write_text(f"{HUB}\t92\t180\n")
    reply = priv.ask(WgShow(interface="wg0", what=["transfer", "endpoints", "transfer"]))

    assert isinstance(reply, Done)
    assert reply.shown == {"transfer": f"{HUB}\t92\t180\n", "endpoints": ""}
    assert ran(priv) == [["show", "wg0", "transfer"], ["show", "wg0", "endpoints"]]


def test_an_interface_that_root_does_not_list_is_neither_shown_nor_set(priv: Priv) -> None:
    for deed in (
        WgShow(interface="wg1", what=["peers"]),
        WgSet(interface="wg1", change="listen-port", value=0),
    ):
        assert "is not among the interfaces" in refusal(priv.ask(deed)).message

    assert priv.ran() == []


def test_the_audit_is_not_filled_by_reading(priv: Priv) -> None:
    for _ in range(20):
        assert isinstance(priv.ask(WgShow(interface="wg0", what=["peers"])), Done)
    priv.ask(WgSet(interface="wg0", change="listen-port", value=0))
    refusal(priv.ask(WgShow(interface="wg1", what=["peers"])))
    refusal(priv.ask(WgShow(interface="wg1", what=["peers"])))

    assert [(line["verb"], line["outcome"]) for line in priv.audited()] == [
        ("wg-show", "asked"),
        ("wg-show", "done"),
        ("wg-set", "asked"),
        ("wg-set", "done"),
        ("wg-show", "asked"),
        ("wg-show", "denied"),
        ("wg-show", "denied"),  # what is refused is always told
    ]


def test_one_thing_is_set_of_a_peer_that_is_there(priv: Priv) -> None:
    for deed in (
        WgSet(interface="wg0", change="endpoint", peer=HUB, endpoint="192.0.2.9:51820"),
        WgSet(interface="wg0", change="persistent-keepalive", peer=HUB, value=25),
        WgSet(interface="wg0", change="listen-port", value=0),
    ):
        assert isinstance(priv.ask(deed), Done)
    stranger = "A" * 42 + "E="
    assert "has no peer" in refusal(priv.ask(WgSet(interface="wg0", change="reset-peer", peer=stranger))).message

    assert [words for words in ran(priv) if words[0] == "set"] == [
        ["set", "wg0", "peer", HUB, "endpoint", "192.0.2.9:51820"],
        ["set", "wg0", "peer", HUB, "persistent-keepalive", "25"],
        ["set", "wg0", "listen-port", "0"],
    ]


def test_a_peer_that_is_reset_comes_back_with_its_preshared_key(priv: Priv) -> None:
    programs(priv, "wg-fails").write_text("")  # the first try to put it back
    reply = priv.ask(WgSet(interface="wg0", change="reset-peer", peer=HUB))

    assert isinstance(reply, Done), reply
    assert programs(priv, "wg-synced").read_text() == CONF
    assert [words[0] for words in ran(priv)] == ["show", "showconf", "set", "syncconf", "syncconf", "show"]
    told = json.dumps([priv.audited(), priv.ran(), reply.said])
    assert PSK not in told
    assert PRIVATE not in told


def test_a_peer_whose_config_cannot_be_kept_is_not_taken_out(priv: Priv) -> None:
    programs(priv, "wg-conf").unlink()

    assert "was left as it is" in refusal(priv.ask(WgSet(interface="wg0", change="reset-peer", peer=HUB))).message
    assert programs(priv, "wg-peers").read_text() == f"{HUB}\n{OTHER}\n"
    assert not any("remove" in words for words in ran(priv))


def test_the_keeper_of_an_interface_is_found(priv: Priv, tmp_path: Path) -> None:
    runs = Programs(priv.folder / "programs", priv.folder / "programs")
    sysfs, netif = tmp_path / "sys", tmp_path / "netif"
    (sysfs / "wg0").mkdir(parents=True)
    (sysfs / "wg0" / "ifindex").write_text("7\n")
    netif.mkdir()
    with pytest.raises(ProgramFailedError, match="keeps wg0"):
        keeper_of(runs, "wg0", sysfs=sysfs, netif=netif)
    programs(priv, "nmcli-state").write_text("100 (connected)\n")
    assert keeper_of(runs, "wg0", sysfs=sysfs, netif=netif) == "networkmanager"
    (netif / "7").write_text("# private\nADMIN_STATE=unmanaged\n")
    assert keeper_of(runs, "wg0", sysfs=sysfs, netif=netif) == "networkmanager"
    (netif / "7").write_text("# private\nADMIN_STATE=configured\nNETWORK_FILE=/etc/systemd/network/wg0.network\n")
    assert keeper_of(runs, "wg0", sysfs=sysfs, netif=netif) == "networkd"
    programs(priv, "unit-wg-quick@wg0").write_text('{"pid": 1, "code": null}')
    assert keeper_of(runs, "wg0", sysfs=sysfs, netif=netif) == "wg-quick"
    programs(priv, "unit-wg-quick@wg0").write_text('{"pid": 0, "code": 1}')  # it failed to start at boot
    assert keeper_of(runs, "wg0", sysfs=sysfs, netif=netif) == "wg-quick"
    programs(priv, "unit-wg-quick@wg0").unlink()  # as no process, it is none that the rig may end


def test_an_interface_is_restarted_by_the_keeper_that_was_found(priv: Priv) -> None:
    programs(priv, "nmcli-state").write_text("100 (connected)\n")
    reply = priv.ask(InterfaceRestart(interface="wg0"))

    assert isinstance(reply, Done)
    assert reply.said == "wg0 restarted by networkmanager"


@pytest.mark.anyio
async def test_services_ask_it_by_machine(priv: Priv) -> None:
    core = SimpleNamespace(config=SimpleNamespace(node=SimpleNamespace(priv_socket=priv.path)))
    machine = MachineAnswers(cast("Core", core))
    programs(priv, "wg-listen-port").write_text("51820\n")

    assert await machine.wg_show(interface="wg0", what=["listen-port"]) == {"listen-port": "51820\n"}
    assert "endpoint" in await machine.wg_set_endpoint(interface="wg0", peer=HUB, endpoint="192.0.2.9:51820")
    assert "25" in await machine.wg_set_keepalive(interface="wg0", peer=HUB, seconds=25)
    assert "listens at 51820" in await machine.wg_set_listen_port(interface="wg0", port=0)
    assert "out and in" in await machine.wg_reset_peer(interface="wg0", peer=HUB)
    for wrong in (
        machine.wg_show(interface="wg0", what=["dump"]),
        machine.wg_set_endpoint(interface="wg0", peer=HUB, endpoint="hub.example.net:51820"),
        machine.wg_set_keepalive(interface="wg0", peer="x", seconds=25),
    ):
        with pytest.raises(CallError) as caught:
            await wrong
        assert caught.value.kind is CallErrorKind.INVALID_PARAMS


def peers(config: str) -> list[str]:
    """Return the sections of a `wg showconf`, which tells the peers in no order."""
    return sorted(section.strip() for section in config.split("[Peer]"))


def lacking() -> str:
    """Say what a real WireGuard lacks here; nothing if it can be had."""
    missing = [name for name in ("wg", "wireguard-go", "ip") if shutil.which(name) is None]
    return f"not installed: {', '.join(missing)}" if missing else "" if Path("/dev/net/tun").exists() else "no tun"


@pytest.mark.skipif(bool(lacking()) and not os.environ.get("CI"), reason=lacking() or "it can")
def test_a_real_peer_keeps_its_preshared_key_when_it_is_reset(tmp_path: Path) -> None:
    name = f"wgt{uuid.uuid4().hex[:6]}"
    key, psk = (subprocess.run(["wg", word], check=True, capture_output=True, text=True).stdout for word in KEYS)
    for file, text in (("key", key), ("psk", psk)):
        (tmp_path / file).touch(mode=0o600)
        (tmp_path / file).write_text(text)
    subprocess.run(["ip", "netns", "add", name], check=True)
    try:
        with subprocess.Popen(["ip", "netns", "exec", name, "wireguard-go", "-f", name], **QUIET) as tunnel:
            try:
                _until_there(name)
                run("set", name, "private-key", f"{tmp_path}/key", "listen-port", "0", "peer", HUB, "preshared-key",
                    f"{tmp_path}/psk", "endpoint", "127.0.0.1:9", "allowed-ips", "10.8.0.0/24,fd00::/64",
                    "persistent-keepalive", "25", "peer", OTHER, "allowed-ips", "10.8.0.7/32")  # fmt: skip
                before = run("showconf", name)

                said = wireguard.change(Programs(), WgSet(interface=name, change="reset-peer", peer=HUB))

                assert psk.strip() in before
                assert peers(run("showconf", name)) == peers(before)
                assert "out and in again" in said
                wireguard.change(Programs(), WgSet(interface=name, change="listen-port", value=0))
                wireguard.change(Programs(), WgSet(interface=name, change="endpoint", peer=HUB, endpoint="127.0.0.2:7"))
                assert psk.strip() in run("showconf", name)
                assert f"{HUB}\t127.0.0.2:7" in run("show", name, "endpoints")
            finally:
                tunnel.terminate()
    finally:
        subprocess.run(["ip", "netns", "del", name], check=True)


KEYS = ("genkey", "genpsk")
QUIET: dict[str, Any] = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}


def run(*words: str) -> str:
    return subprocess.run(["wg", *words], check=True, capture_output=True, text=True).stdout


def _until_there(name: str) -> None:
    deadline = time.monotonic() + 10
    while subprocess.run(["wg", "show", name], check=False, **QUIET).returncode:
        assert time.monotonic() < deadline, "wireguard-go does not come up"
        time.sleep(0.02)
