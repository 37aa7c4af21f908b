"""The account of what is gone for good: evicted by the caps, damaged on the disk. Never silent, and bounded."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from sparkd.errors import StorageError
from sparkd.lasting import write_whole
from sparkd.outbox.files import Files, locked, read_json

MAX_ENTRIES = 200
LOCK_LIMIT_S = 1.0


@dataclass(frozen=True, slots=True)
class Gap:
    """Numbers that are missing, and why."""

    first: int
    last: int
    why: str

    def __str__(self) -> str:
        return f"{self.first}-{self.last} {self.why}"


@dataclass
class Losses:
    """What a stream has lost."""

    evicted: int = 0
    evicted_through: int = 0
    gaps: list[Gap] = field(default_factory=list)

    def accounts_for(self, first: int, last: int) -> bool:
        """Whether all of *first* to *last* is known to be gone."""
        ranges = sorted([(0, self.evicted_through), *((gap.first, gap.last) for gap in self.gaps)])
        for begin, end in ranges:
            if begin <= first <= end:
                first = end + 1
        return first > last


def read_losses(files: Files) -> Losses:
    """Return the account; what is damaged in it counts as not there."""
    held = read_json(files.losses)
    gaps = held.get("gaps")
    return Losses(
        _number(held.get("evicted")),
        _number(held.get("evicted_through")),
        list(_gaps(gaps)) if isinstance(gaps, list) else [],
    )


def note_evicted(files: Files, count: int, last: int) -> None:
    """Add *count* records, and all numbers up to *last*, to what the caps have evicted. Raises OSError."""
    with _changing(files) as losses:
        if last > losses.evicted_through:
            losses.evicted += count
            losses.evicted_through = last


def note_gap(files: Files, first: int, last: int, why: str) -> None:
    """Add *first* to *last* to what is missing, once. Best effort: an account that cannot be written stops nothing."""
    with contextlib.suppress(OSError, StorageError), _changing(files) as losses:
        if not losses.accounts_for(first, last):
            losses.gaps = [*losses.gaps, Gap(first, last, why)][-MAX_ENTRIES:]


@contextlib.contextmanager
def _changing(files: Files) -> Iterator[Losses]:
    with locked(files.folder / "losses.lock", limit_s=LOCK_LIMIT_S):
        losses = read_losses(files)
        yield losses
        content = {
            "evicted": losses.evicted,
            "evicted_through": losses.evicted_through,
            "gaps": [[gap.first, gap.last, gap.why] for gap in losses.gaps],
        }
        write_whole(files.losses, json.dumps(content, indent=1))


def _gaps(entries: list[Any]) -> Iterator[Gap]:
    for entry in entries:
        match entry:
            case [int(first), int(last), str(why)]:
                yield Gap(first, last, why)


def _number(value: object) -> int:
    return value if isinstance(value, int) and value >= 0 else 0
