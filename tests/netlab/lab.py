"""A home, an internet and travellers, in network namespaces, with real WireGuard between them, and what may go wrong.

    hub 192.168.8.10 --- router --- 80.1.1.10 ----+
    (10.8.0.1)           NAT, port 51820 to hub   |
                                               internet --- 80.3.3.10 spoke2 (10.8.0.3)
    spoke1 192.168.9.10 --- cafe --- 80.2.2.10 ---+  DNS 80.9.9.53, web .80, relay .66
    (10.8.0.2)              NAT

Both spokes dial `hub.lab:51820`, which DNS says is the router's address. Each packet crosses `internet`; what goes
wrong on the way to a node goes wrong there, at the link that is called after the node. The addresses are of kinds that
who looks for public ones takes; no packet leaves the namespaces.
"""

from __future__ import annotations

import itertools
import os
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler

from anyio.from_thread import BlockingPortal, start_blocking_portal

from tests.netlab.ends import PORT, End, Other
from tests.netlab.servers import Names, Relay, datagrams, web
from tests.netlab.spaces import Space, eventually, require_rig, sweep

DNS, WEB, RELAY = "80.9.9.53", "80.9.9.80", "80.9.9.66"
HOME, MOVED = "80.1.1.10", "80.1.1.77"
NODES = ("hub", "spoke1", "spoke2")
TUNNEL = {"hub": "10.8.0.1", "spoke1": "10.8.0.2", "spoke2": "10.8.0.3"}
CABLES = {"hub": ("router", "hub"), "spoke1": ("cafe", "spoke1"), "spoke2": ("internet", "spoke2")}
"""Where the other end of each node's cable is, and what that is called there."""
_NUMBERS = itertools.count()
_LINKS = (
    # namespace, interface, its address; the same of the other side
    ("internet", "hub", "80.1.1.1/24", "router", "wan", f"{HOME}/24"),
    ("internet", "spoke1", "80.2.2.1/24", "cafe", "wan", "80.2.2.10/24"),
    ("internet", "spoke2", "80.3.3.1/24", "spoke2", "eth0", "80.3.3.10/24"),
    ("router", "hub", "192.168.8.1/24", "hub", "eth0", "192.168.8.10/24"),
    ("cafe", "spoke1", "192.168.9.1/24", "spoke1", "eth0", "192.168.9.10/24"),
)
_GATEWAYS = {
    "router": "80.1.1.1",
    "cafe": "80.2.2.1",
    "spoke2": "80.3.3.1",
    "hub": "192.168.8.1",
    "spoke1": "192.168.9.1",
}
_NAT = """\
table ip nat {{
  chain pre {{ type nat hook prerouting priority dstnat; {pre} }}
  chain post {{ type nat hook postrouting priority srcnat; oifname "wan" meta l4proto udp masquerade to :{ports}
    oifname "wan" masquerade; }}
}}
"""


