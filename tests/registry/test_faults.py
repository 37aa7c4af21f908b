from __future__ import annotations

from pathlib import Path

from sparkd.registry import Failure, FailureKind
from sparkd.registry.faults import BrokenPluginError, failure_of, where_in_dump

HOME = Path("/etc/sparkd/plugins/door.py")
CRASH = """Fatal Python error: Segmentation fault

Thread 0x00007f0000000001 (most recent call first):
  File "/usr/lib/python3.11/threading.py", line 320 in wait

Current thread 0x00007f0000000002 (most recent call first):
  File "/usr/lib/python3.11/ctypes/__init__.py", line 519 in string_at
  File "/etc/sparkd/plugins/door.py", line 7 in open_door
  File "/etc/sparkd/plugins/door.py", line 9 in <module>

Extension modules: msgpack._cmsgpack (total: 1)
"""
HANG = """Timeout (0:00:10)!
Thread 0x00007f0000000001 (most recent call first):
  File "/usr/lib/python3.11/threading.py", line 320 in wait
Thread 0x00007f0000000002 (most recent call first):
  File "/etc/sparkd/plugins/door.py", line 3 in <module>
"""


def test_a_crash_is_where_the_thread_that_crashed_last_ran_the_plugins_code() -> None:
    assert where_in_dump(CRASH.splitlines(), HOME) == (str(HOME), 7)


def test_a_hang_is_where_the_main_thread_is() -> None:
    assert where_in_dump(HANG.splitlines(), HOME) == (str(HOME), 3)


def test_with_no_frame_of_its_own_the_innermost_is_named() -> None:
    assert where_in_dump(CRASH.splitlines(), Path("/x")) == ("/usr/lib/python3.11/ctypes/__init__.py", 519)


def test_a_dump_that_is_none_names_nothing() -> None:
    assert where_in_dump(["junk"], HOME) == ("", 0)
    assert where_in_dump([], HOME) == ("", 0)


def test_an_error_without_a_traceback_names_no_place() -> None:
    failure = failure_of(ValueError("x"), HOME)

    assert (failure.kind, failure.file, failure.line) == (FailureKind.IMPORT, "", 0)


def test_a_broken_contract_points_at_the_function() -> None:
    def hook() -> None: ...

    error = BrokenPluginError(FailureKind.HOOK, "no", at=hook)

    assert (error.failure.file, error.failure.line) == (__file__, hook.__code__.co_firstlineno)


def test_a_failure_in_one_line() -> None:
    failure = Failure(kind=FailureKind.HOOK, message="unknown hook", remedy="rename it", file="/a.py", line=3)

    assert str(failure) == "/a.py:3: unknown hook (rename it)"
    assert str(Failure(kind=FailureKind.HOOK, message="no", file="/a.py")) == "/a.py: no"
    assert str(Failure(kind=FailureKind.HOOK, message="no")) == "no"
