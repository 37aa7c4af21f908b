"""Which call the running code is answering."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from sparkd.service import CallInfo

_current: ContextVar[CallInfo | None] = ContextVar("sparkd_current_call", default=None)


def current_call() -> CallInfo:
    """Return who made the call that this code is answering. Raises LookupError outside a handler."""
    info = _current.get()
    if info is None:
        raise LookupError("no call is being answered here")
    return info


def calling() -> CallInfo | None:
    """Return the call being answered, or None."""
    return _current.get()


@contextmanager
def answering(info: CallInfo) -> Iterator[None]:
    """Make *info* the current call of the code within."""
    token = _current.set(info)
    try:
        yield
    finally:
        _current.reset(token)
