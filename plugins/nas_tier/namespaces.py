"""Namespaces: what each is, who may read and write in it. Decisions only."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Literal

from sparkd import MAX_KEY_BYTES, CallError, CallErrorKind, CallInfo, Privacy

NAMESPACE = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}")
TAG = re.compile(r"[^\s,]{1,64}")
MAX_TAGS = 32
ROOT = "rpc:uid=0"
YEAR_S = 366 * 86_400.0


@dataclass(frozen=True, slots=True, kw_only=True)
class NamespaceConfig:
    """The table `[plugins.nas-tier.namespaces.NAME]`."""

    privacy: Literal["node", "local", "shared"] = "local"
    """How far its values travel: `shared` ones reach the cloud."""
    owner: str = ""
    """Who may write, read and manage it: a caller such as `llm-router`, `pi/llm-router` or `rpc:uid=1000`, with `*` for
    any part. Empty: every caller whom the node's own rules let through."""
    readers: list[str] = field(default_factory=list)
    """Who else may read it; likewise ..."""
    writers: list[str] = field(default_factory=list)
    """... and who else may write."""
    ttl_s: float = 0.0
    """How long values live unless the writer says otherwise; 0: for ever."""
    soft_ttl_s: float = 0.0
    """After that a value is served while a fresh one is looked for."""
    quota_bytes: int = 0
    """The most that may stand in it; 0: no limit."""
    searchable: bool = True
    """Whether texts in it are indexed for `search`, by words and by meaning."""
    origin: str = ""
    """A method such as `weather:lookup.find` that is called with `key` for what is missing or stale, and returns bytes
    or text. Of a thousand who ask at once, one makes that call."""
    origin_limit_s: float = 30.0

    def __post_init__(self) -> None:
        for key in ("ttl_s", "soft_ttl_s"):
            if not 0 <= getattr(self, key) <= 100 * YEAR_S:
                raise ValueError(f"{key}: seconds expected, 0 for never, got {getattr(self, key):g}")
        if self.quota_bytes < 0:
            raise ValueError(f"quota_bytes: 0 or more expected, got {self.quota_bytes}")
        if not 0 < self.origin_limit_s <= 600:  # noqa: PLR2004 - ten minutes, for a model that thinks
            raise ValueError(f"origin_limit_s: up to 600 seconds expected, got {self.origin_limit_s:g}")

    @property
    def reach(self) -> Privacy:
        """The privacy class."""
        return Privacy.parse(self.privacy)


@dataclass(frozen=True, slots=True)
class Namespaces:
    """All that are configured, and what the others are."""

    known: dict[str, NamespaceConfig]
    otherwise: NamespaceConfig = field(default_factory=NamespaceConfig)

    def of(self, name: str) -> NamespaceConfig:
        """Return what namespace *name* is. Raises CallError for what is no name."""
        if not NAMESPACE.fullmatch(name):
            text = f"namespace: up to 63 lower-case letters, digits, '.', '_' and '-' expected, got {name[:80]!r}"
            raise CallError(CallErrorKind.INVALID_PARAMS, text, field="namespace")
        return self.known.get(name, self.otherwise)

    def check_read(self, name: str, caller: CallInfo, *, node: str) -> NamespaceConfig:
        """Return the namespace if *caller* may read it. Raises CallError."""
        config = self.of(name)
        _check_way(name, config, caller, node)
        _check_role(name, [config.owner, *config.readers, *config.writers], config, caller, "read")
        return config

    def check_write(self, name: str, caller: CallInfo, *, node: str) -> NamespaceConfig:
        """Return the namespace if *caller* may write in it. Raises CallError."""
        config = self.of(name)
        _check_way(name, config, caller, node)
        if caller.privacy is Privacy.NODE and config.reach is not Privacy.NODE:
            rule = "what is of the privacy class node is kept in a namespace of that class only"
            raise CallError(CallErrorKind.DENIED, f"namespace {name!r} is {config.privacy}", rule=rule)
        _check_role(name, [config.owner, *config.writers], config, caller, "write")
        return config

    def may_read(self, name: str, caller: CallInfo, *, node: str) -> bool:
        """Whether *caller* may read it."""
        try:
            self.check_read(name, caller, node=node)
        except CallError:
            return False
        return True


def _check_way(name: str, config: NamespaceConfig, caller: CallInfo, node: str) -> None:
    """A call says how far it may go, and its answer goes as far: so it must not carry what may not."""
    away = caller.node not in ("", node)
    if away and not config.reach.may_reach(same_node=False, same_site=caller.privacy is not Privacy.SHARED):
        rule = f"namespace {name!r} is {config.privacy}, and the call came from {caller.node} as {caller.privacy.label}"
        raise CallError(CallErrorKind.DENIED, "its values do not travel that far", rule=rule)


def _check_role(name: str, patterns: list[str], config: NamespaceConfig, caller: CallInfo, deed: str) -> None:
    if not config.owner and not (config.readers if deed == "read" else config.writers):
        return
    if caller.caller == ROOT:
        return  # root reads the disk anyway
    for pattern in patterns:
        if pattern and (fnmatchcase(caller.caller, pattern) or fnmatchcase(f"{caller.node}/{caller.caller}", pattern)):
            return
    rule = f"namespace {name!r} is {config.owner or 'limited'}'s: {caller.caller} may not {deed} it"
    raise CallError(CallErrorKind.DENIED, f"{deed} of {name!r}", rule=rule)


def check_key(key: str) -> None:
    """Raise CallError for what is no key."""
    size = len(key.encode("utf-8", "surrogatepass"))
    if not 0 < size <= MAX_KEY_BYTES or any(0xD800 <= ord(letter) < 0xE000 for letter in key):  # noqa: PLR2004 - surrogates
        text = f"key: 1 to {MAX_KEY_BYTES} bytes of UTF-8 expected, got {size}"
        raise CallError(CallErrorKind.INVALID_PARAMS, text, field="key")


def check_tags(tags: list[str]) -> list[str]:
    """Return *tags* sorted, each once. Raises CallError."""
    if len(tags) > MAX_TAGS:
        text = f"tags: at most {MAX_TAGS} expected, got {len(tags)}"
        raise CallError(CallErrorKind.INVALID_PARAMS, text, field="tags")
    for tag in tags:
        if not TAG.fullmatch(tag):
            text = f"tags: 1 to 64 characters without white space and commas expected, got {tag[:80]!r}"
            raise CallError(CallErrorKind.INVALID_PARAMS, text, field="tags")
    return sorted(set(tags))


def expiry_ms(name: str, given: float | None, usual: float, now_ms: int) -> int:
    """Return when a time to live of *given* seconds, or the *usual* one, ends; 0 for never. Raises CallError."""
    seconds = usual if given is None else given
    if not 0 <= seconds <= 100 * YEAR_S:
        text = f"{name}: seconds expected, 0 for never, got {seconds:g}"
        raise CallError(CallErrorKind.INVALID_PARAMS, text, field=name)
    return now_ms + max(int(seconds * 1000), 1) if seconds else 0
