"""Further folders of pictures, each watched like `watch`, and again when it comes back after it went away."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path

import anyio
import anyio.to_thread

from sparkd import Context, DeviceError, Inference, SourceInfo, Troubles

from .config import HailoInferenceConfig
from .folder import Folder
from .processed import Processed
from .roster import Roster
from .source_config import SourceConfig
from .vision import Meters

FIRST_PAUSE_S = 1.0


@dataclass
class FolderSource:
    """A folder that is a source. While it is not there, everything else goes on."""

    ctx: Context[HailoInferenceConfig]
    spec: SourceConfig
    roster: Roster
    meters: Meters
    troubles: Troubles
    state: str = "connecting"
    reason: str = ""
    connects: int = 0
    looked: int = 0

    @property
    def info(self) -> SourceInfo:
        """How it is now."""
        return SourceInfo(
            name=self.spec.name,
            kind=self.spec.kind,
            state=self.state,
            reason=self.reason,
            model=self.spec.model,
            looked=self.looked,
            connects=self.connects,
        )

    async def look(self, image: bytes, *, source: str, source_ns: int = 0) -> Inference:
        """Look with the model of this source."""
        with self.roster.held(self.spec.model or None) as engine:
            inference = await engine.look(image, source=source, source_ns=source_ns)
        self.looked += 1
        return inference

    async def run(self) -> None:
        """Watch the folder for ever."""
        path, pause_s = self.ctx.state_dir / f"processed-{self.spec.name}.sqlite", FIRST_PAUSE_S
        with await anyio.to_thread.run_sync(partial(Processed, path)) as processed:
            while True:
                before, error = self.connects, await self._watch(processed)
                self.state, self.reason = "lost", str(error)
                self.troubles.say(self.spec.name, f"source {self.spec.name}: {error}", error.remedy)
                pause_s = FIRST_PAUSE_S if self.connects > before else min(2 * pause_s, self.spec.retry_max_s)
                await anyio.sleep(pause_s)

    async def _watch(self, processed: Processed) -> DeviceError:
        folder = Folder(
            self.ctx,
            Path(self.spec.location),
            self,
            self.meters,
            processed,
            self.troubles,
            privacy=self.spec.privacy,
            after=self.spec.after,
        )
        try:
            async with anyio.create_task_group() as tasks:
                await tasks.start(folder.run)
                self.state, self.reason = "live", ""
                self.connects += 1
                self.troubles.over(self.spec.name)
        except* DeviceError as group:
            first: BaseException = group
            while isinstance(first, BaseExceptionGroup):
                first = first.exceptions[0]
            error = first if isinstance(first, DeviceError) else DeviceError(str(first))
        return error
