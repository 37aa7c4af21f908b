"""Reading the tables of a manifest: every value checked, every problem collected, none raised on the way.

A getter returns a harmless stand-in for a value it has complained about, so that reading goes on and an operator sees
all problems at once.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

T = TypeVar("T")


class Table:
    """One table of a manifest. `problems` is shared by all tables of a file."""

    def __init__(self, where: str, values: Mapping[str, Any], problems: list[str]) -> None:
        """Read *values*; *where* begins each message."""
        self._where = where
        self._values = values
        self._problems = problems
        self._asked: list[str] = []

    def text(self, key: str, *, choices: Sequence[str] = (), containing: str = "") -> str:
        """Return a text that is not empty, one of *choices* if there are any."""
        value = self._get(key)
        if value is None:
            return ""
        if not isinstance(value, str) or not value.strip():
            return self._refuse(key, "a text expected", value, "")
        if choices and value not in choices:
            return self._refuse(key, f"one of {', '.join(choices)} expected", value, "")
        if containing not in value:
            return self._refuse(key, f"a text with {containing!r} in it expected", value, "")
        return value

    def flag(self, key: str) -> bool:
        """Return true or false."""
        value = self._get(key)
        if value is None or isinstance(value, bool):
            return bool(value)
        return self._refuse(key, "true or false expected", value, default=False)

    def integer(self, key: str, low: int, high: int) -> int:
        """Return a whole number from *low* to *high*."""
        value = self._get(key)
        if value is None or _is_integer(value, low, high):
            return value or low
        return self._refuse(key, f"a whole number from {low} to {high} expected", value, low)

    def number(self, key: str, low: float, high: float) -> float:
        """Return a number from *low* to *high*."""
        value = self._get(key)
        if value is None or (_is_number(value) and low <= value <= high):
            return float(value or low)
        return self._refuse(key, f"a number from {low} to {high} expected", value, low)

    def numbers(self, key: str, count: int, *, above: float = -math.inf) -> tuple[float, ...]:
        """Return *count* numbers, each greater than *above*."""
        value = self._get(key)
        if value is None:
            return ()
        if isinstance(value, list) and len(value) == count and all(_is_number(n) and n > above for n in value):
            return tuple(float(n) for n in value)
        limit = "" if above == -math.inf else f" above {above}"
        return self._refuse(key, f"a list of {count} numbers{limit} expected", value, ())

    def integers(self, key: str, low: int, high: int) -> tuple[int, ...]:
        """Return one whole number or more, each from *low* to *high*."""
        value = self._get(key)
        if value is None:
            return ()
        if isinstance(value, list) and value and all(_is_integer(n, low, high) for n in value):
            return tuple(value)
        return self._refuse(key, f"a list of whole numbers from {low} to {high} expected", value, ())

    def table(self, key: str) -> Table:
        """Return the table beneath this one; an empty one that complains no further if it is not there."""
        value = self._get(key)
        if isinstance(value, dict):
            return Table(f"{self._where}: [{key}]", value, self._problems)
        if value is not None:
            self._refuse(key, "a table expected", value, None)
        return Table("", {}, [])

    def has(self, key: str) -> bool:
        """Whether *key* is there; if not, nothing is wrong."""
        if key not in self._asked:
            self._asked.append(key)
        return key in self._values

    def complain(self, key: str, problem: str) -> None:
        """Say what is wrong with *key*."""
        self._problems.append(f"{self._where}: {key}: {problem}")

    def texts(self) -> dict[str, str]:
        """Return the whole table as texts by key."""
        for key, value in self._values.items():
            if not isinstance(value, str):
                self._refuse(repr(key), "a text expected", value, None)
        return {key: value for key, value in self._values.items() if isinstance(value, str)}

    def close(self) -> None:
        """Complain of every key that nobody asked for."""
        for key in self._values:
            if key not in self._asked:
                near = difflib.get_close_matches(key, self._asked, n=1)
                hint = f" Did you mean {near[0]!r}?" if near else f" Known keys: {', '.join(self._asked)}."
                self._problems.append(f"{self._where}: unknown key {key!r}.{hint}")

    def _get(self, key: str) -> Any:
        self._asked.append(key)
        if key not in self._values:
            self._problems.append(f"{self._where}: {key}: missing")
        return self._values.get(key)

    def _refuse(self, key: str, expected: str, got: object, default: T) -> T:
        self._problems.append(f"{self._where}: {key}: {expected}, got {got!r}")
        return default


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _is_integer(value: object, low: int, high: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and low <= value <= high
