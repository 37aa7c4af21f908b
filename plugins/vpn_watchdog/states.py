"""How a peer is: a table of rules, the first that holds decides. Pure.

A probe that is answered is proof. Without probes the handshake is judged: WireGuard makes one each 120 s while there
is traffic, and takes none older than 180 s; but where nobody sends and there is no keepalive, an old one is normal.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum


class TunnelState(StrEnum):
    """The state of a peer; see `sparkd.TUNNEL_STATES`."""

    UP = "up"
    IDLE = "idle"
    STALE = "stale"
    DOWN = "down"
    ASLEEP = "asleep"


class Probed(StrEnum):
    """What the probes say."""

    NONE = "none"  # it is not probed, or never answered one though its handshakes are fresh
    ANSWERED = "answered"
    MISSED = "missed"  # the last one was not answered
    LOST = "lost"  # nor was the one before it


@dataclass(frozen=True, slots=True, kw_only=True)
class Signals:
    """What is known of a peer now."""

    asleep: bool = False
    """By policy, or because an operator said so."""
    expected: bool = True
    """Whether it is dialled from here, or has called before."""
    may_sleep: bool = False
    probed: Probed = Probed.NONE
    age_s: float | None = None
    """Of its latest handshake."""
    receiving: bool = False
    """Whether something came from it within the last two intervals."""
    wanted: bool = False
    """Whether something is expected of it: there is a keepalive, or something was sent of late."""
    silent_s: float = 0.0
    """How long nothing came, as far as it was watched."""
    suspect_s: float = 135.0
    stale_s: float = 180.0

    @property
    def age(self) -> float:
        """The age, infinite if there was no handshake."""
        return float("inf") if self.age_s is None else self.age_s


Rule = tuple[str, Callable[[Signals], bool], TunnelState]
RULES: tuple[Rule, ...] = (
    ("it is asleep by policy", lambda s: s.asleep, TunnelState.ASLEEP),
    ("it has not called yet", lambda s: not s.expected and s.probed is not Probed.ANSWERED, TunnelState.IDLE),
    ("it answers probes", lambda s: s.probed is Probed.ANSWERED, TunnelState.UP),
    (
        "it does not answer probes, but something comes from it",
        lambda s: s.probed is Probed.LOST and s.receiving,
        TunnelState.STALE,
    ),
    ("it may sleep, and does not answer", lambda s: s.probed is Probed.LOST and s.may_sleep, TunnelState.ASLEEP),
    ("it does not answer probes", lambda s: s.probed is Probed.LOST, TunnelState.DOWN),
    ("it did not answer the last probe", lambda s: s.probed is Probed.MISSED, TunnelState.STALE),
    ("its handshake is fresh", lambda s: s.age <= s.suspect_s, TunnelState.UP),
    ("nothing is expected of it", lambda s: not s.wanted, TunnelState.IDLE),
    ("its handshake is older than it should be", lambda s: s.age <= s.stale_s, TunnelState.STALE),
    ("its handshake is old, but it was not watched for long", lambda s: s.silent_s < s.stale_s, TunnelState.STALE),
    ("it may sleep, and is silent", lambda s: s.may_sleep, TunnelState.ASLEEP),
    ("there was no handshake for too long", lambda _: True, TunnelState.DOWN),
)
"""README's table is this one."""


def judge(signals: Signals) -> tuple[TunnelState, str]:
    """Return the state, and the rule that says so."""
    for why, holds, state in RULES:
        if holds(signals):
            return state, why
    raise AssertionError("the last rule always holds")
