from __future__ import annotations

import fcntl
import logging
import os
import re
import subprocess
import sys
from collections.abc import Iterator

import pytest

from sparkd.log import MAX_LINE_BYTES, DescriptorHandler, OncePer, StructuredLog, _Formatter, parse_line, render


@pytest.mark.parametrize(
    ("fields", "line"),
    [
        ({}, "event"),
        ({"n": 1, "name": "x"}, "event n=1 name=x"),
        ({"text": "two words"}, 'event text="two words"'),
        ({"text": 'a "b"\nc'}, 'event text="a \\"b\\"\\nc"'),
        ({"empty": ""}, 'event empty=""'),
        ({"try_": "x"}, "event try=x"),
        ({"peer": "\x1b[2Jgone\x85"}, 'event peer="\\x1b[2Jgone\\x85"'),
        ({"name": "a\u2028b\udc80"}, 'event name="a\\u2028b\\udc80"'),
        ({"tab": "a\tb\rc"}, 'event tab="a\\tb\\rc"'),
    ],
)
def test_a_record_is_one_line_that_can_be_read_back(fields: dict[str, object], line: str) -> None:
    assert render("event", fields) == line


def test_a_long_value_is_cut() -> None:
    assert len(render("event", {"x": "y" * 10_000})) < 600


@pytest.mark.parametrize(
    ("line", "parsed"),
    [
        ("<3>bad", (3, "bad")),
        ("plain", (6, "plain")),
        ("<9>odd", (6, "<9>odd")),
        ("", (6, "")),
        ("<4>\x1b[2Jx", (4, "\\x1b[2Jx")),
    ],
)
def test_levels_are_read_from_the_prefix(line: str, parsed: tuple[int, str]) -> None:
    assert parse_line(line) == parsed


def test_to_a_pipe_each_line_has_its_level() -> None:
    program = (
        "from sparkd.log import configure, StructuredLog\n"
        "configure('info'); log = StructuredLog('x')\n"
        "log.debug('no'); log.info('yes', a=1)\n"
        "try: 1/0\n"
        "except ZeroDivisionError as e: log.error('broke', exc_info=e)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    lines = done.stderr.splitlines()

    assert lines[0] == "<6>yes a=1"
    assert lines[1] == "<3>broke"
    assert all(line.startswith("<3>| ") for line in lines[2:])
    assert "ZeroDivisionError" in lines[-1]


def record(text: str, level: int = logging.INFO) -> logging.LogRecord:
    return logging.makeLogRecord({"msg": "%s", "args": (text,), "levelno": level, "name": "x"})


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    reading, writing = os.pipe()
    fcntl.fcntl(writing, fcntl.F_SETPIPE_SZ, 16_384)
    yield reading, writing
    os.close(reading)
    os.close(writing)


def test_a_pipe_that_nobody_empties_costs_lines_not_time(pipe: tuple[int, int]) -> None:
    reading, writing = pipe
    handler = DescriptorHandler(writing)
    handler.setFormatter(_Formatter(terminal=False))
    for n in range(10_000):
        handler.emit(record(f"line {n}"))
    first = os.read(reading, 1 << 16).decode().splitlines()
    handler.emit(record("after"))
    later = os.read(reading, 1 << 16).decode().splitlines()

    assert first == [f"<6>line {n}" for n in range(len(first))]
    assert 0 < len(first) < 10_000
    assert later == [f"<4>log lines lost count={10_000 - len(first)}", "<6>after"]
    assert os.get_blocking(writing), "the flag belongs to everybody who has the pipe"


def test_a_long_line_is_cut_below_what_a_pipe_takes_at_once(pipe: tuple[int, int]) -> None:
    reading, writing = pipe
    DescriptorHandler(writing).emit(record("y" * 100_000))

    assert len(os.read(reading, 1 << 20)) == MAX_LINE_BYTES + 1


def test_a_reader_that_is_gone_is_no_error() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    DescriptorHandler(writing).emit(record("x"))
    os.close(writing)


def test_a_terminal_gets_the_time_and_colour_but_no_prefix_and_nobody_elses_escapes() -> None:
    main, terminal = os.openpty()
    handler = DescriptorHandler(terminal)
    handler.setFormatter(_Formatter(terminal=True))
    handler.emit(record("bad \x1b[2J", logging.ERROR))
    shown = os.read(main, 4096).decode()
    os.close(main)
    os.close(terminal)

    assert re.fullmatch(r"\d\d:\d\d:\d\d x {18}\x1b\[31mbad \\x1b\[2J\x1b\[0m\r\n", shown)


def test_no_color_is_respected(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")

    assert "\x1b" not in _Formatter(terminal=True).format(record("bad", logging.ERROR))


def test_one_of_a_kind_passes_per_interval_and_the_rest_are_counted() -> None:
    now = [0.0]
    once = OncePer(interval_s=60, clock=lambda: now[0], max_keys=2)

    assert once.passes("a") == 0
    assert once.passes("a") is None
    assert once.passes("b") == 0
    now[0] = 61
    assert once.passes("a") == 1
    assert once.passes("c") == 0


def test_nothing_is_rendered_below_the_level(caplog: pytest.LogCaptureFixture) -> None:
    class Loud:
        def __str__(self) -> str:
            raise AssertionError("rendered")

    with caplog.at_level(logging.INFO):
        StructuredLog("x").debug("event", value=Loud())
