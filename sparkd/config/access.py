"""`[access]`: who on this machine may call what over the Unix socket. `sparkd.rpc.access` decides by it.

A pattern is `[node/][service:]interface.method`, with `*` for any method, for any interface and method, or for any
node. `bus.subscribe` and `bus.last` may end in `:topic`, which limits them to that topic and what is beneath it.
"""

from __future__ import annotations

import difflib
import grp
import pwd
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import cache

from sparkd import access_interfaces, core_interfaces
from sparkd.events import TOPIC, topic_matches
from sparkd.interfaces import interface_spec
from sparkd.service import NAME

BUILT_IN = ("admins", "readers", "own")
"""The rules that are always there; no other may have their names."""
EVERYBODY = "*"
_MAX_ID = (1 << 32) - 2  # of a uid_t; -1 means none
WITH_TOPICS = ("bus.subscribe", "bus.last")
"""Methods whose patterns may name a topic."""
MAX_RULES = 100
MAX_ENTRIES = 200
"""Of one list of a rule: each call of a client that is no admin looks at all of them."""

_METHOD = r"[a-z][a-z0-9_]*"
_PATTERN = re.compile(
    rf"(?:(?P<node>{NAME.pattern}|\*)/)?(?:(?P<service>{NAME.pattern}):)?"
    rf"(?:(?P<interface>{NAME.pattern})\.(?P<method>{_METHOD}|\*)|\*)(?::(?P<topic>{TOPIC.pattern}))?"
)
_FORM = "'interface.method', 'interface.*', 'node/interface.method' or 'bus.subscribe:topic' expected"


@dataclass(frozen=True, slots=True)
class CallPattern:
    """Which calls are meant. An empty part is not restricted, but for the node: see `sparkd.rpc.access`."""

    text: str
    node: str
    service: str
    interface: str
    method: str
    topic: str

    def names(self, interface: str, method: str) -> bool:
        """Whether *interface* and *method* are among those meant."""
        return self.interface in ("", interface) and self.method in ("", method)

    def covers(self, topic: str) -> bool:
        """Whether *topic* is the pattern's, or beneath it."""
        return not self.topic or topic_matches(self.topic, topic)

    def touches(self, topic: str) -> bool:
        """Whether some event may be both of *topic* and of the pattern's."""
        return topic_matches(self.topic, topic) or topic_matches(topic, self.topic)


def parse_pattern(text: str) -> CallPattern:
    """Return what *text* means. Raises ValueError that says what is wrong with it."""
    match = _PATTERN.fullmatch(text)
    if match is None:
        raise ValueError(f"{_FORM}, got {text[:100]!r}")
    node, service, interface, method, topic = (match[name] or "" for name in _PATTERN.groupindex)
    if topic and f"{interface}.{method}" not in WITH_TOPICS:
        raise ValueError(f"only {' and '.join(WITH_TOPICS)} are limited by topic, got {text[:100]!r}")
    pattern = CallPattern(text, node, service, interface, "" if method == "*" else method, topic)
    known = _core_methods().get(interface)
    if known is not None and pattern.method and pattern.method not in known:
        raise ValueError(f"{interface!r} has no method {pattern.method!r}; {_nearest(pattern.method, known)}")
    return pattern


def user_id(name: str) -> int | None:
    """Return the id of user *name*, which may be digits; None if there is no such user."""
    if name.isascii() and name.isdigit():
        return int(name)
    try:
        return pwd.getpwnam(name).pw_uid
    except (KeyError, ValueError, OSError):
        return None


def group_id(name: str) -> int | None:
    """Return the id of group *name*, which may be digits; None if there is no such group."""
    if name.isascii() and name.isdigit():
        return int(name)
    try:
        return grp.getgrnam(name).gr_gid
    except (KeyError, ValueError, OSError):
        return None


@dataclass(frozen=True, slots=True, kw_only=True)
class AccessRule:
    """`[access.rules.NAME]`: what some users of this machine may call, or may not."""

    users: list[str] = field(default_factory=list)
    """Names or numbers; `*` for everybody on the machine."""
    groups: list[str] = field(default_factory=list)
    """Members of these are meant too, by any group of the calling process."""
    calls: list[str] = field(default_factory=list)
    """What they may call."""
    deny: list[str] = field(default_factory=list)
    """What they may not call, whatever another rule allows."""

    def __post_init__(self) -> None:
        if not self.users and not self.groups:
            raise ValueError("users: a rule needs users or groups it is for")
        if not self.calls and not self.deny:
            raise ValueError("calls: a rule needs calls it allows, or some to deny")
        for key in ("users", "groups", "calls", "deny"):
            if len(getattr(self, key)) > MAX_ENTRIES:
                raise ValueError(f"{key}: {MAX_ENTRIES} entries at the most, got {len(getattr(self, key))}")
        _check_who("users", self.users, user_id, lambda: [user.pw_name for user in pwd.getpwall()])
        _check_who("groups", self.groups, group_id, lambda: [group.gr_name for group in grp.getgrall()])
        for key in ("calls", "deny"):
            for text in getattr(self, key):
                try:
                    parse_pattern(text)
                except ValueError as error:
                    raise ValueError(f"{key}: {error}") from None


@dataclass(frozen=True, slots=True, kw_only=True)
class AccessConfig:
    """`[access]`: rules beside the built-in ones, `admins` and `readers`. Their order means nothing: a deny wins."""

    rules: dict[str, AccessRule] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if len(self.rules) > MAX_RULES:
            raise ValueError(f"rules: {MAX_RULES} at the most, got {len(self.rules)}")
        for name in self.rules:
            if not NAME.fullmatch(name):
                raise ValueError(f"rules.{name}: a rule's name is lower-case words joined by hyphens")
            if name in BUILT_IN:
                raise ValueError(f"rules.{name}: {name!r} is a built-in rule; choose another name")


def _check_who(
    key: str, names: Iterable[str], find: Callable[[str], int | None], all_of: Callable[[], list[str]]
) -> None:
    for name in names:
        if key == "users" and name == EVERYBODY:
            continue
        number = find(name)
        if number is None:
            raise ValueError(f"{key}: there is no {key[:-1]} {name[:60]!r} on this machine; {_nearest(name, all_of())}")
        if number > _MAX_ID:
            raise ValueError(f"{key}: an id is at most {_MAX_ID}, got {name[:60]}")


def _nearest(name: str, known: Iterable[str]) -> str:
    choices = sorted(known)
    close = difflib.get_close_matches(name[:60], choices, n=1, cutoff=0.6)
    return f"did you mean {close[0]!r}?" if close else f"there are: {', '.join(choices[:40])}"


@cache
def _core_methods() -> dict[str, frozenset[str]]:
    """Return the methods of each interface of the core: those are known before any plugin is."""
    found = [
        cls
        for cls in (*vars(core_interfaces).values(), *vars(access_interfaces).values())
        if "__sparkd_interface__" in getattr(cls, "__dict__", {})
    ]
    specs = [interface_spec(cls) for cls in found]
    return {spec.name: frozenset(spec.methods) for spec in specs}
