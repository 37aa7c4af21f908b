"""The account of what is gone for good: evicted by the caps, damaged on the disk. Never silent, and bounded."""

from __future__ import annotations

import contextlib
import json
from dataclasses import dataclass, field
from typing import Any

from sparkd.outbox.files import Files, locked, read_json, write_whole

MAX_ENTRIES = 200


@dataclass
class Losses:
    """What a stream has lost."""

    evicted: int = 0
    evicted_through: int = 0
    gaps: list[str] = field(default_factory=list)
    """Sentences: which numbers are missing, and why."""


def read_losses(files: Files) -> Losses:
    """Return the account."""
    held: dict[str, Any] = read_json(files.losses)
    gaps = [str(gap) for gap in held.get("gaps", [])]
    return Losses(int(held.get("evicted", 0)), int(held.get("evicted_through", 0)), gaps)


def note_evicted(files: Files, first: int, last: int) -> None:
    """Add the numbers *first* to *last* to what the caps have evicted. The caller holds the trim lock."""
    losses = read_losses(files)
    losses.evicted += last - max(first, losses.evicted_through + 1) + 1
    losses.evicted_through = last
    _write(files, losses)


def note_gap(files: Files, sentence: str) -> None:
    """Add *sentence* to what is missing, once. Best effort: an account that cannot be written stops nothing."""
    with contextlib.suppress(OSError), locked(files.folder / "losses.lock", limit_s=1.0):
        losses = read_losses(files)
        if sentence not in losses.gaps:
            losses.gaps = [*losses.gaps, sentence][-MAX_ENTRIES:]
            _write(files, losses)


def _write(files: Files, losses: Losses) -> None:
    content = {"evicted": losses.evicted, "evicted_through": losses.evicted_through, "gaps": losses.gaps}
    write_whole(files.losses, json.dumps(content, indent=1))
