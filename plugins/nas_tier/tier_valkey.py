"""Tier 1: copies in Valkey or Redis, less than a millisecond away. Each has a time to live; nothing is at home here."""

from __future__ import annotations

import random
import ssl
from collections.abc import AsyncIterator, Awaitable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar, cast
from urllib.parse import urlsplit

import anyio
from redis.asyncio import BlockingConnectionPool, Connection, Redis, SSLConnection, UnixDomainSocketConnection
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import AuthenticationError, NoScriptError, RedisError

from sparkd import (
    CHUNK_BYTES,
    CallError,
    CallErrorKind,
    DeviceError,
    Log,
    MemoryRecord,
    TierAbout,
    TierChanges,
    TierMatch,
    TierPut,
    TierSwept,
    digest_of,
)

from .clock import wall_ms
from .valkey_child import embedded
from .valkey_config import ValkeyConfig
from .valkey_scripts import CAS, KEPT, PUT, escaped, packed, unpacked

T = TypeVar("T")
CONNECTIONS = 16
SCAN = 500
EVICTS = "volatile-"
"""What the policy of a server begins with that lets only copies go, and never what others keep there for good."""


class ValkeyTier:
    """Copies of records and small blobs."""

    def __init__(self, client: Redis, config: ValkeyConfig, where: str, log: Log) -> None:
        """Keep them by *client*, which is called *where* in what people read."""
        self._client = client
        self._config = config
        self._where = where
        self._log = log
        self._put = client.register_script(PUT)
        self._cas = client.register_script(CAS)

    def _name(self, namespace: str, key: str) -> str:
        return f"{self._config.prefix}r:{namespace}\0{key}"

    def _blob(self, digest: str) -> str:
        return f"{self._config.prefix}b:{digest}"

    async def _answer(self, deed: Awaitable[T]) -> T:
        """Return what the server answers. Raises CallError that it does not."""
        try:
            return await deed
        except (RedisError, OSError) as error:
            raise self._unavailable(error) from error

    def _unavailable(self, error: Exception) -> CallError:
        why = str(error) or type(error).__name__
        password = self._config.password
        if password is not None:
            why = why.replace(password.reveal(), "***")
        remedy = "look at `user` and `password`" if isinstance(error, AuthenticationError) else "look at the server"
        return CallError(CallErrorKind.UNAVAILABLE, f"{self._where}: {why[:200]}", remedy=remedy)

    async def about(self) -> TierAbout:
        """Say how the server is."""
        found: dict[str, Any] = await self._answer(self._client.info())
        most, used = int(found.get("maxmemory", 0)), int(found.get("used_memory", 0))
        policy = str(found.get("maxmemory_policy", ""))
        reason = ""
        if most and not policy.startswith(EVICTS):
            reason = f"its maxmemory-policy is {policy}; volatile-lru lets only copies go"
        return TierAbout(
            ident=str(found.get("run_id", "")),
            kind="valkey",
            records=await self._answer(self._client.dbsize()),
            bytes=used,
            free_bytes=max(most - used, 0) if most else None,
            reason=reason,
        )

    async def get(self, *, namespace: str, key: str) -> MemoryRecord | None:
        """Return the copy of a record."""
        name = self._name(namespace, key)
        stored = cast("bytes | None", await self._answer(self._client.get(name)))
        if stored is None:
            return None
        record = unpacked(stored)
        if record is None or (record.namespace, record.key) != (namespace, key):
            self._log.warning("what is no copy stood in the hot tier and was removed", where=self._where)
            await self._answer(self._client.delete(name))
            return None
        return record

    def _life_ms(self, record: MemoryRecord) -> int:
        """Return how long a copy stays: the usual time, but no longer than the record itself."""
        jitter = 1 + random.uniform(-self._config.ttl_jitter, self._config.ttl_jitter)
        life = int(min(self._config.ttl_s * jitter, self._config.ttl_most_s) * 1000)
        return max(min(life, record.hard_ms - wall_ms()), 1) if record.hard_ms else life

    async def put(self, *, record: MemoryRecord) -> TierPut:
        """Keep a copy if it is the newest of its key."""
        return await self._offer(self._put, record, [])

    async def cas(self, *, record: MemoryRecord, etag: str) -> TierPut:
        """Keep a copy if the one there is *etag*."""
        return await self._offer(self._cas, record, [etag])

    async def _offer(self, script: Any, record: MemoryRecord, more: list[str]) -> TierPut:
        name = self._name(record.namespace, record.key)
        given: list[Any] = [record.version, packed(record), self._life_ms(record), *more]
        try:
            there = await script(keys=[name], args=given)
        except NoScriptError:  # the server was started anew in between
            there = await self._answer(self._client.eval(script.script, 1, name, *given))
        except (RedisError, OSError) as error:
            raise self._unavailable(error) from error
        if there == KEPT:
            return TierPut(outcome="stored", winner=record.version)
        winner = there.decode("ascii", "replace")
        return TierPut(outcome="same" if winner == record.version else "older", winner=winner)

    async def history(self, *, namespace: str, key: str) -> list[MemoryRecord]:
        """Return the one version it has."""
        record = await self.get(namespace=namespace, key=key)
        return [] if record is None else [record]

    async def changes(self, *, cursor: str = "", limit: int = 500, whole: bool = False) -> TierChanges:
        """Return nothing: nothing is at home here."""
        del limit, whole
        return TierChanges(records=[], cursor=cursor)

    async def has(self, *, digest: str) -> bool:
        """Whether it has a blob."""
        return bool(await self._answer(self._client.exists(self._blob(digest))))

    async def read(self, *, digest: str, offset: int = 0, length: int | None = None) -> AsyncIterator[bytes]:
        """Stream a blob. Fails with `missing`, or `damaged` if it is not what it is called; then it is removed."""
        name = self._blob(digest)
        end = -1 if length is None else offset + length - 1
        value = b""
        if length != 0:
            value = cast("bytes", await self._answer(self._client.getrange(name, offset, end)))
        if not value and length != 0:
            raise CallError(CallErrorKind.FAILED, f"{self._where} has no blob {digest}", error="missing")
        if offset == 0 and length is None and digest_of(value) != digest:
            await self._answer(self._client.delete(name))
            raise CallError(CallErrorKind.FAILED, f"{self._where}: blob {digest} is damaged", error="damaged")
        for begin in range(0, len(value), CHUNK_BYTES):
            yield value[begin : begin + CHUNK_BYTES]

    async def write(self, *, digest: str, size: int, chunks: AsyncIterator[bytes]) -> None:
        """Keep a blob, if it is small enough."""
        most = self._config.largest_bytes
        held = bytearray()
        if size <= most:
            async for chunk in chunks:
                held += chunk
                if len(held) > size:
                    break
        if size > most or len(held) != size or digest_of(bytes(held)) != digest:
            text = f"a blob of up to {most} bytes that is its digest expected, got {len(held)} of {size} bytes"
            raise CallError(CallErrorKind.FAILED, text, error="refused")
        life_ms = int(self._config.ttl_most_s * 1000)
        await self._answer(self._client.set(self._blob(digest), bytes(held), px=life_ms))

    async def search(self, **_: object) -> list[TierMatch]:
        """Raise CallError: copies are not searched."""
        raise CallError(CallErrorKind.UNKNOWN_METHOD, "the hot tier is not searched")

    async def drop(self, *, namespace: str, keys: list[str]) -> int:
        """Forget copies of *keys*, of the namespace if there are none, of all if that is nothing; return how many."""
        if keys:
            names = [self._name(namespace, key) for key in keys]
            counts = [
                await self._answer(self._client.unlink(*names[begin : begin + SCAN]))
                for begin in range(0, len(names), SCAN)
            ]
            return sum(counts)
        pattern = escaped(f"{self._config.prefix}r:{namespace}\0" if namespace else f"{self._config.prefix}r:") + "*"
        cursor, count = 0, 0
        while True:
            cursor, found = await self._answer(self._client.scan(cursor, match=pattern, count=SCAN))
            if found:
                count += await self._answer(self._client.unlink(*found))
            if cursor == 0:
                return count

    async def sweep(
        self, *, now_ms: int, tombstones_before: str, history_before: str, history_most: int, scrub: int
    ) -> TierSwept:
        """Do nothing: everything here ends by itself."""
        del now_ms, tombstones_before, history_before, history_most, scrub
        return TierSwept()


