"""From an exception, a faulthandler dump or a process's end to a `Failure` that names file and line. No I/O here."""

from __future__ import annotations

import re
import traceback
import types
from collections.abc import Iterable, Sequence
from pathlib import Path

from sparkd.registry.source import Failure, FailureKind

TRACE_LINES = 20
_LOADER = str(Path(__file__).with_name("load.py"))
_FRAME = re.compile(r'  File "(?P<file>.*)", line (?P<line>\d+) in ')
_THREAD = re.compile(r"(Current t|T)hread 0x[0-9a-f]+ .*\(most recent call first\):")


class BrokenPluginError(Exception):
    """A plugin breaks the contract; carries the failure to report."""

    def __init__(self, kind: FailureKind, message: str, *, remedy: str = "", at: object = None) -> None:
        """Say what is wrong; *at* is the function to look at."""
        super().__init__(message)
        code = getattr(at, "__code__", None)
        file, line = (code.co_filename, code.co_firstlineno) if code else ("", 0)
        self.failure = Failure(kind=kind, message=message, remedy=remedy, file=file, line=line)


def failure_of(error: BaseException, home: Path) -> Failure:
    """Return what *error*, raised while the plugin at *home* was read, says to an operator."""
    if isinstance(error, BrokenPluginError):
        return error.failure
    kind, message, remedy = _verdict(error)
    file, line = where(error, home)
    own = None if isinstance(error, SyntaxError) else _without_ours(error.__traceback__, home)
    trace = "".join(traceback.format_exception(error.with_traceback(own))).splitlines()[-TRACE_LINES:]
    return Failure(kind=kind, message=message, remedy=remedy, file=file, line=line, trace=tuple(trace))


def _without_ours(trace: types.TracebackType | None, home: Path) -> types.TracebackType | None:
    """Return the part of *trace* that begins in the plugin at *home*; all of it if it never gets there."""
    step = trace
    while step is not None and not Path(step.tb_frame.f_code.co_filename).is_relative_to(home):
        step = step.tb_next
    return step or trace


def _verdict(error: BaseException) -> tuple[FailureKind, str, str]:
    plain = f"{type(error).__name__}: {error}".rstrip(": ")
    match error:
        case SyntaxError():
            return FailureKind.SYNTAX, f"{type(error).__name__}: {error.msg}", ""
        case ModuleNotFoundError():
            remedy = f"install what provides {error.name!r} in the daemon's environment"
            return FailureKind.MISSING, str(error), remedy
        case MemoryError():
            return FailureKind.MEMORY, "it takes more memory than a plugin may while it is imported", ""
        case SystemExit():
            return FailureKind.EXITED, f"it calls sys.exit({error.code!r}) while it is imported", ""
    return FailureKind.IMPORT, plain, ""


def where(error: BaseException, home: Path) -> tuple[str, int]:
    """Return file and line of *error*: those of the innermost frame of the plugin at *home*, else of all."""
    if isinstance(error, SyntaxError) and error.filename:
        return error.filename, error.lineno or 0
    frames = [(frame.filename, frame.lineno or 0) for frame in traceback.extract_tb(error.__traceback__)]
    return place(reversed(frames), home)


def place(innermost_first: Iterable[tuple[str, int]], home: Path) -> tuple[str, int]:
    """Return the first of these frames that is code of the plugin at *home*; the first of all if none is."""
    frames = list(innermost_first)
    own = (frame for frame in frames if Path(frame[0]).is_relative_to(home))
    return next(own, frames[0] if frames else ("", 0))


def where_in_dump(lines: Sequence[str], home: Path) -> tuple[str, int]:
    """Return file and line that a dump by `faulthandler` names: of the thread that crashed, else of the main one."""
    threads: list[list[tuple[str, int]]] = []
    crashed = None
    for line in lines:
        if thread := _THREAD.match(line):
            threads.append([])
            crashed = threads[-1] if thread[1] == "Current t" else crashed
        elif threads and (frame := _FRAME.match(line)):
            threads[-1].append((frame["file"], int(frame["line"])))
    # The main thread is the oldest, and faulthandler begins with the youngest.
    return place(crashed if crashed is not None else threads[-1] if threads else [], home)


def failure_of_end(how: str, *, dump: str, home: Path, output: Sequence[str], by_signal: bool) -> Failure:
    """Return what it means that the process which read a plugin ended as *how* says, without an answer."""
    lines = dump.splitlines()
    file, line = where_in_dump(lines, home)
    if by_signal:
        kind, message = FailureKind.CRASHED, f"it crashed the process that imported it: {how}"
    else:
        kind, message = FailureKind.EXITED, f"it ended the process that imported it: {how}, no traceback"
    trace = _top(lines) or tuple(output)[-TRACE_LINES:]
    return Failure(kind=kind, message=message, file=file or str(home), line=line, trace=trace)


def failure_of_hang(limit_s: float, *, dump: str, home: Path) -> Failure:
    """Return what it means that a plugin was still being read after *limit_s*."""
    lines = dump.splitlines()
    file, line = where_in_dump(lines, home)
    return Failure(
        kind=FailureKind.HUNG,
        message=f"it was still being imported after {limit_s:g} s",
        remedy="a plugin must not do anything while it is imported: open and wait in run",
        file=file or str(home),
        line=line,
        trace=_top(lines),
    )


def _top(dump: Sequence[str]) -> tuple[str, ...]:
    """Return the beginning of a dump, up to where the import was begun by us."""
    ours = (number for number, line in enumerate(dump) if _LOADER in line)
    return tuple(dump[: min(next(ours, TRACE_LINES), TRACE_LINES)])
