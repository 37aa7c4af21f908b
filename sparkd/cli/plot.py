"""A curve as text: dots of Braille, two across and four down in each character. Pure.

plotext would draw more kinds of plots than are needed here, with 200 KB of code in every installation.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

_DOTS = ((0x01, 0x02, 0x04, 0x40), (0x08, 0x10, 0x20, 0x80))
"""Of a Braille character, by column and row; U+2800 is the empty one."""
_EMPTY = 0x2800


def plot(
    points: Sequence[tuple[float, float]],
    *,
    width: int,
    height: int,
    begin: float,
    end: float,
    label: Callable[[float], str] = lambda value: f"{value:g}",
    when: Callable[[float], str] = lambda at: f"{at:g}",
) -> list[str]:
    """Return the lines of a plot of (x, y) *points*, *width* x *height* characters besides the labels.

    The x axis is *begin* to *end*; the y axis begins at 0, or below if there are such values. Where there is no point
    for a while nothing is drawn. *label* and *when* write y and x.
    """
    high = max((y for _, y in points), default=0.0)
    low = min(0.0, *(y for _, y in points)) if points else 0.0
    high = high if high > low else low + 1.0
    cells = [[_EMPTY] * width for _ in range(height)]
    columns: dict[int, list[float]] = {}
    for x, y in points:
        column = int((x - begin) / ((end - begin) or 1.0) * (width * 2 - 1))
        if 0 <= column < width * 2:
            columns.setdefault(column, []).append(y)
    for column, held in columns.items():
        top = _row(max(held), low, high, height * 4)
        bottom = _row(min(held), low, high, height * 4)
        for row in range(top, bottom + 1):
            cells[row // 4][column // 2] |= _DOTS[column % 2][row % 4]
    marks = [label(high), *[""] * (height - 2), label(low)] if height > 1 else [label(high)]
    side = max(map(len, marks))
    lines = [f"{mark:>{side}} ┤{''.join(map(chr, line))}" for mark, line in zip(marks, cells, strict=True)]
    left, right = when(begin), when(end)
    return [*lines, f"{'':{side}} └{'─' * width}", f"{'':{side}}  {left}{right:>{max(width - len(left), 1)}}"]


def _row(value: float, low: float, high: float, rows: int) -> int:
    """Return the row of dots that *value* falls into, counted from the top."""
    return min(int((high - value) / (high - low) * rows), rows - 1)
