from __future__ import annotations

import logging
import subprocess
import sys

import pytest

from sparkd.log import OncePer, StructuredLog, parse_line, render


@pytest.mark.parametrize(
    ("fields", "line"),
    [
        ({}, "event"),
        ({"n": 1, "name": "x"}, "event n=1 name=x"),
        ({"text": "two words"}, 'event text="two words"'),
        ({"text": 'a "b"\nc'}, 'event text="a \\"b\\"\\nc"'),
        ({"empty": ""}, 'event empty=""'),
        ({"try_": "x"}, "event try=x"),
    ],
)
def test_a_record_is_one_line_that_can_be_read_back(fields: dict[str, object], line: str) -> None:
    assert render("event", fields) == line


def test_a_long_value_is_cut() -> None:
    assert len(render("event", {"x": "y" * 10_000})) < 600


@pytest.mark.parametrize(
    ("line", "parsed"), [("<3>bad", (3, "bad")), ("plain", (6, "plain")), ("<9>odd", (6, "<9>odd")), ("", (6, ""))]
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
