"""`sparkd run`: from the command line to a running core, and out again."""

from __future__ import annotations

import argparse
import fcntl
import importlib
import logging
import os
import signal
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import anyio

from sparkd.child import SERVICE, service_main
from sparkd.config import load_places, make, node_id
from sparkd.core_interfaces import HostApi, SupervisorApi
from sparkd.daemon.core import Core
from sparkd.daemon.logbook import Logbook
from sparkd.daemon.version import VERSION
from sparkd.errors import ConfigError
from sparkd.interfaces import interface_spec
from sparkd.log import StructuredLog, configure
from sparkd.registry import probe_main
from sparkd.systemd import Notifier
from sparkd.zygote import Zygote

EX_FAILED, EX_TEMPFAIL, EX_CONFIG = 1, 75, 78
"""Exit codes, the latter two of sysexits.h: the zygote was lost and a restart helps; the config must be mended."""
PRELOAD = ("uvloop", "anyio._backends._asyncio", "anyio.streams.memory", "sqlite3", "prometheus_client.exposition")
"""What every child would import in its first moment: shared if it is imported before the fork (measured: private memory
of a child 5.8 instead of 11.7 MB)."""


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
    configure(config.node.log_level)
    make(places)
    lock = _lock(places.runtime / "core.pid")
    try:
        identity = node_id(places.state)
        # Before the first thread, loop and zmq Context: what is imported by now, all children share.
        for name in PRELOAD:
            importlib.import_module(name)
        for interface in (HostApi, SupervisorApi):  # each host reads them; read now, they are read once
            interface_spec(interface)
        zygote = Zygote.fork({SERVICE: service_main, "probe": probe_main})
        logbook = Logbook()
        logging.getLogger().addHandler(logbook)
        core = Core(
            config=config,
            places=places,
            node_id=identity,
            zygote=zygote,
            logbook=logbook,
            log=StructuredLog("core"),
            notifier=Notifier(),
        )
        return anyio.run(partial(_serve, core), backend_options={"use_uvloop": True})
    finally:
        os.close(lock)


def _lock(path: Path) -> int:
    """Hold the lock that makes this the one daemon of its runtime folder. Raises ConfigError if another holds it."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
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


async def _serve(core: Core) -> int:
    code = 0
    with anyio.open_signal_receiver(signal.SIGTERM, signal.SIGINT, signal.SIGHUP) as signals:
        try:
            async with core.open(), anyio.create_task_group() as tasks:
                tasks.start_soon(core.start_services)
                tasks.start_soon(_watch_zygote, core, tasks.cancel_scope)
                async for number in signals:
                    if number != signal.SIGHUP:
                        break
                    tasks.start_soon(core.reload_by_signal)
                core.notifier.stopping()
                core.log.info("stopping", signal=signal.Signals(number).name)
                tasks.cancel_scope.cancel()
        except* OSError as errors:
            core.log.error(  # noqa: TRY400 - the reason is the system's
                "cannot run", why="; ".join(str(error) for error in errors.exceptions)
            )
            code = EX_FAILED
    return EX_TEMPFAIL if core.zygote.lost.is_set() else code


async def _watch_zygote(core: Core, scope: anyio.CancelScope) -> None:
    await core.zygote.lost.wait()
    core.log.error("the zygote is gone, and all children with it; ending, to be started again")
    scope.cancel()


if __name__ == "__main__":
    sys.exit(main())
