"""The log: the event's name first, then fields, one record a line.

To a pipe or the journal each line begins with its level as `<6>` (sd-daemon(3)), so the level survives; to a terminal
it is coloured instead. What others made up (a peer's name, a line of a plugin) cannot break the line or drive the
terminal: control characters are written as escapes.

Writing never holds the event loop for long. A descriptor that takes nothing for 20 ms loses records until it takes some
again, and the loss is said then. O_NONBLOCK would do the same, but it belongs to the open file, not to us: it would be
set for the operator's shell on the same terminal and for a plugin's own child processes. Asking with poll(2) and then
writing no more than PIPE_BUF needs no flag, because a pipe that is ready takes that much at once.
"""

from __future__ import annotations

import logging
import os
import re
import select
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field

LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}
SYSLOG = {logging.DEBUG: 7, logging.INFO: 6, logging.WARNING: 4, logging.ERROR: 3, logging.CRITICAL: 2}
INFO = 6
"""The syslog level of a line that says none."""
MAX_VALUE_CHARS = 500
MAX_TRACE_LINES = 40
_COLOURS = {logging.DEBUG: "\x1b[2m", logging.WARNING: "\x1b[33m", logging.ERROR: "\x1b[31m"}
MAX_LINE_BYTES = 4000
"""Of one line, level and all: below PIPE_BUF (4096), so lines of several writers never mix."""
WRITE_WAIT_MS = 20
_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
_PREFIX = re.compile(r"<([0-7])>")
_PLAIN = re.compile(r"[^\s\"'=\\]+")


def printable(text: str) -> str:
    """Return *text* with its control characters, but for tab and the end of a line, written as escapes."""
    return _CONTROL.sub(lambda match: ascii(match[0])[1:-1], text)


class StructuredLog:
    """Implements `sparkd.service.Log` over the standard library's logging."""

    def __init__(self, name: str) -> None:
        """Log as *name*."""
        self._logger = logging.getLogger(name)

    def debug(self, event: str, **fields: object) -> None:
        """Say what only a developer wants."""
        self._say(logging.DEBUG, event, fields)

    def info(self, event: str, **fields: object) -> None:
        """Say what the operator caused."""
        self._say(logging.INFO, event, fields)

    def warning(self, event: str, **fields: object) -> None:
        """Say what surprises, with nothing lost."""
        self._say(logging.WARNING, event, fields)

    def error(self, event: str, *, exc_info: BaseException | None = None, **fields: object) -> None:
        """Say that data was lost or a hand is needed; *exc_info* adds its traceback, bounded."""
        self._say(logging.ERROR, event, fields)
        if exc_info is not None:
            for line in "".join(traceback.format_exception(exc_info)).splitlines()[-MAX_TRACE_LINES:]:
                self._logger.log(logging.ERROR, "| %s", printable(line))

    def _say(self, level: int, event: str, fields: dict[str, object]) -> None:
        if self._logger.isEnabledFor(level):
            self._logger.log(level, "%s", render(event, fields))


def render(event: str, fields: dict[str, object]) -> str:
    """Return `event key=value ...`, values quoted where they would be ambiguous, never longer than one line."""
    words = [
        printable(event.replace("\n", " ")),
        *(f"{key.rstrip('_')}={_value(value)}" for key, value in fields.items()),
    ]
    return " ".join(words)


def _value(value: object) -> str:
    text = str(value)
    if len(text) > MAX_VALUE_CHARS:
        text = text[:MAX_VALUE_CHARS] + "…"
    if _PLAIN.fullmatch(text) and not _CONTROL.search(text):
        return text
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n").replace("\t", "\\t")
    return f'"{printable(escaped)}"'


class _Formatter(logging.Formatter):
    """Lines with a syslog prefix, or with the time, and colour, on a terminal."""

    def __init__(self, *, terminal: bool) -> None:
        super().__init__()
        self._terminal = terminal
        self._coloured = not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"

    def format(self, record: logging.LogRecord) -> str:
        message = record.getMessage()
        if record.exc_info:
            trace = self.formatException(record.exc_info).splitlines()[-MAX_TRACE_LINES:]
            message = "\n| ".join([message, *trace])
        message = printable(message)
        if not self._terminal:
            prefix = f"<{SYSLOG.get(record.levelno, INFO)}>"
            return "\n".join(prefix + line for line in message.split("\n"))
        stamp = time.strftime("%H:%M:%S", time.localtime(record.created))
        colour = _COLOURS.get(record.levelno, "") if self._coloured else ""
        return f"{stamp} {record.name:<18} {colour}{message}{chr(27) + '[0m' if colour else ''}"


class DescriptorHandler(logging.Handler):
    """Writes records to a descriptor that may stop taking them."""

    def __init__(self, descriptor: int) -> None:
        """Write to *descriptor*, which stays the caller's."""
        super().__init__()
        self._descriptor = descriptor
        self._poll = select.poll()
        self._poll.register(descriptor, select.POLLOUT)
        self._lost = 0

    def emit(self, record: logging.LogRecord) -> None:
        """Write a record, or count it as lost."""
        try:
            lines = self.format(record).split("\n")
        except Exception:  # noqa: BLE001 - whatever an object's __str__ raises; logging says which call it was
            self.handleError(record)
            return
        if self._lost and self._takes():
            lost, self._lost = self._lost, 0
            said = {"name": record.name, "levelno": logging.WARNING, "msg": render("log lines lost", {"count": lost})}
            self._write(self.format(logging.makeLogRecord(said)))
        for line in lines:
            self._write(line)

    def _write(self, line: str) -> None:
        content = line.encode()[:MAX_LINE_BYTES] + b"\n"
        if not self._takes():
            self._lost += 1
            return
        try:
            os.write(self._descriptor, content)
        except OSError:  # nobody reads any more, and there is nowhere else to say so
            self._lost += 1

    def _takes(self) -> bool:
        return bool(self._poll.poll(0 if self._lost else WRITE_WAIT_MS))


def configure(level: str) -> None:
    """Send every record of this process at *level* and above to stderr. Raises KeyError for an unknown level."""
    handler = DescriptorHandler(sys.stderr.fileno())
    handler.setFormatter(_Formatter(terminal=sys.stderr.isatty()))
    logging.basicConfig(level=LEVELS[level], handlers=[handler], force=True)
    logging.captureWarnings(capture=True)
    logging.getLogger("asyncio").setLevel(max(LEVELS[level], logging.WARNING))


def parse_line(line: str) -> tuple[int, str]:
    """Return (syslog level, text) of a line a child wrote; one without prefix is of level 6.

    The text is safe to show: a child may have written anything.
    """
    match = _PREFIX.match(line)
    level, text = (int(match[1]), line[match.end() :]) if match else (INFO, line)
    return level, printable(text[:MAX_LINE_BYTES].replace("\n", " "))


@dataclass
class OncePer:
    """Lets one of a kind through per interval, and counts the others, so that a log cannot be flooded."""

    interval_s: float = 60.0
    clock: Callable[[], float] = time.monotonic
    max_keys: int = 1000
    _said: dict[str, tuple[float, int]] = field(default_factory=dict)

    def passes(self, key: str) -> int | None:
        """Return how many were held back since the last that passed, or None if this one is to be held back."""
        now = self.clock()
        at, held = self._said.get(key, (-self.interval_s, 0))
        if now - at < self.interval_s:
            self._said[key] = (at, held + 1)
            return None
        if len(self._said) >= self.max_keys and key not in self._said:
            self._said.pop(next(iter(self._said)))
        self._said[key] = (now, 0)
        return held
