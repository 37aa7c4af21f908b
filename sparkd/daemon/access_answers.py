"""`access`: who the caller is, and what they may call, by which rule."""

from __future__ import annotations

import os
import pwd
from typing import TYPE_CHECKING

from anyio import to_thread

from sparkd.access_interfaces import AccessAnswer, AccessOverview
from sparkd.calls import current_call
from sparkd.errors import CallError, CallErrorKind
from sparkd.rpc import Door, Peer, asking_client

if TYPE_CHECKING:
    from sparkd.daemon.core import Core


class AccessAnswers:
    """`access`: what the rules mean for a client of the Unix socket."""

    def __init__(self, core: Core) -> None:
        self._core = core

    async def me(self) -> AccessOverview:
        """Return who the caller is and what they may call."""
        peer, door, access = self._client(), self._door(), self._core.gate.access()
        verdicts = {method: door.verdict(peer, method) for method in door.methods()}
        return AccessOverview(
            uid=peer.uid,
            gid=peer.gid,
            pid=peer.pid,
            groups=sorted(peer.groups),
            user=await to_thread.run_sync(_user_name, peer.uid),
            admin=access.is_admin(peer),
            rules=access.rules_for(peer),
            calls={method: verdict.rule for method, verdict in verdicts.items() if verdict.allowed},
        )

    async def explain(self, *, method: str, topics: list[str] | None = None, user: str = "") -> AccessAnswer:
        """Return whether the caller may call *method*, and why."""
        peer = self._client()
        if user:
            if not self._core.gate.access().is_admin(peer):
                message = "what another user may call is told to admins only"
                raise CallError(CallErrorKind.DENIED, message, rule="access.explain with a user is for admins")
            peer = await to_thread.run_sync(_as_user, user)
        verdict = self._door().verdict(peer, method, topics or ())
        return AccessAnswer(method=method, allowed=verdict.allowed, rule=verdict.rule, remedy=verdict.remedy)

    def _door(self) -> Door:
        door = self._core.gate.door
        if door is None:
            raise CallError(CallErrorKind.UNAVAILABLE, "the socket is not open yet", remedy="try again")
        return door

    @staticmethod
    def _client() -> Peer:
        peer = asking_client()
        if peer is None:
            caller = current_call().caller
            message = f"{caller!r} is no client of the Unix socket: [access] says nothing of it"
            raise CallError(CallErrorKind.DENIED, message, rule="nodes are judged by [link.peers.NAME] calls")
        return peer


def _user_name(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except (KeyError, OSError):
        return ""


def _as_user(name: str) -> Peer:
    """Return what the kernel would say of a process that *name* starts after logging in. Raises CallError."""
    try:
        user = pwd.getpwnam(name)
    except (KeyError, ValueError):
        raise CallError(CallErrorKind.INVALID_PARAMS, f"there is no user {name!r}", field="user") from None
    groups = frozenset(os.getgrouplist(user.pw_name, user.pw_gid))
    return Peer(0, user.pw_uid, user.pw_gid, groups)
