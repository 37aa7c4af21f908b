"""Named steps of durable work, so that a test can kill the process at exactly one of them.

`reached` costs one comparison and does nothing unless the environment variable `SPARKD_CRASH_AT` names the step
(`outbox.after-fsync`, or `outbox.after-fsync:20` for the 20th time it is reached). Then the process kills itself with
SIGKILL, as a power cut or the kernel would: no cleanup of any kind runs.
"""

from __future__ import annotations

import os
import signal

_name, _, _count = os.environ.get("SPARKD_CRASH_AT", "").partition(":")
_left = int(_count or 1)


def reached(step: str) -> None:
    """Say that *step* has been reached."""
    if step == _name:
        _crash_when_due()


def _crash_when_due() -> None:
    global _left  # noqa: PLW0603 - a process dies once
    _left -= 1
    if _left == 0:
        os.kill(os.getpid(), signal.SIGKILL)
