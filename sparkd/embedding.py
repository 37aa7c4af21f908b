"""Meaning as numbers: the interface that turns text into vectors. Layer: values."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

from sparkd.interfaces import interface, reads


@dataclass(frozen=True, slots=True, kw_only=True)
class Embedded:
    """The vectors of texts."""

    model: str
    """Name and version: vectors of different models are never compared."""
    dimensions: int
    vectors: list[bytes]
    """One a text: 32-bit floats, little-endian, of length 1 together."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EmbedModel:
    """What turns text into vectors here."""

    model: str
    dimensions: int
    max_characters: int
    """About what it takes in at once; what is beyond is cut off."""
    backend: str
    languages: list[str] = field(default_factory=list)


@interface("embed")
class Embed(Protocol):
    """Turns text into vectors."""

    @reads
    async def texts(self, *, texts: list[str]) -> Embedded:
        """Return a vector for each of *texts* (at most 64)."""
        ...

    @reads
    async def model(self) -> EmbedModel:
        """Say what does it."""
        ...
