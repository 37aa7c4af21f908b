"""The path MTU through a tunnel: the largest packet that comes through whole, by halving. Pure but for the probe."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

LEAST = 576
"""Every IPv4 link must carry that; what carries less carries nothing."""
EXACT = 8
"""Bytes; finer is of no use, as WireGuard pads to 16."""


async def find(passes: Callable[[int], Awaitable[bool]], *, most: int, least: int = LEAST) -> int | None:
    """Return the largest size that *passes*, within 8 bytes and not above it; None if not even *least* does.

    *most* is the interface's own MTU, and asked first: usually that is all.
    """
    if most <= least:
        return least if await passes(least) else None
    if await passes(most):
        return most
    if not await passes(least):
        return None
    low, high = least, most
    while high - low > EXACT:
        middle = (low + high) // 2
        if await passes(middle):
            low = middle
        else:
            high = middle
    return low
