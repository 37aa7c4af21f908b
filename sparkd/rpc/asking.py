"""Which client of the Unix socket the core is answering: for the few answers that are about the client."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from sparkd.rpc.peer import Peer

_asking: ContextVar[Peer | None] = ContextVar("sparkd_asking_client", default=None)


def asking_client() -> Peer | None:
    """Return the client whose call is being answered in this process; None if it came by another way."""
    return _asking.get()


@contextmanager
def asked_by(peer: Peer) -> Iterator[None]:
    """Make *peer* the client whose call the code within answers."""
    token = _asking.set(peer)
    try:
        yield
    finally:
        _asking.reset(token)
