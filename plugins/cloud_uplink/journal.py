"""The journal of commands: which were taken, which were begun, what came of them. On disk before anything is answered.

    accepted -> started -> done -> answered

A command that was started and whose end is not known is never run again: after a crash it is done, as a failure.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import anyio

from sparkd import Privacy, StorageError, decode_body, encode_body

T = TypeVar("T")

SCHEMA = """
CREATE TABLE IF NOT EXISTS commands (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL UNIQUE,
    method TEXT NOT NULL,
    params BLOB NOT NULL,
    state TEXT NOT NULL,
    arrived_ns INTEGER NOT NULL,
    expires_ns INTEGER NOT NULL,
    privacy INTEGER NOT NULL,
    ok INTEGER NOT NULL DEFAULT 0,
    result BLOB,
    error TEXT NOT NULL DEFAULT ''
)"""
UNCERTAIN = "it may or may not have had its effect"
INTERRUPTED = f"interrupted: the node stopped while the command ran; {UNCERTAIN}"
FORGET_AFTER_NS = 7 * 86_400 * 10**9


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """A command that is not answered yet."""

    command_id: str
    method: str
    params: dict[str, Any]
    done: bool
    expires_ns: int
    """By this node's clock; 0 for never."""
    privacy: Privacy
    """The class the command came with: its result is of the same."""
    ok: bool
    result: Any
    error: str


class Journal:
    """The commands of one uplink, in one SQLite file. Every method returns after the disk has it."""

    def __init__(self, database: sqlite3.Connection) -> None:
        """Keep the journal in *database*."""
        self._database = database
        self._one_thread = anyio.CapacityLimiter(1)

    async def knows(self, command_id: str) -> bool:
        """Whether the command was taken before."""
        return await self._in_thread(lambda db: bool(db.execute(_KNOWS, (command_id,)).fetchone()))

    async def take(
        self,
        command_id: str,
        method: str,
        params: dict[str, Any],
        *,
        now_ns: int,
        expires_ns: int,
        privacy: Privacy = Privacy.SHARED,
    ) -> bool:
        """Take a command; return False if it was taken before."""
        row = (command_id, method, encode_body(params), now_ns, expires_ns, privacy.value)
        return await self._in_thread(lambda db: db.execute(_TAKE, row).rowcount == 1)

    async def next_order(self) -> Order | None:
        """Return the oldest command that is not answered, if there is one."""
        row = await self._in_thread(lambda db: db.execute(_NEXT).fetchone())
        if row is None:
            return None
        command_id, method, params, state, expires_ns, privacy, ok, result, error = row
        return Order(
            command_id=command_id,
            method=method,
            params=decode_body(dict[str, Any], params),
            done=state == "done",
            expires_ns=expires_ns,
            privacy=Privacy(privacy),
            ok=bool(ok),
            result=None if result is None else decode_body(Any, result),
            error=error,
        )

    async def start(self, command_id: str) -> None:
        """Say that the command is about to run: from here on it is never begun again."""
        await self._in_thread(lambda db: db.execute(_SET_STATE, ("started", command_id)))

    async def finish(self, command_id: str, *, ok: bool, result: Any = None, error: str = "") -> None:
        """Say what came of the command."""
        row = (ok, None if result is None else encode_body(result), error, command_id)
        await self._in_thread(lambda db: db.execute(_FINISH, row))

    async def answered(self, command_id: str) -> None:
        """Say that the result is on its way, durably."""
        await self._in_thread(lambda db: db.execute(_SET_STATE, ("answered", command_id)))

    async def forget(self, *, now_ns: int) -> None:
        """Forget commands that were answered and expired long ago: nobody can send them again."""
        await self._in_thread(lambda db: db.execute(_FORGET, (now_ns - FORGET_AFTER_NS,)))

    async def close(self) -> None:
        """Close the file, after whatever is being done to it."""
        await self._in_thread(lambda db: db.close())

    async def _in_thread(self, work: Callable[[sqlite3.Connection], T]) -> T:
        try:
            return await anyio.to_thread.run_sync(work, self._database, limiter=self._one_thread)
        except sqlite3.Error as error:
            raise StorageError(f"journal of commands: {error}") from error


@asynccontextmanager
async def open_journal(path: Path) -> AsyncIterator[Journal]:
    """Open the journal at *path*; what was interrupted by the last stop is done, as a failure."""
    journal = Journal(await anyio.to_thread.run_sync(_open_or_set_aside, path))
    try:
        yield journal
    finally:
        with anyio.CancelScope(shield=True):
            await journal.close()


def _open_or_set_aside(path: Path) -> sqlite3.Connection:
    """Open the file; one that is damaged is moved aside and a fresh one begun, because a start is never refused."""
    try:
        return _open(path)
    except sqlite3.DatabaseError as error:
        if error.sqlite_errorcode & 0xFF not in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
            raise StorageError(f"journal of commands: {path}: {error}") from error
    for part in path.parent.glob(f"{path.name}*"):
        if ".damaged" not in part.name:
            part.rename(part.with_name(f"{part.name}.damaged-{time.time_ns()}"))
    return _open(path)


def _open(path: Path) -> sqlite3.Connection:
    path.parent.mkdir(parents=True, exist_ok=True)
    database = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    try:
        database.execute("PRAGMA journal_mode=WAL")
        database.execute("PRAGMA synchronous=FULL")
        database.execute(SCHEMA)
        database.execute("UPDATE commands SET state='done', ok=0, error=? WHERE state='started'", (INTERRUPTED,))
    except sqlite3.Error:
        database.close()
        raise
    return database


_KNOWS = "SELECT 1 FROM commands WHERE id=?"
_TAKE = (
    "INSERT INTO commands (id, method, params, state, arrived_ns, expires_ns, privacy)"
    " VALUES (?, ?, ?, 'accepted', ?, ?, ?)"
    " ON CONFLICT (id) DO NOTHING"
)
_NEXT = (
    "SELECT id, method, params, state, expires_ns, privacy, ok, result, error FROM commands"
    " WHERE state IN ('accepted', 'done') ORDER BY number LIMIT 1"
)
_SET_STATE = "UPDATE commands SET state=? WHERE id=?"
_FINISH = "UPDATE commands SET state='done', ok=?, result=?, error=? WHERE id=?"
_FORGET = "DELETE FROM commands WHERE state='answered' AND expires_ns BETWEEN 1 AND ?"
