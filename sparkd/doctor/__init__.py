"""`sparkctl doctor`: what is wrong with this machine as a node, and what to do. Layer: programs.

Each check looks at one thing and says what it found; one that fails itself is a finding too. Nothing is changed.
"""

from __future__ import annotations

from sparkd.doctor import disk, hardware, machine, network, node, system
from sparkd.doctor.scene import Check, Finding, Scene, Verdict, skipped

CHECKS: tuple[Check, ...] = (
    *machine.CHECKS,
    *disk.CHECKS,
    *hardware.CHECKS,
    *node.CHECKS,
    *network.CHECKS,
    *system.CHECKS,
)


def examine(scene: Scene, checks: tuple[Check, ...] = CHECKS) -> list[tuple[str, Finding]]:
    """Return what the checks find, by the check's name. Blocks; a check that fails is told and stops no other."""
    found: list[tuple[str, Finding]] = []
    for check in checks:
        try:
            found += [(check.name, finding) for finding in check.look(scene)]
        except Exception as error:  # noqa: BLE001 - a machine can be wrong in ways that no check thought of
            found.append((check.name, skipped(f"the check itself failed: {type(error).__name__}: {error}")))
    return found


__all__ = ["CHECKS", "Check", "Finding", "Scene", "Verdict", "examine"]
