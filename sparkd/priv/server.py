"""The socket of sparkd-priv: who may ask, how much, for how long; one thread answers each connection."""

from __future__ import annotations

import logging
import os
import pwd
import selectors
import socket
import struct
import threading  # noqa: TID251 - deeds wait for other programs, and one must not wait for another
import time
from dataclasses import dataclass, field
from typing import Any

import msgspec

from sparkd.deeds import LENGTH, MAX_REQUEST_BYTES, READS, Deed, Done, Refused, Reply, decode_deed, frame, verb_of
from sparkd.errors import ConfigError, RemoteMessageError
from sparkd.priv.audit import Audit
from sparkd.priv.perform import DeniedError, Means, perform
from sparkd.priv.programs import ProgramFailedError
from sparkd.priv.settings import Settings, load_settings

AT_ONCE = 8
RECEIVE_LIMIT_S = 5.0
"""From a connection to its whole request, and from a reply to its having been read."""

STRANGERS_PER_MINUTE = 10
"""Refusals of other users that are written down; they must not be able to push out of the audit what matters."""
READS_EVERY_S = 3600.0
"""How often the same reading deed is written down; it changes nothing, and is asked for every few seconds."""
_CREDENTIALS = struct.Struct("iII")
_log = logging.getLogger("priv")


@dataclass
class Server:
    """Answers requests on a listening socket."""

    listener: socket.socket
    means: Means
    audit: Audit
    idle_s: float = 30.0
    """Leave after this long without a request; systemd starts it again for the next. 0 for never."""
    _free: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(AT_ONCE))
    _threads: set[threading.Thread] = field(default_factory=set)
    _strangers: list[float] = field(default_factory=list)
    _read: dict[str, float] = field(default_factory=dict)

    def serve(self, stopped: socket.socket) -> None:
        """Answer until something can be read from *stopped*, or nobody asks for `idle_s`."""
        self.listener.setblocking(False)  # noqa: FBT003 - the standard library has no name for it
        with selectors.DefaultSelector() as selector:
            selector.register(self.listener, selectors.EVENT_READ)
            selector.register(stopped, selectors.EVENT_READ)
            while True:
                ready = [key.fileobj for key, _ in selector.select(self.idle_s or None)]
                self._threads = {thread for thread in self._threads if thread.is_alive()}
                if stopped in ready or (not ready and not self._threads):
                    break
                if self.listener in ready:
                    self._accept()
        for thread in self._threads:  # a deed under way is finished, and told
            thread.join()

    def _accept(self) -> None:
        try:
            connection, _ = self.listener.accept()
        except (BlockingIOError, ConnectionAbortedError):
            return
        connection.settimeout(RECEIVE_LIMIT_S)
        pid, uid, _gid = _CREDENTIALS.unpack(
            connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
        )
        if not self._free.acquire(blocking=False):
            with connection:
                _send(connection, Refused(kind="busy", message=f"{AT_ONCE} requests are under way", remedy="try again"))
            return
        thread = threading.Thread(target=self._answer, args=(connection, uid, pid), daemon=True)
        self._threads.add(thread)
        thread.start()

    def _answer(self, connection: socket.socket, uid: int, pid: int) -> None:
        try:
            with connection:
                _send(connection, self._reply(connection, uid, pid))
        except Exception:  # noqa: BLE001 - a mistake of ours costs one request, not the daemon
            _log.exception("a request failed, by a mistake of ours")
        finally:
            self._free.release()

    def _reply(self, connection: socket.socket, uid: int, pid: int) -> Reply:
        try:
            settings = load_settings(self.means.settings_file)
        except ConfigError as error:
            self._note(uid, pid, outcome="failed", why=str(error))
            return Refused(kind="failed", message=str(error), remedy=f"mend {self.means.settings_file}")
        if uid not in {0, _uid_of(settings.account)}:
            self._note_stranger(uid, pid)
            return Refused(kind="denied", message=f"user {uid} may not ask", remedy=f"only {settings.account} may")
        try:
            deed = decode_deed(_receive(connection))
        except (RemoteMessageError, OSError) as error:
            self._note(uid, pid, outcome="invalid", why=str(error))
            return Refused(kind="invalid", message=f"no request of ours: {error}")
        return self._perform(deed, settings, uid, pid)

    def _perform(self, deed: Deed, settings: Settings, uid: int, pid: int) -> Reply:
        asked = {"verb": verb_of(deed), "arguments": _shown(deed)}
        noted = not (isinstance(deed, READS) and self._read_lately(repr(deed)))
        try:
            if noted:
                self._note(uid, pid, outcome="asked", **asked)  # before: what is done must not lack its line
        except OSError as error:
            return Refused(kind="failed", message=f"the audit cannot be written: {error.strerror}", remedy="make room")
        reply: Reply
        try:
            reply = perform(deed, settings, self.means)
        except DeniedError as error:
            reply = Refused(kind="denied", message=str(error), remedy=f"root may allow it: {self.means.settings_file}")
        except ConfigError as error:
            reply = Refused(kind="denied", message=str(error), remedy=_remedy(deed))
        except (ProgramFailedError, OSError) as error:
            reply = Refused(kind="failed", message=str(error), remedy="journalctl -u sparkd-priv")
        outcome = {"outcome": "done"} if isinstance(reply, Done) else {"outcome": reply.kind, "why": reply.message}
        if noted or not isinstance(reply, Done):
            self._note(uid, pid, **asked, **outcome)
        return reply

    def _read_lately(self, what: str) -> bool:
        """Whether the audit has a line of this reading deed that is not an hour old; the caller writes it if not."""
        now = time.monotonic()
        self._read = {known: at for known, at in self._read.items() if at > now - READS_EVERY_S}
        lately = what in self._read
        self._read.setdefault(what, now)
        return lately

    def _note(self, uid: int, pid: int, **fields: Any) -> None:
        self.audit.note(uid=uid, pid=pid, **fields)

    def _note_stranger(self, uid: int, pid: int) -> None:
        now = time.monotonic()
        self._strangers = [at for at in self._strangers if at > now - 60]
        if len(self._strangers) < STRANGERS_PER_MINUTE:
            self._strangers.append(now)
            self._note(uid, pid, outcome="denied", why="another user")


