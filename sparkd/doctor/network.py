"""The network: ports, names, peers, the tunnel."""

from __future__ import annotations

import errno
import socket
import time
from collections.abc import Iterator

from sparkd.doctor.scene import Finding, Scene, named, note, ok, problem, skipped, warning

CONNECT_LIMIT_S = 2.0
HANDSHAKE_OLD_S = 180
"""WireGuard makes a new handshake every two minutes while there is traffic (Donenfeld, NDSS 2017, section 6.1)."""
MIN_KEEPALIVE_S = 1


def _split(address: str) -> tuple[str, int]:
    host, _, port = address.rpartition(":")
    return host.strip("[]"), int(port)


@named("ports")
def ports(scene: Scene) -> Iterator[Finding]:
    """Whether the addresses to listen on can be had, or are the daemon's."""
    runs = scene.places.socket.exists()
    if not scene.config.link.listen and not scene.config.node.metrics_listen:
        yield skipped("this node listens nowhere")
    for name, address in (("[link] listen", scene.config.link.listen), ("metrics", scene.config.node.metrics_listen)):
        if not address:
            continue
        host, port = _split(address)
        try:
            with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe.bind((host, port))
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                yield problem(f"{name} {address}: {error.strerror}", "is it an address of this machine?")
            elif runs:
                yield ok(f"{name} {address}: in use, by the daemon as it seems")
            else:
                yield problem(f"{name} {address}: another program has it", f"ss -ltnp 'sport = :{port}'")
        else:
            text = f"{name} {address}"
            yield (
                warning(f"{text}: the daemon runs and does not listen", "sparkctl status")
                if runs
                else ok(f"{text}: free")
            )
        if host in ("0.0.0.0", "::", "*"):  # noqa: S104 - what is looked for
            yield note(f"{name} listens on every address", "name the one of the tunnel or of loopback")


@named("peers")
def peers(scene: Scene) -> Iterator[Finding]:
    """Whether the peers that this node dials can be reached."""
    dialed = {name: peer.address for name, peer in scene.config.link.peers.items() if peer.address}
    if not dialed:
        yield skipped("this node dials nobody")
    for name, address in dialed.items():
        host, port = _split(address)
        try:
            with socket.create_connection((host, port), timeout=CONNECT_LIMIT_S):
                yield ok(f"{name} at {address}")
        except socket.gaierror as error:
            yield problem(f"{name}: no address for {host}: {error.strerror}", "see DNS: resolvectl query, /etc/hosts")
        except TimeoutError:
            yield problem(f"{name}: {address} does not answer", "is the tunnel up, and the firewall open?")
        except OSError as error:
            yield problem(f"{name}: {address}: {error.strerror}", "does sparkd run there, with this [link] listen?")


@named("wireguard")
def wireguard(scene: Scene) -> Iterator[Finding]:
    """The tunnels: handshakes and keepalives. Never asks for keys (`dump` would print them)."""
    interfaces = (scene.run(["wg", "show", "interfaces"]) or "").split()
    if scene.run(["wg", "--version"]) is None:
        yield skipped("wg is not installed", "apt install wireguard-tools, if this node has a tunnel")
        return
    if not interfaces or "Unable" in interfaces:
        yield skipped("no tunnel is up, or you may not see it", "as root: sparkctl doctor")
        return
    for interface in interfaces:
        yield from _tunnel(scene, interface)


def _tunnel(scene: Scene, interface: str) -> Iterator[Finding]:
    handshakes = _by_peer(scene.run(["wg", "show", interface, "latest-handshakes"]))
    keepalives = _by_peer(scene.run(["wg", "show", interface, "persistent-keepalive"]))
    if not handshakes:
        yield skipped(f"{interface}: it has no peers, or you may not see them", "as root: sparkctl doctor")
    now = time.time()
    for number, (peer, at) in enumerate(handshakes.items(), 1):
        name = f"{interface}, peer {number} ({peer[:8]}…)"
        age_s = now - float(at) if at.isdigit() and at != "0" else None
        if keepalives.get(peer) == "off":
            yield note(
                f"{name}: no keepalive: behind a router it is deaf after some minutes", "PersistentKeepalive = 25"
            )
        if age_s is None:
            yield problem(f"{name}: never a handshake", "keys, address and port: wg show; is UDP let through?")
        elif age_s > HANDSHAKE_OLD_S:
            yield warning(
                f"{name}: the last handshake was {age_s:.0f} s ago", "ping through it; then wg-quick down, up"
            )
        else:
            yield ok(f"{name}: handshake {age_s:.0f} s ago")


def _by_peer(said: str | None) -> dict[str, str]:
    fields = [line.split() for line in (said or "").splitlines()]
    return {found[0]: found[1] for found in fields if len(found) == 2}  # noqa: PLR2004 - key and value


@named("name")
def name(scene: Scene) -> Iterator[Finding]:
    """The name by which peers know this node."""
    own, host = scene.config.node.name, socket.gethostname().lower()
    if own in ("localhost", "raspberrypi", "debian"):
        yield warning(f"this node is called {own!r}, as many others are", "[node] name")
    else:
        yield ok(own if own == host else f"{own}, on the host {host}")


CHECKS = (name, ports, peers, wireguard)
