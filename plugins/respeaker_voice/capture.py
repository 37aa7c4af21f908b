"""The microphone, whatever it is: a sound card, a WAV file, a named pipe; and waiting for one that is not there.

A microphone that is unplugged ends `chunks` with DeviceError. Who wants it back enters `microphone_when_there`, which
waits for what the kernel tells (inotify on the folder where the device appears), not for a clock; only a device that
is there and refuses (busy, say) is tried again after a while, as nothing tells of that.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager, contextmanager
from pathlib import Path

import anyio
from asyncinotify import Inotify, Mask

from sparkd import DeviceError

from .capture_alsa import open_alsa
from .capture_files import open_file, open_pipe
from .chunks import CHUNK_FRAMES, Chunk, Microphone
from .microphone import RATE_HZ, MicrophoneConfig

SOUND_CARDS = Path("/dev/snd")
AGAIN_S = 15.0
"""A device that is there and refuses is tried again after this."""
SETTLE_S = 0.2
"""A card comes as several files, and udev sets their rights after that."""
_NEWS = Mask.CREATE | Mask.MOVED_TO | Mask.ATTRIB | Mask.DELETE_SELF | Mask.MOVE_SELF


def open_microphone(config: MicrophoneConfig) -> AbstractAsyncContextManager[Microphone]:
    """Open the source that *config* names; entering raises DeviceError with a remedy if it cannot be had."""
    if config.source == "alsa" or config.path is None:
        return open_alsa(config)
    return open_file(config, config.path) if config.source == "file" else open_pipe(config, config.path)


@asynccontextmanager
async def microphone_when_there(
    config: MicrophoneConfig, on_missing: Callable[[DeviceError], None], *, cards: Path = SOUND_CARDS
) -> AsyncIterator[Microphone]:
    """Open the source as soon as it can be had; *on_missing* is told why it cannot, each time it was tried."""
    path = config.path
    wanted = cards / "any" if config.source == "alsa" or path is None else path
    async with AsyncExitStack() as stack:
        yield await _entered(stack, config, on_missing, wanted)


async def _entered(
    stack: AsyncExitStack, config: MicrophoneConfig, on_missing: Callable[[DeviceError], None], wanted: Path
) -> Microphone:
    while True:
        with _watch(wanted) as news:  # before the attempt, so that nothing comes unseen
            try:
                return await stack.enter_async_context(open_microphone(config))
            except DeviceError as error:
                on_missing(error)
            with anyio.move_on_after(AGAIN_S):
                if news is None:
                    await anyio.sleep_forever()
                else:
                    await news.get()
                await anyio.sleep(SETTLE_S)


@contextmanager
def _watch(wanted: Path) -> Iterator[Inotify | None]:
    """Watch the nearest folder above *wanted* that exists; None if the kernel has no watch left."""
    folder = next(parent for parent in wanted.absolute().parents if parent.is_dir())
    with Inotify() as inotify:
        try:
            inotify.add_watch(folder, _NEWS | Mask.ONLYDIR)  # not closing: an attempt that fails closes the device
        except OSError:
            yield None
        else:
            yield inotify


__all__ = [
    "CHUNK_FRAMES",
    "RATE_HZ",
    "Chunk",
    "Microphone",
    "MicrophoneConfig",
    "microphone_when_there",
    "open_microphone",
]
