from __future__ import annotations

import os
import resource
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sparkd.audit import Deed, Denials, Trail, plain_params, read_tail, verify
from sparkd.audit.deed import MAX_PARAMS_BYTES
from sparkd.audit.denials import BURST, EVERY_S
from sparkd.audit.files import FILES, TrailFiles, trail_files

pytestmark = pytest.mark.anyio


def deed(number: int = 0, **more: Any) -> Deed:
    return Deed(door="rpc", method="plugins.stop", outcome="ok", params={"n": number}, **more)


def written(folder: Path, count: int, *, max_bytes: int = 1 << 20) -> TrailFiles:
    files = TrailFiles(folder, max_bytes=max_bytes)
    files.append([files.open()])
    for number in range(count):
        files.append([deed(number)])
    return files


def lines(folder: Path) -> list[bytes]:
    return b"".join(file.read_bytes() for file in trail_files(folder)).splitlines(keepends=True)


def rewrite(folder: Path, content: list[bytes]) -> None:
    trail_files(folder)[0].write_bytes(b"".join(content))


def test_a_trail_that_nobody_touched_is_whole(tmp_path: Path) -> None:
    written(tmp_path, 20)

    report = verify(tmp_path)

    assert (report.problems, report.lines, report.first_seq, report.last_seq) == ([], 21, 1, 21)
    assert [entry.seq for entry in read_tail(tmp_path, 3)] == [19, 20, 21]
    assert [entry.seq for entry in read_tail(tmp_path, 3, before=5)] == [2, 3, 4]
    assert trail_files(tmp_path)[0].stat().st_mode & 0o777 == 0o640


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda held: [*held[:5], held[5].replace(b"plugins.stop", b"plugins.list"), *held[6:]], "that was edited"),
        (lambda held: held[:5] + held[6:], "lines are missing"),
        (lambda held: [*held[:5], held[6], held[5], *held[7:]], "lines are missing, or were moved"),
        (lambda held: held[:-3], "the end is cut off: the head says line 21, the last is 18"),
        (lambda held: held[4:], "the beginning is cut off: the head says line 1, the first is 5"),
        (lambda held: [*held[:5], b"garbage\n", *held[5:]], "line 6: cannot be read"),
        (lambda held: [*held[:-1], held[-1].replace(b"plugins.stop", b"plugins.list")], "it was edited"),
        (lambda held: [], "the end is cut off"),
    ],
    ids=["edited", "cut out", "moved", "cut at the end", "cut at the beginning", "put in", "last edited", "emptied"],
)
def test_cutting_and_editing_show(tmp_path: Path, change: Callable[[list[bytes]], list[bytes]], said: str) -> None:
    written(tmp_path, 20)

    rewrite(tmp_path, change(lines(tmp_path)))

    assert any(said in problem for problem in verify(tmp_path).problems), verify(tmp_path).problems


def test_without_a_head_the_end_cannot_be_vouched_for(tmp_path: Path) -> None:
    written(tmp_path, 3)
    (tmp_path / "head").unlink()

    assert "whether the end was cut off cannot be told" in verify(tmp_path).problems[0]


def test_it_is_bounded_and_what_was_given_up_is_no_cut(tmp_path: Path) -> None:
    bound = 1 << 16
    files = TrailFiles(tmp_path, max_bytes=bound)
    files.append([files.open()])
    for _ in range(50):
        files.append([deed(number) for number in range(30)])

    held = trail_files(tmp_path)
    assert sum(file.stat().st_size for file in held) <= bound + bound // FILES
    assert 1 < len(held) <= FILES
    report = verify(tmp_path)
    assert report.problems == []
    assert report.first_seq > 1
    assert report.last_seq == 1501
    files.close()
    shutil.rmtree(held[0].parent / "none", ignore_errors=True)
    held[0].unlink()
    assert "the beginning is cut off" in verify(tmp_path).problems[0]


