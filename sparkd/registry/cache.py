"""Manifests kept from earlier runs, one file per content hash, so that a start need not import every plugin."""

from __future__ import annotations

from collections.abc import Collection
from contextlib import suppress
from pathlib import Path

import msgspec

from sparkd.registry.source import Manifests
from sparkd.service import Manifest

_decode = msgspec.msgpack.Decoder(Manifests).decode


class ManifestCache:
    """A folder of the daemon's own. Losing it, or any file of it, costs a probe; every method blocks."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def get(self, digest: str) -> tuple[Manifest, ...] | None:
        """Return the manifests of the content *digest*, or None if they are not known or the file is damaged."""
        try:
            return _decode(self._path(digest).read_bytes()).services
        except (OSError, msgspec.MsgspecError, ValueError, RecursionError):
            return None

    def put(self, digest: str, manifests: tuple[Manifest, ...]) -> None:
        """Keep *manifests*; if the disk refuses they are probed again next time."""
        path = self._path(digest)
        draft = path.with_suffix(".new")
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            draft.write_bytes(msgspec.msgpack.encode(Manifests(manifests)))
            draft.replace(path)
        except OSError:
            with suppress(OSError):
                draft.unlink()

    def prune(self, keep: Collection[str]) -> None:
        """Remove what belongs to none of the digests *keep*."""
        wanted = {self._path(digest) for digest in keep}
        try:
            stale = [path for path in self._folder.iterdir() if path not in wanted]
        except OSError:
            return
        for path in stale:
            with suppress(OSError):
                path.unlink()

    def _path(self, digest: str) -> Path:
        return self._folder / f"{digest}.manifests"
