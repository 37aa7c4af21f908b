"""What status says."""

from __future__ import annotations

import os
import time

import pytest

from sparkd import State
from sparkd.daemon import report
from sparkd.registry import Failure, FailureKind, PluginSource, SourceKind
from sparkd.supervisor import End, EndKind
from tests.supervisor.script import Script, service


def test_a_service_in_a_pause_says_why_and_when_it_is_tried_again() -> None:
    watched = service(Script())
    watched.state, watched.retry_at = State.BACKOFF, time.monotonic() + 30
    watched.end = End(kind=EndKind.FAILED, reason="no", remedy="mend it", file="p.py", line=3)
    status = report.of_service(watched, pid=None, memory=None, lines=["last"])
    assert (status.reason, status.remedy, status.file, status.line) == ("no", "mend it", "p.py", 3)
    assert status.retry_in_s is not None
    assert 29 < status.retry_in_s <= 30

    watched.retry_at = time.monotonic() - 1
    assert report.of_service(watched, pid=None, memory=None, lines=[]).retry_in_s == 0.0
    watched.state, watched.retry_at = State.WAITING, 0.0
    assert report.of_service(watched, pid=None, memory=None, lines=[]).retry_in_s is None
    watched.state = State.RUNNING
    assert report.of_service(watched, pid=1, memory=2, lines=[]).reason == ""


@pytest.mark.parametrize(
    ("kind", "state"),
    [
        (FailureKind.SYNTAX, State.BROKEN),
        (FailureKind.MISSING, State.WAITING),
        (FailureKind.PENDING, State.STARTING),
        (FailureKind.UNAVAILABLE, State.WAITING),
    ],
)
def test_a_plugin_that_cannot_be_read_stands_for_its_services(kind: FailureKind, state: State) -> None:
    source = PluginSource(name="p", kind=SourceKind.DROP_IN, path="/p.py")
    status = report.of_failure(source, Failure(kind=kind, message="why", file="/p.py", line=4, trace=("a", "b")))
    assert (status.state, status.reason, status.line, status.last_lines) == (state, "why", 4, ["a", "b"])
    assert status.remedy


def test_the_summary_counts_and_names() -> None:
    states = {"a": State.RUNNING, "c": State.BROKEN, "b": State.RUNNING}
    assert report.summary(states, {"d": State.WAITING}) == "2 of 4 services run; c broken, d waiting"
    assert report.summary({}, {}) == "0 of 0 services run"


def test_memory_and_groups() -> None:
    assert (report.memory_of(None) or 0) > 1 << 20
    assert report.memory_of(os.getpid()) is not None
    assert report.memory_of(2**22 + 1) is None
    assert report.group_ids("") == report.group_ids("no-such-group") == frozenset()
    assert report.group_ids("root") == {0}
