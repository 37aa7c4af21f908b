"""Fleets of other shapes than the platform's: IPv6, a hub in the cloud, a gateway that is a spoke, units."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from sparkd.config import load_config
from sparkd.errors import ConfigError
from sparkd.fleet import Fleet, load_fleet, render
from sparkd.fleet.rules import passing
from tests.fleet.fleet_rig import apart, make_keys, needs, platform

SIX = """
[sites.home]
lan = "192.168.7.0/24"
[sites.cloud]
[tunnel]
hub = "hub"
subnet = "fd10:8::/64"
keepalive_s = 0
[prometheus]
node = "hub"
[nodes.hub]
role = "cloud"
site = "cloud"
public_address = "2001:db8::1"
tunnel_address = "fd10:8::1"
link_on = "tunnel"
services.web = { port = 443, open_to = ["anywhere"] }
services.web-metrics = { port = 8443, metrics_path = "/a" }
[nodes.pi]
site = "home"
lan_address = "192.168.7.9"
tunnel_address = "fd10:8::9"
labels = { board = "pi5" }
services.web-metrics = { port = 8443, metrics_path = "/b" }
[links.all]
dial = ["pi"]
listen = "hub"
"""
SPOKE_GATEWAY = """
[sites.house]
lan = "192.168.7.0/24"
gateway = "pi"
[sites.barn]
lan = "192.168.8.0/24"
gateway = "shed"
[sites.cloud]
[tunnel]
hub = "hub"
[nodes.hub]
role = "cloud"
site = "cloud"
public_address = "203.0.113.1"
tunnel_address = "10.8.0.1"
[nodes.pi]
site = "house"
lan_address = "192.168.7.9"
tunnel_address = "10.8.0.9"
[nodes.shed]
site = "barn"
lan_address = "192.168.8.9"
tunnel_address = "10.8.0.10"
[nodes.router]
role = "router"
site = "house"
lan_address = "192.168.7.1"
"""
TAKE_SIX = """
mount --make-rprivate /; mount -t tmpfs t /run; mkdir -p /run/wireguard; ip link set lo up
for conf in "$1"/*/etc/wireguard/wg0.setconf; do
  name=s$((number = ${number:-0} + 1))
  ip link add "$name" type wireguard 2>/dev/null || wireguard-go "$name" >/dev/null 2>&1
  wg setconf "$name" "$conf"; wg show "$name" allowed-ips; wg show "$name" endpoints
done
for file in "$1"/*/etc/nftables.d/*.nft; do nft -c -f "$file"; done
"""


def fleet_of(folder: Path, text: str, *names: str) -> Fleet:
    make_keys(folder / "fleet-keys", names)
    (folder / "fleet.toml").write_text(text)
    return load_fleet(folder / "fleet.toml")


def put(folder: Path, rendered: dict[str, dict[str, str]]) -> Path:
    for node, files in rendered.items():
        for path, text in files.items():
            file = folder / "out" / node / path
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text)
    return folder / "out"


def test_a_tunnel_of_ipv6(tmp_path: Path) -> None:
    needs("wg", "nft", "unshare", "ip", root=True)
    rendered = render(fleet_of(tmp_path, SIX, "hub", "pi"))
    out = put(tmp_path, rendered)

    done = apart(TAKE_SIX, out)

    assert done.returncode == 0, done.stderr
    assert "fd10:8::9/128" in done.stdout
    assert "[2001:db8::1]:51820" in done.stdout
    assert "fd10:8::/64" in done.stdout
    config = load_config(out / "pi/etc/sparkd/sparkd.toml")
    assert config.link.peers["hub"].address == "[fd10:8::1]:7700"
    assert config.node.metrics_listen == "[fd10:8::9]:9464"
    assert "net.ipv6.conf.all.forwarding = 1" in rendered["hub"]["etc/sysctl.d/60-sparkd-fleet.conf"]
    assert "PersistentKeepalive" not in rendered["pi"]["etc/wireguard/wg0.conf"]


def test_jobs_of_one_name_and_two_paths_have_a_file_each(tmp_path: Path) -> None:
    needs("promtool")
    out = put(tmp_path, render(fleet_of(tmp_path, SIX, "hub", "pi")))

    checked = subprocess.run(["promtool", "check", "config", out / "hub/etc/prometheus/prometheus.yml"], check=False)

    assert checked.returncode == 0
    targets = {file.name: file.read_text() for file in (out / "hub/etc/prometheus/targets").iterdir()}
    assert set(targets) == {"sparkd.json", "web-metrics.json", "web-metrics-2.json"}
    assert "[fd10:8::1]:8443" in targets["web-metrics.json"]
    assert "[fd10:8::9]:8443" in targets["web-metrics-2.json"]


def test_a_lan_of_another_kind_than_the_tunnel_is_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="the LAN is IPv4 and the tunnel IPv6"):
        fleet_of(tmp_path, SIX.replace("[sites.cloud]", 'gateway = "pi"\n[sites.cloud]'), "hub", "pi")


def test_a_spoke_may_be_the_gateway_of_its_site(tmp_path: Path) -> None:
    fleet = fleet_of(tmp_path, SPOKE_GATEWAY, "hub", "pi", "shed")
    rendered = render(fleet)

    hub, spoke = rendered["hub"]["etc/wireguard/wg0.conf"], rendered["pi"]["etc/wireguard/wg0.conf"]
    assert "AllowedIPs = 10.8.0.9/32, 192.168.7.0/24\n" in hub
    assert "AllowedIPs = 10.8.0.10/32, 192.168.8.0/24\n" in hub
    assert "AllowedIPs = 10.8.0.0/24, 192.168.8.0/24\n" in spoke, "the other LAN, not its own"
    assert "etc/sysctl.d/60-sparkd-fleet.conf" in rendered["pi"]
    assert ("192.168.7.0/24", "192.168.8.0/24") in {(one.source, one.target) for one in passing(fleet, "pi")}
    uci = rendered["router"]["sparkd-fleet.uci"]
    assert uci.count("option gateway '192.168.7.9'") == 2
    assert "redirect" not in uci, "the hub is elsewhere"


@pytest.mark.parametrize("setup", ["wg-quick", "networkd"])
def test_systemd_takes_the_drop_ins(tmp_path: Path, setup: str) -> None:
    needs("systemd-analyze", "wg")
    folder = platform(tmp_path, ('# setup = "wg-quick"', f'setup = "{setup}"'))
    files = render(load_fleet(folder))["primecore1"]
    units = tmp_path / "units"
    for path, text in files.items():
        if path.startswith("etc/systemd/system/"):
            file = units / path.removeprefix("etc/systemd/system/")
            file.parent.mkdir(parents=True)
            file.write_text(text)
    (units / "sparkd.service").write_text("[Service]\nExecStart=/bin/true\n")
    quick = Path("/lib/systemd/system/wg-quick@.service")
    wanted = [units / "sparkd.service"]
    if setup == "wg-quick":
        shutil.copy(quick, units)
        (units / "wg-quick@wg0.service").symlink_to("wg-quick@.service")
        wanted.append(units / "wg-quick@wg0.service")

    done = subprocess.run(["systemd-analyze", "verify", *wanted], capture_output=True, text=True, check=False)

    assert (done.returncode, [line for line in done.stderr.splitlines() if "sparkd-fleet" in line]) == (0, [])
    shown = "".join(text for path, text in files.items() if "sparkd.service.d" in path)
    assert ("wg-quick@wg0.service" if setup == "wg-quick" else "sys-subsystem-net-devices-wg0.device") in shown
