"""What the checks look at: a machine, a config, and a place for what they find."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

from sparkd.config import Config, Places

COMMAND_LIMIT_S = 5.0
MAX_OUTPUT_CHARS = 100_000


class Verdict(StrEnum):
    """What came of a check."""

    OK = "ok"
    NOTE = "note"  # worth knowing; nothing is wrong
    WARNING = "warning"  # works, and may not for long
    PROBLEM = "problem"  # does not work as it should
    SKIPPED = "skipped"  # could not be looked at


@dataclass(frozen=True, slots=True)
class Finding:
    """What a check says, in one sentence, and what to do about it."""

    verdict: Verdict
    text: str
    remedy: str = ""


def ok(text: str) -> Finding:
    """Return that all is well."""
    return Finding(Verdict.OK, text)


def note(text: str, remedy: str = "") -> Finding:
    """Return what is worth knowing."""
    return Finding(Verdict.NOTE, text, remedy)


def warning(text: str, remedy: str) -> Finding:
    """Return what works, and may not for long."""
    return Finding(Verdict.WARNING, text, remedy)


def problem(text: str, remedy: str) -> Finding:
    """Return what does not work as it should."""
    return Finding(Verdict.PROBLEM, text, remedy)


def skipped(text: str, remedy: str = "") -> Finding:
    """Return why it could not be looked at."""
    return Finding(Verdict.SKIPPED, text, remedy)


Run = Callable[[Sequence[str]], "str | None"]


def run(command: Sequence[str]) -> str | None:
    """Return what a command prints, with its errors; None if it is not installed, or does not end within 5 s."""
    try:
        done = subprocess.run(  # noqa: S603 - the checks' own words, no shell
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=COMMAND_LIMIT_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.decode(errors="replace")[:MAX_OUTPUT_CHARS]


@dataclass(frozen=True, slots=True, kw_only=True)
class Scene:
    """The machine as the checks see it. Tests put a tree of their own in the place of `/`."""

    config: Config
    places: Places
    root: Path = Path("/")
    run: Run = run
    account: str = "sparkd"
    """The daemon's user."""

    def path(self, name: str) -> Path:
        """Return the file that is called */name* on the machine."""
        return self.root / name.lstrip("/")

    def read(self, name: str) -> str | None:
        """Return what stands in a small file such as one of /proc or /sys; None if it cannot be read."""
        try:
            with self.path(name).open("rb") as opened:
                return opened.read(MAX_OUTPUT_CHARS).decode(errors="replace").strip("\0\n ")
        except OSError:
            return None

    def number(self, name: str) -> int | None:
        """Return the number that stands in a small file; None if none does."""
        try:
            return int(self.read(name) or "")
        except ValueError:
            return None

    def glob(self, pattern: str) -> list[Path]:
        """Return the files that fit a pattern such as `/sys/class/thermal/thermal_zone*`."""
        return sorted(self.root.glob(pattern.lstrip("/")))

    def has_plugin(self, *names: str) -> bool:
        """Whether the config has one of these plugins run."""
        return any(name in self.config.plugins and self.config.plugins[name].enabled for name in names)


Look = Callable[[Scene], Iterator[Finding]]


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that is looked at."""

    name: str
    look: Look = field(repr=False)


def named(name: str) -> Callable[[Look], Check]:
    """Make a check called *name* of a function that yields findings."""
    return lambda look: Check(name, look)
