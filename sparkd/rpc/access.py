"""Who may make which call on the Unix socket: the decision, and the reason for it. Pure.

What the config says of it is `sparkd.config.access`. The rules are a set, their order means nothing:

1. Root and the daemon's own user may call everything: they could change the rules.
2. What a rule that is for the caller denies, is refused.
3. Members of the admin group may call everything (rule `admins`).
4. If `[rpc] readers` is `anyone`, everybody may call what changes nothing (rule `readers`), but not read the audit.
5. What a rule that is for the caller allows, is allowed. Everything else is refused.

A pattern in `calls` that names no node means this one; a pattern in `deny` that names none means every node. A pattern
that names a service means the calls that reach it, however they are spelled; where it is another node that will choose
the service, such a `deny` counts, and such an entry of `calls` does not.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass

from sparkd.config import AccessConfig, AccessRule, CallPattern, RpcConfig, group_id, parse_pattern, user_id
from sparkd.rpc.peer import Peer

ADMINS, READERS, OWN = "admins", "readers", "own"
FOR_ADMINS = ("audit",)
"""Interfaces that change nothing and still are not for readers: what others did is nobody's business."""
OWN_CALLS = ("stream.cancel", "access.me", "access.explain")
"""What everybody may call who can connect: it says or changes only what is the caller's own."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """A call as it will be made, its address resolved."""

    node: str
    service: str
    """Empty if another node chooses it, or if nothing serves the interface."""
    interface: str
    method: str
    reads: bool
    """Whether it is known to change nothing."""
    topics: tuple[str, ...] = ()
    """What a subscription asks for; the empty topic is all of them."""

    @property
    def name(self) -> str:
        """The interface and the method."""
        return f"{self.interface}.{self.method}"


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether a call may be made, and by which rule."""

    allowed: bool
    rule: str
    remedy: str = ""
    """What would allow it."""


@dataclass(frozen=True, slots=True)
class Rule:
    """A rule of the config, looked up."""

    name: str
    uids: frozenset[int]
    gids: frozenset[int]
    everybody: bool
    calls: tuple[CallPattern, ...]
    deny: tuple[CallPattern, ...]

    @classmethod
    def of(cls, name: str, rule: AccessRule) -> Rule:
        """Return *rule* with its users and groups looked up; one that has gone since the check means nobody."""
        uids = (user_id(user) for user in rule.users if user != "*")
        gids = map(group_id, rule.groups)
        return cls(
            name=name,
            uids=frozenset(uid for uid in uids if uid is not None),
            gids=frozenset(gid for gid in gids if gid is not None),
            everybody="*" in rule.users,
            calls=tuple(map(parse_pattern, rule.calls)),
            deny=tuple(map(parse_pattern, rule.deny)),
        )

    def is_for(self, peer: Peer) -> bool:
        """Whether the rule means *peer*."""
        return self.everybody or peer.uid in self.uids or not self.gids.isdisjoint(peer.groups)


@dataclass(frozen=True, slots=True, kw_only=True)
class Access:
    """Who may do what on the socket; see the module's docstring."""

    node: str = ""
    uid: int = os.getuid()
    """The daemon's own user."""
    admin_group: str = "sparkd"
    admin_gid: int | None = None
    readers: str = "admins"
    """`anyone` on this machine, or only `admins`."""
    rules: tuple[Rule, ...] = ()

    @classmethod
    def of(cls, rpc: RpcConfig, access: AccessConfig, *, node: str) -> Access:
        """Return what the config says, with users and groups looked up; a group that is not there has no members."""
        return cls(
            node=node,
            admin_group=rpc.admin_group,
            admin_gid=group_id(rpc.admin_group),
            readers=rpc.readers,
            rules=tuple(Rule.of(name, rule) for name, rule in access.rules.items()),
        )

    @property
    def lets_others_in(self) -> bool:
        """Whether anybody but admins may call anything, and so must be able to open the socket."""
        return self.readers == "anyone" or any(rule.calls for rule in self.rules)

    def is_owner(self, peer: Peer) -> bool:
        """Whether *peer* is root or the daemon's own user."""
        return peer.uid in (0, self.uid)

    def is_admin(self, peer: Peer) -> bool:
        """Whether *peer* may call everything that no rule denies."""
        return self.is_owner(peer) or (self.admin_gid is not None and self.admin_gid in peer.groups)

    def rules_for(self, peer: Peer) -> list[str]:
        """Return the names of the rules that are for *peer*, the built-in ones among them."""
        built_in = [ADMINS] if self.is_admin(peer) else [READERS] if self.readers == "anyone" else []
        return built_in + [rule.name for rule in self.rules if rule.is_for(peer)]

    def judge(self, peer: Peer, wanted: Wanted) -> Verdict:
        """Return whether *peer* may make the call *wanted*, and why."""
        if self.is_owner(peer):
            return Verdict(allowed=True, rule=ADMINS)
        if wanted.name in OWN_CALLS and (wanted.node, wanted.service) == (self.node, "core"):
            return Verdict(allowed=True, rule=OWN)
        rules = [rule for rule in self.rules if rule.is_for(peer)]
        for rule in rules:
            for pattern in rule.deny:
                if self._denies(pattern, wanted):
                    why = f"[access.rules.{rule.name}] deny = {pattern.text!r}"
                    return Verdict(allowed=False, rule=why, remedy="a deny goes before whatever allows; ask who set it")
        if self.is_admin(peer):
            return Verdict(allowed=True, rule=ADMINS)
        if self.readers == "anyone" and wanted.reads and wanted.interface not in FOR_ADMINS:
            return Verdict(allowed=True, rule=READERS)
        return self._by_rules(peer, rules, wanted)

    def _by_rules(self, peer: Peer, rules: Iterable[Rule], wanted: Wanted) -> Verdict:
        found: dict[str, None] = {}
        for topic in wanted.topics or ("",):
            name = next((rule.name for rule in rules if self._allows(rule, wanted, topic)), None)
            if name is None:
                return self._refusal(peer, wanted, topic)
            found[name] = None
        return Verdict(allowed=True, rule=", ".join(f"access.rules.{name}" for name in found))

    def _allows(self, rule: Rule, wanted: Wanted, topic: str) -> bool:
        return any(
            pattern.names(wanted.interface, wanted.method)
            and (pattern.node or self.node) in ("*", wanted.node)
            and pattern.service in ("", wanted.service)
            and pattern.covers(topic)
            for pattern in rule.calls
        )

    @staticmethod
    def _denies(pattern: CallPattern, wanted: Wanted) -> bool:
        return (
            pattern.names(wanted.interface, wanted.method)
            and pattern.node in ("", "*", wanted.node)
            and (not pattern.service or wanted.service in ("", pattern.service))
            and (not pattern.topic or any(map(pattern.touches, wanted.topics or ("",))))
        )

    def _refusal(self, peer: Peer, wanted: Wanted, topic: str) -> Verdict:
        elsewhere = "" if wanted.node == self.node else f"{wanted.node}/"
        entry = f"{elsewhere}{wanted.name}" + (f":{topic}" if topic else "")
        would = wanted.reads and wanted.interface not in FOR_ADMINS
        who = f'no rule allows it, and [rpc] readers = "{self.readers}"' if would else "no rule allows it"
        remedy = (
            f'an admin can add a table [access.rules.NAME] with users = ["{peer.uid}"] and '
            f'calls = ["{entry}"] to the config, then: sparkctl config reload'
        )
        admins = f"root, the daemon's user and group {self.admin_group!r} may call everything"
        return Verdict(allowed=False, rule=f"{who}; {admins}", remedy=remedy)
