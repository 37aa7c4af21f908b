"""Reading the trail: its last lines, and whether it is whole. Works on a copy, and beside a running daemon. Blocks."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from sparkd.audit.deed import Entry, entry_of
from sparkd.audit.files import read_head, trail_files

MAX_LINES = 10_000
MAX_PROBLEMS = 50


@dataclass(slots=True)
class Report:
    """What `verify` found."""

    lines: int = 0
    first_seq: int = 0
    last_seq: int = 0
    last_hash: str = ""
    """Of the last line. Noted elsewhere, it shows later whether everything up to here is still as it was."""
    problems: list[str] = field(default_factory=list)
    """Each a sentence: which file and line, and what it shows. Empty if the trail is whole."""

    def problem(self, text: str) -> None:
        """Note a problem, if there are not too many already."""
        if len(self.problems) < MAX_PROBLEMS:
            self.problems.append(text)


def read_tail(folder: Path, lines: int, *, before: int | None = None) -> list[Entry]:
    """Return the last *lines* entries, or those before number *before*, oldest first."""
    found: list[Entry] = []
    wanted = min(max(lines, 0), MAX_LINES)
    for file in reversed(trail_files(folder)):
        for _, line, whole in reversed(list(_lines(file))):
            entry = entry_of(line) if whole else None
            if len(found) >= wanted:
                return found[::-1]
            if entry is not None and (before is None or entry.seq < before):
                found.append(entry)
    return found[::-1]


def verify(folder: Path) -> Report:
    """Walk the whole trail; each line must carry the number after, and the hash of, the line before it.

    A last line that is not complete is being written, or was torn by a crash: no problem, its call was not answered.
    Raises OSError if the folder cannot be read.
    """
    head = read_head(folder)  # before the lines: a daemon may be adding to both
    list(folder.iterdir())
    report = Report()
    files = trail_files(folder)
    for file in files:
        for number, line, whole in _lines(file):
            if whole or file is not files[-1]:
                _check(report, f"{file.name}, line {number}", line)
    if head is None:
        if report.lines:
            report.problem("head: not there, or damaged: whether the end was cut off cannot be told")
        return report
    if report.last_seq < head.seq:
        report.problem(f"the end is cut off: the head says line {head.seq}, the last is {report.last_seq}")
    first = (read_head(folder) or head).first  # a running daemon may have given up its oldest file meanwhile
    if report.lines and report.first_seq > first:
        report.problem(f"the beginning is cut off: the head says line {first}, the first is {report.first_seq}")
    if report.last_seq == head.seq and report.last_hash != head.hash and report.lines:
        report.problem(f"line {head.seq}: the last one is not the one that the head knows: it was edited")
    return report


def _check(report: Report, where: str, line: bytes) -> None:
    entry = entry_of(line)
    if entry is None:
        report.problem(f"{where}: cannot be read")
    elif not report.lines:
        report.first_seq = entry.seq
    elif entry.seq != report.last_seq + 1:
        report.problem(f"{where}: number {entry.seq} after {report.last_seq}: lines are missing, or were moved")
    elif entry.prev != report.last_hash:
        report.problem(f"{where}: number {entry.seq} does not carry the hash of the line before: that was edited")
    if entry is not None:
        report.lines += 1
        report.last_seq, report.last_hash = entry.seq, hashlib.sha256(line).hexdigest()


def _lines(file: Path) -> Iterator[tuple[int, bytes, bool]]:
    """Iterate over number, content and completeness of each line; a file that is gone by now has none."""
    with suppress(FileNotFoundError), file.open("rb") as opened:
        for number, raw in enumerate(opened, 1):
            yield number, raw.rstrip(b"\n"), raw.endswith(b"\n")
