"""What an operator may set in `[plugins.nas-tier]`."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Literal

from .directory_config import DirectoryConfig
from .long_config import LongConfig
from .namespaces import NAMESPACE, NamespaceConfig
from .valkey_config import ValkeyConfig

NAME = re.compile(r"[a-z][a-z0-9-]{0,30}")
DAY_S = 86_400.0
RESERVED = ("hot", "nas", "long", "own")


@dataclass(frozen=True, slots=True, kw_only=True)
class TierConfig:
    """The table `[plugins.nas-tier.tiers.NAME]`: a tier that another service is, such as a drop-in."""

    service: str
    """The service that serves the interface `tier`."""
    level: Literal[1, 2, 3] = 3
    reach: Literal["node", "local", "shared"] = "shared"
    """The strictest privacy class that it may have: `shared` ones only, `local` ones too, or even `node` ones."""
    timeout_s: float = 5.0

    def __post_init__(self) -> None:
        if not 0 < self.timeout_s <= 600:  # noqa: PLR2004 - ten minutes
            raise ValueError(f"timeout_s: up to 600 seconds expected, got {self.timeout_s:g}")


@dataclass(frozen=True, slots=True, kw_only=True)
class BackupConfig:
    """The table `[plugins.nas-tier.backup]`: everything that reaches tier 3, exported on a schedule."""

    folder: str
    """Where the archives go, such as /mnt/nas/data/memory-backup."""
    every_s: float = DAY_S
    keep: int = 7

    def __post_init__(self) -> None:
        if not 60 <= self.every_s <= 366 * DAY_S:  # noqa: PLR2004 - a minute
            raise ValueError(f"every_s: from 60 to 31622400 seconds expected, got {self.every_s:g}")
        if not 1 <= self.keep <= 1000:  # noqa: PLR2004 - three years of days
            raise ValueError(f"keep: from 1 to 1000 archives expected, got {self.keep}")


@dataclass(frozen=True, slots=True, kw_only=True)
class NasTierConfig:
    """The table `[plugins.nas-tier]`. With nothing set, each tier is an embedded one in the state folder."""

    hot: ValkeyConfig | None = None
    """Tier 1; without it an embedded Valkey of 2 GiB."""
    hot_enabled: bool = True
    """Whether there is a tier 1 at all."""
    nas: DirectoryConfig | None = None
    """Where the NAS is mounted; without it a folder of this machine stands in its place."""
    long: LongConfig | None = None
    """Tier 3; without it a folder and SQLite on this machine stand in its place."""
    long_by: str = ""
    """The node whose tier 3 is used, over the link, where this one has no access to it itself."""
    tiers: dict[str, TierConfig] = field(default_factory=dict)
    provides: Literal["", "nas", "long"] = ""
    """The tier of this node that other nodes may use as theirs (their `long_by`)."""
    namespaces: dict[str, NamespaceConfig] = field(default_factory=dict)
    through_s: float = 2.0
    """How long a write waits for its home; after that it is answered as pending."""
    sync_s: float = 60.0
    """Tiers are looked at for what others changed when they say so, and so often besides."""
    away_s: float = 30 * DAY_S
    """Who did not see a tier for so long looks through all of it before anything is written. Deleted keys are
    remembered as long."""
    history: int = 10
    """Versions that are kept of a key, besides the newest ..."""
    history_s: float = 30 * DAY_S
    """... and for how long."""
    sweep_s: float = 3600.0
    scrub: int = 200
    """Values whose checksum is compared in each sweep, of each tier."""
    journal_bytes: int = 512 << 20
    """Of writes that wait for a tier; beyond that none is taken any more. The stream holds 1 GiB at the most."""
    backup: BackupConfig | None = None
    """Archives of everything but what is of class `node`, on a schedule."""

    def __post_init__(self) -> None:
        for name in self.namespaces:
            if not NAMESPACE.fullmatch(name):
                raise ValueError(f"namespaces: lower-case letters, digits, '.', '_' and '-' expected, got {name!r}")
        for name in self.tiers:
            if not NAME.fullmatch(name) or name in RESERVED:
                raise ValueError(f"tiers: a name of lower-case letters and digits other than {RESERVED}, got {name!r}")
        if self.long is not None and self.long_by:
            raise ValueError("long_by: the table `long` is there as well; tier 3 is the one or the other")
        if self.provides == "long" and self.long_by:
            raise ValueError(f"provides: tier 3 is that of {self.long_by}; that node provides it")
        limits = {
            "through_s": (0.0, 60.0),
            "sync_s": (1.0, DAY_S),
            "away_s": (3600.0, 366 * DAY_S),
            "history": (0, 1000),
            "history_s": (0.0, 3660 * DAY_S),
            "sweep_s": (1.0, 7 * DAY_S),
            "scrub": (0, 1_000_000),
            "journal_bytes": (1 << 20, 768 << 20),
        }
        for key, (least, most) in limits.items():
            value = getattr(self, key)
            if not least <= value <= most:
                raise ValueError(f"{key}: from {least:g} to {most:g} expected, got {value:g}")
