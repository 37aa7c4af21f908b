"""What is known of the commands that were sent from here: SQLite, one row a command."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import anyio

from sparkd import CommandResult, CommandStatus, Privacy, StorageError, decode_body, encode_body

T = TypeVar("T")

SCHEMA = """
CREATE TABLE IF NOT EXISTS commands (
    id TEXT PRIMARY KEY,
    target TEXT NOT NULL,
    method TEXT NOT NULL,
    state TEXT NOT NULL,
    expires_ns INTEGER NOT NULL,
    result BLOB,
    error TEXT NOT NULL DEFAULT ''
)"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """A command as its record in the outbox holds it."""

    command_id: str
    target: str
    method: str
    params: dict[str, Any]
    expires_ns: int
    """By this node's clock."""
    privacy: Privacy = Privacy.SHARED


class Journal:
    """The commands sent from here. Every method returns after the disk has it."""

    def __init__(self, database: sqlite3.Connection) -> None:
        """Keep the journal in *database*."""
        self._database = database
        self._one_thread = anyio.CapacityLimiter(1)

    async def sent(self, command: Command) -> None:
        """Note a command that goes into the outbox; nothing changes if it is known."""
        row = (command.command_id, command.target, command.method, command.expires_ns)
        await self._in_thread(lambda db: db.execute(_SENT, row))

    async def forget(self, command_id: str) -> None:
        """Forget a command that did not go into the outbox after all."""
        await self._in_thread(lambda db: db.execute("DELETE FROM commands WHERE id=?", (command_id,)))

    async def moved(self, command_id: str, state: str, *, error: str = "") -> None:
        """Note that a command was `delivered`, `failed` or `expired`, unless its result is known already."""
        await self._in_thread(lambda db: db.execute(_MOVED, (state, error, command_id)))

    async def finished(self, target: str, result: CommandResult) -> None:
        """Note what came of a command; only the node it was sent to can say so."""
        row = ("done" if result.ok else "failed", encode_body(result.result), result.error, result.command_id, target)
        await self._in_thread(lambda db: db.execute(_FINISHED, row))

    async def status(self, command_id: str) -> CommandStatus | None:
        """Return what is known of a command, or None."""
        row = await self._in_thread(lambda db: db.execute(_STATUS, (command_id,)).fetchone())
        if row is None:
            return None
        target, method, state, expires_ns, result, error = row
        if state == "pending" and expires_ns <= time.time_ns():
            state = "expired"
        return CommandStatus(
            command_id=command_id,
            target=target,
            method=method,
            state=state,
            result=None if result is None else decode_body(Any, result),
            error=error,
        )

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
    """Open the journal at *path*."""
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
    except sqlite3.Error:
        database.close()
        raise
    return database


_SENT = (
    "INSERT INTO commands (id, target, method, state, expires_ns) VALUES (?, ?, ?, 'pending', ?)"
    " ON CONFLICT (id) DO NOTHING"
)
_MOVED = "UPDATE commands SET state=?, error=? WHERE id=? AND state IN ('pending', 'delivered')"
_FINISHED = "UPDATE commands SET state=?, result=?, error=? WHERE id=? AND target=?"
_STATUS = "SELECT target, method, state, expires_ns, result, error FROM commands WHERE id=?"
