"""Recordings of power: CSV files with the columns `t_s` and the fields of `PowerReading`. Pure, but for the writer."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import IO, Any

from sparkd import PowerReading

TIME = "t_s"
TRUTHS = {"1": True, "true": True, "yes": True, "0": False, "false": False, "no": False}
FLAGS = ("mains", "battery_low", "shutdown", "under_voltage")
COLUMNS = tuple(field.name for field in fields(PowerReading) if field.name != "detail")
MAX_LINE = 4096


@dataclass(frozen=True, slots=True)
class Row:
    """A line of a recording."""

    number: int
    at_s: float
    reading: PowerReading


@dataclass(frozen=True, slots=True)
class Bad:
    """A line that could not be understood."""

    number: int
    reason: str


def columns(line: str) -> list[str]:
    """Return the columns that the first line of a recording names. Raises ValueError if it is none."""
    names = [name.strip() for name in next(csv.reader([line]), [])]
    if TIME not in names:
        raise ValueError(f"the first line must name the columns, {TIME} among them; got {line[:80]!r}")
    strange = sorted(set(names) - set(COLUMNS) - {TIME})
    if strange:
        raise ValueError(f"unknown columns {', '.join(strange)}; there are {TIME}, {', '.join(COLUMNS)}")
    return names


def row(number: int, line: str, names: list[str]) -> Row | Bad | None:
    """Return what a line says; None for an empty one."""
    if not line.strip() or line.startswith("#"):
        return None
    try:
        words = _words(line, len(names))
        values = {name: _value(name, word.strip()) for name, word in zip(names, words, strict=True) if word.strip()}
        at_s = values.pop(TIME)
    except (ValueError, csv.Error) as error:
        return Bad(number, str(error))
    except KeyError:
        return Bad(number, f"{TIME} is empty")
    return Row(number, at_s, PowerReading(**values))


def _words(line: str, count: int) -> list[str]:
    if len(line) > MAX_LINE:
        raise ValueError(f"longer than {MAX_LINE} characters")
    words = next(csv.reader([line], strict=True), [])
    if len(words) != count:
        raise ValueError(f"{count} columns expected, got {len(words)}")
    return words


def _value(name: str, word: str) -> Any:
    if name in FLAGS:
        if word.lower() not in TRUTHS:
            raise ValueError(f"{name}: true or false expected, got {word[:40]!r}")
        return TRUTHS[word.lower()]
    try:
        value = int(word, 0) if name == "throttled" else float(word)
    except ValueError:
        raise ValueError(f"{name}: a number expected, got {word[:40]!r}") from None
    if name == TIME and not math.isfinite(value):
        raise ValueError(f"{name}: a number expected, got {word[:40]!r}")
    return value


def read(lines: Iterator[str]) -> Iterator[Row | Bad]:
    """Return what the lines of a recording say, one by one. Raises ValueError if the first names no columns."""
    names = columns(next(lines, ""))
    for number, line in enumerate(lines, 2):
        found = row(number, line.rstrip("\r\n"), names)
        if found is not None:
            yield found


class Recorder:
    """Appends to a recording. Blocks: use it in a thread."""

    def __init__(self, file: Path) -> None:
        """Open *file*, and write its first line if it is new. Raises OSError."""
        self._file: IO[str] = file.open("a", encoding="utf-8", newline="")
        if self._file.tell() == 0:
            self._file.write(f"{TIME},{','.join(COLUMNS)}\n")

    def write(self, at_s: float, values: Mapping[str, object]) -> None:
        """Append a line. Raises OSError."""
        words = (_word(values.get(name)) for name in COLUMNS)
        self._file.write(f"{at_s:.3f},{','.join(words)}\n")
        self._file.flush()

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def _word(value: object) -> str:
    if value is None:
        return ""
    return "1" if value is True else "0" if value is False else f"{value}"