def _remedy(deed: Deed) -> str:
    plugin = getattr(deed, "plugin", "")
    return f'let root set isolation = "unit" under [plugins.{plugin}], in files of its own' if plugin else ""


def _shown(deed: Deed) -> dict[str, Any]:
    """Return a deed's arguments for the audit; of what a unit is told only how much it is."""
    plain = msgspec.to_builtins(deed, builtin_types=(bytes,))
    plain.pop("verb")
    return {name: f"{len(value)} bytes" if isinstance(value, bytes) else value for name, value in plain.items()}


def _uid_of(account: str) -> int:
    try:
        return pwd.getpwnam(account).pw_uid
    except KeyError:
        return 0  # there is no such account: root alone may ask


def _receive(connection: socket.socket) -> bytes:
    """Return a whole request. Raises RemoteMessageError, OSError or TimeoutError."""
    deadline = time.monotonic() + RECEIVE_LIMIT_S
    (size,) = LENGTH.unpack(_exactly(connection, LENGTH.size, deadline))
    if not 0 < size <= MAX_REQUEST_BYTES:
        raise RemoteMessageError(f"a request of {size} bytes; {MAX_REQUEST_BYTES} at the most")
    return _exactly(connection, size, deadline)


def _exactly(connection: socket.socket, size: int, deadline: float) -> bytes:
    content = b""
    while len(content) < size:
        left = deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError("it took too long to come")
        connection.settimeout(left)
        chunk = connection.recv(min(size - len(content), 1 << 16))
        if not chunk:
            raise RemoteMessageError("it was cut short")
        content += chunk
    return content


def _send(connection: socket.socket, reply: Reply) -> None:
    connection.settimeout(RECEIVE_LIMIT_S)
    try:
        connection.sendall(frame(reply))
    except OSError:  # nobody reads any more; the audit has it
        return


def inherited(environment: dict[str, str] | None = None) -> socket.socket | None:
    """Return the listening socket that systemd holds for us; None if it gave none."""
    given = os.environ if environment is None else environment
    if given.get("LISTEN_PID") != str(os.getpid()) or given.get("LISTEN_FDS") != "1":
        return None
    return socket.socket(fileno=3)
