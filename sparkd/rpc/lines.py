"""Bytes to lines, with a limit. Pure."""

from __future__ import annotations


class Lines:
    """Cuts what arrives into lines; one that is too long is reported once and skipped to its end."""

    __slots__ = ("_max_bytes", "_partial", "_skipping")

    def __init__(self, max_bytes: int) -> None:
        """Allow lines of *max_bytes*, the line break not counted."""
        self._max_bytes = max_bytes
        self._partial = bytearray()
        self._skipping = False

    @property
    def partial(self) -> bool:
        """Whether a line has begun and not ended."""
        return bool(self._partial) or self._skipping

    def feed(self, arrived: bytes) -> list[bytes | None]:
        """Return the lines that are complete now, without empty ones; None stands for one that is too long."""
        lines: list[bytes | None] = []
        *ended, rest = arrived.split(b"\n")
        for piece in ended:
            self._add(piece, lines)
            if not self._skipping and self._partial.strip():
                lines.append(bytes(self._partial))
            self._partial.clear()
            self._skipping = False
        self._add(rest, lines)
        return lines

    def _add(self, piece: bytes, lines: list[bytes | None]) -> None:
        if self._skipping:
            return
        if len(self._partial) + len(piece) > self._max_bytes:
            self._skipping = True
            self._partial.clear()
            lines.append(None)
        else:
            self._partial += piece
