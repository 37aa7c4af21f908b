"""Why a tunnel does not work: a table of rules over what was found, the first that holds decides. Pure."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

Udp = Literal["unknown", "silent", "refused", "denied", "unreachable"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """What was found out about the way to a peer."""

    interface_missing: str = ""
    """What was said when the interface was read, if it is not there."""
    dialled: bool = True
    """Whether this machine dials it; if not, only the peer can begin."""
    endpoint: str = ""
    """Where WireGuard sends to."""
    name: str = ""
    """What the endpoint is called in the config."""
    resolved: tuple[str, ...] = ()
    """What that name stands for now, as endpoints; empty if nobody could say."""
    route: bool = True
    """Whether there is a way to the endpoint, ..."""
    out: str = ""
    """... through this interface, ..."""
    carrier: bool = True
    """... and whether that one has a link."""
    captive: bool = False
    """Whether the test address is answered by somebody else."""
    udp: Udp = "unknown"
    """What became of a packet that we sent to the endpoint's port ourselves."""
    host: bool = False
    """Whether the endpoint's host answers anything else."""
    receiving: bool = False
    reset_in_vain: bool = False
    """Whether a new session was tried since it was lost."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Diagnosis:
    """What is wrong, in one word and in sentences."""

    word: str = ""
    reason: str = ""
    remedy: str = ""


def _moved(e: Evidence) -> bool:
    return bool(e.resolved) and bool(e.endpoint) and e.endpoint not in e.resolved


Rule = tuple[str, Callable[[Evidence], bool], str, str]
RULES: tuple[Rule, ...] = (
    ("interface-missing", lambda e: bool(e.interface_missing), "{interface_missing}", "systemctl status wg-quick@*"),
    ("no-network", lambda e: not e.route, "there is no way to {endpoint}", "look at cable, Wi-Fi and default route"),
    ("no-network", lambda e: not e.carrier, "{out} has no link", "look at the cable or the Wi-Fi of {out}"),
    ("captive-portal", lambda e: e.captive, "a captive portal answers instead of the internet", "log in to it"),
    ("endpoint-unknown", lambda e: not e.endpoint and not e.resolved, "it has no endpoint, and has not called yet", ""),
    ("peer-away", lambda e: not e.dialled, "it has gone silent, and only it can call again", "look at that machine"),
    ("endpoint-moved", _moved, "{name} stands for another address than {endpoint}", "wait, or look at its DNS entry"),
    (
        "udp-denied",
        lambda e: e.udp == "denied",
        "this machine's own firewall forbids packets to {endpoint}",
        "nft list ruleset",
    ),
    ("peer-down", lambda e: e.udp == "refused", "nobody listens at {endpoint}", "start WireGuard on that machine"),
    (
        "one-way",
        lambda e: e.receiving,
        "something comes from it, but nothing comes back for what is sent",
        "look at the firewalls in between, and at its allowed IPs",
    ),
    (
        "peer-unreachable",
        lambda e: e.udp == "unreachable" or not e.host,
        "nothing answers at {endpoint}, nor its host",
        "is that machine up, and its address still {endpoint}?",
    ),
    (
        "udp-blocked",
        lambda e: e.reset_in_vain,
        "the host of {endpoint} answers, but no packet of WireGuard's does",
        "look at the firewalls in between: UDP may be blocked, or the port not be forwarded",
    ),
    ("no-answer", lambda _: True, "its host answers, WireGuard does not yet", "it is being mended"),
)
"""`no-answer` is what it looks like right after a loss, before a new session was tried: a peer that was started anew
has forgotten the old one, and answers as little as one that is blocked."""


def diagnose(evidence: Evidence) -> Diagnosis:
    """Return what is wrong with a tunnel that does not work."""
    for word, holds, reason, remedy in RULES:
        if holds(evidence):
            values = {
                "interface_missing": evidence.interface_missing,
                "endpoint": evidence.endpoint or evidence.name or "it",
                "name": evidence.name,
                "out": evidence.out,
            }
            return Diagnosis(word=word, reason=reason.format(**values), remedy=remedy.format(**values))
    raise AssertionError("the last rule always holds")


def afterwards(word: str, *, step: str, renewed: bool, moved: str = "") -> Diagnosis:
    """Return what it was, now that the tunnel works again: *word* was thought, *step* helped, if any.

    *renewed*: its handshake is younger than the loss; *moved*: what changed of its endpoint since (`change_of`).
    """
    if step == "re-resolve" or word == "endpoint-moved" or moved == "address":
        return Diagnosis(word="endpoint-moved", reason="it had another address, and is followed there")
    if step == "new-port" or moved == "port":
        return Diagnosis(word="nat-rebinding", reason="a router on the way had lost its mapping, and made another")
    if word in {"peer-down", "no-answer"} and renewed:
        return Diagnosis(word="peer-restarted", reason="it was started anew, and had forgotten its session")
    return Diagnosis()


def while_up(*, moved: str, mtu: tuple[int, int] | None, step_s: float, renewed_early: bool) -> Diagnosis:
    """Return what is worth saying of a tunnel that works.

    *moved*: what changed of its endpoint, *mtu*: the largest packet that passes and the interface's own MTU, if they
    differ now, *step_s*: by how much the clock was set of late, *renewed_early*: whether its session began anew
    before its time.
    """
    if mtu is not None:
        return Diagnosis(
            word="mtu-shrunk",
            reason=f"packets larger than {mtu[0]} bytes do not come through; the interface sends up to {mtu[1]}",
            remedy=f"set MTU = {mtu[0]} in the interface's config, or mend the way",
        )
    if moved:
        word = {"port": "nat-rebinding", "address": "endpoint-moved"}[moved]
        return Diagnosis(word=word, reason=f"its packets come from another {moved} than before")
    if abs(step_s) > 0:
        return Diagnosis(word="clock-step", reason=f"the clock of this machine was set by {step_s:+.0f} s")
    if renewed_early:
        return Diagnosis(word="peer-restarted", reason="its session began anew before its time")
    return Diagnosis()
