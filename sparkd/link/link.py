"""The link: this node's encrypted connections to its peers, over which events and calls travel.

Theory of operation: a `Peer` for each table `[link.peers.NAME]`; a `Dialer` for each that has an address, and one
`Listener` if the config says where. Each connection is proved by key twice: at its handshake (the ZAP handler on one
side, the pinned server key on the other) and with every message. A connection that said its greeting is a `Session`,
and there is one per peer at the most. The key files are watched: a change of the allow-list ends the sessions it
revokes and wakes the dialers; a new key of this node's own starts all anew. What fails is in `status`, never raised.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Self

import anyio
import zmq  # noqa: TID251 - the link speaks ZeroMQ
from anyio.abc import TaskGroup

from sparkd.core_interfaces import LinkStatus
from sparkd.errors import ConfigError
from sparkd.events import LinkChanged
from sparkd.link.complaints import Complaints, Counts
from sparkd.link.dialer import Dialer
from sparkd.link.frames import PROTOCOL, Greeting, Joining
from sparkd.link.hooks import LinkHooks, LinkSettings
from sparkd.link.invite import MARK, Invites
from sparkd.link.keys import AllowList, KeyPair, KeyStore, identity
from sparkd.link.keywatch import watch
from sparkd.link.ledger import Ledger
from sparkd.link.listener import Listener
from sparkd.link.options import FAREWELL_MS, Timing
from sparkd.link.peer import Identity, Peer
from sparkd.link.rules import PeerRules, PeerSettings
from sparkd.link.session import LinkBus, Session, SessionHooks, Transport
from sparkd.link.zap import Verdict, serving
from sparkd.service import Log


class Link:
    """This node's links; use as an async context manager."""

    def __init__(
        self,
        config: LinkSettings,
        *,
        keys_dir: Path,
        identity: Identity,
        bus: LinkBus,
        hooks: LinkHooks,
        log: Log,
        timing: Timing | None = None,
    ) -> None:
        """Link as *config* says, with the keys in *keys_dir*, events from and to *bus*, calls to and from *hooks*."""
        self._config = config
        self._identity = identity
        self._store = KeyStore(keys_dir)
        self._invites = Invites(self._store)
        self._guests: dict[str, str] = {}
        self._dialing: TaskGroup | None = None
        self._bus = bus
        self._hooks = hooks
        self._log = log
        self._complaints = Complaints(log)
        self._timing = timing or Timing(heartbeat_s=config.heartbeat_s)
        self._keys: KeyPair | None = None
        self._allowed = AllowList()
        self._identities: dict[str, str] = {}
        self._keys_changed = anyio.Event()
        self._sessions: dict[str, Session] = {}
        self._listener: Listener | None = None
        self._problems: dict[str, str] = {}
        self._strangers = Counts()
        self._ledger = Ledger()
        self._greeting = self._own_greeting()
        self._peers = {name: self._peer(name, settings) for name, settings in config.peers.items()}

    async def __aenter__(self) -> Self:
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        async with AsyncExitStack() as stack:
            tasks = await stack.enter_async_context(anyio.create_task_group())
            stack.callback(tasks.cancel_scope.cancel)
            tasks.start_soon(self._run)
            self._stack = stack.pop_all()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool | None:
        return await self._stack.__aexit__(kind, error, trace)

    def status(self) -> list[LinkStatus]:
        """Return how the link to each peer is."""
        return [peer.status() for peer in self._peers.values()]

    def problems(self) -> list[str]:
        """Return what is wrong with the link as a whole: key files, the address to listen on."""
        return [problem for problem in self._problems.values() if problem]

    def sent_bytes(self) -> dict[str, int]:
        """Return how many bytes each service of this node has handed to the links, over all peers."""
        return self._ledger.sent

    def refused(self) -> dict[str, int]:
        """Return how many connections of strangers were refused, by reason."""
        return self._strangers.plain()

    def adopt(self, peers: Mapping[str, PeerSettings]) -> list[str]:
        """Begin to link with those of *peers* that are not known yet; return their names."""
        fresh = [name for name in peers if name not in self._peers]
        for name in fresh:
            peer = self._peers[name] = self._peer(name, peers[name])
            if peer.settings.address and self._keys is not None and self._dialing is not None:
                self._dialing.start_soon(self._dialing_side(self._context, self._keys, peer).run)
        self._explain(self._problems.get("key", ""))
        return fresh

    @property
    def listening(self) -> str:
        """Where it listens now, `host:port`; nothing if it does not."""
        return self._listener.endpoint if self._listener else ""

    async def _run(self) -> None:
        context = self._context
        try:
            with serving(context, self._name_of_key, self._on_verdict):
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(watch, self._store, self._reload)
                    while True:
                        await self._connect(context)
        finally:
            with anyio.CancelScope(shield=True):
                await anyio.to_thread.run_sync(partial(context.destroy, linger=FAREWELL_MS))

    async def _connect(self, context: zmq.Context[zmq.Socket[bytes]]) -> None:
        """Listen and dial until this node's own key changes; without one, wait for it."""
        changed = self._keys_changed
        async with anyio.create_task_group() as tasks:
            if self._keys is not None:
                self._listener = self._listening_side(context, self._keys) if self._config.listen else None
                if self._listener:
                    tasks.start_soon(self._listener.run)
                for peer in self._peers.values():
                    if peer.settings.address:
                        tasks.start_soon(self._dialing_side(context, self._keys, peer).run)
            self._dialing = tasks
            try:
                await changed.wait()
            finally:
                self._dialing = None
            tasks.cancel_scope.cancel()

    def _listening_side(self, context: zmq.Context[zmq.Socket[bytes]], keys: KeyPair) -> Listener:
        return Listener(
            address=self._config.listen,
            context=context,
            keys=keys,
            greeting=self._greeting,
            timing=self._timing,
            name_of=self._name_of_identity,
            admit=self._admit,
            guest_of=self._guest_of_identity,
            accept=self._accept,
            open_session=lambda name, greeting, transport, address: self._open_session(
                self._peers[name], greeting, transport, address=address
            ),
            refuse=self._on_refused,
            trouble=self._on_listening,
        )

    def _dialing_side(self, context: zmq.Context[zmq.Socket[bytes]], keys: KeyPair, peer: Peer) -> Dialer:
        return Dialer(
            peer=peer,
            context=context,
            keys=keys,
            allowed=lambda: self._allowed,
            greeting=self._greeting,
            timing=self._timing,
            complaints=self._complaints,
            open_session=self._open_session,
        )

    def _name_of_key(self, key: str) -> str | None:
        guest = self._guests.get(key)
        return self._allowed.name_of(key) or (MARK + guest if guest else None)

    def _guest_of_identity(self, whose: str) -> str | None:
        if not whose.startswith(MARK):
            return None
        return next((guest for key, guest in self._guests.items() if identity(MARK + guest, key) == whose), "")

    async def _accept(self, guest: str, whose: str, joining: Joining) -> str:
        """Trust the key of a guest, if its invitation is still good; return why not, or nothing."""
        if not guest:
            return "this invitation is used up"
        if joining.node != guest:
            return (
                f"the invitation is for {guest}, and this node calls itself {joining.node[:64]!r}: set its [node] name"
            )
        key = whose.removeprefix(f"{MARK}{guest} ")
        reason = await anyio.to_thread.run_sync(self._invites.claim, guest, key, joining.key)
        if reason:
            self._complaints.say("link: guest refused", culprit=guest, peer=guest, why=reason)
        else:
            self._log.info("link: guest joined", peer=guest)
            await self._reload()
        return reason

    def _name_of_identity(self, identity: str) -> str | None:
        return self._identities.get(identity)

    async def _reload(self) -> None:
        """Take over what the key files say now."""
        keys, problem, allowed, self._guests = await anyio.to_thread.run_sync(self._read_keys)
        self._set_problem("key", problem)
        self._set_problem("trusted", "; ".join(allowed.problems))
        if allowed.keys != self._allowed.keys:
            self._take_over(allowed)
        if keys is not None and keys != self._keys:  # a key that cannot be read any more changes nothing
            self._keys = keys
            changed, self._keys_changed = self._keys_changed, anyio.Event()
            changed.set()
        self._explain(problem)

    def _read_keys(self) -> tuple[KeyPair | None, str, AllowList, dict[str, str]]:
        allowed, guests = self._store.allow_list(), self._invites.guests()
        try:
            return self._store.load(), "", allowed, guests
        except ConfigError as error:
            return None, str(error), allowed, guests

    def _take_over(self, allowed: AllowList) -> None:
        before, self._allowed = self._allowed, allowed
        self._identities = allowed.identities()
        for name, session in list(self._sessions.items()):
            if allowed.keys.get(name) != before.keys.get(name):
                session.end("its key is not trusted here any more")
        for peer in self._peers.values():
            peer.nudge()
        self._log.info("link: trusted keys read", trusted=sorted(allowed.keys))

    def _explain(self, problem: str) -> None:
        """Tell by the status of each peer what bars it, as far as it is a matter of this node's files."""
        for peer in self._peers.values():
            name, trusted = peer.name, peer.name in self._allowed.keys
            if peer.connected:
                continue
            if self._keys is None:
                self._barred(peer, f"this node has no usable key: {problem}", "sparkctl keys new")
            elif not peer.settings.address and not trusted:
                self._barred(peer, f"no key of {name} is trusted here", f"sparkctl keys trust {name} KEY")
            elif peer.barred:
                peer.barred = False
                peer.down("has not connected", f"is sparkd running on {name}, with this node's address?")

    def _barred(self, peer: Peer, reason: str, remedy: str) -> None:
        peer.barred = True
        peer.down(reason, remedy)
        self._complaints.say("link: barred", culprit=f"{peer.name}: {reason}", peer=peer.name, why=reason, try_=remedy)

    def _admit(self, name: str, greeting: Greeting) -> str:
        """Return why the peer that *name*'s key belongs to may not come in, or nothing."""
        peer, present = self._peers.get(name), self._sessions.get(name)
        if greeting.node != name:
            return f"this key is trusted as {name}, not as {greeting.node[:64]!r}"
        if peer is None:
            return f"{self._identity.name} has no [link.peers.{name}] in its config"
        if present is None:
            crossing = peer.hello_under_way and self._identity.name < name
            return f"{self._identity.name} is dialing {name} at this moment" if crossing else ""
        if peer.dialed or peer.greeting is None or peer.greeting.instance != greeting.instance:
            return f"{name} is connected already, from {peer.address or peer.settings.address}"
        present.end("replaced by a newer connection of the same process")
        return ""

    def _open_session(self, peer: Peer, greeting: Greeting, transport: Transport, *, address: str = "") -> Session:
        session = self._sessions[peer.name] = Session(
            peer,
            transport,
            bus=self._bus,
            hooks=SessionHooks(
                call_frames=self._hooks.on_frames,
                retained=self._hooks.retained,
                call_refused=self._hooks.on_call_refused,
                ended=self._on_ended,
            ),
            complaints=self._complaints,
            ledger=self._ledger,
            max_message_bytes=min(self._config.max_message_bytes, greeting.max_message_bytes),
            heartbeat_s=self._timing.heartbeat_s,
        )
        peer.up(greeting, dialed=not address, address=address)
        self._log.info("link: up", peer=peer.name, address=address or peer.settings.address, version=greeting.sparkd)
        if greeting.site != peer.settings.site:
            self._complaints.say(
                "link: peer says it stands elsewhere; the config counts",
                culprit=peer.name,
                peer=peer.name,
                says=greeting.site[:64],
                config=peer.settings.site,
            )
        self._hooks.on_peer_up(peer.name, session)
        self._hooks.on_change(LinkChanged(peer=peer.name, connected=True))
        return session

    def _on_ended(self, session: Session, reason: str) -> None:
        name = session.peer.name
        if self._sessions.get(name) is session:
            del self._sessions[name]
            session.peer.down(reason)
            self._log.info("link: down", peer=name, reason=reason)
            self._hooks.on_peer_down(name, reason)
            self._hooks.on_change(LinkChanged(peer=name, connected=False, reason=reason))

    def _on_verdict(self, verdict: Verdict) -> None:
        if not verdict.name:
            self._strangers.add(verdict.reason)
            hint = f"if you know it: sparkctl keys trust NAME '{verdict.key}'" if verdict.key else ""
            self._complaints.say(
                "link: stranger refused",
                culprit=verdict.address,
                address=verdict.address,
                why=verdict.reason,
                try_=hint,
            )

    def _on_refused(self, address: str, reason: str) -> None:
        self._strangers.add(reason)
        self._complaints.say("link: connection refused", culprit=address, address=address, why=reason)

    def _on_listening(self, problem: str) -> None:
        self._set_problem("listen", problem)
        if not problem:
            self._log.info("link: listening", address=self.listening)

    def _set_problem(self, where: str, problem: str) -> None:
        linked = self._config.listen or self._config.peers  # a node without links needs no key
        if problem and linked and problem != self._problems.get(where):
            self._log.warning("link: problem", problem=problem)
        self._problems[where] = problem

    def _peer(self, name: str, settings: PeerSettings) -> Peer:
        rules = PeerRules(node=self._identity.name, site=self._identity.site, peer=name, settings=settings)
        return Peer(name, settings, rules, reason="not tried yet")

    def _own_greeting(self) -> Greeting:
        mine = self._identity
        return Greeting(
            version=PROTOCOL,
            node=mine.name,
            node_id=mine.node_id,
            site=mine.site,
            role=mine.role,
            sparkd=mine.version,
            instance=os.urandom(8).hex(),
            max_message_bytes=self._config.max_message_bytes,
        )
