"""Blobs as objects of an S3 server, through obstore; or in a folder, by `objects_folder`.

An upload in parts is invisible until it is completed, and so a blob is checked on its way to its final name. What a
process leaves that is killed meanwhile is invisible too, but costs space: give the bucket a lifecycle rule that aborts
uploads of a day ago (AbortIncompleteMultipartUpload), for obstore cannot list them.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import unquote, urlsplit

import obstore
from anyio import fail_after, to_thread
from obstore.exceptions import BaseError, PermissionDeniedError, UnauthenticatedError
from obstore.store import S3Store

from sparkd import CHUNK_BYTES, CallError, CallErrorKind

from .long_config import LongConfig
from .objects_checked import Objects, ObjectSeen, aside_key, in_chunks, missing, object_key
from .objects_folder import FolderObjects
from .record_store import DIGEST

T = TypeVar("T")
PART_BYTES = 5 << 20
"""The least that S3 takes as a part; 205 of them are 1 GiB, and 10,000 are allowed."""
PARTS_AT_ONCE = 3
"""With what is read ahead and copied, a writer takes about 25 MiB at the most."""
SLOWEST = 64 << 10
"""Bytes a second: a part that takes longer has failed."""
RETRIES = 2
"""Of each request that a server broke or answered by 5xx; obstore's own ten would take three minutes."""
CODE = re.compile(r"<Code>(\w{1,60})</Code>")
STATUS = re.compile(r"status code: (\d{3})")


async def open_objects(config: LongConfig, *, state_dir: Path) -> Objects:
    """Return the place for blobs that *config* names. Asks nothing of it. Fails with UNAVAILABLE for `ca_file`."""
    if not config.objects:
        return FolderObjects(state_dir / "objects")
    parts = urlsplit(config.objects)
    if parts.scheme == "file":
        return FolderObjects(Path(unquote(parts.path)))
    try:
        root = await to_thread.run_sync(config.ca_file.read_bytes) if config.ca_file else b""
    except OSError as error:
        message = f"ca_file: {config.ca_file}: {error.strerror}"
        raise CallError(CallErrorKind.UNAVAILABLE, message, remedy="name a file of certificates (PEM)") from error
    return S3Objects(config, root)


