"""Looking at streams from outside: for `sparkctl outbox`, without being writer or reader."""

from __future__ import annotations

import contextlib
import sqlite3
import time
from collections.abc import Sequence
from pathlib import Path

from sparkd.core_interfaces import DeadLetter, OutboxStatus, ReaderStatus
from sparkd.errors import StorageError
from sparkd.outbox import dead
from sparkd.outbox.cursor import read_cursor
from sparkd.outbox.files import Files, storage
from sparkd.outbox.losses import read_losses
from sparkd.outbox.segment import SIDES, last_number, open_to_read
from sparkd.outbox.stream import open_stream
from sparkd.outbox.trim import Limits, trim
from sparkd.service import NAME


def list_streams(root: Path) -> list[tuple[str, str]]:
    """Return every (service, stream) beneath *root*; a folder without identity is none yet."""
    return sorted((path.parent.parent.name, path.parent.name) for path in root.glob("*/*/stream.json"))


def inspect(root: Path) -> list[OutboxStatus]:
    """Return what there is of each stream beneath *root*. A stream that cannot be read says so in `gaps`."""
    return [_status(Files(root / service / stream)) for service, stream in list_streams(root)]


def dead_letters(root: Path, service: str, stream: str) -> list[DeadLetter]:
    """Return the dead letters of a stream. Raises StorageError."""
    return dead.dead_letters(_files(root, service, stream))


def drop_dead(root: Path, service: str, stream: str, seqs: Sequence[int]) -> int:
    """Delete dead letters of a stream by their numbers; return how many. Raises StorageError."""
    return dead.drop_dead(_files(root, service, stream), seqs)


def retry_dead(root: Path, service: str, stream: str, seqs: Sequence[int]) -> int:
    """Have dead letters of a stream appended again, under new numbers; return how many. Raises StorageError.

    It is done at once if nobody writes the stream, else by its writer at its next append.
    """
    files = _files(root, service, stream)
    count = dead.ask_again(files, seqs)
    with contextlib.suppress(StorageError), open_stream(files, Limits(), lock_limit_s=0):
        pass  # a writer does so when it opens the stream
    return count


def forget_reader(root: Path, service: str, stream: str, reader: str) -> None:
    """Remove the cursor of a reader that is no more, so that it holds nothing back. Raises StorageError."""
    files = _files(root, service, stream)
    path = files.cursors / reader
    if not NAME.fullmatch(reader) or not path.exists():
        raise StorageError(f"{service}/{stream} has no reader {reader!r}; try: sparkctl outbox")
    with storage(path, "forget the reader"):
        path.unlink()
        trim(files, None)


def _files(root: Path, service: str, stream: str) -> Files:
    if (service, stream) not in list_streams(root):
        raise StorageError(f"no stream {service}/{stream}; try: sparkctl outbox")
    return Files(root / service / stream)


def _status(files: Files) -> OutboxStatus:
    segments = files.segments()
    losses = read_losses(files)
    gaps = [str(gap) for gap in losses.gaps]
    buried = 0
    first, last, oldest = segments[0] if segments else 0, 0, None
    try:
        last = _last(files, segments)
        readers = _readers(files, last)
        lowest = min((reader.position for reader in readers), default=0)
        oldest = _age_after(files, segments, lowest)
    except (sqlite3.Error, OSError) as error:
        readers = _readers(files, last)
        gaps.append(f"cannot be read now: {error}")
    try:
        buried = dead.count_dead(files)
    except StorageError as error:
        gaps.append(str(error))
    return OutboxStatus(
        service=files.folder.parent.name,
        stream=files.folder.name,
        first_seq=min(first, last),
        last_seq=last,
        bytes=files.bytes(),
        segments=len(segments),
        readers=readers,
        oldest_age_s=oldest,
        dead=buried,
        evicted=losses.evicted,
        gaps=gaps,
        quarantined=_quarantined(files),
    )


def _quarantined(files: Files) -> list[str]:
    if not files.quarantine.is_dir():
        return []
    return sorted(path.name for path in files.quarantine.iterdir() if not path.name.endswith(SIDES))


def _last(files: Files, segments: list[int]) -> int:
    if not segments:
        return 0
    with contextlib.closing(open_to_read(files.segment(segments[-1]), sealed=False)) as db:
        return last_number(db) or segments[-1] - 1


def _readers(files: Files, last: int) -> list[ReaderStatus]:
    if not files.cursors.is_dir():
        return []
    positions = {path.name: read_cursor(path) for path in sorted(files.cursors.iterdir())}
    return [ReaderStatus(name=name, position=seq, behind=max(last - seq, 0)) for name, seq in positions.items()]


def _age_after(files: Files, segments: list[int], after: int) -> float | None:
    for index, first in enumerate(segments):
        sealed = index + 1 < len(segments)
        if sealed and segments[index + 1] - 1 <= after:
            continue
        with contextlib.closing(open_to_read(files.segment(first), sealed=sealed)) as db:
            found = db.execute("SELECT wall_ns FROM records WHERE seq > ? ORDER BY seq LIMIT 1", (after,)).fetchone()
        if found:
            return max(time.time() - int(found[0]) / 1e9, 0.0)
    return None
