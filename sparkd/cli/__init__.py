"""`sparkctl`: what operators and scripts say to a daemon, and how its answers are shown."""

from __future__ import annotations

from sparkd.cli.main import main

__all__ = ["main"]
