"""What is rendered is taken by the tools that read it: wg, wg-quick, nft, ufw, promtool; and it does what it says.

OpenWrt's own `uci` is in no package of Debian's: where it is missing, its grammar is held by a strict reader here
(https://openwrt.org/docs/guide-user/base-system/uci, "file syntax").
"""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from sparkd.cli.main import main
from sparkd.fleet.rules import incoming, passing
from tests.fleet.fleet_rig import SPARKD, apart, loaded, make_keys, needs, platform

CARRIES = "control-pc"


@pytest.fixture
def out(tmp_path: Path) -> Path:
    main(["fleet", "render", str(platform(tmp_path)), "--out", str(tmp_path / "out")])
    return tmp_path / "out"


SETCONF = """
mount --make-rprivate /; mount -t tmpfs t /run; mkdir -p /run/wireguard
wg genkey > /run/key
for conf in "$1"/*/etc/wireguard/wg0.setconf; do
  name=t$((number = ${number:-0} + 1))
  ip link add "$name" type wireguard 2>/dev/null || wireguard-go "$name" >/dev/null 2>&1
  wg setconf "$name" "$conf"
  wg set "$name" private-key /run/key
  echo "== $conf"
  wg show "$name" allowed-ips; wg show "$name" endpoints; wg show "$name" persistent-keepalive
  echo "port $(wg show "$name" listen-port)"
  wg syncconf "$name" "$conf"; echo "after syncconf: $(wg show "$name" private-key)"
  wg set "$name" private-key /run/key; echo "after set: $(wg show "$name" public-key | wc -c)"
done
"""


def test_wireguard_takes_what_is_rendered(tmp_path: Path) -> None:
    """On a real interface, of the kernel where it has WireGuard; names of the home's router are not asked for here."""
    needs("wg", "unshare", "ip", root=True)
    file = platform(tmp_path, ("home.example.net", "198.51.100.7"))
    main(["fleet", "render", str(file), "--out", str(tmp_path / "out")])
    fleet = loaded(tmp_path, ("home.example.net", "198.51.100.7"))

    done = apart(SETCONF, tmp_path / "out")

    assert done.returncode == 0, done.stderr
    told = dict(part.split("\n", 1) for part in done.stdout.split("== ")[1:])
    by_node = {Path(path).parts[-4]: text for path, text in told.items()}
    assert set(by_node) == {name for name in SPARKD if name != "nas"}
    keys = fleet.wireguard_keys
    hub = by_node["control-pc"]
    assert f"{keys['spark-agent']}\t10.8.0.3/32" in hub
    assert "port 51820" in hub
    assert hub.count("/32") == 5
    assert f"{keys['control-pc']}\t192.168.1.100:51820" in by_node["spark-agent"]
    assert f"{keys['control-pc']}\t198.51.100.7:51820" in by_node["primecore4"]
    assert f"{keys['control-pc']}\t10.8.0.0/24 192.168.1.0/24" in by_node["primecore4"]
    assert f"{keys['control-pc']}\t25" in by_node["primecore4"]
    for text in by_node.values():
        assert "after syncconf: (none)" in text, "why a reload must set the key again, as our drop-in has it"
        assert "after set: 45" in text


def test_nft_takes_what_is_rendered_again_and_again(out: Path) -> None:
    needs("nft", "unshare", root=True)
    take = 'nft -c -f "$file"; nft -f "$file"; nft -f "$file"'

    done = apart(f'for file in "$1"/*/etc/nftables.d/*.nft; do {take}; done; nft list ruleset', out)

    assert done.returncode == 0, done.stderr
    assert done.stdout.count("chain input") == 1, "the last has taken the place of those before it"


UFW = """
mount --make-rprivate /; mkdir "$2"/etc; cp -a /etc/ufw "$2"/etc/ufw; cp /etc/default/ufw "$2"/etc/default
mount --bind "$2"/etc/ufw /etc/ufw; mount --bind "$2"/etc/default /etc/default/ufw; mount -t tmpfs t /run
ip link set lo up; echo 1 > /proc/sys/net/ipv4/ip_forward
sh "$1" >&2
sh "$1" >&2
ufw show added
ufw --force enable >&2
ufw status verbose
"""


@pytest.mark.parametrize("node", [CARRIES, "primecore4"])
def test_ufw_takes_what_is_rendered_and_turns_it_on(tmp_path: Path, out: Path, node: str) -> None:
    needs("ufw", "iptables", "unshare", root=True)
    fleet = loaded(tmp_path)

    done = apart(UFW, out / node / "etc/ufw/sparkd-fleet.sh", tmp_path)

    assert done.returncode == 0, done.stderr
    added = [line for line in done.stdout.splitlines() if line.startswith("ufw ")]
    wanted = incoming(fleet, node) + (passing(fleet, node) if node == CARRIES else [])
    assert len(added) == len(wanted), "each rule once, though the script ran twice"
    assert "Status: active" in done.stdout
    assert "deny (incoming)" in done.stdout
    assert "deny (routed)" in done.stdout


