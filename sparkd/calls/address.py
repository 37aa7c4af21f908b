"""The name of a method: `[node/][service:]interface.method`."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache

from sparkd.errors import CallError, CallErrorKind
from sparkd.service import NAME

_METHOD = re.compile(r"[a-z][a-z0-9_]*")
_ADDRESS = re.compile(
    rf"(?:(?P<node>{NAME.pattern})/)?(?:(?P<service>{NAME.pattern}):)?"
    rf"(?P<interface>{NAME.pattern})\.(?P<method>{_METHOD.pattern})"
)
_FORM = "[node/][service:]interface.method expected, such as 'vision.infer' or 'primecore/core:node.status'"


@dataclass(frozen=True, slots=True)
class Address:
    """Which method is meant. Without a node, this one; without a service, whichever serves the interface."""

    interface: str
    method: str
    service: str = ""
    node: str = ""

    @property
    def name(self) -> str:
        """The interface and the method: what a service answers to."""
        return f"{self.interface}.{self.method}"

    @property
    def on_node(self) -> str:
        """The address as the node itself would write it."""
        return f"{self.service}:{self.name}" if self.service else self.name

    def __str__(self) -> str:
        return f"{self.node}/{self.on_node}" if self.node else self.on_node


@lru_cache(maxsize=1024)  # the hot callers name a handful of methods; a peer inventing names only evicts
def parse_address(text: str) -> Address:
    """Return what *text* names. Raises CallError (`UNKNOWN_METHOD`) that says which part is wrong."""
    match = _ADDRESS.fullmatch(text)
    if match is None:
        raise CallError(CallErrorKind.UNKNOWN_METHOD, _what_is_wrong(text[:300]))
    node, service, interface, method = match.group("node", "service", "interface", "method")
    return Address(interface, method, service or "", node or "")


def _what_is_wrong(text: str) -> str:
    rest, problems = text, []
    for part, separator in (("node", "/"), ("service", ":")):
        before, found, after = rest.partition(separator)
        if found:
            rest = after
            if not NAME.fullmatch(before):
                problems.append(f"{part} {before!r} is not lower-case words joined by hyphens")
    interface, dot, method = rest.partition(".")
    if not dot:
        problems.append(f"{rest!r} has no dot between interface and method")
    elif not NAME.fullmatch(interface):
        problems.append(f"interface {interface!r} is not lower-case words joined by hyphens")
    elif not _METHOD.fullmatch(method):
        problems.append(f"method {method!r} is not a lower-case identifier")
    return f"malformed method name {text!r}: {'; '.join(problems)}. {_FORM}"
