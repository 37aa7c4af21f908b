"""Texts to vectors, through whoever serves `embed` on this node; and doing without while nobody does."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import anyio
import msgspec

from sparkd import CallError, Context, Embed, MemoryRecord, MemoryVector, Privacy

from .pieces import pieces

PIECE, OVERLAP = 800, 120
"""Characters: MiniLM looks at 256 tokens, about a thousand characters of English."""
AT_ONCE = 16
AGAIN_S = 30.0
"""After it was not there, it is not asked for so long."""


@dataclass(slots=True)
class Meaning:
    """Makes vectors."""

    ctx: Context[Any]
    limit_s: float = 2.0
    reason: str = ""
    """Why there are none just now."""
    on_again: Callable[[], None] = field(default=lambda: None)
    """Called when there are some again."""
    _not_before: float = field(default=float("-inf"))

    async def model(self) -> str:
        """Return the name of the model. Raises CallError if nobody serves `embed`."""
        return (await self.ctx.call(Embed, deadline_s=self.limit_s).model()).model

    async def of_query(self, text: str, privacy: Privacy) -> tuple[str, bytes] | None:
        """Return the model and vector of a question; None if nobody makes one now."""
        made = await self._embed([text[: 4 * PIECE]], privacy)
        return None if made is None else (made[0], made[1][0])

    async def added(self, record: MemoryRecord) -> MemoryRecord:
        """Return *record* with the vectors of its text, if they can be had within the time; else as it is."""
        if not record.text.strip() or record.vectors:
            return record
        cuts = pieces(record.text, most=PIECE, overlap=OVERLAP)[:AT_ONCE]
        made = await self._embed([record.text[begin:end] for begin, end in cuts], Privacy(record.privacy))
        if made is None:
            return record
        model, vectors = made
        given = [
            MemoryVector(model=model, begin=begin, end=end, numbers=numbers)
            for (begin, end), numbers in zip(cuts, vectors, strict=True)
        ]
        return msgspec.structs.replace(record, vectors=given)

    async def _embed(self, texts: list[str], privacy: Privacy) -> tuple[str, list[bytes]] | None:
        if anyio.current_time() < self._not_before:
            return None
        try:
            made = await self.ctx.call(Embed, deadline_s=self.limit_s, privacy=privacy).texts(texts=texts)
        except CallError as error:
            self.reason = f"no vectors: {error.message}"
            self._not_before = anyio.current_time() + AGAIN_S
            return None
        if len(made.vectors) != len(texts):
            self.reason = f"no vectors: {len(made.vectors)} came for {len(texts)} texts"
            return None
        again, self.reason = bool(self.reason), ""
        if again:
            self.on_again()
        return made.model, made.vectors
