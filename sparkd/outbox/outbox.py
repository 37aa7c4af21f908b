"""The outbox of a service: its own streams to write, everybody's to read."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

from anyio import to_thread

from sparkd.errors import LocalMessageError, StorageError
from sparkd.outbox.clock import clock_is_synchronised
from sparkd.outbox.files import Files
from sparkd.outbox.inspect import list_streams
from sparkd.outbox.reader import Reader, open_reader
from sparkd.outbox.trim import Limits
from sparkd.outbox.watch import Watch
from sparkd.outbox.writer import Writer, open_writer
from sparkd.service import NAME


class DiskOutbox:
    """Implements `sparkd.service.Outbox` over a folder."""

    def __init__(
        self,
        root: Path,
        *,
        node_id: str,
        service: str,
        limits: Limits,
        clock_is_synchronised: Callable[[], bool] = clock_is_synchronised,
    ) -> None:
        """Keep the streams beneath *root*, shared by all services of the node; write as *service*."""
        self.node_id = node_id
        self._root, self._service, self._limits = root, service, limits
        self._clock_is_synchronised = clock_is_synchronised

    @asynccontextmanager
    async def writer(self, stream: str) -> AsyncIterator[Writer]:
        """Open this service's stream for writing. Raises StorageError, LocalMessageError for a malformed name."""
        files = self._files(self._service, stream)
        async with open_writer(files, self._limits, self.node_id) as writer:
            yield writer

    @asynccontextmanager
    async def reader(self, service: str, stream: str, *, name: str) -> AsyncIterator[Reader]:
        """Open a stream for the reader *name*. Raises StorageError if there is no such stream."""
        files = self._files(service, stream)
        _check_name("reader", name)
        if not files.folder.is_dir():
            raise StorageError(f"{files.folder}: no such stream; try: sparkctl outbox")
        opened = open_reader(
            files, name, node_id=self.node_id, limits=self._limits, clock_is_synchronised=self._clock_is_synchronised
        )
        async with opened as reader:
            yield reader

    async def streams(self) -> list[tuple[str, str]]:
        """Return every (service, stream) of this node."""
        return await to_thread.run_sync(list_streams, self._root)

    @asynccontextmanager
    async def watch(self) -> AsyncIterator[AsyncIterator[list[tuple[str, str]]]]:
        """Iterate over the list of streams: as it is, then after each change."""
        await to_thread.run_sync(lambda: self._root.mkdir(mode=0o750, parents=True, exist_ok=True))
        with Watch() as watch:
            yield self._changes(watch)

    async def _changes(self, watch: Watch) -> AsyncIterator[list[tuple[str, str]]]:
        known: list[tuple[str, str]] | None = None
        while True:
            watch.folder(self._root)
            for folder in self._root.iterdir():
                watch.folder(folder)
                for stream in folder.iterdir() if folder.is_dir() else ():
                    watch.folder(stream)  # a stream is one once its identity is there
            found = await self.streams()
            if found != known:
                known = found
                yield found
            else:
                await watch.changed()

    def _files(self, service: str, stream: str) -> Files:
        _check_name("service", service)
        _check_name("stream", stream)
        return Files(self._root / service / stream)


def open_outbox(root: Path, *, node_id: str, service: str, limits: Limits | None = None) -> DiskOutbox:
    """Return the outbox beneath *root* for *service*; nothing is opened yet."""
    return DiskOutbox(root, node_id=node_id, service=service, limits=limits or Limits())


def _check_name(what: str, name: str) -> None:
    if not NAME.fullmatch(name):
        raise LocalMessageError(f"{what} name {name!r}: lower-case words joined by hyphens expected")
