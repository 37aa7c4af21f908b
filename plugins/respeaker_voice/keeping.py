"""The sound of utterances on this machine's disk, if config wants it: bounded in number, size and age."""

from __future__ import annotations

import io
import time
import wave
from collections.abc import Callable
from functools import partial
from pathlib import Path

import anyio
import anyio.to_thread

from sparkd import DeviceError, Troubles

from .answer_config import KeepConfig
from .recording import RATE_HZ

DAY_S = 86_400.0
FORGET_S = 3600.0
HANG_S = 10.0
"""A disk that has not taken one utterance by then is not given the next."""


def wav(pcm: bytes, rate_hz: int) -> bytes:
    """Return *pcm*, 16 bits of one channel, as a WAV file."""
    out = io.BytesIO()
    with wave.open(out, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(rate_hz)
        file.writeframes(pcm)
    return out.getvalue()


class Keeping:
    """A folder of the newest utterances."""

    def __init__(self, folder: Path, config: KeepConfig, troubles: Troubles) -> None:
        """Keep in *folder* what *config* allows; a disk that refuses is told to *troubles*, and nothing else stops."""
        self._folder, self._config, self._troubles = folder, config, troubles
        self._one_at_a_time = anyio.Lock()

    async def keep(self, name: str, pcm: bytes) -> None:
        """Keep an utterance under *name*, if config wants any. Whoever answers need not wait for it."""
        if self._config.enabled and pcm:
            await self._do(partial(self._write, name, wav(pcm, RATE_HZ)))

    async def forget(self) -> None:
        """Delete what is too old, now and then, until cancelled; also what was kept before config said no."""
        while True:
            await self._do(partial(self.prune, 0))
            await anyio.sleep(FORGET_S)

    async def _do(self, deed: Callable[[], None]) -> None:
        """Do *deed* in a thread, one at a time: a disk that hangs is given no second one."""
        with anyio.move_on_after(HANG_S) as limit:
            await self._one_at_a_time.acquire()
        if limit.cancelled_caught:
            text = f"the sound of utterances is not kept: {self._folder} hangs"
            self._troubles.say("keep", text, "look at the disk it is on")
            return
        try:
            await anyio.to_thread.run_sync(deed, abandon_on_cancel=True)
        except OSError as error:
            text = f"the sound of utterances is not kept: {self._folder}: {error.strerror}"
            self._troubles.set("keep", DeviceError(text, remedy="free space there, or set keep.enabled = false"))
        else:
            self._troubles.over("keep")
        finally:
            self._one_at_a_time.release()

    def _write(self, name: str, content: bytes) -> None:
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        for half in self._folder.glob(".*.part"):  # of a process that was killed over it: one is written at a time
            half.unlink(missing_ok=True)
        self.prune(len(content))
        part = self._folder / f".{name}.part"
        try:
            part.write_bytes(content)
            part.rename(self._folder / f"{name}.wav")
        finally:
            part.unlink(missing_ok=True)

    def prune(self, coming_bytes: int) -> None:
        """Delete the oldest files until *coming_bytes* more are within all bounds."""
        oldest = time.time() - self._config.max_age_days * DAY_S
        room = self._config.max_mb * 1e6 - coming_bytes
        files = sorted(((path, path.stat()) for path in self._folder.glob("*.wav")), key=lambda one: -one[1].st_mtime)
        total, most = 0, self._config.max_files - (1 if coming_bytes else 0)
        for index, (path, stat) in enumerate(files):
            total += stat.st_size
            if index >= most or total > room or stat.st_mtime < oldest:
                path.unlink(missing_ok=True)
