"""Named steps of durable work, so that a test can kill the process at exactly one of them.

`reached` costs one comparison and does nothing unless the environment variable `SPARKD_CRASH_AT` names the step:
`outbox.after-fsync`, or `outbox.after-fsync:20` for the 20th time it is reached, or `outbox.after-fsync:20:/a/file`
to do so only in the first process that gets there and makes the file. Then the process kills itself with SIGKILL, as
a power cut or the kernel would: no cleanup of any kind runs.
"""

from __future__ import annotations

import os
import signal

VARIABLE = "SPARKD_CRASH_AT"
_name, _left, _once = "", 0, ""


def arm(text: str) -> None:
    """Crash at the step that *text* names, as the environment variable does; nothing for an empty text."""
    global _name, _left, _once  # noqa: PLW0603 - one setting a process
    _name, _, rest = text.partition(":")
    count, _, _once = rest.partition(":")
    _left = int(count or 1)


def reached(step: str) -> None:
    """Say that *step* has been reached."""
    if step == _name:
        _crash_when_due()


def _crash_when_due() -> None:
    global _left  # noqa: PLW0603 - a process dies once
    _left -= 1
    if _left == 0 and _first():
        os.kill(os.getpid(), signal.SIGKILL)


def _first() -> bool:
    if not _once:
        return True
    try:
        os.close(os.open(_once, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
    except FileExistsError:
        return False
    return True


arm(os.environ.get(VARIABLE, ""))
