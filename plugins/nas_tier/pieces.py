"""Cutting a text into pieces that one look of a model takes in. Pure."""

from __future__ import annotations

import re

MOST = 64
"""Pieces of a text; what follows them has no vector, but is found by its words."""
BORDERS = (re.compile(r"\n\s*\n"), re.compile(r"[.!?…][\"')\]]*\s"), re.compile(r"\s"))
"""Where a text may be cut, the best first: after a paragraph, a sentence, a word."""
MARK = re.compile(r"[\u0300-\u036f\u200d\ufe00-\ufe0f\U0001f3fb-\U0001f3ff]")
"""What belongs to the character before it: accents, joiners, variants, skin tones."""


def pieces(text: str, *, most: int, overlap: int) -> list[tuple[int, int]]:
    """Return where pieces of *text* begin and end, of *most* characters each, sharing about *overlap* with the next.

    They cover the text from its begin on, up to 64 pieces. Raises ValueError if they could not go on.
    """
    if not 0 <= overlap < most // 2:
        raise ValueError(f"overlap: below half of {most} expected, got {overlap}")
    found: list[tuple[int, int]] = []
    begin = 0
    while begin < len(text) and len(found) < MOST:
        end = len(text) if len(text) - begin <= most else _border(text, begin + most // 2, begin + most)
        found.append((begin, end))
        if end == len(text):
            break
        begin = min(_whole(text, _word(text, end - overlap, end)), end)
    return found


def _border(text: str, least: int, most: int) -> int:
    """Return the best place for a cut after *least*, and at *most* at the latest."""
    for border in BORDERS:
        last = 0
        for match in border.finditer(text, least, most):
            last = match.end()
        if last > least:
            return last
    return _whole(text, most) if _whole(text, most) > least else most


def _word(text: str, least: int, most: int) -> int:
    """Return where the first word after *least* begins, or *least*."""
    match = BORDERS[-1].search(text, least, most)
    return match.end() if match is not None and match.end() < most else least


def _whole(text: str, place: int) -> int:
    """Return *place*, or one before it that does not tear a character from its marks."""
    found = place
    while 0 < found < len(text) and place - found < 32 and (MARK.match(text, found) or text[found - 1] == "\u200d"):  # noqa: PLR2004 - no character has more
        found -= 1
    return found