@pytest.mark.parametrize("tear", range(1, 40, 7))
def test_a_torn_last_line_is_taken_off_at_the_next_start(tmp_path: Path, tear: int) -> None:
    written(tmp_path, 5).close()
    file = trail_files(tmp_path)[0]
    file.write_bytes(file.read_bytes() + lines(tmp_path)[-1].replace(b'"seq":6', b'"seq":7')[:tear] + b"\0" * tear)
    assert verify(tmp_path).problems == [], "its call was never answered"

    files = TrailFiles(tmp_path, max_bytes=1 << 20)
    started = files.open()
    files.append([started, deed()])

    assert started.params == {"torn_bytes": 2 * tear, "clean": False}
    assert verify(tmp_path).problems == []
    assert verify(tmp_path).last_seq == 8


def test_a_trail_cut_while_the_daemon_was_down_is_said_and_goes_on(tmp_path: Path) -> None:
    written(tmp_path, 9).close()
    rewrite(tmp_path, lines(tmp_path)[:-2])

    files = TrailFiles(tmp_path, max_bytes=1 << 20)
    started = files.open()
    files.append([started])

    assert started.params == {"clean": False, "lines_missing": 2}
    assert "lines are missing" in verify(tmp_path).problems[0]


def test_a_trail_removed_under_the_daemon_shows(tmp_path: Path) -> None:
    files = written(tmp_path / "audit", 5)
    shutil.rmtree(tmp_path / "audit")

    files.append([deed()])

    assert "the beginning is cut off" in verify(tmp_path / "audit").problems[0]


def test_a_full_disk_leaves_no_half_line(tmp_path: Path) -> None:
    files = written(tmp_path, 2)
    size = trail_files(tmp_path)[0].stat().st_size
    with _file_limit(size + 50), pytest.raises(OSError, match="File too large"):
        files.append([deed(1), deed(2)])
    assert trail_files(tmp_path)[0].stat().st_size == size
    files.append([deed(3)])

    assert verify(tmp_path).problems == []
    assert verify(tmp_path).last_seq == 4


