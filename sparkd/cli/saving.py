"""The words of `sparkctl backup` and `sparkctl restore`."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sparkd.cli.parser import Subparsers


def words(commands: Subparsers) -> None:
    """Add the two commands."""
    backup = commands.add_parser("backup", help="write config, keys, users and outbox to one file; it holds secrets")
    backup.add_argument(
        "file", metavar="FILE", help="`-` for stdout, to be encrypted: sparkctl backup - | age -p > FILE"
    )
    backup.add_argument("--force", action="store_true", help="replace FILE if it is there")
    restore = commands.add_parser("restore", help="make this machine the node of a backup; the daemon must be stopped")
    restore.add_argument("file", metavar="FILE", help="`-` for stdin")
    restore.add_argument("--force", action="store_true", help="move what is here aside first, instead of refusing")
