"""One heap for all threads of a core."""

from __future__ import annotations

import subprocess
import sys

HEAPS = """
import ctypes, sys, threading
from sparkd.daemon.heap import keep_one_heap
if sys.argv[1] == "one":
    assert keep_one_heap()
held, done = [], threading.Barrier(9)
def allocate():
    held.append([bytes(2000) for _ in range(500)])
    done.wait()
for _ in range(8):
    threading.Thread(target=allocate).start()
done.wait()
libc = ctypes.CDLL(None)
out = ctypes.c_void_p.in_dll(libc, "stdout")
libc.malloc_info(0, out)
libc.fflush(out)
"""


def heaps(how: str) -> int:
    done = subprocess.run([sys.executable, "-c", HEAPS, how], capture_output=True, text=True, check=True)
    return done.stdout.count("<heap ")


def test_a_core_has_one_heap_however_many_threads_allocate() -> None:
    assert heaps("one") == 1
    assert heaps("many") > 1