@asynccontextmanager
async def open_valkey(config: ValkeyConfig, *, state_dir: Path, log: Log) -> AsyncIterator[ValkeyTier]:
    """Open the server that *config* names, or an embedded one. None is asked: it may come up later."""
    async with AsyncExitStack() as stack:
        address, where = config.url, _shown(config.url)
        if not address:
            try:
                path = await stack.enter_async_context(embedded(config, state_dir=state_dir, log=log))
                address, where = f"unix://{path}", "the embedded Valkey"
            except DeviceError as error:
                log.warning("there is no hot tier", reason=str(error), remedy=error.remedy)
                address, where = f"unix://{state_dir / 'no-valkey'}", str(error)
        client = _client(config, address)
        try:
            yield ValkeyTier(client, config, where, log)
        finally:
            with anyio.CancelScope(shield=True), anyio.move_on_after(1):
                await client.aclose(close_connection_pool=True)


def _shown(url: str) -> str:
    return url.partition("?")[0]


def _client(config: ValkeyConfig, address: str) -> Redis:
    given: dict[str, Any] = {
        "socket_timeout": max(config.timeout_s * 4, 1.0),
        "socket_connect_timeout": max(config.timeout_s * 4, 1.0),
        "retry": Retry(NoBackoff(), 0),
        "username": config.user or None,
        "password": None if config.password is None else config.password.reveal(),
    }
    kind: type[Any] = Connection
    if address.startswith("unix://"):
        kind = UnixDomainSocketConnection
        given["path"] = address.removeprefix("unix://")
    else:
        given |= _tcp(address)
        if address.startswith(("rediss://", "valkeys://")):
            kind = SSLConnection
            given |= {"ssl_ca_certs": None if config.ca_file is None else str(config.ca_file)}
            given |= {"ssl_min_version": ssl.TLSVersion.TLSv1_2}
    pool = BlockingConnectionPool(connection_class=kind, max_connections=CONNECTIONS, timeout=None, **given)
    return Redis.from_pool(pool)


def _tcp(address: str) -> dict[str, Any]:
    parts = urlsplit(address)
    database = parts.path.strip("/")
    return {"host": parts.hostname, "port": parts.port or 6379, "db": int(database) if database.isdigit() else 0}
