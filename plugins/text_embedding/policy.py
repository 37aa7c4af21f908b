"""What is taken, how tokens become a vector, what a model is called. Pure, but for numpy."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from sparkd import CallError, CallErrorKind

TEXTS_MOST = 64
CHARACTERS_MOST = 100_000
"""Of all texts of a call together."""
Floats = NDArray[np.float32]


@dataclass(frozen=True, slots=True, kw_only=True)
class Made:
    """What a backend says of itself."""

    model: str
    dimensions: int
    max_characters: int
    backend: str


class Backend(Protocol):
    """Turns texts into vectors. Both methods block."""

    @property
    def made(self) -> Made:
        """What it is."""
        ...

    def run(self, texts: Sequence[str]) -> Floats:
        """Return one row a text, of any length. Raises DeviceError."""
        ...


def check(texts: Sequence[str]) -> None:
    """Raise CallError for what is too much."""
    if not 0 < len(texts) <= TEXTS_MOST:
        raise CallError(
            CallErrorKind.INVALID_PARAMS, f"texts: from 1 to {TEXTS_MOST} expected, got {len(texts)}", field="texts"
        )
    size = sum(len(text) for text in texts)
    if size > CHARACTERS_MOST:
        text = f"texts: at most {CHARACTERS_MOST} characters together expected, got {size}"
        raise CallError(CallErrorKind.INVALID_PARAMS, text, field="texts")


def pooled(tokens: Floats, mask: NDArray[np.int64]) -> Floats:
    """Return the mean of the tokens that count, one row a text: so the model was trained (Reimers, Gurevych 2019).

    *tokens* has the shape (texts, tokens, dimensions), *mask* (texts, tokens) with 1 for what counts.
    """
    weights = mask[:, :, None].astype(np.float32)
    mean: Floats = (tokens * weights).sum(axis=1) / np.maximum(weights.sum(axis=1), 1e-9)
    return mean


def unit(rows: Floats) -> list[bytes]:
    """Return each row with the length 1, as 32-bit floats, little-endian. A row of zeros stays one."""
    length = np.linalg.norm(rows, axis=1, keepdims=True)
    scaled = (rows / np.maximum(length, 1e-12)).astype("<f4")
    return [row.tobytes() for row in scaled]


def name_of(name: str, *contents: bytes) -> str:
    """Return a model's name with a digest of what it is made of: vectors of two models are never compared."""
    digest = hashlib.sha256()
    for content in contents:
        digest.update(content)
    return f"{name}@{digest.hexdigest()[:12]}"
