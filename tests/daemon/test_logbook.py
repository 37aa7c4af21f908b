"""The last lines, and who follows them."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import anyio
import pytest

from sparkd.daemon.logbook import (
    BYTES_KEPT,
    CHARS_KEPT,
    FOLLOWER_LINES,
    LAST_LINES,
    LINE_BYTES,
    LINES_KEPT,
    SERVICES_KEPT,
    Logbook,
)

pytestmark = pytest.mark.anyio


@pytest.fixture
def logbook() -> Iterator[Logbook]:
    held, root = Logbook(), logging.getLogger()
    level = root.level
    root.addHandler(held)
    root.setLevel(logging.INFO)
    yield held
    root.removeHandler(held)
    root.setLevel(level)


def test_lines_of_a_child_keep_their_level_and_cannot_drive_a_terminal(logbook: Logbook) -> None:
    logbook.child_line("a", "<4>low battery\x1b[2J\x07")
    logbook.child_line("b", "plain")
    (warned,) = logbook.tail("a", 10)
    assert (warned.level, warned.text) == (4, r"low battery\x1b[2J\x07")
    assert [record.text for record in logbook.tail("", 10)] == [warned.text, "plain"]


def test_the_tail_is_bounded(logbook: Logbook) -> None:
    for number in range(LINES_KEPT + 50):
        logging.getLogger("a").info("%d", number)
    assert len(logbook.tail("a", 10**6)) == LINES_KEPT
    assert [record.text for record in logbook.tail("a", 2)] == [str(LINES_KEPT + 48), str(LINES_KEPT + 49)]
    assert logbook.tail("a", 0) == logbook.tail("a", -3) == logbook.tail("unknown", 5) == []


@pytest.mark.parametrize("length", [4, 150, 4000])
def test_services_that_flood_and_go_take_no_more_memory_than_is_set(logbook: Logbook, length: int) -> None:
    for number in range(SERVICES_KEPT * 3):
        logbook.child_line("stays", "here")
        for _ in range(LINES_KEPT):
            logbook.child_line(f"s{number}", "x" * length)
    held = logbook.tail("", 10**6)

    assert sum(len(record.text) + LINE_BYTES for record in held) == logbook._held_bytes <= BYTES_KEPT
    assert len({record.service for record in held}) == SERVICES_KEPT
    assert logbook.tail("s0", 1) == []
    newest = logbook.tail(f"s{SERVICES_KEPT * 3 - 1}", 10**6)
    assert len(newest) >= min(LINES_KEPT, CHARS_KEPT // length)
    assert [record.text for record in logbook.tail("stays", 1)] == ["here"]


def test_who_was_silent_the_longest_keeps_his_last_lines(logbook: Logbook) -> None:
    for number in range(LINES_KEPT):
        logbook.child_line("quiet", f"{number}")
    for name in range(SERVICES_KEPT - 1):
        for _ in range(LINES_KEPT):
            logbook.child_line(f"s{name}", "x" * 150)
    assert [record.text for record in logbook.tail("quiet", 10**6)] == [
        f"{number}" for number in range(LINES_KEPT - LAST_LINES, LINES_KEPT)
    ]


def test_a_record_that_cannot_be_made_into_text_fails_nobody(logbook: Logbook, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logging, "raiseExceptions", False)
    logbook.handle(logging.makeLogRecord({"name": "a", "msg": "%d volts", "args": ("many",)}))
    logbook.handle(logging.makeLogRecord({"name": "a", "msg": "well"}))
    assert [record.text for record in logbook.tail("a", 5)] == ["well"]


async def test_a_follower_gets_what_comes_of_its_service_and_loses_the_oldest_if_it_is_slow(logbook: Logbook) -> None:
    lines = logbook.follow("a")
    got: list[str] = []

    async def follow() -> None:
        async for record in lines:
            got.append(record.text)
            if record.text == "last":
                return

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(follow)
        while not logbook._followers:
            await anyio.lowlevel.checkpoint()
        logging.getLogger("b").info("not this")
        for number in range(FOLLOWER_LINES + 9):
            logging.getLogger("a").info("%d", number)
        logging.getLogger("a").info("last")
    assert (got[0], got[-1], len(got)) == ("10", "last", FOLLOWER_LINES)
    await lines.aclose()  # type: ignore[attr-defined] # an async generator
    assert not logbook._followers
