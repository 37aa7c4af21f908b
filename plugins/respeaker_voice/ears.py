"""From the microphone to what is told of it: opens it, feeds the listener, adds the direction; and again after a loss.

Two tasks, so that nothing that takes its time holds up the sound: one reads chunks and listens, which is quick; the
other asks for the direction of a wake word (a USB transfer may take half a second) and hands everything on in order.
"""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager, aclosing
from functools import partial
from typing import TYPE_CHECKING, cast

import anyio
import anyio.to_thread
from anyio.abc import TaskGroup
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream

from sparkd import DeviceError, Troubles

from .capture import Microphone, microphone_when_there
from .chunks import Chunk
from .direction import Compass
from .happenings import Happening, Woken
from .listen_config import ListenConfig
from .microphone import MicrophoneConfig

if TYPE_CHECKING:  # brings numpy and the models' packages, which probing must not pay for
    import numpy as np
    from numpy.typing import NDArray

    from .listening import Listener, Suspected
    from .wake_word import Confirming

Told = tuple[Happening, float | None]
"""What happened, and with a wake word its direction in degrees."""
WAITING = 1000
"""So many happenings may wait: 20 seconds of speech, more than the longest utterance."""
COMPASS_S = 0.7
PIPE_AGAIN_S = 1.0
"""A pipe that its writer closed is there still; it is opened again after this."""


class Ears:
    """Listens at a microphone that may come and go."""

    def __init__(
        self,
        microphone: MicrophoneConfig,
        listen: ListenConfig,
        *,
        compass: Compass,
        troubles: Troubles,
        when_there: Callable[
            [MicrophoneConfig, Callable[[DeviceError], None]], AbstractAsyncContextManager[Microphone]
        ] = microphone_when_there,
    ) -> None:
        """Listen as *listen* says; what is wrong with the microphone goes to *troubles*."""
        self._microphone, self._listen = microphone, listen
        self._compass, self._troubles, self._when_there = compass, troubles, when_there
        self.listener: Listener | None = None
        self.overruns = 0
        self.losses = 0
        self._overruns_before = 0
        self._confirming: Confirming | None = None
        self._asked: Suspected | None = None
        self._opinion: tuple[Suspected, bool] | None = None
        self._awaited = False
        self._send: MemoryObjectSendStream[tuple[Happening, NDArray[np.int16] | None]]

    def speaking(self, *, on: bool) -> None:
        """Say whether this node itself is heard now."""
        if self.listener is not None:
            self.listener.speaking(on=on)

    def listen(self) -> None:
        """Begin an utterance without a wake word, with the next sound."""
        self._awaited = True

    async def run(self, told: MemoryObjectSendStream[Told]) -> None:
        """Listen until cancelled, or until a recording has ended. Raises DeviceError if a package is missing."""
        self._send, receive = anyio.create_memory_object_stream[tuple[Happening, "NDArray[np.int16] | None"]](WAITING)
        async with told, receive, anyio.create_task_group() as group:
            group.start_soon(self._direct, receive, told)
            async with self._send:
                while await self._once():
                    pass

    async def _once(self) -> bool:
        """Listen at the microphone until it is gone; return whether it may come back."""
        async with self._when_there(self._microphone, partial(self._troubles.set, "microphone")) as microphone:
            listener = await self._ready(microphone)
            self._troubles.over("microphone")
            gone = await self._until_gone(microphone, listener)
            self._overruns_before = self.overruns
            await self._tell(listener.stop(time.monotonic()))
        if gone is None:
            return False  # the recording is over
        self.losses += 1
        self._troubles.set("microphone", gone)
        if self._microphone.source == "pipe":
            await anyio.sleep(PIPE_AGAIN_S)
        return True

    async def _until_gone(self, microphone: Microphone, listener: Listener) -> DeviceError | None:
        gone = None
        try:
            await self._hear(microphone, listener)
        except* DeviceError as group:
            gone = next(one for one in group.exceptions if isinstance(one, DeviceError))
        return gone

    async def _ready(self, microphone: Microphone) -> Listener:
        from .listening import Listener  # noqa: PLC0415 - brings numpy and the models' packages
        from .wake_word import Confirming  # noqa: PLC0415 - likewise

        if self.listener is not None:
            self.listener.close()
        make = partial(Listener, self._listen, processed=microphone.processed, raw=microphone.raw)
        self.listener = listener = await anyio.to_thread.run_sync(make)
        if self._listen.confirm != "none" and self._confirming is None:
            self._confirming = await anyio.to_thread.run_sync(Confirming, self._listen.words)
        return listener

    async def _hear(self, microphone: Microphone, listener: Listener) -> None:
        async with (
            anyio.create_task_group() as group,
            aclosing(cast("AsyncGenerator[Chunk, None]", microphone.chunks())) as chunks,
        ):
            async for chunk in chunks:
                self.overruns = self._overruns_before + microphone.overruns
                if happenings := self._heard(listener, chunk, group):
                    await self._tell(happenings)
            group.cancel_scope.cancel()

    def _heard(self, listener: Listener, chunk: Chunk, group: TaskGroup) -> list[Happening]:
        """Feed *listener*; what came meanwhile (a second opinion, an awaited answer) is told it here, in order."""
        happenings = listener.feed(chunk)
        if self._opinion is not None and self._opinion[0] is listener.suspected:
            happenings += listener.confirmed(yes=self._opinion[1])
        if self._awaited:
            self._awaited = False
            happenings += listener.listen(chunk.at)
        if listener.suspected is not None and listener.suspected is not self._asked:
            self._asked = listener.suspected
            group.start_soon(self._confirm, listener.suspected)
        return happenings

    async def _confirm(self, suspected: Suspected) -> None:
        if self._confirming is not None:
            score = await anyio.to_thread.run_sync(self._confirming.score, suspected.word, suspected.pcm)
            self._opinion = suspected, score >= self._listen.confirm_threshold

    async def _tell(self, happenings: list[Happening]) -> None:
        for happening in happenings:
            raw = self.listener.raw_half_second() if isinstance(happening, Woken) and self.listener else None
            await self._send.send((happening, raw))

    async def _direct(
        self,
        receive: MemoryObjectReceiveStream[tuple[Happening, NDArray[np.int16] | None]],
        told: MemoryObjectSendStream[Told],
    ) -> None:
        async with receive:
            async for happening, raw in receive:
                degrees = None
                if raw is not None:
                    with anyio.move_on_after(COMPASS_S):
                        degrees = await self._compass.at_once(raw)
                await told.send((happening, degrees))
