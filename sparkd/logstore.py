"""The log on disk: the lines of the core and its services, bounded, readable when the daemon is down. Layer: edges.

Raspberry Pi OS keeps its journal in memory, so what was said before a power cut is gone where it is needed most. The
store is a chain of files `logs/NNNNNNNN.jsonl`, a JSON object a line; a file that is full is followed by the next, and
the oldest go. A flash card is spared: lines are written together, some seconds after the first of them, and only errors
are synced. A line that a power cut tore in half is skipped by readers.
"""

from __future__ import annotations

import os
import queue
import threading  # noqa: TID251 - whoever logs may be a thread, or be ending: the writer cannot live on the event loop
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import msgspec

from sparkd.core_interfaces import LogRecord

DEFAULT_BYTES = 16 << 20
FILES = 8
"""The store is given up in eighths."""
GATHER_S = 5.0
"""From the first line that waits to its being written."""
GATHER_CHARS = 1 << 17
"""So much is written without waiting longer."""
WAITING_LINES = 2_000
"""While the disk stands still: at most some 8 MB, as a line has at most 4000 characters."""
MAX_READ_LINES = 10_000
ERROR = 3
"""The syslog level from which a line is written at once, and synced."""
QUIET_LEVEL = 7
_SUFFIX = ".jsonl"


_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(LogRecord).decode


class LogStore:
    """Writes lines to disk in a thread of its own. `put` never waits and never raises."""

    def __init__(
        self, folder: Path, *, max_bytes: int = DEFAULT_BYTES, on_problem: Callable[[str], None] = lambda _: None
    ) -> None:
        """Keep *max_bytes* in *folder*; *on_problem* is told, in the writer's thread, what is wrong, or nothing."""
        self.folder = folder
        self._max_bytes = max_bytes
        self.on_problem = on_problem
        self._waiting: queue.Queue[LogRecord | None] = queue.Queue(WAITING_LINES)
        self._problem = ""
        self.lost = 0
        """Lines that were not written: too many at once, or the disk refused them."""
        self._thread = threading.Thread(target=self._run, name="log store", daemon=True)

    def open(self) -> None:
        """Begin to write, if the store may hold anything."""
        if self._max_bytes:
            self._thread.start()

    def close(self) -> None:
        """Write what waits, and end."""
        if self._thread.is_alive():
            with suppress(queue.Full):
                self._waiting.put(None, timeout=1.0)
            self._thread.join(5.0)

    def put(self, line: LogRecord) -> None:
        """Store *line*, soon; one too many is counted as lost."""
        if not self._max_bytes:
            return
        try:
            self._waiting.put_nowait(line)
        except queue.Full:
            self.lost += 1

    def _run(self) -> None:
        while True:
            lines, last = self._gather()
            if lines:
                self._store(lines)
            if last:
                return

    def _gather(self) -> tuple[list[LogRecord], bool]:
        """Return the lines to be written together, and whether they are the last."""
        first = self._waiting.get()
        lines: list[LogRecord] = []
        chars, deadline = 0, time.monotonic() + GATHER_S
        while first is not None:
            lines.append(first)
            chars += len(first.text)
            if chars >= GATHER_CHARS:
                return lines, False
            pressing = first.level <= ERROR and self._waiting.empty()
            try:
                first = self._waiting.get(timeout=0 if pressing else max(deadline - time.monotonic(), 0))
            except (queue.Empty, ValueError):
                return lines, False
        return lines, True

    def _store(self, lines: list[LogRecord]) -> None:
        content = b"".join(_encode(line) + b"\n" for line in lines)
        try:
            try:
                self._append(content, sync=any(line.level <= ERROR for line in lines))
            except OSError:  # most likely a full disk: what is oldest is worth least
                self._drop_oldest()
                self._append(content, sync=False)
        except OSError as error:
            self.lost += len(lines)
            self._tell(f"the log cannot be stored in {self.folder}: {error.strerror}; make room, or mend the disk")
        else:
            self._tell("")

    def _append(self, content: bytes, *, sync: bool) -> None:
        self.folder.mkdir(mode=0o750, parents=True, exist_ok=True)
        files = log_files(self.folder)
        file = files[-1] if files else self._next(None)
        if file.exists() and file.stat().st_size + len(content) > max(self._max_bytes // FILES, 1):
            file = self._next(file)
        descriptor = os.open(file, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o640)
        with open(descriptor, "ab") as out:  # noqa: PTH123 - a descriptor, not a path
            if out.tell() and not _ends_line(file):
                out.write(b"\n")  # a power cut tore the last line: the next must not be lost with it
            out.write(content)
            out.flush()
            if sync:
                os.fsync(out.fileno())
        self._trim()

    def _next(self, file: Path | None) -> Path:
        number = int(file.stem) + 1 if file else 1
        return self.folder / f"{number:08d}{_SUFFIX}"

    def _trim(self) -> None:
        files = log_files(self.folder)
        sizes = [file.stat().st_size for file in files]
        while len(files) > 1 and sum(sizes) > self._max_bytes:
            files.pop(0).unlink(missing_ok=True)
            sizes.pop(0)

    def _drop_oldest(self) -> None:
        files = log_files(self.folder)
        if len(files) > 1:
            files[0].unlink(missing_ok=True)

    def _tell(self, problem: str) -> None:
        if problem != self._problem:
            self._problem = problem
            self.on_problem(problem)


def log_files(folder: Path) -> list[Path]:
    """Return the files of the store, oldest first."""
    return sorted(file for file in folder.glob(f"*{_SUFFIX}") if file.stem.isdigit())


def read_lines(
    folder: Path, *, service: str = "", lines: int = 50, since: float = 0.0, level: int = QUIET_LEVEL, text: str = ""
) -> list[LogRecord]:
    """Return the last *lines* lines that fit, oldest first: blocks.

    *service* empty is every service; *since* is the wall clock; *level* the quietest wanted; *text* is looked for in
    the line, whatever its case. A file that cannot be read, or is gone by now, is left out.
    """
    found: list[LogRecord] = []
    wanted = min(max(lines, 0), MAX_READ_LINES)
    needle = text.casefold()
    for file in reversed(log_files(folder)):
        for line in reversed(list(_lines(file))):
            if len(found) >= wanted:
                return found[::-1]
            fits = line.level <= level and line.at >= since and service in ("", line.service)
            if fits and needle in line.text.casefold():
                found.append(line)
    return found[::-1]


def _lines(file: Path) -> Iterator[LogRecord]:
    with suppress(OSError), file.open("rb") as opened:
        for raw in opened:
            with suppress(msgspec.MsgspecError):  # torn by a power cut
                yield _decode(raw)


def _ends_line(file: Path) -> bool:
    with file.open("rb") as opened:
        opened.seek(-1, os.SEEK_END)
        return opened.read(1) == b"\n"
