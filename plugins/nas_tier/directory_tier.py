"""Tier 2: a folder that all nodes of a site share. Every call runs in a bounded thread, within its time."""

from __future__ import annotations

import json
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import TypeVar

import anyio

from sparkd import (
    CHUNK_BYTES,
    CallError,
    CallErrorKind,
    Log,
    MemoryRecord,
    TierAbout,
    TierChanges,
    TierMatch,
    TierPut,
    TierSwept,
)

from . import directory_records as records
from .bounded import BoundedThreads
from .directory_blobs import Incoming, Outgoing, has
from .directory_changes import ChangeLog, changes
from .directory_config import DirectoryConfig
from .directory_files import Layout, make_folder, read_whole, write_file
from .directory_sweep import Sweep, read_floor
from .mount import MountState, look

T = TypeVar("T")
CACHE = "prime-spark-cache"
BESIDE = ("models", "data")
FORMAT = 1
LOOK_S = 5.0
SWEEP_LIMIT_S = 3600.0


class DirectoryTier:
    """Records and blobs in a folder."""

    def __init__(self, config: DirectoryConfig, node_id: str, log: Log) -> None:
        """Use the folder that *config* names; it is looked at with the first call."""
        self._config = config
        self._log = log
        self._layout = Layout(config.path / CACHE)
        self._own_log = ChangeLog(self._layout, node_id)
        self._threads = BoundedThreads(config.threads, limit_s=config.timeout_s, where=str(config.path))
        self._logging = anyio.Lock()
        self._looked = (float("-inf"), MountState())
        self._floor = ""

    def close(self) -> None:
        """Let go of threads."""
        self._threads.close()

    async def _run(self, call: Callable[..., T], *given: object, limit_s: float | None = None) -> T:
        try:
            return await self._threads.run(call, *given, limit_s=limit_s)
        except OSError as error:
            self._looked = (float("-inf"), MountState())
            text = f"{self._config.path}: {error.strerror or error}"
            raise CallError(
                CallErrorKind.UNAVAILABLE, text, remedy="look at the NAS, its mount and its room"
            ) from error
        except ValueError as error:
            raise CallError(CallErrorKind.INVALID_PARAMS, str(error), field="digest") from error

    async def _check_writable(self) -> None:
        """Raise CallError if nothing may be written now."""
        at, state = self._looked
        if anyio.current_time() - at > LOOK_S:
            state = await self._run(partial(_prepared, self._config, self._layout))
            self._floor = await self._run(read_floor, self._layout) if state.writable else self._floor
            self._looked = (anyio.current_time(), state)
        if not state.writable:
            raise CallError(CallErrorKind.UNAVAILABLE, state.reason, remedy=state.remedy)

    async def about(self) -> TierAbout:
        """Say how it is."""
        state = await self._run(partial(_prepared, self._config, self._layout))
        self._looked = (anyio.current_time(), state)
        ident, floor = await self._run(_ident, self._layout)
        if not ident:
            reason = state.reason or f"{self._layout.root} is not laid out yet"
            raise CallError(CallErrorKind.UNAVAILABLE, reason, remedy=state.remedy or "make room, or mount the NAS")
        self._floor = floor
        return TierAbout(
            ident=ident,
            kind="directory",
            floor=floor,
            free_bytes=state.free_bytes,
            writable=state.writable,
            reason=state.reason,
        )

    async def get(self, *, namespace: str, key: str) -> MemoryRecord | None:
        """Return the newest record of a key."""
        record = await self._run(records.read_head, self._layout, namespace, key)
        if record is None and self._config.mount:
            await self._check_mounted()
        return record

    async def _check_mounted(self) -> None:
        """Nothing found in a folder that nothing is mounted at says nothing."""
        state = await self._run(look, self._config)
        if not state.writable and state.free_bytes is None:
            raise CallError(CallErrorKind.UNAVAILABLE, state.reason, remedy=state.remedy)

    async def put(self, *, record: MemoryRecord) -> TierPut:
        """Keep a record."""
        return await self._kept(record, partial(records.put, self._layout, record))

    async def cas(self, *, record: MemoryRecord, etag: str) -> TierPut:
        """Keep a record on a condition."""
        return await self._kept(record, partial(records.cas, self._layout, record, etag))

    async def _kept(self, record: MemoryRecord, deed: Callable[[str], TierPut]) -> TierPut:
        await self._check_writable()
        if record.is_blob and not await self._run(has, self._layout, record.digest):
            text = f"its value, blob {record.digest}, is not here; it is written first"
            raise CallError(CallErrorKind.FAILED, text, error="missing")
        made = await self._run(deed, self._floor)
        if made.outcome == "stored":
            async with self._logging:
                await self._run(self._own_log.add, record)
        return made

    async def history(self, *, namespace: str, key: str) -> list[MemoryRecord]:
        """Return what is kept of a key."""
        return await self._run(records.history, self._layout, namespace, key)

    async def changes(self, *, cursor: str = "", limit: int = 500, whole: bool = False) -> TierChanges:
        """Return what changed."""
        if self._config.mount:
            await self._check_mounted()
        deed = partial(changes, self._layout, cursor, limit=min(max(limit, 1), 5000), whole=whole)
        return await self._run(deed, limit_s=self._config.timeout_s * 6)

    async def has(self, *, digest: str) -> bool:
        """Whether it has a blob."""
        return await self._run(has, self._layout, digest)

    async def read(self, *, digest: str, offset: int = 0, length: int | None = None) -> AsyncIterator[bytes]:
        """Stream a blob."""
        blob, chunk = await self._run(_opened, self._layout, digest, offset, length)
        try:
            while chunk:
                yield chunk
                chunk = await self._run(blob.next)
        finally:
            with suppress(CallError), anyio.CancelScope(shield=True):
                await self._run(blob.close)

    async def write(self, *, digest: str, size: int, chunks: AsyncIterator[bytes]) -> None:
        """Store a blob."""
        await self._check_writable()
        if await self._run(has, self._layout, digest):
            return
        blob = await self._run(Incoming, self._layout, digest, size)
        try:
            async for chunk in chunks:
                await self._run(blob.add, chunk)
            await self._run(blob.finish)
        finally:
            with suppress(CallError), anyio.CancelScope(shield=True):
                await self._run(blob.give_up)

    async def search(
        self,
        *,
        namespaces: list[str],
        text: str = "",
        vector: bytes = b"",
        model: str = "",
        tags: list[str],
        content_types: list[str],
        now_ms: int,
        limit: int = 10,
    ) -> list[TierMatch]:
        """Raise CallError: each node has an index of its own."""
        del namespaces, text, vector, model, tags, content_types, now_ms, limit
        raise CallError(CallErrorKind.UNKNOWN_METHOD, "a folder is not searched; each node has an index of it")

    async def drop(self, *, namespace: str, keys: list[str]) -> int:
        """Forget nothing: what is here is at home here."""
        del namespace, keys
        return 0

    async def sweep(
        self, *, now_ms: int, tombstones_before: str, history_before: str, history_most: int, scrub: int
    ) -> TierSwept:
        """Clean once."""
        await self._check_writable()
        sweep = Sweep(self._layout, now_ms, tombstones_before, history_before, history_most, scrub)
        return await self._run(sweep.run, limit_s=SWEEP_LIMIT_S)


