"""The fleet file: one description of all nodes, and what is written from it for each. Layer: programs.

`load_fleet` reads and checks it, `render` returns the files of each node, `difference` compares them with what is
there. Nothing here reads a private key, and nothing that is written holds one.
"""

from __future__ import annotations

from sparkd.fleet.checks import check
from sparkd.fleet.difference import difference
from sparkd.fleet.load import load_fleet
from sparkd.fleet.model import Fleet
from sparkd.fleet.render import render, write

__all__ = ["Fleet", "check", "difference", "load_fleet", "render", "write"]
