"""The log on disk: bounded, readable by anybody later, and never in the way of who logs."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from sparkd import logstore
from sparkd.core_interfaces import LogRecord
from sparkd.logstore import LogStore, log_files, read_lines
from sparkd.testing import short_folder


def line(text: str, *, service: str = "a", level: int = 6, at: float = 1000.0) -> LogRecord:
    return LogRecord(at=at, service=service, level=level, text=text)


@contextmanager
def opened(folder: Path, *, max_bytes: int = 1 << 20) -> Iterator[LogStore]:
    store = LogStore(folder, max_bytes=max_bytes)
    store.open()
    try:
        yield store
    finally:
        store.close()


def texts(lines: list[LogRecord]) -> list[str]:
    return [found.text for found in lines]


def test_what_was_said_is_there_after_the_end_in_order(tmp_path: Path) -> None:
    with opened(tmp_path / "logs") as store:
        for number in range(10):
            store.put(line(f"line {number}", service="ab"[number % 2], at=float(number)))

    assert texts(read_lines(tmp_path / "logs")) == [f"line {number}" for number in range(10)]
    assert texts(read_lines(tmp_path / "logs", service="b", lines=2)) == ["line 7", "line 9"]
    assert texts(read_lines(tmp_path / "logs", since=8.0)) == ["line 8", "line 9"]


def test_lines_are_found_by_level_and_by_text(tmp_path: Path) -> None:
    with opened(tmp_path / "logs") as store:
        for level, text in ((7, "quiet"), (6, "Disk well"), (4, "disk is full"), (3, "disk broken")):
            store.put(line(text, level=level))

    assert texts(read_lines(tmp_path / "logs", level=4)) == ["disk is full", "disk broken"]
    assert texts(read_lines(tmp_path / "logs", text="DISK", level=6)) == ["Disk well", "disk is full", "disk broken"]


def test_the_store_is_bounded_and_the_oldest_go(tmp_path: Path) -> None:
    folder = tmp_path / "logs"
    for batch in range(40):
        with opened(folder, max_bytes=1 << 16) as store:
            for number in range(50):
                store.put(line(f"{batch}.{number} " + "x" * 100))

    assert sum(file.stat().st_size for file in log_files(folder)) <= (1 << 16) + (1 << 14)
    assert texts(read_lines(folder, lines=1)) == ["39.49 " + "x" * 100]
    assert not any(text.startswith("0.") for text in texts(read_lines(folder, lines=10_000)))


def test_a_line_torn_by_a_power_cut_costs_only_itself(tmp_path: Path) -> None:
    folder = tmp_path / "logs"
    with opened(folder) as store:
        store.put(line("before"))
    (file,) = log_files(folder)
    with file.open("ab") as torn:
        torn.write(b'{"at":1.0,"service":"a","le')
    with opened(folder) as store:
        store.put(line("after"))

    assert texts(read_lines(folder)) == ["before", "after"]


def test_an_error_is_on_disk_when_the_process_is_killed_a_moment_later(tmp_path: Path) -> None:
    script = (
        "import time; from pathlib import Path\n"
        "from sparkd import logstore; from sparkd.core_interfaces import LogRecord\n"
        "logstore.GATHER_S = 3600  # an error must not wait for it\n"
        f"store = logstore.LogStore(Path({str(tmp_path)!r})); store.open()\n"
        "store.put(LogRecord(at=1.0, service='a', level=3, text='last words'))\n"
        f"while not logstore.log_files(Path({str(tmp_path)!r})): time.sleep(0.01)\n"
        "print('there', flush=True); time.sleep(60)\n"
    )
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"there\n"
        process.send_signal(signal.SIGKILL)

    assert texts(read_lines(tmp_path)) == ["last words"]


def test_too_many_lines_at_once_are_counted_and_hold_up_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logstore, "WAITING_LINES", 10)
    store = LogStore(tmp_path)  # not opened: nobody takes a line away
    for number in range(25):
        store.put(line(str(number)))

    assert store.lost == 15


def test_a_store_of_no_bytes_writes_nothing(tmp_path: Path) -> None:
    with opened(tmp_path / "logs", max_bytes=0) as store:
        store.put(line("nothing"))

    assert not (tmp_path / "logs").exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount a small disk")
def test_a_full_disk_costs_the_oldest_lines_then_is_told_and_clears_by_itself() -> None:
    with short_folder() as disk:
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", disk], check=True)
        try:
            _fill_and_free(disk)
        finally:
            subprocess.run(["umount", "-l", disk], check=True)


def _fill(out: io.FileIO) -> None:
    while True:
        out.write(bytes(4096))


def _fill_and_free(disk: Path) -> None:
    problems: list[str] = []
    store = LogStore(disk / "logs", on_problem=problems.append)
    ballast = disk / "ballast"
    with ballast.open("wb", buffering=0) as out, pytest.raises(OSError, match="No space left"):
        _fill(out)
    store._store([line("lost")])
    assert "No space left" in problems[-1]
    assert store.lost == 1

    ballast.unlink()
    store._store([line("kept")])
    assert problems[-1] == ""
    assert texts(read_lines(disk / "logs")) == ["kept"]
