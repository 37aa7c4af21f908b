"""Keeping the public name of this home: found to have another address, it is told to the DNS, and nobody is hammered.

An address that was told is remembered over restarts, with the times of the tries: a service that is started again and
again asks no oftener for it.
"""

from __future__ import annotations

import ipaddress
import json
import math
import re
from collections import deque
from contextlib import suppress
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal
from urllib.parse import SplitResult, urlsplit

import anyio
import anyio.to_thread

from sparkd import Context, PublicNameStatus, Secret, Troubles

from .clock import Clock
from .name_update import Outcome, update
from .public_address import Found, SeenBy, find

HOUR_S = 3600.0
DAY_S = 86_400.0
LOOK_AGAIN_S = 5.0
"""Whoever is asked for the address is left alone for so long, whatever hurry there is."""
MAX_STATE_CHARS = 65_536
_HOST = re.compile(r"(?=.{1,253}\Z)([A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9])?\.)+[A-Za-z][A-Za-z0-9-]{0,62}\.?")
_NODE = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")
_LOOPBACK = {"127.0.0.1", "::1", "localhost"}


@dataclass(frozen=True, slots=True, kw_only=True)
class PublicNameConfig:
    """The table `[plugins.vpn-watchdog.public_name]`: for the hub at home, whose address the provider changes."""

    name: str = ""
    """The name that others dial, in full; empty: there is none to keep."""
    ask: list[str] = field(default_factory=list)
    """Who is asked for the address of this home, in this order, until one tells a public one: `https://...` (a page
    with one address on it), `peer:NODE` (where that node gets this one's tunnel from), `router` or `router:ADDRESS`
    (by NAT-PMP)."""
    record: Literal["A", "AAAA"] = "A"
    way: Literal["dyndns2", "rfc2136"] = "dyndns2"
    url: str = ""
    """DynDNS2: what is asked, with `{name}` and `{address}` in it. https, or http at this machine itself."""
    login: Secret | None = None
    """DynDNS2: USER:PASSWORD, by the name of a secret."""
    ca: Path | None = None
    """DynDNS2: certificates that are trusted, if not the system's."""
    server: str = ""
    """RFC 2136: the zone's primary server."""
    port: int = 53
    zone: str = ""
    ttl_s: int = 60
    key_name: str = ""
    key_algorithm: Literal["hmac-sha256", "hmac-sha384", "hmac-sha512"] = "hmac-sha256"
    key: Secret | None = None
    """RFC 2136: the TSIG key in base64, by the name of a secret."""
    interval_s: float = 60.0
    """Between two looks at the address; a tunnel that is lost has it looked at, too."""
    updates_per_hour: int = 6
    """Tries, whether they end well or not."""
    retry_s: float = 60.0
    """After a try that failed; twice as long after each more ..."""
    retry_most_s: float = 3600.0
    """... but never longer."""
    refresh_days: float = 25.0
    """The name is told again after so long without a change: providers forget it after 30 days. 0 for never."""

    def __post_init__(self) -> None:
        for key in (f.name for f in fields(self)):
            value = getattr(self, key)
            if type(value) in (int, float) and not (math.isfinite(value) and (value > 0 or key == "refresh_days")):
                raise ValueError(f"{key}: must be a positive number, got {value}")
        if not 0 < self.port < 1 << 16:
            raise ValueError(f"port: 1 to 65535 expected, got {self.port}")
        if self.name:
            self._check()

    def _check(self) -> None:
        if not _HOST.fullmatch(self.name):
            raise ValueError(f"name: a full name such as home.example.org expected, got {self.name!r}")
        if not self.ask:
            raise ValueError("ask: who tells the address? Such as 'https://...', 'peer:NODE', 'router'")
        for way in self.ask:
            _check_ask(way)
        if self.way == "dyndns2":
            self._check_url()
            return
        for key in ("server", "zone", "key_name", "key"):
            if not getattr(self, key):
                raise ValueError(f"{key}: is needed for rfc2136")
        zone = f".{self.zone.strip('.').lower()}"
        if not f".{self.name.rstrip('.').lower()}".endswith(zone):
            raise ValueError(f"name: {self.name} is not in the zone {self.zone}")

    def _check_url(self) -> None:
        parts = _url("url", self.url)
        if parts.scheme != "https" and not (parts.scheme == "http" and parts.hostname in _LOOPBACK):
            raise ValueError("url: https://... expected: a login goes with it")
        if "{name}" not in self.url or "{address}" not in self.url or "@" in parts.netloc:
            raise ValueError("url: {name} and {address} expected in it, and no login, which is `login`")
        if self.login is None:
            raise ValueError("login: is needed for dyndns2")


