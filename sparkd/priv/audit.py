"""What was asked, by whom, and what came of it: one synced JSON line each, in a bounded number of files."""

from __future__ import annotations

import json
import os
import threading  # noqa: TID251 - one thread answers each connection
import time
from pathlib import Path
from typing import Any

from sparkd.lasting import sync_folder

MAX_BYTES = 1 << 20
KEPT = 4
"""Older files that are kept: with about 300 bytes a line, the last 14,000 requests and more."""


class Audit:
    """Appends to a file; several threads may."""

    def __init__(self, path: Path, *, max_bytes: int = MAX_BYTES) -> None:
        """Write to *path*, and move it aside when it is larger than *max_bytes*."""
        self._path, self._max_bytes = path, max_bytes
        self._lock = threading.Lock()

    def note(self, **fields: Any) -> None:
        """Append a line with *fields* and the time; return once it is on disk. Raises OSError."""
        line = json.dumps({"at": round(time.time(), 3), **fields}, ensure_ascii=True, separators=(",", ":")) + "\n"
        with self._lock:
            self._rotate()
            fresh = not self._path.exists()
            descriptor = os.open(
                self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600
            )
            try:
                os.write(descriptor, line.encode())
                os.fdatasync(descriptor)
            finally:
                os.close(descriptor)
            if fresh:
                sync_folder(self._path.parent)

    def _rotate(self) -> None:
        try:
            if self._path.stat().st_size < self._max_bytes:
                return
        except FileNotFoundError:
            return
        for number in range(KEPT, 0, -1):
            older = self._path if number == 1 else self._numbered(number - 1)
            if older.exists():
                older.rename(self._numbered(number))
        sync_folder(self._path.parent)

    def _numbered(self, number: int) -> Path:
        return self._path.with_name(f"{self._path.name}.{number}")
