"""The daemon: the core with all its parts."""

from __future__ import annotations

from sparkd.daemon.main import main

__all__ = ["main"]
