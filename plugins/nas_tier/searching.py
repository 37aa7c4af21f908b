"""Searching: this node's own index, and tier 3 for what is shared, by words and by meaning together."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, TypeVar

import anyio
import anyio.lowlevel
import anyio.to_thread

from sparkd import CallError, MemoryFound, MemoryMatch, MemoryRecord, Privacy, TierMatch

from .catalogue import Catalogue
from .clock import wall_ms
from .heads import public_head
from .meaning import Meaning
from .places import Place, Places
from .search_index import SearchIndex, fuse

T = TypeVar("T")
FAR_LIMIT_S = 2.0
OVER = 4
"""So many times what is asked for is looked at: what changed since it was indexed drops out."""
PIECE_MOST = 400
LACKING = 50
"""Texts that are read at once to be embedded."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """What is looked for."""

    text: str = ""
    vector: bytes = b""
    model: str = ""
    namespaces: list[str]
    tags: list[str] = field(default_factory=list)
    content_types: list[str] = field(default_factory=list)
    limit: int = 10

    def filters(self) -> dict[str, Any]:
        """Return what the index leaves out before it takes the best."""
        return {
            "namespaces": self.namespaces,
            "tags": self.tags,
            "content_types": self.content_types,
            "now_ms": wall_ms(),
            "limit": self.limit * OVER,
        }


class Searching:
    """Finds values."""

    def __init__(self, index: SearchIndex, catalogue: Catalogue, places: Places, meaning: Meaning) -> None:
        """Look into *index*, and into tier 3 of *places*."""
        self._index = index
        self._catalogue = catalogue
        self._places = places
        self._meaning = meaning
        self._limiter = anyio.CapacityLimiter(1)

    async def note(self, records: list[MemoryRecord]) -> None:
        """Bring the index up to date with *records*."""
        for record in records:
            await self._run(partial(self._index.put, await self._meaning.added(record)))

    async def noted(self, records: list[MemoryRecord]) -> dict[tuple[str, str], str]:
        """Return which versions of the keys of *records* were noted, as far as any was."""
        return await self._run(partial(self._index.noted, [(one.namespace, one.key) for one in records]))

    async def embed_some(self, after: int) -> int | None:
        """Give vectors to some texts that have none, behind the number *after*; return where to go on.

        None if all have some, or nobody embeds now.
        """
        rows = await self._run(partial(self._index.lacking, after, LACKING))
        for _, record in rows:
            made = await self._meaning.added(record)
            if made.vectors:
                await self._run(partial(self._index.put, made))
            elif self._meaning.reason:
                return None
        return rows[-1][0] if rows else None

    async def sweep(self, now_ms: int, tombstones_before: str) -> None:
        """Forget what has expired, and old tombstones."""
        while await self._run(partial(self._index.sweep, now_ms, tombstones_before)):
            await anyio.lowlevel.checkpoint()

    async def find(self, question: Question, shared: list[str], privacy: Privacy) -> MemoryFound:
        """Find what *question* asks; *shared* are those of its namespaces that are in tier 3 too."""
        reason = ""
        if question.text and not question.vector:
            made = await self._meaning.of_query(question.text, privacy)
            if made is not None:
                question = replace(question, model=made[0], vector=made[1])
            reason = self._meaning.reason
        near: list[TierMatch] = []
        words: list[TierMatch] = []
        filters = question.filters()
        if question.vector:
            near = await self._run(partial(self._index.near, question.vector, question.model, **filters))
        if question.text:
            words = await self._run(partial(self._index.words, question.text, **filters))
        (far_near, far_words), why = await self._far(question, shared)
        found = fuse(_best(near + far_near), _best(words + far_words), question.limit * OVER)
        by = [name for name, given in (("vectors", question.vector), ("words", question.text)) if given]
        matches = await self._present(found, question)
        return MemoryFound(matches=matches, by=by, reason="; ".join(one for one in (reason, why) if one))

    async def _far(self, question: Question, shared: list[str]) -> tuple[tuple[list[TierMatch], list[TierMatch]], str]:
        """Ask tier 3, which has what this node may not know yet."""
        place = self._places.home(Privacy.SHARED)
        if place is None or place.level < 3 or not shared or place.open:  # noqa: PLR2004 - the long one
            return ([], []), ""
        answers: list[list[TierMatch]] = [[], []]
        why = ""

        async def ask(slot: int, text: str, vector: bytes) -> None:
            nonlocal why
            try:
                answers[slot] = await self._ask(place, question, shared, text, vector)
            except CallError as error:
                why = f"tier {place.name}: {error.message}"

        async with anyio.create_task_group() as tasks:
            if question.vector:
                tasks.start_soon(ask, 0, "", question.vector)
            if question.text:
                tasks.start_soon(ask, 1, question.text, b"")
        return (answers[0], answers[1]), why

    async def _ask(
        self, place: Place, question: Question, shared: list[str], text: str, vector: bytes
    ) -> list[TierMatch]:
        found: list[TierMatch] = await place.ask(
            "search",
            lambda tier: tier.search(
                namespaces=shared,
                text=text,
                vector=vector,
                model=question.model if vector else "",
                tags=question.tags,
                content_types=question.content_types,
                now_ms=wall_ms(),
                limit=question.limit * OVER,
            ),
            limit_s=FAR_LIMIT_S,
        )
        return found

    async def _present(self, found: list[TierMatch], question: Question) -> list[MemoryMatch]:
        """Leave out what is not so any more."""
        matches: list[MemoryMatch] = []
        for match in found:
            record = match.record
            known = await self._catalogue.run(self._catalogue.head, record.namespace, record.key)
            replaced = known is not None and known.version > record.version
            if known is not None and replaced and (known.deleted or known.digest != record.digest):
                continue
            head = known if known is not None and known.version >= record.version else record
            if head.deleted or head.expired(wall_ms()) or record.namespace not in question.namespaces:
                continue
            piece = record.text[match.begin : match.end] if match.end else record.text
            matches.append(MemoryMatch(head=public_head(head), score=match.score, text=piece[:PIECE_MOST]))
            if len(matches) >= question.limit:
                break
        return matches

    async def _run(self, deed: Callable[[], T]) -> T:
        return await anyio.to_thread.run_sync(deed, limiter=self._limiter)


def _best(matches: list[TierMatch]) -> list[TierMatch]:
    """Return each key once, at its best, in order."""
    best: dict[tuple[str, str], TierMatch] = {}
    for match in matches:
        name = (match.record.namespace, match.record.key)
        if name not in best or match.score > best[name].score:
            best[name] = match
    return sorted(best.values(), key=lambda match: -match.score)
