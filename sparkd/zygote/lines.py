"""Bytes of a pipe into lines of text, in bounded memory. No I/O here."""

from __future__ import annotations

from collections.abc import Iterator

MAX_LINE_BYTES = 8192
"""A longer line is cut; journald cuts at 48 KiB, and our own log lines stay far below."""
CUT = " [cut]"


class Lines:
    """Collects chunks and gives the lines that are complete."""

    def __init__(self, *, max_bytes: int = MAX_LINE_BYTES) -> None:
        self._max = max_bytes
        self._partial = bytearray()
        self._skipping = False  # the rest of a line that was cut already

    def feed(self, chunk: bytes) -> Iterator[str]:
        """Add *chunk*; yield each line it completes, without its end."""
        *ended, rest = chunk.split(b"\n")
        for piece in ended:
            yield from self._extend(piece)
            yield from self._finish()
        yield from self._extend(rest)

    def flush(self) -> Iterator[str]:
        """Yield what stands after the last line end, if anything: nothing more will come."""
        if self._partial:
            yield from self._finish()

    def _extend(self, piece: bytes) -> Iterator[str]:
        if self._skipping:
            return
        self._partial += piece[: self._max + 1 - len(self._partial)]
        if len(self._partial) > self._max:
            yield _text(self._partial[: self._max]) + CUT
            self._partial.clear()
            self._skipping = True

    def _finish(self) -> Iterator[str]:
        if not self._skipping:
            yield _text(self._partial.removesuffix(b"\r"))
        self._partial.clear()
        self._skipping = False


def _text(line: bytes | bytearray) -> str:
    return line.decode(errors="backslashreplace")
