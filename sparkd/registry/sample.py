"""The plugin that `sparkctl plugin new` writes."""

from __future__ import annotations

from importlib import resources
from string import Template

from sparkd.service import NAME


def new_plugin(name: str) -> str:
    """Return the source of a working plugin, for a file called *name*. Raises ValueError for a bad name."""
    if not NAME.fullmatch(name):
        raise ValueError(f"plugin name {name!r}: lower-case words joined by hyphens expected")
    template = resources.files(__package__).joinpath("new_plugin.txt").read_text(encoding="utf-8")
    return Template(template).substitute(NAME=name)
