"""What services need: looked at before each start, and again when the kernel tells of a change."""

from __future__ import annotations

from sparkd.daemon.needs.needs import Needs

__all__ = ["Needs"]
