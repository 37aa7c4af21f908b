"""What an exception says to an operator: the kind of end it is, one sentence, a remedy, and the line to look at."""

from __future__ import annotations

import errno
import traceback
from dataclasses import replace
from pathlib import Path

from sparkd.errors import CallError, CallErrorKind, ConfigError, DeviceError, StorageError
from sparkd.log import printable
from sparkd.supervisor.policy import End, EndKind

MAX_CHARS = 2000
"""Of a reason or a remedy: a plugin may say anything, and it is kept, published and shown."""


def end_of(error: BaseException, *, home: Path | None = None) -> End:
    """Return the end of a run that *error* caused; the line named is the innermost one beneath *home*, if any is."""
    error = innermost(error)
    kind, reason, remedy = _verdict(error)
    file, line = ("", 0) if isinstance(error, ConfigError) else where(error, home)  # its message names the config's
    return tidy(End(kind=kind, reason=reason, remedy=remedy, file=file, line=line))


def tidy(end: End) -> End:
    """Return *end* with texts that can be kept, sent and shown: bounded, and without control characters."""
    reason, remedy, file = (printable(text[:MAX_CHARS]) for text in (end.reason, end.remedy, end.file))
    stack = tuple(printable(line[:MAX_CHARS]) for line in end.stack)
    return replace(end, reason=reason, remedy=remedy, file=file, stack=stack)


def _verdict(error: BaseException) -> tuple[EndKind, str, str]:
    kind, reason, remedy = EndKind.FAILED, f"{type(error).__name__}: {error}".rstrip(": "), ""
    match error:
        case DeviceError():
            kind, reason, remedy = EndKind.MISSING, str(error), error.remedy
        case ModuleNotFoundError():
            remedy = f"install what provides {error.name!r} in the daemon's environment"
            kind, reason = EndKind.MISSING, str(error)
        case ConfigError():
            kind, reason, remedy = EndKind.MISCONFIGURED, str(error), "correct the config; it is then tried again"
        case StorageError():
            kind, reason, remedy = EndKind.MISSING, str(error), "make room, or mend the disk"
        case CallError(kind=CallErrorKind.UNAVAILABLE):
            kind, reason, remedy = EndKind.MISSING, error.message, str(error.data.get("remedy", ""))
        case OSError(errno=errno.EMFILE):
            remedy = "raise open_files_max in its table of the config, or let it close what it opens"
        case MemoryError():
            reason, remedy = "out of memory", "raise its memory limit, or let it hold less"
    return kind, reason, remedy


def innermost(error: BaseException) -> BaseException:
    """Return the first real error inside groups of errors (a task group wraps what its tasks raise)."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


def where(error: BaseException, home: Path | None) -> tuple[str, int]:
    """Return file and line of *error*: the innermost frame beneath *home*, else the innermost of all."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if home is not None and Path(frame.filename).is_relative_to(home)]
    if isinstance(error, SyntaxError) and error.filename:
        return error.filename, error.lineno or 0
    chosen = (own or list(frames))[-1:]
    return (chosen[0].filename, chosen[0].lineno or 0) if chosen else ("", 0)