def _url(key: str, text: str) -> SplitResult:
    """Return the parts of a URL. Raises ValueError, beginning with *key*, if a part is none."""
    try:
        parts = urlsplit(text)
        good = parts.port != 0 and text.isascii() and text.isprintable() and " " not in text
    except ValueError:
        good = False
    if not good:
        raise ValueError(f"{key}: this is not a URL (its text is not shown: a login may be in it)")
    return parts


def _check_ask(way: str) -> None:
    kind, _, rest = way.partition(":")
    if kind in {"http", "https"} and (parts := _url("ask", way)).hostname and "@" not in parts.netloc:
        return
    if kind == "peer" and _NODE.fullmatch(rest):
        return
    if kind == "router":
        with suppress(ValueError):
            if rest:
                ipaddress.IPv4Address(rest)
            return
    raise ValueError(f"ask: 'https://...', 'peer:NODE', 'router' or 'router:ADDRESS' expected, got {way!r}")


@dataclass(slots=True, kw_only=True)
class Pace:
    """When the next try may be: limits and back-off, on a clock that nobody sets. Pure."""

    per_hour: int
    retry_s: float
    retry_most_s: float
    tries: deque[float] = field(default_factory=lambda: deque(maxlen=1000))
    failures: int = 0
    not_before: float = float("-inf")
    never: str = ""
    """Why there is to be no other try."""

    def wait_s(self, now: float) -> float:
        """Return how long until a try may be made; 0 for now, infinite for never."""
        if self.never:
            return math.inf
        while self.tries and self.tries[0] <= now - HOUR_S:
            self.tries.popleft()
        full = len(self.tries) >= self.per_hour
        limit = self.tries[-self.per_hour] + HOUR_S if full else now
        return max(limit, self.not_before, now) - now

    def note(self, outcome: Outcome, now: float) -> None:
        """Remember how a try ended, which began before it by `tries`."""
        if outcome.verdict == "done":
            self.failures, self.not_before = 0, float("-inf")
            return
        self.never = outcome.said if outcome.verdict == "never" else ""
        wait_s = min(self.retry_s * 2 ** min(self.failures, 30), self.retry_most_s)
        self.failures += 1
        self.not_before = now + max(wait_s, min(outcome.wait_s, DAY_S))