@pytest.mark.parametrize("node", SPARKD)
def test_ufw_reads_every_nodes_rules(out: Path, node: str) -> None:
    needs("ufw", "iptables", "unshare", root=True)
    script = out / node / "etc/ufw/sparkd-fleet.sh"
    rules = [line for line in script.read_text().splitlines() if line.startswith("ufw ") and " default " not in line]
    dry = "\n".join(line.replace("ufw ", "ufw --dry-run ", 1) for line in rules)

    done = apart(f"ip link set lo up; exec >/dev/null\n{dry}")

    assert rules
    assert done.returncode == 0, done.stderr
    assert subprocess.run(["sh", "-n", script], check=False).returncode == 0


def test_prometheus_takes_what_is_rendered(out: Path) -> None:
    needs("promtool")

    done = subprocess.run(
        ["promtool", "check", "config", out / "primecore4/etc/prometheus/prometheus.yml"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip

    assert done.returncode == 0, done.stderr + done.stdout
    assert "SUCCESS" in done.stdout
    (out / "primecore4/etc/prometheus/targets/sparkd.json").write_text("[{]")
    spoiled = subprocess.run(
        ["promtool", "check", "config", out / "primecore4/etc/prometheus/prometheus.yml"], check=False
    )
    assert spoiled.returncode != 0, "it does look at the targets"


_WORD = r"(?:'[^'\n]*'|[A-Za-z0-9_]+)"
_NAME = r"[A-Za-z0-9_]+"


def read_uci(text: str) -> dict[str, dict[str, tuple[str, dict[str, str]]]]:
    """Return packages, their sections by name, and the type and options of each. Raises ValueError for all else."""
    found: dict[str, dict[str, tuple[str, dict[str, str]]]] = {}
    package = section = ""
    for line in text.splitlines():
        if not line or line.startswith("#"):
            continue
        if made := re.fullmatch(rf"package ({_NAME})", line):
            package, section = made[1], ""
            found[package] = {}
        elif package and (made := re.fullmatch(rf"config ({_NAME}) '({_NAME})'", line)):
            section = made[2]
            if section in found[package]:
                raise ValueError(f"twice: {line}")
            found[package][section] = (made[1], {})
        elif section and (made := re.fullmatch(rf"\toption ({_NAME}) ({_WORD})", line)):
            found[package][section][1][made[1]] = made[2].strip("'")
        else:
            raise ValueError(f"not UCI: {line!r}")
    return found


def test_the_routers_file_is_uci_and_says_what_the_router_must_do(tmp_path: Path, out: Path) -> None:
    file = out / "router/sparkd-fleet.uci"
    found = read_uci(file.read_text())

    kind, forward = found["firewall"]["sparkd_wireguard"]
    assert (kind, forward["target"], forward["proto"], forward["src"]) == ("redirect", "DNAT", "udp", "wan")
    assert (forward["src_dport"], forward["dest_ip"], forward["dest_port"]) == ("51820", "192.168.1.100", "51820")
    assert found["network"]["sparkd_route_0"] == (
        "route",
        {"interface": "lan", "target": "10.8.0.0/24", "gateway": "192.168.1.100"},
    )
    kind, queue = found["sqm"]["sparkd_wan"]
    assert (kind, queue["download"], queue["upload"]) == ("queue", "225000", "36000")
    assert (queue["qdisc"], queue["linklayer"], queue["overhead"]) == ("cake", "ethernet", "44")
    with pytest.raises(ValueError, match="not UCI"):
        read_uci(file.read_text().replace("'DNAT'", "'DN'AT'"))
    if shutil.which("uci"):
        folder = tmp_path / "config"
        folder.mkdir()
        for package in found:
            (folder / package).touch()
        for _ in range(2):
            subprocess.run(["uci", "-c", folder, "-m", "import"], input=file.read_bytes(), check=True)
            subprocess.run(["uci", "-c", folder, "commit"], check=True)
        shown = subprocess.run(["uci", "-c", folder, "show"], capture_output=True, text=True, check=True).stdout
        assert shown.count("firewall.sparkd_wireguard.dest_ip='192.168.1.100'") == 1


def test_the_networkd_files(tmp_path: Path) -> None:
    """Read by us only: no networkd runs here that could."""
    fleet = platform(tmp_path, ('# setup = "wg-quick"', 'setup = "networkd"'))
    main(["fleet", "render", str(fleet), "--out", str(tmp_path / "out")])
    folder = tmp_path / "out/primecore1/etc/systemd/network"

    netdev = (folder / "60-wg0.netdev").read_text()
    assert "PrivateKeyFile = /etc/wireguard/wg0.key" in netdev
    assert "[WireGuardPeer]\nPublicKey = " in netdev
    assert "ListenPort" not in netdev
    assert "Endpoint = home.example.net:51820" in netdev
    assert "Address = 10.8.0.11/24" in (folder / "60-wg0.network").read_text()
    assert not (tmp_path / "out/primecore1/etc/wireguard/wg0.conf").exists()


HOUSE = """
mount --make-rprivate /; mount -t tmpfs t /run; mkdir -p /run/netns /run/wireguard; ip link set lo up
ip link add lan type bridge; ip link add wan type bridge; ip link set lan up; ip link set wan up
node() { ip netns add "$1"; ip -n "$1" link set lo up; }
plug() { ip link add "$1-$3" type veth peer name "$3" netns "$1"; ip link set "$1-$3" master "$3" up
         ip -n "$1" addr add "$2/24" dev "$3"; ip -n "$1" link set "$3" up; }
node pc; plug pc 192.168.1.100 lan; plug pc 203.0.113.100 wan
node agent; plug agent 192.168.1.92 lan
node nas; plug nas 192.168.1.49 lan; ip -n nas route add 10.8.0.0/24 via 192.168.1.100
node core4; plug core4 203.0.113.14 wan
up() { # NODE NAME: as its operator would, with what was rendered and its own key
  ip netns exec "$1" sh -euc '
    mount -t tmpfs t /run/wireguard; mkdir -p /etc/wireguard; mount -t tmpfs t /etc/wireguard
    if test -e "$1/etc/wireguard/wg0.conf"; then
      umask 077; cp "$1/etc/wireguard/wg0.conf" /etc/wireguard/; cp "$2" /etc/wireguard/wg0.key
      wg-quick up wg0; fi
    nft -f "$1/etc/nftables.d/sparkd-fleet.nft"
    if test -e "$1/etc/sysctl.d/60-sparkd-fleet.conf"; then
      grep -q "^net.ipv4.ip_forward = 1" "$1/etc/sysctl.d/60-sparkd-fleet.conf"; echo 1 > /proc/sys/net/ipv4/ip_forward
    fi' sh "$OUT/$2" "$OUT/$2.key" >/dev/null 2>&1 || { echo "$1 did not come up" >&2; exit 1; }
}
OUT=$1
up pc control-pc; up agent spark-agent; up nas nas; up core4 primecore4
try() { echo "$1 $2 $(ip netns exec "$1" python3 -c "$REACH" "$2")"; }
REACH='
import socket, sys
host, _, port = sys.argv[1].rpartition(":")
try: socket.create_connection((host, int(port)), timeout=5)
except ConnectionRefusedError: print("reached")
except OSError as error: print("blocked", error)
'
try core4 10.8.0.2:9464 > /run/1 & try core4 192.168.1.49:9464 > /run/2 & try core4 10.8.0.3:9464 > /run/3 &
try nas 10.8.0.14:7700 > /run/4 & try agent 10.8.0.14:7700 > /run/5 & try agent 192.168.1.100:7700 > /run/6 &
try core4 192.168.1.49:2049 > /run/7 & try core4 10.8.0.2:6379 > /run/8 & try agent 10.8.0.2:9464 > /run/9 &
try agent 10.8.0.14:9464 > /run/10 & try nas 192.168.1.92:8000 > /run/11 & try nas 192.168.1.100:6379 > /run/12 &
wait $(jobs -p); cat /run/[0-9]*
"""
REACHED = {
    ("core4", "10.8.0.2:9464"): "the hub's metrics",
    ("core4", "192.168.1.49:9464"): "the NAS's, which is not in the tunnel",
    ("core4", "10.8.0.3:9464"): "a spoke's, by the hub",
    ("nas", "10.8.0.14:7700"): "the link from the LAN into the tunnel",
    ("agent", "10.8.0.14:7700"): "the link from spoke to spoke",
    ("agent", "192.168.1.100:7700"): "the link in the house",
}
BLOCKED = {
    ("core4", "192.168.1.49:2049"): "NFS, for the LAN only",
    ("core4", "10.8.0.2:6379"): "Redis, for spark-agent only",
    ("agent", "10.8.0.2:9464"): "metrics, for primecore4 only",
    ("agent", "10.8.0.14:9464"): "likewise",
    ("nas", "192.168.1.92:8000"): "the worker, for control-pc only",
    ("nas", "192.168.1.100:6379"): "Redis, for spark-agent only",
}


def test_four_machines_with_what_is_rendered_reach_what_they_may_and_nothing_else(tmp_path: Path) -> None:
    """Hub, spoke at home, NAS on the LAN, cloud: real tunnels, real firewalls, in namespaces."""
    needs("wg-quick", "wireguard-go", "nft", "unshare", "ip", "python3", root=True)
    file = platform(tmp_path, ("home.example.net", "203.0.113.100"))
    private = make_keys(tmp_path / "fleet-keys")
    main(["fleet", "render", str(file), "--out", str(tmp_path / "out")])
    for name, key in private.items():
        (tmp_path / "out" / f"{name}.key").write_text(key)

    done = apart(HOUSE, tmp_path / "out")

    assert done.returncode == 0, done.stderr
    told = {(line.split()[0], line.split()[1]): line.split()[2] for line in done.stdout.splitlines()}
    assert told == {**dict.fromkeys(REACHED, "reached"), **dict.fromkeys(BLOCKED, "blocked")}
