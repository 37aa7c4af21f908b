"""The core's interfaces about who may call what, and who did: `access` and `audit`. Layer: values."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any, Protocol

from sparkd.interfaces import interface, reads


@dataclass(frozen=True, slots=True, kw_only=True)
class AccessOverview:
    """A client of the Unix socket, as the kernel says, and what it may call."""

    uid: int
    gid: int
    pid: int
    groups: list[int]
    user: str
    """Its name; empty if it has none."""
    admin: bool
    rules: list[str]
    """The rules that are for it."""
    calls: dict[str, str]
    """Each method of this node that it may call, and the rule that allows it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AccessAnswer:
    """Whether a call may be made."""

    method: str
    allowed: bool
    rule: str
    """By which rule; for what is refused, why."""
    remedy: str = ""


@interface("access")
class AccessApi(Protocol):
    """Who may call what over the Unix socket."""

    @reads
    async def me(self) -> AccessOverview:
        """Return who the caller is, and what they may call by which rule."""
        ...

    @reads
    async def explain(self, *, method: str, topics: list[str] | None = None, user: str = "") -> AccessAnswer:
        """Return whether the caller, or for an admin who asks another *user*, may call *method*, and why.

        *topics* are those of a subscription.
        """
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditLine:
    """A line of the audit trail."""

    seq: int
    wall_ns: int
    door: str
    """`rpc`, `link` or `service`, by which the call came; `daemon` for the trail's own lines."""
    method: str
    outcome: str
    """`ok`, `stream`, `denied`, `cancelled` or another kind of error."""
    allowed: bool
    rule: str
    uid: int | None = None
    gid: int | None = None
    pid: int | None = None
    user: str = ""
    node: str = ""
    caller: str = ""
    params: Any = None
    trace: str = ""
    took_ms: float = 0.0
    left_out: int = 0
    """Refused attempts of the same caller since its last line, which have no line of their own."""
    prev: str = ""
    """SHA-256 of the line before."""
    mono_ns: int = 0


@interface("audit")
class AuditApi(Protocol):
    """The trail of calls that changed something or were refused. For admins."""

    @reads
    async def tail(self, *, lines: int = 50, before: int | None = None) -> list[AuditLine]:
        """Return the last lines, or those before number *before*, oldest first."""
        ...

    @reads
    def follow(self) -> AsyncIterator[AuditLine]:
        """Stream the lines as they are written."""
        ...
