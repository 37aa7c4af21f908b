"""`sparkctl doctor`: what is wrong with this machine as a node, and what to do. Layer: programs.

Each check looks at one thing and says what it found; one that fails itself is a finding too. Nothing is changed.
"""

from __future__ import annotations

from sparkd.doctor import accelerator, disk, hardware, machine, microphones, network, node, system
from sparkd.doctor.scene import Check, Finding, Scene, Verdict, skipped

CHECKS: tuple[Check, ...] = (
    *machine.CHECKS,
    *disk.CHECKS,
    *hardware.CHECKS,
    *node.CHECKS,
    *network.CHECKS,
    *system.CHECKS,
)
HAILO_CHECKS: tuple[Check, ...] = (hardware.hailo, hardware.hailo_versions, hardware.udev_rules, *accelerator.CHECKS)
"""What `sparkctl doctor --hailo` looks at; the last of them wakes the device."""
RESPEAKER_CHECKS: tuple[Check, ...] = (
    hardware.respeaker,
    hardware.groups,
    hardware.udev_rules,
    *microphones.CHECKS,
)
"""What `sparkctl doctor --respeaker` looks at; the last of them records half a second."""


def examine(scene: Scene, checks: tuple[Check, ...] = CHECKS) -> list[tuple[str, Finding]]:
    """Return what the checks find, by the check's name. Blocks; a check that fails is told and stops no other."""
    found: list[tuple[str, Finding]] = []
    for check in checks:
        try:
            found += [(check.name, finding) for finding in check.look(scene)]
        except Exception as error:  # noqa: BLE001 - a machine can be wrong in ways that no check thought of
            found.append((check.name, skipped(f"the check itself failed: {type(error).__name__}: {error}")))
    return found


__all__ = ["CHECKS", "HAILO_CHECKS", "RESPEAKER_CHECKS", "Check", "Finding", "Scene", "Verdict", "examine"]
