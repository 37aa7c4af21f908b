"""`sparkd run`: from the command line to a running core, and out again."""

from __future__ import annotations

import argparse
import fcntl
import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from sparkd.cgroups import Tree
from sparkd.child import SERVICE, service_main
from sparkd.config import Config, find_config, load_config, load_places, make, node_id
from sparkd.daemon.exits import EX_CONFIG
from sparkd.daemon.last_good.shelf import Shelf
from sparkd.daemon.rehearsal import rehearse
from sparkd.daemon.version import VERSION
from sparkd.errors import ConfigError
from sparkd.log import configure
from sparkd.registry import probe_main
from sparkd.zygote import Zygote


def main(argv: Sequence[str] | None = None) -> int:
    """Run `sparkd`; return its exit code."""
    options = _parser().parse_args(argv)
    configure("info")
    try:
        return _run(options.config)
    except ConfigError as error:
        for problem in error.problems:
            logging.getLogger("core").error("%s", problem)  # noqa: TRY400 - the operator's mistake has no traceback
        return EX_CONFIG


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="sparkd", description="The edge daemon.")
    parser.add_argument("--version", action="version", version=f"sparkd {VERSION}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    run = commands.add_parser("run", help="run the daemon in the foreground")
    run.add_argument("--config", type=Path, metavar="FILE", help="default: the usual places, /etc/sparkd first")
    return parser


def _run(config_file: Path | None) -> int:
    config, places = load_places(config_file)
    shelf = Shelf(places.state / "last-known-good", find_config(config_file), places.plugins)
    config = _in_force(shelf, config)
    configure(config.node.log_level)
    make(places)
    lock = _lock(places.runtime / "core.pid")
    try:
        identity = node_id(places.state)
        rehearse()
        tree = _tree()
        zygote = Zygote.fork({SERVICE: service_main, "probe": probe_main})  # before the first thread and zmq Context
        # Not sooner: what is imported by the fork, every child carries.
        from sparkd.daemon.serve import serve  # noqa: PLC0415 - see above

        return serve(config, places, identity, zygote, shelf, tree=tree)
    finally:
        os.close(lock)


def _tree() -> Tree | None:
    """Return our part of the tree of control groups, if we were given one; this process has moved within it."""
    try:
        return Tree.take()
    except OSError as error:
        logging.getLogger("core").warning("control groups cannot be used, limits of a process must do: %s", error)
        return None


def _in_force(shelf: Shelf, config: Config) -> Config:
    """Return the config to go by: *config*, as it is on disk, unless that was taken back."""
    try:
        file = shelf.in_force(shelf.on_disk())
    except OSError:  # a file that went away just now; what was read is as good
        return config
    return config if file == shelf.main else load_config(file)


def _lock(path: Path) -> int:
    """Hold the lock that makes this the one daemon of its runtime folder. Raises ConfigError if another holds it."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o640)
    os.fchmod(descriptor, 0o640)  # an older version made it readable: whoever can open it could hold the lock
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        other = path.read_text(encoding="ascii", errors="replace").strip()
        os.close(descriptor)
        raise ConfigError(
            f"{path}: a daemon runs here already (pid {other}); stop it, or set [node] runtime_dir to another folder"
        ) from None
    os.ftruncate(descriptor, 0)
    os.write(descriptor, f"{os.getpid()}\n".encode())
    return descriptor


if __name__ == "__main__":
    sys.exit(main())
