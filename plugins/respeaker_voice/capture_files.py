"""Sound from a WAV file or a named pipe: for recordings, for tests, and for programs that have the sound already."""

from __future__ import annotations

import os
import stat
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import BinaryIO

import anyio
import anyio.lowlevel
import anyio.to_thread

from sparkd import DeviceError

from .chunks import CHUNK_FRAMES, SAMPLE_BYTES, Chunk, Cutter, Layout
from .microphone import RATE_HZ, MicrophoneConfig
from .wav import read_head

READ_FRAMES = 20 * CHUNK_FRAMES
_PIPE_BYTES = 1 << 16


class FileMicrophone:
    """A WAV file that is played, in real time or as fast as it is read."""

    overruns = 0  # a file waits

    def __init__(self, file: BinaryIO, layout: Layout, *, data_bytes: int | None, paced: bool) -> None:
        """Read *data_bytes* from where *file* stands, or all of it."""
        self.channels, self.processed, self.raw = layout.channels, layout.processed, layout.raw
        self._file, self._left, self._paced = file, data_bytes, paced

    async def chunks(self) -> AsyncIterator[Chunk]:
        """Yield the file, first sample to last. Paced, a chunk comes when its last frame has been heard."""
        cutter, at = Cutter(self.channels), time.monotonic()
        while piece := await self._piece():
            for pcm in cutter.take(piece):
                yield await self._due(Chunk(pcm, at))
                at += len(pcm) / RATE_HZ
        rest = cutter.rest()
        if len(rest):
            yield await self._due(Chunk(rest, at))

    async def _piece(self) -> bytes:
        size = READ_FRAMES * self.channels * SAMPLE_BYTES
        size = size if self._left is None else min(size, self._left)
        try:
            piece = await anyio.to_thread.run_sync(self._file.read, size)
        except OSError as error:
            raise DeviceError(f"{self._file.name}: {error.strerror}", remedy="is its disk still there?") from error
        if self._left is not None:
            self._left -= len(piece)
        return piece

    async def _due(self, chunk: Chunk) -> Chunk:
        if self._paced:
            await anyio.sleep(max(0.0, chunk.at + len(chunk.pcm) / RATE_HZ - time.monotonic()))
        else:
            await anyio.lowlevel.checkpoint()
        return chunk


class PipeMicrophone:
    """Raw samples from a named pipe. Until somebody writes there is silence; when he goes, the microphone is gone."""

    overruns = 0  # the writer waits

    def __init__(self, descriptor: int, layout: Layout, name: str) -> None:
        """Read *descriptor*, which must not block."""
        self.channels, self.processed, self.raw = layout.channels, layout.processed, layout.raw
        self._descriptor, self._name = descriptor, name

    async def chunks(self) -> AsyncIterator[Chunk]:
        """Yield what is written. Raises DeviceError when the last writer closes the pipe."""
        cutter = Cutter(self.channels)
        while piece := await self._piece():
            now = time.monotonic()
            came_s = (len(cutter.kept) + len(piece)) / (SAMPLE_BYTES * self.channels * RATE_HZ)
            for index, pcm in enumerate(cutter.take(piece)):
                yield Chunk(pcm, now - came_s + index * CHUNK_FRAMES / RATE_HZ)
        raise DeviceError(f"{self._name}: who wrote into it has closed it", remedy="start the program that writes")

    async def _piece(self) -> bytes:
        # A pipe that nobody has written to yet has nothing to read; poll(2) tells its end only after a writer.
        while True:
            await anyio.wait_readable(self._descriptor)
            try:
                return os.read(self._descriptor, _PIPE_BYTES)
            except BlockingIOError:
                continue


@asynccontextmanager
async def open_file(config: MicrophoneConfig, path: Path) -> AsyncIterator[FileMicrophone]:
    """Open a WAV file. Raises DeviceError if it cannot be read or is of another kind."""
    file = await anyio.to_thread.run_sync(partial(_opened, path))
    try:
        head = await anyio.to_thread.run_sync(read_head, file, str(path))
        layout = Layout.of(config, head.channels)
        yield FileMicrophone(file, layout, data_bytes=head.data_bytes, paced=config.paced)
    finally:
        file.close()


@asynccontextmanager
async def open_pipe(config: MicrophoneConfig, path: Path) -> AsyncIterator[PipeMicrophone]:
    """Open a named pipe. Raises DeviceError if it is not there or is something else."""
    descriptor = _pipe(path)
    try:
        yield PipeMicrophone(descriptor, Layout.of(config, config.channels or 1), str(path))
    finally:
        os.close(descriptor)


def _opened(path: Path) -> BinaryIO:
    try:
        return path.open("rb")
    except OSError as error:
        raise DeviceError(f"{path}: {error.strerror}", remedy="correct path in the table microphone") from error


def _pipe(path: Path) -> int:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise DeviceError(f"{path}: {error.strerror}", remedy=f"mkfifo {path}") from error
    if stat.S_ISFIFO(os.fstat(descriptor).st_mode):
        return descriptor
    os.close(descriptor)
    raise DeviceError(f"{path} is not a named pipe", remedy="source = 'file' plays a WAV file; mkfifo makes a pipe")