class S3Objects:
    """A bucket, or a part of one."""

    def __init__(self, config: LongConfig, root: bytes = b"") -> None:
        """Keep blobs where *config* says, trusting the certificates *root* too. Fails with UNAVAILABLE for bad ones."""
        self._where = f"{config.objects} at {config.endpoint or 'Amazon'}"
        self._limit_s = config.timeout_s
        try:
            self._store = _client(config, root, request_s=config.timeout_s)
            # A part is sent within one request, and a slow line needs its time for it.
            self._sender = _client(config, root, request_s=config.timeout_s + PART_BYTES / SLOWEST)
        except (BaseError, ValueError):
            message = f"no client for {self._where}: the URL or the certificates cannot be used"
            remedy = "look at objects, endpoint, region and ca_file"
            raise CallError(CallErrorKind.UNAVAILABLE, message, remedy=remedy) from None

    async def size(self, digest: str) -> int | None:
        """Return how large a blob's object is."""
        try:
            meta = await self._asked(lambda: obstore.head_async(self._store, object_key(digest)))
        except FileNotFoundError:
            return None
        return meta["size"]

    async def free(self) -> int | None:
        """Ask whether the server answers; it does not say what room it has."""
        await self.size("0" * 64)
        return None

    async def stream(self, digest: str, *, offset: int, length: int | None) -> AsyncIterator[bytes]:
        """Read an object; a part of it by a range."""
        if length is not None and length <= 0:
            if await self.size(digest) is None:
                raise missing(digest)
            return
        options: Any = {}
        if offset or length is not None:
            options = {"range": {"offset": offset} if length is None else (offset, offset + length)}
        try:
            got = await self._asked(lambda: obstore.get_async(self._store, object_key(digest), options=options))
        except FileNotFoundError:
            raise missing(digest) from None
        except _BeyondError:
            return  # the range begins at the end, or an empty object has none
        pieces = got.stream(min_chunk_size=CHUNK_BYTES)
        async for chunk in in_chunks(self._pieces(pieces)):
            yield chunk

    async def store(self, digest: str, *, size: int, chunks: AsyncIterator[bytes]) -> None:
        """Send an object; in parts if it is large, and none of them shows if *chunks* fails."""
        key, whole = object_key(digest), size <= PART_BYTES
        with self._said():
            if whole:
                parts = [chunk async for chunk in chunks]
                await obstore.put_async(self._sender, key, b"".join(parts), use_multipart=False)
            else:
                await obstore.put_async(
                    self._sender, key, chunks, chunk_size=PART_BYTES, max_concurrency=PARTS_AT_ONCE, use_multipart=True
                )

    async def delete(self, digest: str) -> None:
        """Delete an object."""
        await self._dropped(lambda: obstore.delete_async(self._store, object_key(digest)))

    async def set_aside(self, digest: str) -> None:
        """Copy an object to where people may look at it, and delete it."""
        old, new = object_key(digest), aside_key(digest)
        await self._dropped(lambda: obstore.rename_async(self._store, old, new))

    async def listed(self, after: str) -> AsyncIterator[ObjectSeen]:
        """List objects, a thousand at a time."""
        pages = self._store.list("blobs/", offset=object_key(after) if after else None, chunk_size=1000)
        while True:
            page = await self._asked(lambda: _next(pages))
            if page is None:
                return
            for meta in page:
                digest = meta["path"].rpartition("/")[2]
                if DIGEST.fullmatch(digest):
                    modified_ms = int(meta["last_modified"].timestamp() * 1000)
                    yield ObjectSeen(digest=digest, size=meta["size"], modified_ms=modified_ms)

    async def tidy(self, *, before_ms: int) -> None:
        """Leave it to the bucket's lifecycle rule."""

    async def _pieces(self, pieces: Any) -> AsyncIterator[bytes]:
        while (piece := await self._asked(lambda: _next(pieces))) is not None:
            yield bytes(piece)

    async def _asked(self, question: Callable[[], Awaitable[T]]) -> T:
        with self._said(), fail_after(self._limit_s):
            return await question()

    async def _dropped(self, question: Callable[[], Awaitable[object]]) -> None:
        with suppress(FileNotFoundError):
            await self._asked(question)

    @contextmanager
    def _said(self) -> Iterator[None]:
        """Turn obstore's errors into ours. Their text shows the key's name and the signed request, and is not kept."""
        try:
            yield
        except (PermissionDeniedError, UnauthenticatedError) as error:
            why = f"{self._where} refuses: {_reason(error)}"
            remedy = "look at access_key and secret_key, and at what they may do there; and at this node's clock"
            raise CallError(CallErrorKind.UNAVAILABLE, why, remedy=remedy) from None
        except FileNotFoundError as error:
            if _reason(error) != "NoSuchBucket":
                raise
            why = f"{self._where}: there is no such bucket"
            raise CallError(CallErrorKind.UNAVAILABLE, why, remedy="make the bucket") from None
        except (BaseError, TimeoutError, OSError) as error:
            reason = _reason(error)
            if reason == "InvalidRange":
                raise _BeyondError from None
            why = f"{self._where} does not answer: {reason}"
            remedy = "look at the server and the way to it; it is asked again with the next call"
            raise CallError(CallErrorKind.UNAVAILABLE, why, remedy=remedy) from None


class _BeyondError(Exception):
    """A range begins where an object ends, or later."""


def _reason(error: Exception) -> str:
    """Return what a server said, as its code alone: its texts repeat what was asked and by which key."""
    if isinstance(error, TimeoutError):
        return "no answer in time"
    text = str(error)
    if found := CODE.search(text):
        return found[1]
    if found := STATUS.search(text):
        return "InvalidRange" if found[1] == "416" else f"HTTP {found[1]}"
    for sign, why in (
        ("certificate", "its certificate is not trusted"),
        ("timed out", "no answer in time"),
        ("Connection refused", "connection refused"),
        ("dns error", "its name is not known"),
    ):
        if sign.lower() in text.lower():
            return why
    return "the connection failed"


async def _next(pages: Any) -> Any:
    try:
        return await anext(pages)
    except StopAsyncIteration:
        return None


def _client(config: LongConfig, root: bytes, *, request_s: float) -> S3Store:
    parts = urlsplit(config.objects)
    keys: dict[str, Any] = {"skip_signature": True}  # without keys, obstore would look for a cloud's own, for seconds
    if config.secret_key is not None:
        keys = {"access_key_id": config.access_key, "secret_access_key": config.secret_key.reveal()}
    if config.endpoint:
        keys["endpoint"] = config.endpoint
    options: dict[str, Any] = {
        "allow_http": config.allow_http,
        "connect_timeout": timedelta(seconds=config.timeout_s),
        "read_timeout": timedelta(seconds=request_s),
        "timeout": timedelta(hours=6),  # of a whole stream: 1 GiB at the slowest takes 4.6 h
    }
    if root:
        options["root_certificate"] = root
    return S3Store(
        parts.netloc,
        prefix=parts.path.strip("/") or None,
        region=config.region,
        client_options=options,  # type: ignore[arg-type] # a TypedDict
        retry_config={"max_retries": RETRIES, "retry_timeout": timedelta(seconds=config.timeout_s)},
        **keys,
    )
