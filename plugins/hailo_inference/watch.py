"""One camera, stream or video, kept open: its state, its frames, its coming back."""

from __future__ import annotations

import threading  # noqa: TID251 - decoding blocks for as long as a camera likes; it must not hold a worker of the loop
from collections.abc import Callable
from contextlib import suppress
from functools import partial

import anyio
import anyio.from_thread
import anyio.lowlevel

from sparkd import Context, DeviceError, SourceInfo, Troubles

from .board import Board
from .config import HailoInferenceConfig
from .modes import Modes
from .source_config import SourceConfig
from .video import Film, VideoFrame

FIRST_PAUSE_S = 1.0
CLOSE_S = 3.0
"""How long the end of the service waits for a camera to let go."""


class Watch:
    """A source and what is known of it. Its frames go to the board."""

    def __init__(
        self,
        ctx: Context[HailoInferenceConfig],
        spec: SourceConfig,
        *,
        board: Board[VideoFrame],
        modes: Modes,
        troubles: Troubles,
    ) -> None:
        """Watch *spec* once `run` is called."""
        self.spec = spec
        self.looked = self.dropped = self.snapshots_missed = 0
        self._ctx, self._board, self._modes, self._troubles = ctx, board, modes, troubles
        self._state, self._reason = "connecting", ""
        self._width = self._height = 0
        self._connects = self._skipped = self._damaged = 0
        self._arrived = 0
        self._film: Film | None = None

    @property
    def info(self) -> SourceInfo:
        """How it is now."""
        film = self._film
        return SourceInfo(
            name=self.spec.name,
            kind=self.spec.kind,
            state=self._state,
            reason=self._reason,
            model=self._modes.model_of(self.spec),
            width=self._width,
            height=self._height,
            fps=self._modes.fps(self.spec),
            looked=self.looked,
            dropped=self.dropped,
            skipped=self._skipped + (film.skipped if film else 0),
            damaged=self._damaged + (film.damaged if film else 0),
            connects=self._connects,
            snapshots_missed=self.snapshots_missed,
        )

    async def run(self) -> None:
        """Keep it open. Returns at the end of a video that does not loop."""
        pause_s = FIRST_PAUSE_S
        while True:
            await self._until_wanted()
            self._say("connecting", self._reason)
            before = self._arrived
            error = await self._session()
            if error is None and self.spec.kind == "video" and not self._unwanted():
                if not self.spec.loop:
                    self._say("ended")
                    return
                if self._arrived > before:
                    continue
            elif error is None and self._unwanted():
                continue
            error = error or DeviceError(f"{self.spec.shown}: it ended", remedy="it is opened again by itself")
            pause_s = FIRST_PAUSE_S if self._arrived > before else pause_s
            self._say("stalled" if self._state == "stalled" else "lost", str(error), error.remedy)
            await anyio.sleep(pause_s)
            pause_s = min(2 * pause_s, self.spec.retry_max_s)

    def _unwanted(self) -> bool:
        return self._modes.rule.rate == 0

    async def _until_wanted(self) -> None:
        while self._unwanted():
            self._board.forget(self.spec.name)
            self._say("paused", f"by the power mode {self._modes.mode}")
            await self._modes.changed.wait()

    async def _session(self) -> DeviceError | None:
        """Open it and read it; return why it broke off, if it did."""
        token = anyio.lowlevel.current_token()
        patient = self.spec.kind == "video" and not self.spec.realtime

        def deliver(frame: VideoFrame) -> None:
            if patient:
                anyio.from_thread.run(self._take_when_free, frame, token=token)
            else:
                anyio.from_thread.run_sync(self._take, frame, token=token)

        interval_s = partial(self._modes.interval_s, self.spec)
        film = Film(self.spec, interval_s=interval_s, deliver=deliver, max_pixels=self._ctx.config.max_pixels)
        self._film = film
        self._connects += 1
        stalled: list[DeviceError] = []
        try:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self._stop_when_unwanted, film)
                if self.spec.kind != "video":
                    tasks.start_soon(self._stop_when_stalled, film, stalled)
                error = await in_own_thread(film, name=f"video {self.spec.name}", wake=self._board.wake)
                tasks.cancel_scope.cancel()
        finally:
            self._film = None
            self._skipped += film.skipped
            self._damaged += film.damaged
        return stalled[0] if stalled else error

    async def _stop_when_unwanted(self, film: Film) -> None:
        while not self._unwanted():
            await self._modes.changed.wait()
        film.stop()
        self._board.wake()

    async def _stop_when_stalled(self, film: Film, stalled: list[DeviceError]) -> None:
        limit_s = self.spec.stall_s
        seen, since = film.seen, anyio.current_time()
        while anyio.current_time() - since < limit_s:
            await anyio.sleep(limit_s / 4)
            if film.seen != seen:
                seen, since = film.seen, anyio.current_time()
        reason = f"{self.spec.shown}: no frame for {limit_s:g} s"
        stalled.append(DeviceError(reason, remedy="it is opened again by itself; check the camera if it stays so"))
        self._say("stalled", reason, stalled[0].remedy)
        film.stop()

    async def _take_when_free(self, frame: VideoFrame) -> None:
        film = self._film
        await self._board.free(self.spec.name, unless=lambda: film is None or film.stopped())
        if film is not None and not film.stopped():
            self._take(frame)

    def _take(self, frame: VideoFrame) -> None:
        self._arrived += 1
        if (frame.width, frame.height) != (self._width, self._height):
            if self._width:
                old, new = f"{self._width}x{self._height}", f"{frame.width}x{frame.height}"
                self._ctx.log.info("source-size-changed", source=self.spec.name, old=old, new=new)
            self._width, self._height = frame.width, frame.height
        self._say("live")
        self.dropped += self._board.put(self.spec.name, frame)

    def _say(self, state: str, reason: str = "", remedy: str = "") -> None:
        changed = state != self._state
        self._state, self._reason = state, reason
        if state in {"lost", "stalled"}:
            self._troubles.say(self.spec.name, f"source {self.spec.name}: {reason}", remedy)
            if changed:
                self._ctx.log.warning(
                    "source-trouble", state=state, source=self.spec.name, reason=reason, remedy=remedy
                )
        elif changed and state != "connecting":
            self._troubles.over(self.spec.name)
            self._ctx.log.info("source-state", state=state, source=self.spec.name)


async def in_own_thread(film: Film, *, name: str, wake: Callable[[], None]) -> DeviceError | None:
    """Run *film* in a thread of its own; return why it broke off, if it did.

    *wake* makes those look up who wait for room. On cancellation it is told to stop and waited for a while; a thread
    stuck in a driver is left behind, and does not keep the process from ending.
    """
    done, token = anyio.Event(), anyio.lowlevel.current_token()
    broke: list[DeviceError] = []

    def work() -> None:
        with suppress(anyio.RunFinishedError):  # the service has ended meanwhile
            try:
                film.run()
            except DeviceError as error:
                broke.append(error)
            anyio.from_thread.run_sync(done.set, token=token)

    threading.Thread(target=work, name=name, daemon=True).start()
    try:
        await done.wait()
    finally:
        film.stop()
        wake()
        with anyio.move_on_after(CLOSE_S, shield=True):
            await done.wait()
    return broke[0] if broke else None
