"""Origins: the method that makes what a namespace has not got. One call, however many ask, on however many nodes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import anyio

from sparkd import MAX_RECORD_VALUE, CallError, CallErrorKind, Context, MemoryRecord, Privacy

from .clock import VersionClock
from .namespaces import NamespaceConfig
from .places import Places
from .writing import Draft, Writing

LOCKS = "sparkd.locks"
"""The namespace of locks in the hot tier: a record that lives as long as an origin may take."""
LOOK_S = 0.05


@dataclass(slots=True)
class Origin:
    """Asks origins."""

    ctx: Context[Any]
    places: Places
    clock: VersionClock
    writing: Writing

    async def ask(self, namespace: str, key: str, config: NamespaceConfig) -> MemoryRecord | None:
        """Return what the origin of *namespace* makes of *key*, stored by now; None if it makes nothing."""
        lock = self._lock(namespace, key, config)
        hot = self.places.hot(int(config.reach))
        with anyio.move_on_after(config.origin_limit_s):
            while hot is not None and not await self._locks(lock):
                await anyio.sleep(LOOK_S)
                made = await self._made(namespace, key, config)
                if made is not None:
                    return made
        try:
            return await self._make(namespace, key, config)
        finally:
            if hot is not None:
                with anyio.CancelScope(shield=True):
                    await self._unlock(lock)

    def _lock(self, namespace: str, key: str, config: NamespaceConfig) -> MemoryRecord:
        now_ms = self.clock.now_ms()
        return MemoryRecord(
            namespace=LOCKS,
            key=f"{namespace}/{key}"[:400],
            version=self.clock.next(),
            value=b"",
            hard_ms=now_ms + int(config.origin_limit_s * 1000) + 1000,
            privacy=int(config.reach),
        )

    async def _locks(self, lock: MemoryRecord) -> bool:
        """Whether no other node makes it just now. Where nobody can say, nobody does."""
        hot = self.places.hot(lock.privacy)
        if hot is None:
            return True
        try:
            made = await hot.ask("cas", lambda tier: tier.cas(record=lock, etag=""))
        except CallError:
            return True
        return made.outcome in ("stored", "same")

    async def _unlock(self, lock: MemoryRecord) -> None:
        hot = self.places.hot(lock.privacy)
        if hot is not None:
            try:
                await hot.ask("drop", lambda tier: tier.drop(namespace=LOCKS, keys=[lock.key]))
            except CallError:
                return  # it ends by itself

    async def _made(self, namespace: str, key: str, config: NamespaceConfig) -> MemoryRecord | None:
        """Return what another node has made by now."""
        place = self.places.home(int(config.reach))
        if place is None:
            return None
        try:
            record = await place.ask("get", lambda tier: tier.get(namespace=namespace, key=key))
        except CallError:
            return None
        now_ms = self.clock.now_ms()
        fresh = record is not None and not record.deleted and not record.expired(now_ms)
        return record if record is not None and fresh and not 0 < record.soft_ms <= now_ms else None

    async def _make(self, namespace: str, key: str, config: NamespaceConfig) -> MemoryRecord | None:
        made = await self.ctx.request(
            config.origin, {"key": key}, deadline_s=config.origin_limit_s, privacy=Privacy(config.reach)
        )
        if made is None:
            return None
        if not isinstance(made, str | bytes):
            text = f"{config.origin} gave a {type(made).__name__} for {key[:60]!r}; bytes, text or nothing expected"
            raise CallError(CallErrorKind.FAILED, text, error="origin")
        value = made.encode() if isinstance(made, str) else made
        kind = "text/plain" if isinstance(made, str) else "application/octet-stream"
        draft = Draft(namespace=namespace, key=key, content_type=kind)
        if len(value) > MAX_RECORD_VALUE:
            await self.writing.put(draft, value, config)
            return await self._made(namespace, key, config)
        record = await self.writing.prepare(draft, config, value=value)
        await self.writing.keep([record])
        return record
