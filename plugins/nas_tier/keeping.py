"""Keeping house: sweeping and scrubbing tiers, healing what is damaged, and archives on a schedule."""

from __future__ import annotations

import os
import random
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import anyio
import anyio.to_thread

from sparkd import CallError, Log, MemoryRecord, TierSwept, Troubles

from .blobs import Blobs
from .catalogue import Catalogue
from .clock import VersionClock, floor_of
from .config import BackupConfig, NasTierConfig
from .figures import Counts, Figures
from .places import NO_ANSWER, Place, Places
from .searching import Searching

SWEEP_LIMIT_S = 600.0
HEAL_AGAIN_S = 5.0
STEM, ENDING = "memory-", ".sparkd-memory"


class Keeping:
    """Looks after what the tiers hold."""

    def __init__(
        self,
        config: NasTierConfig,
        places: Places,
        *,
        catalogue: Catalogue,
        clock: VersionClock,
        blobs: Blobs,
        searching: Searching,
        figures: Figures,
        counts: Counts,
        troubles: Troubles,
        log: Log,
    ) -> None:
        """Keep *places*."""
        self._config = config
        self._places = places
        self._catalogue = catalogue
        self._clock = clock
        self._blobs = blobs
        self._searching = searching
        self._figures = figures
        self._counts = counts
        self._troubles = troubles
        self._log = log

    async def sweep_for_ever(self, place: Place) -> None:
        """Sweep a tier now and then."""
        while True:
            await anyio.sleep(self._config.sweep_s * random.uniform(0.8, 1.2))
            try:
                await self.sweep(place)
            except CallError as error:
                if error.kind not in NO_ANSWER:
                    self._log.warning("a tier cannot be swept", tier=place.name, reason=error.message)

    async def sweep(self, place: Place) -> TierSwept:
        """Sweep a tier once, and have healed what was found damaged. Raises CallError."""
        now_ms = self._clock.now_ms()
        graves = floor_of(now_ms - int(self._config.away_s * 1000))
        old = floor_of(now_ms - int(self._config.history_s * 1000))
        swept = await place.ask(
            "sweep",
            lambda tier: tier.sweep(
                now_ms=now_ms,
                tombstones_before=graves,
                history_before=old,
                history_most=self._config.history,
                scrub=self._config.scrub,
            ),
            limit_s=SWEEP_LIMIT_S,
        )
        await self._catalogue.run(self._catalogue.expire, now_ms)
        await self._searching.sweep(now_ms, graves)
        await self._catalogue.run(self._catalogue.forget_tombstones, graves)
        for digest in swept.damaged:
            record = await self._catalogue.run(self._catalogue.with_blob, digest)
            if record is not None:
                self._blobs.found_hurt(place, record)
        if swept.damaged or swept.damaged_records:
            self._log.error(
                "damaged in a tier", tier=place.name, values=len(swept.damaged), records=swept.damaged_records
            )
        return swept

    async def heal_for_ever(self) -> None:
        """Bring back what was found damaged."""
        while True:
            hurts = self._blobs.hurts
            for place, record in list(self._blobs.hurt):
                await self._heal(place, record)
            with anyio.move_on_after(HEAL_AGAIN_S if self._blobs.hurt else None):
                await hurts.wait()

    async def _heal(self, place: Place, record: MemoryRecord) -> None:
        try:
            await self._blobs.heal(place, record)
        except CallError as error:
            if error.kind in NO_ANSWER:
                return
            self._blobs.give_up(place, record)
            self._log.error("a damaged value has no good copy", tier=place.name, digest=record.digest)
            remedy = "import an archive that has it, or write it again"
            self._troubles.say("damaged", "a value is damaged in all tiers", remedy)
        else:
            self._log.info("a damaged value was brought back", tier=place.name, digest=record.digest)

    async def back_up_for_ever(self, backup: BackupConfig, archive: Callable[[], AsyncIterator[bytes]]) -> None:
        """Write an archive now and then, and remove the oldest ones."""
        folder = Path(backup.folder)
        while True:
            newest = await anyio.to_thread.run_sync(_newest, folder)
            await anyio.sleep(max(newest + backup.every_s - time.time(), 0.0))
            try:
                await _write_archive(folder, archive())
                await anyio.to_thread.run_sync(_remove_old, folder, backup.keep)
            except (OSError, CallError) as error:
                self._troubles.say("backup", f"no archive was made: {error}", f"look at {folder} and at the tiers")
                await anyio.sleep(min(backup.every_s, 600.0))
            else:
                self._troubles.over("backup")


def _archives(folder: Path) -> list[Path]:
    return sorted(folder.glob(f"{STEM}*{ENDING}")) if folder.is_dir() else []


def _newest(folder: Path) -> float:
    found = _archives(folder)
    return found[-1].stat().st_mtime if found else 0.0


def _remove_old(folder: Path, keep: int) -> None:
    for path in _archives(folder)[:-keep]:
        path.unlink(missing_ok=True)
    for path in folder.glob(f"{STEM}*.part"):
        if time.time() - path.stat().st_mtime > 86_400:  # noqa: PLR2004 - a day: nobody writes that any more
            path.unlink(missing_ok=True)


async def _write_archive(folder: Path, chunks: AsyncIterator[bytes]) -> None:
    """Write an archive whole or not at all. Raises OSError or CallError."""
    name = f"{STEM}{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}"
    part, whole = folder / f"{name}.part", folder / f"{name}{ENDING}"
    await anyio.to_thread.run_sync(lambda: folder.mkdir(mode=0o700, parents=True, exist_ok=True))
    file = await anyio.to_thread.run_sync(lambda: open(part, "wb", opener=_private))  # noqa: SIM115 - it is closed below
    try:
        async for chunk in chunks:
            await anyio.to_thread.run_sync(file.write, chunk)
        await anyio.to_thread.run_sync(_finish, file, part, whole)
    finally:
        file.close()
        with anyio.CancelScope(shield=True):
            await anyio.to_thread.run_sync(lambda: part.unlink(missing_ok=True))


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


def _finish(file: object, part: Path, whole: Path) -> None:
    file.flush()  # type: ignore[attr-defined]
    os.fsync(file.fileno())  # type: ignore[attr-defined]
    part.rename(whole)
    descriptor = os.open(whole.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
