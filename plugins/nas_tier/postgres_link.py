"""Connections to PostgreSQL, and its errors in our words. The only file that knows psycopg.

A connection that was lost while it lay idle is replaced within the call, so that a server that was started anew is
noticed by nobody: every statement of ours may be made twice. Connections keep settings of their session; a pooler
between must therefore work in session mode.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import psycopg
from anyio import CancelScope, Lock, Semaphore, fail_after
from psycopg import errors, sql
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from sparkd import CallError, CallErrorKind

from .long_config import LongConfig, is_near

Row = tuple[Any, ...]
Params = Mapping[str, Any]
Ask = Callable[..., Awaitable[list[Row]]]
CONNECTIONS = 4
"""A node's calls at once; others wait. A hundred is what a server has by default."""
TRIES = 3
"""Of a statement that the server gave up because of another's locks."""
NEW_TABLES = (errors.UndefinedTable, errors.UndefinedFunction, errors.UndefinedColumn)
AGAIN = (errors.DeadlockDetected, errors.SerializationFailure)
LOST = (errors.AdminShutdown, errors.CrashShutdown)
# HNSW goes on until enough rows pass the filter. Candidates: pgvector's 40 are too few for ten pieces of some records.
SESSION = (
    "SET synchronous_commit = on; SET hnsw.ef_search = 100; SET hnsw.iterative_scan = relaxed_order;"
    " SET client_min_messages = error; SET statement_timeout = {limit_ms}"
)


class LostError(Exception):
    """The connection is gone; the statement may or may not have been done."""


class PostgresLink:
    """Asks one statement at a time of each of a few connections, made when they are needed."""

    def __init__(self, config: LongConfig, lay_out: Callable[[Ask], Awaitable[None]], *, name: str) -> None:
        """Connect as *config* says, as *name*.

        *lay_out* is called before the first statement, and when the tables went.
        """
        self._limit_s = config.timeout_s
        self._secret = config.password.reveal() if config.password else ""
        self._conninfo, self.where = _conninfo(config, self._secret, name)
        self._lay_out, self._laid, self._laying = lay_out, False, Lock()
        self._idle = list[psycopg.AsyncConnection[Row]]()
        self._gate = Semaphore(CONNECTIONS)

    async def ask(self, statement: str, params: Params | None = None) -> list[Row]:
        """Do *statement* in a transaction of its own, and return its rows: one round trip.

        Fails with UNAVAILABLE if the server does not answer within the limit, or refuses.
        """
        return await self._guarded(lambda: self._ask(statement, params))

    async def build(self, work: Callable[[Ask], Awaitable[None]]) -> None:
        """Do *work* on a connection of its own, without a limit: what takes minutes, in the background."""

        async def whole() -> list[Row]:
            async with self._own(limit_s=0) as ask:
                await work(ask)
            return []

        await self._guarded(whole, limit_s=None)

    async def aclose(self) -> None:
        """Close the connections."""
        with CancelScope(shield=True):
            while self._idle:
                await self._idle.pop().close()

    async def _guarded(self, work: Callable[[], Awaitable[list[Row]]], limit_s: float | None = -1) -> list[Row]:
        try:
            with fail_after(self._limit_s if limit_s == -1 else limit_s):
                return await work()
        except TimeoutError:
            raise self._unavailable("no answer in time") from None
        except LostError as error:
            raise self._unavailable(str(error)) from None
        except psycopg.Error as error:
            raise self._said(error) from None

    async def _ask(self, statement: str, params: Params | None) -> list[Row]:
        for left in reversed(range(TRIES)):
            await self._ready()
            try:
                async with self._gate:
                    return await self._on_some(statement, params)
            except NEW_TABLES:
                self._laid = False
                if not left:
                    raise
            except AGAIN:
                if not left:
                    raise
        raise AssertionError

    async def _on_some(self, statement: str, params: Params | None) -> list[Row]:
        while self._idle:
            try:
                return await self._on(self._idle.pop(), statement, params)
            except LostError:
                continue  # all the others may be lost too
        return await self._on(await self._connect(self._limit_s), statement, params)

    async def _on(self, connection: psycopg.AsyncConnection[Row], statement: str, params: Params | None) -> list[Row]:
        whole = False
        try:
            rows = await _rows(connection, statement, params)
            whole = True
        except LOST as error:
            raise LostError(_primary(error)) from error
        except psycopg.Error as error:
            if connection.closed:
                raise LostError(_primary(error)) from error
            whole = True
            raise
        else:
            return rows
        finally:
            if whole:
                self._idle.append(connection)
            else:
                await _close(connection)

    async def _ready(self) -> None:
        if self._laid:
            return
        async with self._laying:
            if not self._laid:
                async with self._own(limit_s=self._limit_s) as ask:
                    await self._lay_out(ask)
                self._laid = True

    def _own(self, limit_s: float) -> _Own:
        return _Own(lambda: self._connect(limit_s))

    async def _connect(self, limit_s: float) -> psycopg.AsyncConnection[Row]:
        connection = await psycopg.AsyncConnection.connect(self._conninfo, autocommit=True, prepare_threshold=None)
        try:
            await connection.execute(SESSION.format(limit_ms=int(limit_s * 1000)).encode())
        except BaseException:
            await _close(connection)
            raise
        return connection

    def _unavailable(self, why: str) -> CallError:
        why = why.replace(self._secret, "***") if self._secret else why
        message = f"PostgreSQL {self.where}: {why}"
        remedy = "look at the server and the way to it; it is asked again with the next call"
        return CallError(CallErrorKind.UNAVAILABLE, message, remedy=remedy)

    def _said(self, error: psycopg.Error) -> CallError:
        if isinstance(error, psycopg.DataError | psycopg.ProgrammingError | psycopg.IntegrityError) and not isinstance(
            error, errors.InsufficientPrivilege
        ):
            message = f"PostgreSQL {self.where} refuses: {_primary(error)} ({error.sqlstate})"
            return CallError(CallErrorKind.FAILED, message, error="refused")
        return self._unavailable(_primary(error))


