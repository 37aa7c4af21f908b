"""Where answers are heard: a sound card by `aplay`, WAV files in a folder, or nowhere.

A child process plays, for the reason that one records (`capture_alsa`): a card that hangs takes a child with it that
can be killed, not a thread that cannot. Killing it is also what makes an interruption immediate.
"""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing, suppress
from pathlib import Path
from typing import Protocol

import anyio
import anyio.to_thread
import numpy as np
from anyio.abc import Process

from sparkd import DeviceError, Sound

from .answer_config import PlaybackConfig
from .keeping import wav

PROGRAM = "aplay"
PIECE_S = 0.1
STALL_S = 5.0
"""A card takes sound as fast as it is heard, and has half a second of buffer. One that takes none for so long hangs."""
STOP_S = 1.0
KEPT_FILES = 100
Started = Callable[[], None]


class Player(Protocol):
    """Where sound goes."""

    async def play(self, sounds: AsyncIterator[Sound], *, started: Started) -> None:
        """Play *sounds* to their end; *started* is called with the first. Raises DeviceError, and what they raise."""
        ...


class Silent:
    """No loudspeaker: answers are made and traced, and not heard."""

    async def play(self, sounds: AsyncIterator[Sound], *, started: Started) -> None:
        """Take *sounds*."""
        begun = False
        async for sound in sounds:
            if sound.pcm and not begun:
                begun = True
                started()


class Files:
    """A folder: each answer becomes a WAV file, the newest hundred are kept."""

    def __init__(self, folder: Path) -> None:
        """Write into *folder*."""
        self._folder = folder

    async def play(self, sounds: AsyncIterator[Sound], *, started: Started) -> None:
        """Write *sounds* into a file, at once."""
        pcm, rate_hz = bytearray(), 0
        async for sound in sounds:
            if sound.pcm and not pcm:
                started()
            pcm += sound.pcm
            rate_hz = sound.rate_hz
        if not pcm:
            return
        try:
            await anyio.to_thread.run_sync(self._write, wav(bytes(pcm), rate_hz))
        except OSError as error:
            text = f"the answer cannot be written: {self._folder}: {error.strerror}"
            raise DeviceError(text, remedy="free space there, or set another path in the table playback") from error

    def _write(self, content: bytes) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        files = sorted(self._folder.glob("answer-*.wav"))
        for path in files[: max(0, len(files) - KEPT_FILES + 1)]:
            path.unlink(missing_ok=True)
        part = self._folder / ".answer.part"
        try:
            part.write_bytes(content)
            part.rename(self._folder / f"answer-{time.time_ns()}.wav")
        finally:
            part.unlink(missing_ok=True)


class Card:
    """A sound card. What is played is cut off at once when the task is cancelled."""

    def __init__(self, device: str) -> None:
        """Play on *device*, an ALSA name. A bare `hw:` would take no other rate than its own, or play too fast."""
        self._device = f"plug{device}" if device.startswith("hw:") else device

    async def play(self, sounds: AsyncIterator[Sound], *, started: Started) -> None:
        """Play *sounds*; another rate in the midst of them begins anew."""
        process: Process | None = None
        rate_hz, begun = 0, False
        try:
            async for sound in sounds:
                if not sound.pcm:
                    continue
                if process is None or sound.rate_hz != rate_hz:
                    if process is not None:
                        await self._finish(process)
                    rate_hz = sound.rate_hz
                    process = await self._open(rate_hz)
                await self._write(process, sound.pcm, rate_hz)
                if not begun:
                    begun = True
                    started()
            if process is not None:
                await self._finish(process)
        finally:
            if process is not None:
                await _end(process)

    async def _open(self, rate_hz: int) -> Process:
        command = [PROGRAM, "-q", "-t", "raw", "-f", "S16_LE", "-c", "1", "-r", str(rate_hz), "-D", self._device]
        command += ["--buffer-time=500000"]
        try:
            return await anyio.open_process(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                env={**os.environ, "LC_ALL": "C"},  # its words are read
            )
        except OSError as error:
            raise DeviceError(f"{PROGRAM}: {error.strerror}", remedy="apt install alsa-utils") from error

    async def _write(self, process: Process, pcm: bytes, rate_hz: int) -> None:
        size = 2 * max(1, round(rate_hz * PIECE_S))
        for begin in range(0, len(pcm), size):
            try:
                with anyio.fail_after(STALL_S):
                    await process.stdin.send(pcm[begin : begin + size])  # type: ignore[union-attr]  # it was asked for
            except TimeoutError:
                text = f"{self._device} took no sound for {STALL_S:g} s"
                raise DeviceError(text, remedy="unplug it and plug it in again") from None
            except (anyio.BrokenResourceError, anyio.ClosedResourceError, OSError):
                raise await self._failure(process) from None

    async def _finish(self, process: Process) -> None:
        """Let it play what it has."""
        await process.stdin.aclose()  # type: ignore[union-attr]  # it was asked for
        try:
            with anyio.fail_after(STALL_S):
                await process.wait()
        except TimeoutError:
            raise DeviceError(f"{self._device} does not end", remedy="unplug it and plug it in again") from None
        if process.returncode:
            raise await self._failure(process)

    async def _failure(self, process: Process) -> DeviceError:
        told = b""
        with anyio.move_on_after(STOP_S), suppress(anyio.EndOfStream, anyio.BrokenResourceError):
            while len(told) < 4000:  # noqa: PLR2004 - more than it ever says
                told += await process.stderr.receive(4000)  # type: ignore[union-attr]  # it was asked for
        lines = [line.strip().removeprefix("aplay: ") for line in told.decode(errors="replace").splitlines()]
        why = next((line for line in lines if line), "aplay ended")
        busy = "another program plays on it: fuser -v /dev/snd/*" if "busy" in why else "aplay -L lists the devices"
        return DeviceError(f"{self._device}: {why}", remedy=busy)


class Louder:
    """Another player, at another volume."""

    def __init__(self, inner: Player, volume_db: float) -> None:
        """Play by *inner*, louder by *volume_db*."""
        self._inner, self._factor = inner, 10 ** (volume_db / 20)

    async def play(self, sounds: AsyncIterator[Sound], *, started: Started) -> None:
        """Play *sounds*."""

        async def changed() -> AsyncGenerator[Sound, None]:
            async for sound in sounds:
                yield Sound(pcm=self._changed(sound.pcm), rate_hz=sound.rate_hz)

        async with aclosing(changed()) as louder:
            await self._inner.play(louder, started=started)

    def _changed(self, pcm: bytes) -> bytes:
        samples = np.frombuffer(pcm[: len(pcm) // 2 * 2], "<i2").astype(np.float32) * self._factor
        return bytes(np.clip(np.rint(samples), -32_768, 32_767).astype("<i2").tobytes())


def player(config: PlaybackConfig) -> Player:
    """Return where *config* wants answers to be heard."""
    made: Player = Silent()
    if config.kind == "alsa":
        made = Card(config.device)
    elif config.kind == "file" and config.path is not None:
        made = Files(config.path)
    return Louder(made, config.volume_db) if config.volume_db else made


async def _end(process: Process) -> None:
    """Kill it if it has not ended. One that hangs in the kernel is left behind."""
    with anyio.move_on_after(STOP_S, shield=True):
        if process.returncode is None:
            with suppress(ProcessLookupError):
                process.kill()
            await process.wait()
        await process.aclose()
