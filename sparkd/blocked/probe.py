"""What libuv knows of a uvloop: how often it has gone round, how long it has slept, and that it has just woken.

uvloop has no hook for going to sleep and waking up, but libuv has, and uvloop's module exports it whole: the functions
that are called here by ctypes are part of libuv's documented interface. Where one is missing (`Probe.of` returns None)
loops are not watched; nothing else depends on it.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable
from typing import Any, TypeAlias

UV_CHECK = 2
"""`uv_handle_type` of a handle that is called after the loop has slept (uv.h)."""
UV_METRICS_IDLE_TIME = 1
"""`uv_loop_option` (uv.h)."""
_METRICS_WORDS = 16
"""`uv_metrics_t`: three counters and thirteen reserved words (uv.h, since libuv 1.45)."""

Look: TypeAlias = tuple[int, int]
"""Rounds of the loop, and nanoseconds it has slept. Two that are equal: it is in one round, and has not slept in it."""

_Callback = ctypes.CFUNCTYPE(None, ctypes.c_void_p)
_KEPT: list[object] = []
"""What libuv may still point to: a few hundred bytes for each loop that was watched."""


class Probe:
    """The libuv loop beneath a uvloop. `look` and `is_asleep` may be called in any thread, the others in the loop's."""

    def __init__(self, library: Any, pointer: int, on_wake: Callable[[], None]) -> None:
        """Call *on_wake*, in the loop's thread, when the loop wakes up after `arm`, once for each `arm`."""
        self._library, self._loop = library, ctypes.c_void_p(pointer)
        self._metrics = (ctypes.c_uint64 * _METRICS_WORDS)()
        self._handle = ctypes.create_string_buffer(library.uv_handle_size(UV_CHECK))
        self._on_wake = on_wake
        self._callback = _Callback(self._woke)
        _KEPT.append((self._handle, self._callback))
        library.uv_loop_configure(self._loop, UV_METRICS_IDLE_TIME)
        library.uv_check_init(self._loop, self._handle)

    @classmethod
    def of(cls, loop: object, on_wake: Callable[[], None]) -> Probe | None:
        """Return a probe of *loop*; None if it is no uvloop, or one without what is needed."""
        try:
            import uvloop.loop  # noqa: PLC0415 - only a process that runs one carries it

            if not isinstance(loop, uvloop.loop.Loop):
                return None
            library = ctypes.PyDLL(uvloop.loop.__file__)  # PyDLL: these take less time than to let go of the lock
            capsule = vars(uvloop.loop)["libuv_get_loop_t_ptr"](loop)  # its stubs leave it out
            library.uv_metrics_idle_time.restype = ctypes.c_uint64
            library.uv_handle_size.restype = ctypes.c_size_t
            library.uv_metrics_info  # noqa: B018 - since libuv 1.45
        except (ImportError, AttributeError, KeyError, OSError):
            return None
        pointer = ctypes.pythonapi.PyCapsule_GetPointer
        pointer.restype, pointer.argtypes = ctypes.c_void_p, [ctypes.py_object, ctypes.c_char_p]
        return cls(library, pointer(capsule, None), on_wake)

    def look(self) -> Look:
        """Return how often it has gone round and how long it has slept."""
        self._library.uv_metrics_info(self._loop, self._metrics)
        return self._metrics[0], self._library.uv_metrics_idle_time(self._loop)

    def is_asleep(self) -> bool:
        """Whether it sleeps now: then the time it has slept grows while we look."""
        idle_time = self._library.uv_metrics_idle_time
        return bool(idle_time(self._loop) != idle_time(self._loop))

    def arm(self) -> None:
        """Have `on_wake` called when the loop wakes up next."""
        self._library.uv_check_start(self._handle, self._callback)

    def close(self) -> None:
        """Take the handle out of the loop, which must go round once more before it is closed."""
        self._library.uv_close(self._handle, None)

    def _woke(self, _handle: int) -> None:
        self._library.uv_check_stop(self._handle)
        self._on_wake()


class Alarm:
    """A kernel timer that a thread can wait for, without polling (timerfd_create(2))."""

    def __init__(self) -> None:
        """Raise OSError if the kernel refuses."""
        self._library = ctypes.CDLL(None, use_errno=True)
        self._descriptor = self._library.timerfd_create(1, os.O_CLOEXEC)  # 1: CLOCK_MONOTONIC
        if self._descriptor < 0:
            raise OSError(ctypes.get_errno(), "timerfd_create failed")
        self._due = (ctypes.c_long * 4)()  # interval and time, each in seconds and nanoseconds

    def set(self, seconds: float) -> None:
        """Ring in *seconds*, never for 0; an earlier setting is forgotten."""
        self._due[2], self._due[3] = int(seconds), int(seconds % 1 * 1e9)
        self._library.timerfd_settime(self._descriptor, 0, self._due, None)

    def wait(self) -> None:
        """Return when it rings."""
        os.read(self._descriptor, 8)

    def close(self) -> None:
        """Close it; nobody may wait for it then."""
        os.close(self._descriptor)
