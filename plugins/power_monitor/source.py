"""What a power source is, to those who watch it. One file `source_KIND.py` for each kind, with its config beside it."""

from __future__ import annotations

from typing import Protocol

from sparkd import PowerReading


class Listener(Protocol):
    """Whom a source tells. It decides what of it to believe."""

    def found(self, what: str) -> None:
        """Say what is there: maker, model, version, as far as it tells. Said once the source was probed."""
        ...

    def reading(self, reading: PowerReading) -> None:
        """Say what is measured; at least once an interval, also if nothing changed."""
        ...

    def garbage(self, reason: str) -> None:
        """Say that something came which could not be understood: what, and where in it. Nothing ends by it."""
        ...


class Source(Protocol):
    """A way to measure."""

    async def watch(self, to: Listener) -> None:
        """Open what is there, say what it is, and measure until cancelled.

        Raises DeviceError with a remedy if it is not there, goes, or stays silent for too long; whoever called opens
        it again, later. All it opened is closed when it ends. Blocking calls are made in threads.
        """
        ...