class _Own:
    """A connection of its own, closed at the end; what it began and did not end is undone by that."""

    def __init__(self, connect: Callable[[], Awaitable[psycopg.AsyncConnection[Row]]]) -> None:
        self._connect = connect

    async def __aenter__(self) -> Ask:
        self._connection = await self._connect()
        return self._ask

    async def __aexit__(self, *_: object) -> None:
        await _close(self._connection)

    async def _ask(self, statement: str, params: Params | None = None) -> list[Row]:
        return await _rows(self._connection, statement, params)


def literal(value: str) -> str:
    """Return *value* as SQL writes it, where a parameter cannot stand."""
    return sql.Literal(value).as_string(None)


async def attempt(ask: Ask, statement: str) -> str:
    """Do *statement* within a transaction; return why the server refused, and undo it; empty if it did it."""
    await ask("SAVEPOINT attempt")
    try:
        await ask(statement)
    except psycopg.Error as error:
        if error.sqlstate is None:
            raise
        await ask("ROLLBACK TO SAVEPOINT attempt")
        return _primary(error)
    return ""


async def _rows(connection: psycopg.AsyncConnection[Row], statement: str, params: Params | None) -> list[Row]:
    # Binary: bytes come as they are instead of as twice as many digits.
    cursor = await connection.execute(statement.encode(), params, binary=params is not None)
    return await cursor.fetchall() if cursor.description else []


async def _close(connection: psycopg.AsyncConnection[Row]) -> None:
    with CancelScope(shield=True):
        await connection.close()


def _primary(error: psycopg.Error) -> str:
    """Return the first line of what the server or libpq says."""
    text = error.diag.message_primary or str(error) or type(error).__name__
    return text.strip().splitlines()[0][:200]


def _conninfo(config: LongConfig, secret: str, name: str) -> tuple[str, str]:
    parts: dict[str, Any] = conninfo_to_dict(config.records)
    hosts = str(parts.get("host") or "").split(",")
    if config.ca_file:
        parts["sslrootcert"] = str(config.ca_file)
    if "sslmode" not in parts and not all(map(is_near, hosts)):
        parts["sslmode"] = "verify-full"
    if parts.get("sslmode") == "verify-full":
        parts.setdefault("sslrootcert", "system")
    if secret:
        parts["password"] = secret
    limit_s = max(2, round(config.timeout_s))  # libpq takes no less
    parts |= {"connect_timeout": limit_s, "keepalives_idle": 30, "tcp_user_timeout": limit_s * 1000}
    parts.setdefault("application_name", name)
    where = f"{parts.get('dbname', '')} at {','.join(hosts) or 'this machine'}"
    return make_conninfo(**parts), where
