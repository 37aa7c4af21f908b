"""The plot of a curve in the terminal."""

from __future__ import annotations

from sparkd.cli.plot import plot


def drawn(points: list[tuple[float, float]]) -> list[str]:
    return plot(points, width=4, height=2, begin=0, end=7)


def test_a_rising_line_rises() -> None:
    assert drawn([(x, x) for x in range(8)]) == [
        "7 ┤⠀⠀⡠⠊",
        "0 ┤⡠⠊⠀⠀",
        "  └────",
        "   0  7",
    ]


def test_a_hole_is_left_empty() -> None:
    top, bottom, *_ = drawn([(0, 1), (1, 1), (6, 1), (7, 1)])
    assert (top, bottom) == ("1 ┤⠉⠀⠀⠉", "0 ┤⠀⠀⠀⠀")


def test_several_values_of_a_moment_are_joined() -> None:
    assert drawn([(0, 0), (0, 8)])[:2] == ["8 ┤⡇⠀⠀⠀", "0 ┤⡇⠀⠀⠀"]


def test_nothing_and_zeros_draw() -> None:
    assert drawn([])[0] == "1 ┤⠀⠀⠀⠀"
    assert drawn([(x, 0) for x in range(8)])[1] == "0 ┤⣀⣀⣀⣀"


def test_one_moment_and_values_below_zero_draw() -> None:
    assert plot([(5, -2), (5, 2)], width=2, height=2, begin=5, end=5)[:2] == [" 2 ┤⡇⠀", "-2 ┤⡇⠀"]
