"""What outlives the service: who is asleep, and when repairs were made, so that a restart does not void the limit."""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread

BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
KEPT = 100


@dataclass(slots=True)
class Memory:
    """A small file in the service's own folder. One that cannot be read or written costs what it held."""

    file: Path
    boot: str = ""
    asleep: set[str] = field(default_factory=set)
    repairs: dict[str, list[float]] = field(default_factory=dict)
    """By peer, on the clock that nobody sets, which begins anew when the machine does."""
    _saving: anyio.Lock = field(default_factory=anyio.Lock)

    async def load(self) -> None:
        """Read the file."""
        await anyio.to_thread.run_sync(self._load)

    async def save(self) -> None:
        """Write the file, whole or not at all."""
        async with self._saving:
            await self._write()

    async def _write(self) -> None:
        content = {"boot": self.boot, "asleep": sorted(self.asleep), "repairs": self.repairs}
        await anyio.to_thread.run_sync(self._save, json.dumps(content))

    def _load(self) -> None:
        with suppress(OSError):
            self.boot = BOOT_ID.read_text().strip()
        with suppress(OSError, ValueError, RecursionError):
            held = json.loads(self.file.read_bytes())
            if isinstance(held, dict):
                self._take(held)

    def _take(self, held: dict[str, Any]) -> None:
        asleep, repairs = held.get("asleep"), held.get("repairs")
        if isinstance(asleep, list):
            self.asleep = {name for name in asleep if isinstance(name, str)}
        if held.get("boot") == self.boot and isinstance(repairs, dict):
            self.repairs = {
                name: [at for at in times if isinstance(at, float)][-KEPT:]
                for name, times in repairs.items()
                if isinstance(times, list)
            }

    def _save(self, content: str) -> None:
        part = self.file.with_suffix(".part")
        with suppress(OSError):
            part.write_text(content)
            part.replace(self.file)