@dataclass(slots=True, kw_only=True)
class PublicName:
    """Keeps the name, as one task of the service."""

    ctx: Context[Any]
    config: PublicNameConfig
    clock: Clock
    troubles: Troubles
    seen_by: SeenBy
    address: str = ""
    """What the name was last told to stand for."""
    told_at: float = 0.0
    """When, by the wall clock."""
    found: Found = field(default_factory=Found)
    last: Outcome | None = None
    hurry: anyio.Event = field(default_factory=anyio.Event)
    pace: Pace = field(init=False)

    def __post_init__(self) -> None:
        config = self.config
        self.pace = Pace(per_hour=config.updates_per_hour, retry_s=config.retry_s, retry_most_s=config.retry_most_s)

    @property
    def _file(self) -> Path:
        return self.ctx.state_dir / "public-name.json"

    async def run(self) -> None:
        """Keep it until cancelled. Whatever goes wrong is told, and tried again when it may be."""
        await self._load()
        while True:
            self.hurry = anyio.Event()
            wait_s = await self.look()
            least_s = min(LOOK_AGAIN_S, self.config.interval_s)
            await anyio.sleep(least_s)
            with anyio.move_on_after(min(wait_s, self.config.interval_s) - least_s):
                await self.hurry.wait()

    def status(self) -> PublicNameStatus:
        """Return how it is."""
        wait_s = self.pace.wait_s(self.clock.mono()) if self.found.address and self._due() else math.inf
        return PublicNameStatus(
            name=self.config.name,
            address=self.address,
            told_at=self.told_at or None,
            found=self.found.address,
            by=self.found.by,
            answer=self.last.said if self.last is not None else "",
            next_s=round(wait_s, 1) if math.isfinite(wait_s) else None,
        )

    async def look(self) -> float:
        """Look once, and update the name if need be; return after how long at the latest there is something to do."""
        self.found = await find(self.config.ask, record=self.config.record, seen_by=self.seen_by)
        if not self.found.address:
            reason = f"the address of this home is not known: {'; '.join(self.found.refused)}"
            self.troubles.say("public name", reason, "look at `ask` in [plugins.vpn-watchdog.public_name]")
            return self.config.interval_s
        if not self._due():
            self.troubles.over("public name")
            return self.config.interval_s
        wait_s = self.pace.wait_s(self.clock.mono())
        return wait_s if wait_s > 0 else await self._update(self.found)

    def _due(self) -> bool:
        if self.found.address != self.address:
            return True
        old = self.clock.wall() - self.told_at > self.config.refresh_days * DAY_S
        return old and self.config.refresh_days > 0

    async def _update(self, found: Found) -> float:
        self.pace.tries.append(self.clock.mono())
        await self._save()  # before: a service that is killed while it asks must not ask again at once
        self.last = await update(self.config, found.address)
        self.pace.note(self.last, self.clock.mono())
        log, before = self.ctx.log, self.address
        if self.last.verdict == "done":
            self.address, self.told_at = found.address, self.clock.wall()
            self.troubles.over("public name")
            log.info("public-name", name=self.config.name, address=found.address, before=before, by=found.by)
            await self._save()
            return self.config.interval_s
        log.warning("public-name-refused", name=self.config.name, address=found.address, why=self.last.said)
        more = "; it is not tried again until the config changes" if self.last.verdict == "never" else ""
        reason = f"{self.config.name} still stands for {before or 'another address'}: {self.last.said}{more}"
        self.troubles.say("public name", reason, self.last.remedy)
        return self.pace.wait_s(self.clock.mono())

    async def _load(self) -> None:
        text = await anyio.to_thread.run_sync(_read, self._file)
        try:
            held = json.loads(text)
            if held["name"] != self.config.name or held["record"] != self.config.record:
                return
            told_at, tries = float(held["told_at"]), [float(at) for at in held["tries"]][-1000:]
            self.address = str(ipaddress.ip_address(held["address"])) if held["address"] else ""
        except (ValueError, TypeError, KeyError):  # none yet, or damaged: the name is told once more
            return
        wall, mono = self.clock.wall(), self.clock.mono()
        self.told_at = min(told_at, wall)
        self.pace.tries.extend(sorted(mono - max(wall - at, 0.0) for at in tries))

    async def _save(self) -> None:
        offset = self.clock.wall() - self.clock.mono()
        held = {
            "name": self.config.name,
            "record": self.config.record,
            "address": self.address,
            "told_at": self.told_at,
            "tries": [at + offset for at in self.pace.tries],
        }
        try:
            await anyio.to_thread.run_sync(_write, self._file, json.dumps(held))
        except OSError as error:
            self.ctx.log.warning("public-name-not-kept", file=str(self._file), why=str(error.strerror))


def _read(file: Path) -> str:
    try:
        with file.open(encoding="utf-8", errors="replace") as held:
            return held.read(MAX_STATE_CHARS)
    except OSError:
        return ""


def _write(file: Path, text: str) -> None:
    part = file.with_suffix(".part")
    part.write_text(text, encoding="utf-8")
    part.replace(file)
