"""Several troubles of one service, told as its one state `degraded` until the last of them is over. Layer: values."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from sparkd.errors import DeviceError


class Tells(Protocol):
    """Whom it is told: the part of a Context that takes it."""

    def degraded(self, reason: str, *, remedy: str = "") -> None:
        """Say that the service runs with less than it wants."""
        ...

    def recovered(self) -> None:
        """Take that back."""
        ...


class Troubles:
    """What is wrong now, by the name of the part that has it. The context is told when that changes, not before."""

    def __init__(self, ctx: Tells) -> None:
        """Tell *ctx*."""
        self._ctx = ctx
        self._known: dict[str, tuple[str, str]] = {}

    @property
    def known(self) -> dict[str, str]:
        """What ails each part that is not well."""
        return {name: reason for name, (reason, _) in self._known.items()}

    def set(self, name: str, trouble: DeviceError | None) -> None:
        """Note that *trouble* is what *name* has now; None if it is well."""
        if trouble is None:
            self.over(name)
        else:
            self.say(name, str(trouble), trouble.remedy)

    def say(self, name: str, reason: str, remedy: str) -> None:
        """Add a trouble, or change what is said of it."""
        if self._known.get(name) != (reason, remedy):
            self._known[name] = (reason, remedy)
            self._tell()

    def over(self, name: str) -> None:
        """Take a trouble back, if there is one of this name."""
        if self._known.pop(name, None) is not None:
            self._tell()

    @contextmanager
    def watching(self, name: str) -> Iterator[None]:
        """Note how *name* is by how the deed within ends: DeviceError says that it is unwell, the end that it is well.

        Any other error, such as an overloaded or cancelled request, says nothing of it.
        """
        try:
            yield
        except DeviceError as error:
            self.set(name, error)
            raise
        self.set(name, None)

    def _tell(self) -> None:
        if not self._known:
            self._ctx.recovered()
            return
        remedies = dict.fromkeys(remedy for _, remedy in self._known.values() if remedy)
        self._ctx.degraded("; ".join(self.known.values()), remedy="; ".join(remedies))
