"""The C heap of the core: one, and given back to the kernel.

glibc gives each thread a heap of its own, up to eight a processor, and what is freed in one is of no use to another;
it also raises the size from which memory is mapped, and so returned when it is freed, to the largest block it has
seen. A core has a dozen threads that each do a little. Under 150 faults in 75 seconds their heaps grew from 11.8 to
15.5 MB, of which 10 were in use; as one heap, mapped from 64 KiB on, from 9.7 to 12.7.
"""

from __future__ import annotations

import ctypes

M_MMAP_THRESHOLD, M_ARENA_MAX = -3, -8
"""From glibc's malloc.h; mallopt(3)."""
MAPPED_FROM_BYTES = 128 << 10
"""glibc's own to begin with; setting it keeps it there."""


def keep_one_heap() -> bool:
    """Have this process allocate from one heap, from now on; return whether the C library can (musl cannot).

    Call it before the first thread.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return False
    mallopt.argtypes, mallopt.restype = [ctypes.c_int, ctypes.c_int], ctypes.c_int
    return bool(mallopt(M_ARENA_MAX, 1)) and bool(mallopt(M_MMAP_THRESHOLD, MAPPED_FROM_BYTES))
