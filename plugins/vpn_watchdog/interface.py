"""One WireGuard interface: what `wg` says of it, read once for all its peers."""

from __future__ import annotations

from dataclasses import dataclass, field

import anyio

from sparkd import DeviceError

from .parts import Parts
from .wg import FAST, SLOW, Reading, Setting, Snapshot, read

SLOW_EVERY_S = 60.0


@dataclass(slots=True)
class WatchedInterface:
    """An interface and its last reading."""

    parts: Parts
    name: str
    error: str = ""
    """Why it cannot be read; empty if it can."""
    snapshot: Snapshot = field(default_factory=Snapshot)
    read_at: float = float("-inf")
    seen: bool = False
    """Whether it was ever there since this service began."""
    vanished_by_us: bool = False
    """Whether it went by a repair of ours."""
    restarted_at: float = float("-inf")
    port_at: float = float("-inf")
    """When its port was last changed by us."""
    _settings: dict[str, Setting] = field(default_factory=dict)
    _port: int = 0
    _slow_at: float = float("-inf")
    _reading: anyio.Lock = field(default_factory=anyio.Lock)

    async def look(self, *, max_age_s: float = 0.0) -> Snapshot:
        """Read the interface, unless that was done within *max_age_s*. What is wrong stands in `error` then."""
        async with self._reading:
            now = self.parts.now()
            if now - self.read_at > max_age_s:
                await self._look(now)
        return self.snapshot

    async def _look(self, now: float) -> None:
        slow = now - self._slow_at >= SLOW_EVERY_S or bool(self.error)
        try:
            shown = await self.parts.wg.show(self.name, (*FAST, *SLOW) if slow else FAST)
            snapshot = read(shown)
            if not slow and snapshot.readings.keys() - self._settings.keys():  # somebody added a peer
                slow, snapshot = True, read(shown | await self.parts.wg.show(self.name, SLOW))
        except DeviceError as error:
            self._failed(error)
        else:
            self._take(snapshot, now, slow=slow)
        self.read_at = self.parts.now()

    def _failed(self, error: DeviceError) -> None:
        self.error, self.snapshot = str(error), Snapshot()
        self.parts.troubles.say(self.name, f"{self.name}: {error}", error.remedy or f"wg show {self.name}")

    def _take(self, snapshot: Snapshot, now: float, *, slow: bool) -> None:
        if slow:
            self._settings, self._port, self._slow_at = snapshot.settings, snapshot.listen_port, now
        if snapshot.garbage:
            reason = f"{self.name}: what wg says is not understood ({'; '.join(snapshot.garbage[:3])})"
            self.parts.troubles.say(self.name, reason, "is it a WireGuard that this version of sparkd knows?")
        else:
            self.parts.troubles.over(self.name)
        self.error, self.seen, self.vanished_by_us, self.snapshot = "", True, False, snapshot

    async def forget_settings(self) -> None:
        """Read everything at the next look: something was changed. A look under way may have seen it as it was."""
        async with self._reading:
            self._slow_at = self.read_at = float("-inf")

    def reading(self, key: str) -> Reading | None:
        """Return what was last read of the peer *key*; None if it is not there."""
        return self.snapshot.readings.get(key)

    def setting(self, key: str) -> Setting:
        """Return what is set for the peer *key*."""
        return self._settings.get(key, Setting())

    @property
    def listen_port(self) -> int:
        """Where it receives; 0 if that is not known."""
        return self._port
