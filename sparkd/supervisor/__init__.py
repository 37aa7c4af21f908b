"""Keeping services running: when they are started, stopped, restarted, and what status says of them."""

from __future__ import annotations

from sparkd.supervisor.launch import Instance, Launcher, Plan
from sparkd.supervisor.policy import End, EndKind, RestartPolicy
from sparkd.supervisor.supervised import Supervised
from sparkd.supervisor.supervisor import Supervisor

__all__ = ["End", "EndKind", "Instance", "Launcher", "Plan", "RestartPolicy", "Supervised", "Supervisor"]
