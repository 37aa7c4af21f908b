"""Where a plugin comes from, and what came of reading it: plain data that crosses process boundaries."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path

import msgspec

from sparkd.service import Manifest


class SourceKind(StrEnum):
    """How a plugin got here."""

    ENTRY_POINT = "entry-point"  # installed, as part of a wheel
    DROP_IN = "drop-in"  # a file or folder in a plugins folder


class PluginSource(msgspec.Struct, frozen=True, kw_only=True):
    """A plugin that can be read. Its code has not been touched yet."""

    name: str
    kind: SourceKind
    path: str
    """The file or folder its code is in."""
    entry: str = ""
    """`module` or `module:object` of an entry point."""
    distribution: str = ""
    """`name version` of the wheel it was installed by."""
    hash: str = ""
    """Changes whenever the manifest might; empty if the source was refused unread."""

    @property
    def home(self) -> Path:
        """What lines of code are this plugin's own: its file, or everything beneath its folder."""
        return Path(self.path)

    @property
    def key(self) -> tuple[str, str, str, str]:
        """What stays the same while its content changes."""
        return (self.kind, self.name, self.path, self.entry)


class FailureKind(StrEnum):
    """Why a plugin cannot be used."""

    REFUSED = "refused"  # others may write it, or its name cannot be a plugin's
    SYNTAX = "syntax"
    MISSING = "missing"  # a module it imports is not installed
    IMPORT = "import"  # it raised
    EXITED = "exited"  # it ended its process
    CRASHED = "crashed"  # a signal ended its process
    HUNG = "hung"
    MEMORY = "memory"
    HOOK = "hook"  # a misspelt, asynchronous or ill-shaped hook
    INVALID = "invalid"  # what it returned cannot be used
    DUPLICATE = "duplicate"  # another plugin has that name
    PENDING = "pending"  # it takes long to import, and is not finished
    UNAVAILABLE = "unavailable"  # not its fault: no process could be started to read it


class Failure(msgspec.Struct, frozen=True, kw_only=True, tag="failure"):
    """Why a plugin cannot be used, where, and what to do about it."""

    kind: FailureKind
    message: str
    remedy: str = ""
    file: str = ""
    line: int = 0
    trace: tuple[str, ...] = ()
    """The last lines of the traceback, or of what it wrote."""

    def __str__(self) -> str:
        place = f"{self.file}:{self.line}: " if self.line else f"{self.file}: " if self.file else ""
        return f"{place}{self.message}" + (f" ({self.remedy})" if self.remedy else "")


class Manifests(msgspec.Struct, frozen=True, tag="manifests"):
    """What a readable plugin offers."""

    services: tuple[Manifest, ...]


class ProbeResult(msgspec.Struct, frozen=True, kw_only=True):
    """A plugin that was looked at: either manifests, or the failure."""

    source: PluginSource
    manifests: tuple[Manifest, ...] = ()
    failure: Failure | None = None
    cached: bool = False
    """Whether the manifests were known from an earlier run."""
