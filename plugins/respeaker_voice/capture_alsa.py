"""Sound from a sound card, by `arecord` as a child process.

Why not libasound by ctypes or a wheel around PortAudio: a read of a USB card that has gone, or whose driver hangs, can
block in the kernel beyond any timeout. In a thread that is a thread lost at each unplugging, and a process that does
not end; a child is killed and forgotten. PortAudio cannot name `hw:CARD=...` and fixes its list of cards at the start,
so it never sees a card that is plugged in again. `arecord` is in alsa-utils, which Raspberry Pi OS brings, needs no
compiler, and says on stderr what it lost. The price is a pipe: 192 kB/s of six channels are copied once more.

If nobody takes the sound, the pipe (64 KiB, a third of a second of six channels) and then the card's buffer (half a
second) fill; what is lost then, arecord tells, and it is counted.
"""

from __future__ import annotations

import os
import re
import subprocess
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import anyio
from anyio.abc import ByteReceiveStream, Process

from sparkd import DeviceError

from .chunks import CHUNK_FRAMES, SAMPLE_BYTES, Chunk, Cutter, Layout
from .microphone import RATE_HZ, MicrophoneConfig

PROGRAM = "arecord"
CHANNELS = (6, 2, 1)
"""What the firmwares of the arrays have; tried in this order."""
FIRST_SOUND_S = 5.0
SILENT_S = 2.0
"""A card that runs sends a period each 20 ms. One that sends nothing for this long hangs."""
STOP_S = 1.0
BUFFER_US, PERIOD_US = 500_000, 20_000
_OVERRUN = re.compile(r"overrun!!!")
_OTHER_CHANNELS = "Channels count non available"
_OTHER_RATE = "rate is not accurate"
_TOLD_CHARS = 4000
_REMEDIES = {
    "Device or resource busy": "another program records from it: fuser -v /dev/snd/*",
    "Permission denied": "usermod -aG audio sparkd, or SupplementaryGroups=audio in the unit",
    _OTHER_RATE: "hw: gives what the card has; use plughw: to convert, or a firmware with 16 kHz",
    "Sample format non available": "hw: gives what the card has; use plughw: to convert",
    _OTHER_CHANNELS: "set channels in the table microphone: arecord --dump-hw-params -D the device",
}
_PLUG_IN = "plug it in; arecord -l lists the cards"


class Recorder:
    """A running arecord."""

    def __init__(self, process: Process, errors: int, device: str) -> None:
        """Read sound from the process and what it complains of from the descriptor *errors*, which does not block."""
        self._process, self._errors, self._device = process, errors, device
        self._told = ""
        self.overruns = 0

    async def piece(self, limit_s: float) -> bytes:
        """Return the next bytes. Raises DeviceError if there are none within *limit_s*, or arecord has ended."""
        stdout = self._process.stdout
        assert isinstance(stdout, ByteReceiveStream)  # noqa: S101 - for the type checker; it was asked for
        try:
            with anyio.fail_after(limit_s):
                return await stdout.receive(1 << 16)
        except TimeoutError:
            text = f"{self._device} is open, and no sound came for {limit_s:g} s"
            raise DeviceError(text, remedy="unplug it and plug it in again") from None
        except (anyio.EndOfStream, anyio.BrokenResourceError, anyio.ClosedResourceError):
            with anyio.move_on_after(STOP_S):
                await self._process.wait()  # so that its last words are there
            self.listen_to_errors()
            raise self.failure() from None

    def listen_to_errors(self) -> None:
        """Take in what arecord said on stderr. Raises DeviceError if the sound is not what was asked for."""
        with suppress(BlockingIOError):
            while words := os.read(self._errors, 1 << 12):
                text = words.decode(errors="replace")
                self.overruns += len(_OVERRUN.findall(text))
                self._told = (self._told + text)[-_TOLD_CHARS:]
        if _OTHER_RATE in self._told:
            raise self.failure()

    def failure(self) -> DeviceError:
        """Return what arecord's last words mean."""
        lines = [line.strip() for line in self._told.splitlines() if line.strip() and not _OVERRUN.search(line)]
        why = next((line for line in lines if any(sign in line for sign in _REMEDIES)), lines[-1] if lines else "")
        remedy = next((remedy for sign, remedy in _REMEDIES.items() if sign in why), _PLUG_IN)
        return DeviceError(f"{self._device}: {why.removeprefix('arecord: ') or 'arecord ended'}", remedy=remedy)

    @property
    def refused_channels(self) -> bool:
        """Whether it ended because the card has another number of channels."""
        return _OTHER_CHANNELS in self._told


class AlsaMicrophone:
    """A sound card."""

    def __init__(self, recorder: Recorder, layout: Layout, first: bytes) -> None:
        """Read from *recorder*, whose first bytes have come already."""
        self.channels, self.processed, self.raw = layout.channels, layout.processed, layout.raw
        self._recorder, self._first = recorder, first

    @property
    def overruns(self) -> int:
        """How often the card's buffer ran over."""
        return self._recorder.overruns

    async def chunks(self) -> AsyncIterator[Chunk]:
        """Yield the sound until the card is gone: then DeviceError."""
        cutter, piece = Cutter(self.channels), self._first
        while True:
            now = time.monotonic()
            came_s = (len(cutter.kept) + len(piece)) / (SAMPLE_BYTES * self.channels * RATE_HZ)
            for index, pcm in enumerate(cutter.take(piece)):
                yield Chunk(pcm, now - came_s + index * CHUNK_FRAMES / RATE_HZ)
            self._recorder.listen_to_errors()
            piece = await self._recorder.piece(SILENT_S)


@asynccontextmanager
async def open_alsa(config: MicrophoneConfig) -> AsyncIterator[AlsaMicrophone]:
    """Open a sound card. Raises DeviceError if it is not there, busy, closed to us, or has other kinds of sound."""
    counts = (config.channels,) if config.channels else CHANNELS
    for index, channels in enumerate(counts):
        async with _recording(config.device, channels) as recorder:
            try:
                first = await recorder.piece(FIRST_SOUND_S)
            except DeviceError:
                if recorder.refused_channels and index + 1 < len(counts):
                    continue
                raise
            yield AlsaMicrophone(recorder, Layout.of(config, channels), first)
            return


@asynccontextmanager
async def _recording(device: str, channels: int) -> AsyncIterator[Recorder]:
    errors, theirs = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    command = [PROGRAM, "-q", "-t", "raw", "-f", "S16_LE", "-r", str(RATE_HZ), "-c", str(channels), "-D", device]
    command += [f"--buffer-time={BUFFER_US}", f"--period-time={PERIOD_US}"]
    try:
        process = await _started(command, theirs)
        try:
            yield Recorder(process, errors, device)
        finally:
            await _stop(process)
    finally:
        os.close(errors)


async def _started(command: list[str], errors: int) -> Process:
    environment = {**os.environ, "LC_ALL": "C"}  # its words are read
    try:
        return await anyio.open_process(command, stdin=subprocess.DEVNULL, stderr=errors, env=environment)
    except OSError as error:
        raise DeviceError(f"{PROGRAM}: {error.strerror}", remedy="apt install alsa-utils") from error
    finally:
        os.close(errors)


async def _stop(process: Process) -> None:
    """End it; kill it if it does not. One that hangs in the kernel is left behind."""
    with anyio.move_on_after(2 * STOP_S, shield=True):
        with suppress(ProcessLookupError):
            process.terminate()
        with anyio.move_on_after(STOP_S):
            await process.wait()
        if process.returncode is None:
            with suppress(ProcessLookupError):
                process.kill()
        await process.aclose()