@contextmanager
def _file_limit(size: int) -> Iterator[None]:
    """Make the kernel refuse to let a file grow beyond *size*."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    held = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, held)


async def test_what_is_recorded_is_on_disk_and_followers_hear_of_it(tmp_path: Path) -> None:
    trail = Trail(tmp_path / "audit", max_bytes=1 << 20)
    async with trail.open(), trail.follow() as news:
        await trail.record(deed(uid=0))
        assert read_tail(tmp_path / "audit", 1)[0].params == {"n": 0}
        async with anyio.create_task_group() as tasks:
            for number in range(50):
                tasks.start_soon(trail.record, deed(number))
        seqs = [(await news.receive()).seq for _ in range(52)]
    assert seqs == list(range(1, 53))
    held = read_tail(tmp_path / "audit", 100)
    assert held[0].method == "audit.started"
    assert held[1].user == "root"
    assert held[-1].method == "audit.stopped"
    assert verify(tmp_path / "audit").problems == []


async def test_when_the_disk_refuses_calls_go_on_and_it_is_said(tmp_path: Path) -> None:
    problems: list[str] = []
    (tmp_path / "audit").write_text("a file where the folder should be")
    trail = Trail(tmp_path / "audit", max_bytes=1 << 20, on_problem=problems.append)
    async with trail.open():
        with anyio.fail_after(2):
            await trail.record(deed(1))
        assert "calls go on" in problems[-1]
        assert "lines wait" in problems[-1]
        (tmp_path / "audit").unlink()
        await trail.record(deed(2))
        assert problems[-1] == ""
    numbers = [entry.params["n"] for entry in read_tail(tmp_path / "audit", 10) if entry.door == "rpc"]
    assert numbers == [1, 2], "what waited is written"


async def test_what_is_beyond_the_bound_is_counted_in_a_line(tmp_path: Path) -> None:
    (tmp_path / "audit").write_text("")
    trail = Trail(tmp_path / "audit", max_bytes=1 << 20)
    async with trail.open():
        await trail.record(deed())
        for number in range(1500):
            trail.note(deed(number))
        (tmp_path / "audit").unlink()
        await trail.record(deed())
        await anyio.wait_all_tasks_blocked()
    lost = [entry.params for entry in read_tail(tmp_path / "audit", 10_000) if entry.method == "audit.lost"]
    assert sum(params["lines"] for params in lost) == trail.lost > 0


async def test_no_trail_costs_nothing(tmp_path: Path) -> None:
    trail = Trail(tmp_path / "audit", max_bytes=0)
    async with trail.open():
        await trail.record(deed())
    assert not (tmp_path / "audit").exists()


def test_a_flood_of_refusals_leaves_a_few_lines_and_a_count() -> None:
    denials = Denials()
    admitted = [denials.admit("uid 5", 0.001 * n) for n in range(1000)]
    assert sum(left is not None for left in admitted) == BURST
    assert denials.admit("uid 6", 1.0) == 0, "another caller has lines of its own"
    assert denials.admit("uid 5", 1.0 + EVERY_S) == 1000 - BURST
    assert len([c for c in range(10_000) if denials.admit(f"uid {c + 10}", 2.0) is not None]) <= 10 * BURST
    assert len(denials._callers) <= 256


@pytest.mark.parametrize(
    ("body", "shown"),
    [
        (b"", None),
        (b'{"name": "it"}', {"name": "it"}),
        (b'{"password": "hunter2", "n": [1, true, null]}', {"password": "(hidden)", "n": [1, True, None]}),
        (b'{"api_key": {"a": 1}, "token": ["b"]}', {"api_key": "(hidden)", "token": "(hidden)"}),
        (b'{"text": "' + b"x" * 65 + b'"}', {"text": "(65 characters)"}),
        (b'{"a": {"b": {"c": {"d": {}}}}}', {"a": {"b": {"c": {"d": "(dict)"}}}}),
        (b'{"n": 99999999999999999999}', {"n": "(67 bits)"}),
        (b"[" + b"1," * 30 + b"1]", [*[1] * 20, "(31 items)"]),
        (b"{", "(1 bytes, malformed)"),
        (b"{" + b" " * MAX_PARAMS_BYTES + b"}", f"({MAX_PARAMS_BYTES + 2} bytes)"),
    ],
)  # fmt: skip
def test_parameters_are_recorded_without_secrets_and_bounded(body: bytes, shown: Any) -> None:
    assert plain_params(body, json=True) == shown


@given(st.binary(max_size=300), st.booleans())
def test_any_parameters_can_be_recorded(body: bytes, json: bool) -> None:  # noqa: FBT001
    from sparkd.audit.deed import Entry, entry_of, line_of  # noqa: PLC0415 - for this test

    made = Deed(door="rpc", method="a.b", outcome="ok", params=plain_params(body, json=json))
    line = line_of(Entry.of(made, seq=1, prev="", user=""))
    assert b"\n" not in line
    assert entry_of(line) is not None


@settings(max_examples=20, deadline=None)
@given(st.lists(st.binary(max_size=100), max_size=5))
def test_any_bytes_can_be_verified_and_taken_up(tmp_path_factory: pytest.TempPathFactory, parts: list[bytes]) -> None:
    folder = tmp_path_factory.mktemp("audit")
    (folder / "00000001.jsonl").write_bytes(b"".join(parts))
    verify(folder)
    read_tail(folder, 10)
    files = TrailFiles(folder, max_bytes=1 << 20)
    files.append([files.open()])
    assert read_tail(folder, 1)[0].method == "audit.started"
    files.close()


WRITER = """
import sys
from pathlib import Path
from sparkd.audit.deed import Deed
from sparkd.audit.files import TrailFiles
files = TrailFiles(Path(sys.argv[1]), max_bytes=1 << 18)
files.append([files.open()])
number = 0
while True:
    files.append([Deed(door="rpc", method="a.b", outcome="ok", params={"n": number, "pad": "x" * 60})] * 3)
    number += 1
    print(files._seq, flush=True)
"""


def test_what_was_acknowledged_is_there_after_any_kill(tmp_path: Path) -> None:
    acknowledged = 0
    for n in range(8):
        with subprocess.Popen([sys.executable, "-c", WRITER, str(tmp_path)], stdout=subprocess.PIPE) as writer:
            assert writer.stdout is not None
            for _ in range(5 + 7 * n):
                acknowledged = int(writer.stdout.readline())
            os.kill(writer.pid, signal.SIGKILL)
            rest = writer.stdout.read().split(b"\n")[:-1]  # what it said before it was killed
            acknowledged = int(rest[-1]) if rest else acknowledged
        report = verify(tmp_path)
        assert report.problems == []
        assert report.last_seq >= acknowledged
