"""What the daemon tells systemd (sd_notify(3)). Without a notify socket each call does nothing, and none ever waits."""

from __future__ import annotations

import os
import time

import sdnotify

MAX_STATUS_CHARS = 500
_US = 1_000_000


class Notifier:
    """Speaks to the service manager that started this process."""

    def __init__(self) -> None:
        self._stopping = False
        self._reloading = False
        # Without NOTIFY_SOCKET the library would leave a socket open (0.3.2).
        self._notifier = sdnotify.SystemdNotifier() if os.environ.get("NOTIFY_SOCKET") else None
        if self._notifier is not None and self._notifier.socket is not None:
            self._notifier.socket.setblocking(False)  # noqa: FBT003 - socket has no keyword for it

    def close(self) -> None:
        """Close the socket; nothing is said any more."""
        if self._notifier is not None and self._notifier.socket is not None:
            self._notifier.socket.close()
        self._notifier = None

    @property
    def is_stopping(self) -> bool:
        """Whether `stopping` was said."""
        return self._stopping

    def ready(self, status: str) -> None:
        """Say that the daemon is ready, with one line of truth. While it reloads or stops, only the line is said."""
        if self._stopping or self._reloading:
            self.status(status)
            return
        self._say(f"READY=1\nSTATUS={_line(status)}\nMAINPID={os.getpid()}")

    def status(self, status: str) -> None:
        """Say how it is, in one line."""
        self._say(f"STATUS={_line(status)}")

    def reloading(self) -> None:
        """Say that the config is being read again; `reloaded` and then `ready` end it.

        The time makes it good for Type=notify-reload too (systemd >= 253).
        """
        self._reloading = True
        self._say(f"RELOADING=1\nMONOTONIC_USEC={time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000}")

    def reloaded(self) -> None:
        """End what `reloading` began: the next `ready` says so."""
        self._reloading = False

    def stopping(self) -> None:
        """Say that it is stopping; this is never taken back."""
        self._stopping = True
        self._say("STOPPING=1")

    def extend_timeout(self, seconds: float) -> None:
        """Ask for *seconds* more for what is going on now."""
        self._say(f"EXTEND_TIMEOUT_USEC={int(seconds * _US)}")

    def watchdog(self) -> None:
        """Say that the daemon is well: a decision, not a timer."""
        self._say("WATCHDOG=1")

    def _say(self, state: str) -> None:
        if self._notifier is not None:
            # The library sends Latin-1 and drops a whole message that is not; its bytes are UTF-8 this way (0.3.2).
            self._notifier.notify(state.encode().decode("latin-1"))


def watchdog_interval_s() -> float:
    """Return how often systemd wants to hear `watchdog`; 0 if never (WATCHDOG_USEC, for this process)."""
    if os.environ.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        return 0.0
    try:
        return int(os.environ.get("WATCHDOG_USEC", "0")) / _US
    except ValueError:
        return 0.0


def _line(text: str) -> str:
    """Return *text* on one line and short enough for a datagram: a second line could say READY for us."""
    return "".join(c if c.isprintable() else " " for c in text)[:MAX_STATUS_CHARS]