@dataclass(eq=False)
class Lab:
    """What a test may do to it."""

    spaces: dict[str, Space]
    ends: dict[str, End]
    names: Names
    relay: Relay
    stack: ExitStack = field(repr=False)

    def __getattr__(self, name: str) -> Space:
        try:
            return self.spaces[name]
        except KeyError:
            raise AttributeError(name) from None

    def cut(self, node: str) -> None:
        """Pull a node's cable."""
        space, interface = CABLES[node]
        self.spaces[space].ip(f"link set {interface} down")

    def mend(self, node: str) -> None:
        """Put the cable in again."""
        space, interface = CABLES[node]
        self.spaces[space].ip(f"link set {interface} up")

    def kill(self, node: str) -> None:
        """End a node's WireGuard without a word."""
        self.ends[node].kill()

    def restart(self, node: str) -> None:
        """Start it again with the same key and config."""
        self.ends[node].start()

    def move_home(self, address: str = MOVED, *, tell_dns: bool = True) -> None:
        """Give the home another address, as a provider does over night."""
        old = self.router.run(["ip", "-4", "-o", "address", "show", "dev", "wan"]).split()[3]
        self.router.ip(
            f"address add {address}/24 dev wan",
            f"address del {old} dev wan",
            f"address replace {address}/24 dev wan",  # the kernel takes second addresses away with the first
            "route replace default via 80.1.1.1",
        )
        self.router.forget_flows()
        if tell_dns:
            self.names.addresses["hub.lab."] = address

    def block_udp(self, node: str) -> None:
        """Let no UDP but DNS through to or from a node's side."""
        self._rules(node, "udp dport != 53 udp sport != 53 drop")

    def block_port(self, node: str) -> None:
        """Let nothing through of the port it sends from now, as a router whose table has gone wrong."""
        port = self.ends[node].show("listen-port")
        space, interface = CABLES[node]
        self.spaces[space].nft(
            "table ip stuck { chain on { type filter hook forward priority -10;\n"
            f'iifname "{interface}" udp sport {port} drop\noifname "{interface}" udp dport {port} drop; }}\n}}'
        )

    def lose(self, node: str, percent: int) -> None:
        """Lose packets of WireGuard's, each way."""
        self._rules(node, f"udp dport {PORT} {_some(percent)} drop", f"udp sport {PORT} {_some(percent)} drop")

    def narrow(self, node: str, mtu: int) -> None:
        """Drop larger packets without a word: a link of that MTU, and somebody who drops ICMP."""
        self._rules(node, f"ip length > {mtu} drop")

    def throttle(self, node: str, mbit: float) -> None:
        """Let no more through to a node's side, nor from it."""
        shape = f"root tbf rate {int(mbit * 1000)}kbit burst 4kb latency 200ms"
        self.internet.run(["tc", "qdisc", "replace", "dev", node, *shape.split()])
        far, interface = {"hub": ("router", "wan"), "spoke1": ("cafe", "wan"), "spoke2": ("spoke2", "eth0")}[node]
        self.spaces[far].run(["tc", "qdisc", "replace", "dev", interface, *shape.split()])

    def delay(self, node: str, delay_s: float, *, jitter_s: float = 0.0) -> None:
        """Have a spoke's packets to the hub go through the relay, unseen, which takes its time; 0 takes it out."""
        self.relay.delay_s, self.relay.jitter_s = delay_s, jitter_s
        space = self.spaces[node]
        for table in ("relay", "late"):
            _forget(space, table)
        space.nft(  # behind the NAT: what is on its way when the relay is taken out would be followed to it
            "table ip late { chain in { type filter hook input priority 200;\n"
            f"ip saddr {RELAY} udp sport {PORT} drop; }}\n}}"
        )
        if delay_s:
            space.nft(
                "table ip relay { chain out { type nat hook output priority -100;\n"
                f"ip daddr {HOME} udp dport {PORT} dnat to {RELAY}:{PORT}; }}\n}}"
            )
        space.forget_flows()

    def rebind(self) -> None:
        """Give spoke1's flows other ports at its NAT, which has forgotten the old ones."""
        self.cafe.nft("flush ruleset\n" + _NAT.format(pre="", ports="30000-30999"))
        self.cafe.forget_flows()

    def imprison(self) -> None:
        """Have spoke1's network answer as a captive portal does, until somebody logs in."""
        self.cafe.nft(
            "table ip portal {\n"
            "chain pre { type nat hook prerouting priority dstnat - 1\n"
            'iifname "spoke1" tcp dport 80 redirect to :80; }\n'
            "chain on { type filter hook forward priority 0;\n"
            f'iifname "spoke1" ip daddr != {DNS} drop\noifname "spoke1" ip saddr != {DNS} drop; }}\n}}'
        )
        self.cafe.forget_flows()

    def release(self) -> None:
        """Log in."""
        _forget(self.cafe, "portal")
        self.cafe.forget_flows()

    def heal(self, node: str) -> None:
        """Take back what `block_udp`, `block_port`, `lose`, `narrow` and `throttle` did."""
        _forget(self.internet, f"way_{node}")
        _forget(self.spaces[CABLES[node][0]], "stuck")
        for space, interface in (("internet", node), ("router", "wan"), ("cafe", "wan"), ("spoke2", "eth0")):
            with suppress(AssertionError):
                self.spaces[space].run(["tc", "qdisc", "del", "dev", interface, "root"])

    def _rules(self, node: str, *rules: str) -> None:
        _forget(self.internet, f"way_{node}")
        both = [f'{way} "{node}" {rule}' for way in ("iifname", "oifname") for rule in rules]
        chain = "chain on { type filter hook forward priority 0;\n" + "\n".join(both) + "\n}"
        self.internet.nft(f"table ip way_{node} {{\n{chain}\n}}")


def _some(percent: int) -> str:
    return f"numgen random mod 100 < {percent}"


