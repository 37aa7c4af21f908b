"""Chaos: two real nodes under durable traffic, harmed at random for as long as one likes, and counted all the while."""

from __future__ import annotations

from sparkd.testing.chaos.run import Outcome, Plan, run

__all__ = ["Outcome", "Plan", "run"]
