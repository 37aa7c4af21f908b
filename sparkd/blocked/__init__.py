"""A loop that is blocked: found from a thread of its own, and named by the line that blocks it. Layer: machinery."""

from __future__ import annotations

from sparkd.blocked.tell import Blocks, tell_of_blocks
from sparkd.blocked.watch import BLOCKED_S, Block, watch_loop

__all__ = ["BLOCKED_S", "Block", "Blocks", "tell_of_blocks", "watch_loop"]