def _forget(space: Space, table: str) -> None:
    space.nft(f"table ip {table}\ndelete table ip {table}\n")  # the first line makes the second one never fail


@contextmanager
def lab(*, names: Names | None = None) -> Iterator[Lab]:
    """Make it; both spokes reach the hub by now. *names* stands in for its DNS server. All of it is removed."""
    require_rig()
    sweep()
    number = next(_NUMBERS)
    stem = f"lab{os.getpid()}n{number}"
    with ExitStack() as stack:
        spaces = {}
        for role in ("internet", "router", "cafe", *NODES):
            spaces[role] = Space(stem, role)
            stack.callback(spaces[role].remove)
            spaces[role].make(resolver=DNS if role in NODES else "")
        _connect(spaces)
        portal = stack.enter_context(start_blocking_portal())
        names = names or Names()
        names.addresses.update({"hub.lab.": HOME, "web.lab.": WEB})
        relay = Relay(spaces["internet"].open_socket, (HOME, PORT))
        made = Lab(spaces, _ends(spaces, f"wg{os.getpid()}n{number}"), names, relay, stack)
        _serve(made, portal)
        for end in made.ends.values():
            stack.callback(end.close)
            end.start()
        for spoke in NODES[1:]:
            spaces[spoke].reaches(TUNNEL["hub"])
        yield made


def _connect(spaces: dict[str, Space]) -> None:
    for here, interface, address, there, other, others in _LINKS:
        spaces[here].ip(
            f"link add {interface} type veth peer name {other} netns {spaces[there].name}",
            f"address add {address} dev {interface}",
            f"link set {interface} up",
        )
        spaces[there].ip(f"address add {others} dev {other}", f"link set {other} up")
    for role, gateway in _GATEWAYS.items():
        spaces[role].ip(f"route add default via {gateway}")
    spaces["internet"].ip(*(f"address add {address}/32 dev lo" for address in (DNS, WEB, RELAY)))
    for role in ("internet", "router", "cafe", "hub"):
        spaces[role].forward()
    dnat = f'iifname "wan" fib daddr type local udp dport {PORT} dnat to 192.168.8.10'
    spaces["router"].nft(_NAT.format(pre=dnat + "\n", ports="1024-65535"))
    spaces["cafe"].nft(_NAT.format(pre="", ports="20000-20999"))


def _ends(spaces: dict[str, Space], stem: str) -> dict[str, End]:
    ends = {
        node: End(space=spaces[node], interface=f"{stem}{node[-1]}", address=TUNNEL[node], listen=PORT)
        for node in NODES
    }
    for spoke in NODES[1:]:
        ends["hub"].others.append(Other(public_key=ends[spoke].public_key, allowed=f"{TUNNEL[spoke]}/32"))
        ends[spoke].others.append(
            Other(public_key=ends["hub"].public_key, allowed="10.8.0.0/24", endpoint=f"hub.lab:{PORT}", keepalive_s=25)
        )
    return ends


def _serve(made: Lab, portal: BlockingPortal) -> None:
    internet, stack = made.internet, made.stack

    def bound(space: Space, kind: int, address: str, port: int) -> socket.socket:
        listening = space.open_socket(socket.AF_INET, kind)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind((address, port))
        return listening

    stack.enter_context(datagrams(portal, made.names, bound(internet, socket.SOCK_DGRAM, DNS, 53)))
    stack.callback(portal.call, made.relay.close)
    stack.enter_context(datagrams(portal, made.relay, bound(internet, socket.SOCK_DGRAM, RELAY, PORT)))
    stack.enter_context(web(bound(internet, socket.SOCK_STREAM, WEB, 80), _internet_page))
    stack.enter_context(web(bound(made.cafe, socket.SOCK_STREAM, "0.0.0.0", 80), _portal_page))


def _internet_page(request: BaseHTTPRequestHandler) -> tuple[int, dict[str, str], str]:
    """Answer 204 to those who ask whether the internet is open, else the address that one comes from."""
    if request.path == "/generate_204":
        return 204, {}, ""
    return 200, {"Content-Type": "text/plain"}, f"{request.client_address[0]}\n"


def _portal_page(_: BaseHTTPRequestHandler) -> tuple[int, dict[str, str], str]:
    return 302, {"Location": "http://portal.cafe/login"}, "log in"


__all__ = ["DNS", "HOME", "MOVED", "NODES", "TUNNEL", "WEB", "Lab", "Names", "eventually", "lab"]
