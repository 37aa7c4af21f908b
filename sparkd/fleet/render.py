"""All files of all nodes, by their paths: the same bytes for the same fleet. Nothing in them is secret."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from sparkd.errors import ConfigError
from sparkd.fleet import daemon_files, firewalls, openwrt, scrape, wireguard
from sparkd.fleet.model import Fleet
from sparkd.lasting import make_lasting, write_whole

Files = dict[str, str]
MARK = "# Rendered by `sparkctl fleet render`"
"""How the first line begins of each file that can hold a comment."""
TRUSTED = "var/lib/sparkd/keys/trusted"
TARGETS = "etc/prometheus/targets"
_BARE = (".json", ".public")
"""Files that can hold none."""
_PARTS = (wireguard.files, daemon_files.files, scrape.files)


def render(fleet: Fleet, *, only: str = "") -> dict[str, Files]:
    """Return the text of each file by its path beneath the node's root, by node.

    Raises ConfigError if *only* is no node of the fleet.
    """
    if only and only not in fleet.nodes:
        raise ConfigError(f"{fleet.file}: no node {only!r}; known: {', '.join(sorted(fleet.nodes))}")
    return {name: _of_node(fleet, name) for name in sorted(fleet.nodes) if only in ("", name)}


def _of_node(fleet: Fleet, name: str) -> Files:
    found: Files = {}
    for part in _PARTS:
        found |= part(fleet, name)
    found |= firewalls.files(fleet, name) if fleet.nodes[name].runs_sparkd else openwrt.files(fleet, name)
    head = f"{MARK} for {name}, fleet {fleet.naming.name} {fleet.digest}. Change the fleet file instead.\n"
    return {path: text if path.endswith(_BARE) else head + text for path, text in sorted(found.items())}


def write(rendered: dict[str, Files], folder: Path, *, whole: bool = False) -> list[Path]:
    """Write the files beneath *folder*, one folder a node, each at once; return them. Raises OSError.

    What an earlier time rendered for these nodes, or if it is the *whole* fleet for others too, and is not among them
    is removed: a peer that is trusted no more, a node that is gone. Files of others stay.
    """
    written = []
    for node, files in rendered.items():
        for path, text in files.items():
            file = folder / node / path
            make_lasting(file.parent, 0o755)
            write_whole(file, text, mode=0o755 if path.endswith(".sh") else 0o644)
            written.append(file)
    nodes = {path.name for path in folder.iterdir()} if whole else set(rendered)
    for node in nodes:
        for stale in _stale(folder / node, rendered.get(node, {})):
            stale.unlink()
    return written


def _stale(folder: Path, files: Iterable[str]) -> list[Path]:
    """Return what an earlier time wrote into *folder* and is not wanted any more: rendered files, and nobody else's."""
    wanted = {folder / path for path in files}
    return [file for file in sorted(folder.rglob("*")) if file not in wanted and _is_ours(file)]


def _is_ours(file: Path) -> bool:
    if file.is_symlink() or not file.is_file():
        return False
    if file.suffix in _BARE:
        return str(file.parent).endswith((TRUSTED, TARGETS))
    with file.open("rb") as opened:
        return opened.read(len(MARK)) == MARK.encode()