def _opened(layout: Layout, digest: str, offset: int, length: int | None) -> tuple[Outgoing, bytes]:
    """Open a blob and read its first bytes: one trip instead of two."""
    blob = Outgoing(layout, digest, offset, length, CHUNK_BYTES)
    try:
        return blob, blob.next()
    except BaseException:
        blob.close()
        raise


def _prepared(config: DirectoryConfig, layout: Layout) -> MountState:
    """Return how the folder is; lay it out if it is new."""
    if not config.mount:
        with suppress(OSError):
            make_folder(config.path)
    state = look(config)
    if state.writable and not layout.about.exists():
        for name in BESIDE:
            make_folder(config.path / name)
        make_folder(layout.root)
        _make_ident(layout)
    return state


def _make_ident(layout: Layout) -> None:
    """Give the tier its name; of two nodes that do so at once, the first is right."""
    part = layout.root / f".tier-{os.urandom(8).hex()}"
    write_file(part, json.dumps({"ident": os.urandom(16).hex(), "format": FORMAT, "floor": ""}).encode())
    try:
        os.link(part, layout.about)
    except FileExistsError:
        pass
    except OSError:  # a file system without hard links, such as some SMB servers
        if not layout.about.exists():
            part.replace(layout.about)
    finally:
        part.unlink(missing_ok=True)


def _ident(layout: Layout) -> tuple[str, str]:
    """Return the tier's name and floor; nothing if it has none yet. Raises ValueError for what is no tier."""
    try:
        found = json.loads(read_whole(layout.about))
    except FileNotFoundError:
        return "", ""
    if not isinstance(found, dict) or found.get("format") != FORMAT or not isinstance(found.get("ident"), str):
        raise OSError(None, f"{layout.about} is not what this version of sparkd lays out")
    return found["ident"], str(found.get("floor", ""))


@asynccontextmanager
async def open_directory(config: DirectoryConfig, *, node_id: str, log: Log) -> AsyncIterator[DirectoryTier]:
    """Open the folder that *config* names. It is not looked at yet: a NAS that is away must not hold up a start."""
    tier = DirectoryTier(config, node_id, log)
    try:
        yield tier
    finally:
        tier.close()
