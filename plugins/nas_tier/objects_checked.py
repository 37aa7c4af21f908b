"""What is asked of a place for blobs, and the checks on their streams that every place makes alike."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Protocol

from sparkd import CHUNK_BYTES, MAX_VALUE_BYTES, CallError, CallErrorKind


@dataclass(frozen=True, slots=True, kw_only=True)
class ObjectSeen:
    """A blob in a list."""

    digest: str
    size: int
    modified_ms: int


class Objects(Protocol):
    """Keeps blobs under `blobs/ab/DIGEST`. Fails with UNAVAILABLE if it does not answer."""

    async def size(self, digest: str) -> int | None:
        """Return how large a blob is; None if there is none."""
        ...

    async def free(self) -> int | None:
        """Return how many bytes there is room for; None where nobody can say."""
        ...

    def stream(self, digest: str, *, offset: int, length: int | None) -> AsyncIterator[bytes]:
        """Stream a part of a blob, unchecked; to its end if there is no *length*. Fails with the error `missing`."""
        ...

    async def store(self, digest: str, *, size: int, chunks: AsyncIterator[bytes]) -> None:
        """Keep the checked *chunks* under *digest*, to be seen whole or not at all."""
        ...

    async def delete(self, digest: str) -> None:
        """Delete a blob; that there is none is no error."""
        ...

    async def set_aside(self, digest: str) -> None:
        """Move a damaged blob to `damaged/`; that there is none is no error."""
        ...

    def listed(self, after: str) -> AsyncIterator[ObjectSeen]:
        """List the blobs whose digest comes after *after*, in order."""
        ...

    async def tidy(self, *, before_ms: int) -> None:
        """Remove what writers left half written before that time, if the place cannot do it itself."""
        ...


def object_key(digest: str) -> str:
    """Return where a blob stands: 256 folders, so that none gets too large to list."""
    return f"blobs/{digest[:2]}/{digest}"


def aside_key(digest: str) -> str:
    """Return where a damaged blob is kept for people to look at; a second one replaces the first."""
    return f"damaged/{digest}"


async def checked_in(digest: str, size: int, chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """Pass on *chunks*. Fails with the error `refused` before the end if they are not *size* bytes of *digest*."""
    seen, sums = 0, hashlib.sha256()
    async for chunk in chunks:
        seen += len(chunk)
        if seen > size:
            raise _refused(f"more than the {size} bytes that were announced came for the blob {digest}")
        sums.update(chunk)
        if chunk:
            yield bytes(chunk)
    if seen != size:
        raise _refused(f"{seen} bytes came for the blob {digest}, and {size} were announced")
    if sums.hexdigest() != digest:
        raise _refused(f"what came for the blob {digest} has another SHA-256: {sums.hexdigest()}")


async def checked_out(digest: str, chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """Pass on a whole blob. Fails with the error `damaged` instead of the last chunk if it is another."""
    sums, held = hashlib.sha256(), b""
    async for chunk in chunks:
        if held:
            yield held
        sums.update(chunk)
        held = chunk
    if sums.hexdigest() != digest:
        message = f"the blob {digest} is damaged where it is stored: its SHA-256 is {sums.hexdigest()}"
        raise CallError(CallErrorKind.FAILED, message, error="damaged", remedy="a sweep sets it aside; write it again")
    if held:
        yield held


async def in_chunks(pieces: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """Pass on *pieces*, cut so that none is larger than `CHUNK_BYTES`."""
    async for piece in pieces:
        for start in range(0, len(piece), CHUNK_BYTES):
            yield piece[start : start + CHUNK_BYTES]


def check_blob(digest: str, size: int) -> None:
    """Fail with INVALID_PARAMS unless a blob can have this digest and size."""
    if len(digest) != 64 or any(letter not in "0123456789abcdef" for letter in digest):  # noqa: PLR2004 - said below
        message = "digest: 64 digits of lower-case hexadecimal expected"
        raise CallError(CallErrorKind.INVALID_PARAMS, message, field="digest")
    if not 0 <= size <= MAX_VALUE_BYTES:
        message = f"size: from 0 to {MAX_VALUE_BYTES} expected, got {size}"
        raise CallError(CallErrorKind.INVALID_PARAMS, message, field="size")


def missing(digest: str) -> CallError:
    """Return the error of a blob that is not there."""
    return CallError(CallErrorKind.FAILED, f"the tier has no blob {digest}", error="missing")


def _refused(message: str) -> CallError:
    return CallError(CallErrorKind.FAILED, message, error="refused", remedy="read it again from where it comes")
