"""The unit files, held against each other."""

from __future__ import annotations

from pathlib import Path

UNITS = Path(__file__).parent.parent / "systemd"


def test_the_unit_of_further_nodes_is_that_of_the_first_but_for_the_names() -> None:
    first = (UNITS / "sparkd.service").read_text()
    head, _, further = (UNITS / "sparkd@.service").read_text().partition("[Unit]\n")
    assert all(line.startswith("#") for line in head.splitlines())

    renamed = further.replace("the node %i", "this node").replace(" --config /etc/sparkd-%i/sparkd.toml", "")
    renamed = renamed.replace("system-sparkd.slice/", "").replace("sparkd-%i", "sparkd")
    assert "[Unit]\n" + renamed == first
