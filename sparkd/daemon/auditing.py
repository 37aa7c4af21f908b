"""Which calls are recorded in the audit trail, and what of them; and `audit`, the answers about it.

Recorded are: calls of clients of the Unix socket and of other nodes that are not known to change nothing, such calls of
services to the core, and refused calls of all three. Calls between services of one node are not: they are the node's
own work, and most services run as one user, so no line could prove which of them made a call.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from functools import partial
from typing import TYPE_CHECKING, Any

import msgspec
from anyio import to_thread

from sparkd.access_interfaces import AuditLine
from sparkd.audit import Deed, Denials, Entry, Trail, plain_params, read_tail
from sparkd.calls import Call, Finish
from sparkd.calls.frames import Request
from sparkd.rpc import Peer

if TYPE_CHECKING:
    from sparkd.daemon.core import Core

CORE, HOSTS = "core", "supervisor"
MAX_NAME_CHARS = 200
DOORS = {"node": "link", "service": "service"}


class Auditor:
    """Records calls; the witness of the router and the audit of the socket's door."""

    def __init__(self, core: Core) -> None:
        self._core = core
        config = core.config.audit
        self._left_out = frozenset(config.leave_out)
        self._denials = Denials()
        self.trail = Trail(core.places.state / "audit", max_bytes=config.max_bytes, on_problem=self._on_problem)

    def wants(self, method: str) -> bool:
        """Whether calls of *method* are recorded at all."""
        return not {method, f"{method.partition('.')[0]}.*"} & self._left_out

    async def client_called(
        self, peer: Peer, call: Call, params: bytes, *, rule: str, outcome: str, began_s: float
    ) -> None:
        """Record what became of a client's call."""
        await self.trail.record(
            Deed(
                door="rpc",
                method=call.method[:MAX_NAME_CHARS],
                outcome=outcome,
                rule=rule,
                params=plain_params(params, json=True),
                trace=(call.trace or b"").hex(),
                took_ms=_since_ms(began_s),
                **_who(peer),
            )
        )

    def client_refused(self, peer: Peer, call: Call, params: bytes, rule: str) -> None:
        """Record that a client's call was refused, unless there are too many of its."""
        self._refused(f"uid {peer.uid}", "rpc", call.method, params, rule, json=True, trace=call.trace, **_who(peer))

    def began(self, kind: str, name: str, request: Request, body: bytes, service: str) -> Finish | None:
        """Return what records the outcome of a call of a node or a service, or None if it is of no interest."""
        method = request.method.rpartition("/")[2].rpartition(":")[2]
        if kind == "service" and (service != CORE or method.startswith(f"{HOSTS}.")):
            return None
        if not self.wants(method) or self._reads(method, service):
            return None
        return partial(self._finish, kind, name, (request, body), began_s=time.monotonic())

    def refused(self, kind: str, name: str, request: Request, body: bytes, rule: str) -> None:
        """Record that a call of a node or a service was refused."""
        self._refused(
            f"{kind} {name}",
            DOORS[kind],
            request.method,
            body,
            rule,
            json=request.json,
            trace=request.trace,
            **_whose(kind, name, request),
        )

    async def _finish(self, kind: str, name: str, call: tuple[Request, bytes], outcome: str, *, began_s: float) -> None:
        request, body = call
        await self.trail.record(
            Deed(
                door=DOORS[kind],
                method=request.method[:MAX_NAME_CHARS],
                outcome=outcome,
                rule=f"link.peers.{name} calls" if kind == "node" else "services",
                params=plain_params(body, json=request.json),
                trace=(request.trace or b"").hex(),
                took_ms=_since_ms(began_s),
                **_whose(kind, name, request),
            )
        )

    def _refused(
        self,
        whose: str,
        door: str,
        method: str,
        params: bytes,
        rule: str,
        *,
        json: bool,
        trace: bytes | None,
        **who: Any,
    ) -> None:
        left_out = self._denials.admit(whose, time.monotonic())
        if left_out is not None:
            self.trail.note(
                Deed(
                    door=door,
                    method=method[:MAX_NAME_CHARS],
                    outcome="denied",
                    allowed=False,
                    rule=rule[:MAX_NAME_CHARS],
                    params=plain_params(params, json=json),
                    trace=(trace or b"").hex(),
                    left_out=left_out,
                    **who,
                )
            )

    def _reads(self, method: str, service: str) -> bool:
        door = self._core.gate.door
        return door is not None and door.reads(method, service)

    def _on_problem(self, problem: str) -> None:
        """Show what is wrong in status and, once, in the log."""
        problems = self._core.problems
        if problem and "audit" not in problems:
            self._core.log.error("audit trail not written", why=problem)
        problems.pop("audit", None)
        if problem:
            problems["audit"] = problem


def _who(peer: Peer) -> dict[str, Any]:
    return {"uid": peer.uid, "gid": peer.gid, "pid": peer.pid}


def _whose(kind: str, name: str, request: Request) -> dict[str, Any]:
    if kind == "service":
        return {"caller": name or "(unknown host)"}
    return {"node": name, "caller": request.caller[:MAX_NAME_CHARS]}


def _since_ms(began_s: float) -> float:
    return round((time.monotonic() - began_s) * 1000, 3)


class AuditAnswers:
    """`audit`: the trail of calls."""

    def __init__(self, core: Core) -> None:
        self._core = core

    async def tail(self, *, lines: int = 50, before: int | None = None) -> list[AuditLine]:
        """Return the last lines."""
        folder = self._core.auditor.trail.folder
        entries = await to_thread.run_sync(lambda: read_tail(folder, lines, before=before))
        return [_line(entry) for entry in entries]

    async def follow(self) -> AsyncIterator[AuditLine]:
        """Stream the lines as they are written."""
        async with self._core.auditor.trail.follow() as entries:
            async for entry in entries:
                yield _line(entry)


def _line(entry: Entry) -> AuditLine:
    return AuditLine(**msgspec.structs.asdict(entry))
