"""The link to one peer: probes through the tunnel, their quality, the path MTU, and seldom the throughput."""

from __future__ import annotations

from dataclasses import dataclass, field

from sparkd import LinkQuality

from . import path_mtu
from .config import PeerConfig
from .parts import Parts
from .probes import Probe, choose, knock, train
from .quality import Quality, train_bps
from .sockets import mtu_of

WHOLE_EVERY = 2
"""Each second probe goes with a packet of the path MTU: that it shrank is found within 15 s."""
WHOLE_TRIES = 4
WHOLE_AGAIN = 8
"""A size that passed before is believed to be lost only after so many more; a lossy link must not look narrow."""
TRAIN = 16
TRAIN_BYTES = 1200


@dataclass(slots=True)
class Link:
    """What is known of the way through the tunnel."""

    parts: Parts
    device: str
    knocker: Probe
    quality: Quality = field(default_factory=Quality)
    path_mtu: int | None = None
    shrunk: tuple[int, int] | None = None
    """The path MTU and the interface's own, if the path's is smaller."""
    throughput_bps: float | None = None
    _count: int = 0
    _said_at: float = float("-inf")
    _mtu_at: float = float("-inf")
    _train_at: float = float("-inf")

    @classmethod
    def to(cls, parts: Parts, address: str, *, device: str, config: PeerConfig | None) -> Link:
        """Return the link to *address* through *device*."""
        port = config.probe_port if config is not None else 9
        return cls(parts, device, choose(parts.config.probe, address, device=device, port=port))

    @property
    def probe_label(self) -> str:
        """How it is probed."""
        return self.knocker.label

    async def probe(self, *, lost: bool) -> bool:
        """Probe once; return whether anything was answered. *lost*: nothing was before, and that is over then."""
        config = self.parts.config
        made = await knock(self.knocker, timeout_s=config.probe_timeout_s, burst=config.probe_burst)
        if lost and made.answered:
            self.quality.begin_anew()
        self.quality.add(made.trips_ms)
        return made.answered

    async def measure(self, peer: str) -> None:
        """Measure what is due, while the peer answers, and publish the quality."""
        now, config = self.parts.now(), self.parts.config
        self._count += 1
        if config.path_mtu_s and now - self._mtu_at >= config.path_mtu_s:
            await self._find_mtu()
        elif self.path_mtu is not None and self._count % WHOLE_EVERY == 0:
            await self._check_mtu()
        if config.throughput_s and now - self._train_at >= config.throughput_s:
            self._train_at = now
            arrivals = await train(self.knocker, count=TRAIN, size=TRAIN_BYTES, timeout_s=config.probe_timeout_s)
            self.throughput_bps = train_bps(arrivals, TRAIN_BYTES)
        if now - self._said_at >= config.quality_s:
            self._said_at = now
            await self.say(peer)

    async def say(self, peer: str) -> None:
        """Publish the quality of the last probes."""
        said = LinkQuality(
            peer=peer,
            latency_ms=self.quality.latency_ms,
            jitter_ms=self.quality.jitter_ms,
            loss_percent=self.quality.loss_percent or 0.0,
            throughput_bps=self.throughput_bps,
            path_mtu=self.path_mtu,
        )
        self.parts.figures.quality(said)
        await self.parts.ctx.bus.publish(said, topic=f"system.tunnel.quality.{peer}")

    async def _check_mtu(self) -> None:
        if self.path_mtu is None:
            return
        if self.shrunk is not None and await self._passes(self.shrunk[1], tries=1):
            self.path_mtu, self.shrunk = self.shrunk[1], None  # what was narrow is wide again
        elif not await self._passes(self.path_mtu, tries=WHOLE_TRIES + WHOLE_AGAIN):
            await self._find_mtu()

    async def _find_mtu(self) -> None:
        self._mtu_at = self.parts.now()
        most = mtu_of(self.device)
        if most is None:
            return
        found = await path_mtu.find(self._passes, most=most)
        if found is None:  # not even a small whole packet: nothing is known, and the next round says whether it is lost
            return
        self.path_mtu = found
        self.shrunk = (found, most) if found < most else None

    async def _passes(self, size: int, *, tries: int = WHOLE_TRIES) -> bool:
        """Whether a whole packet of *size* comes through and back, at the last of several tries."""
        usual_s = (self.quality.latency_ms or 200.0) / 1000
        limit_s = min(3 * usual_s + 0.15, self.parts.config.probe_timeout_s)
        for _ in range(tries):
            try:
                await self.knocker.ping(timeout_s=limit_s, size=size, whole=True)
            except TimeoutError:
                continue
            except OSError:  # larger than the interface takes, or the way is gone
                return False
            return True
        return False
