"""Last known good: a change that makes a critical service fail is taken back by itself."""

from __future__ import annotations

from sparkd.daemon.last_good.shelf import Shelf
from sparkd.daemon.last_good.watch import LastGood

__all__ = ["LastGood", "Shelf"]
