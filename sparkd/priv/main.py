"""`sparkd-priv`: from systemd's socket to a server of it."""

from __future__ import annotations

import argparse
import logging
import os
import signal
import socket
import sys
from pathlib import Path

from sparkd.log import configure
from sparkd.priv.audit import Audit
from sparkd.priv.perform import Means
from sparkd.priv.programs import Programs
from sparkd.priv.server import Server, inherited

EX_USAGE = 64


def main(argv: list[str] | None = None) -> int:
    """Run until nobody asks any more; return the exit code."""
    parser = argparse.ArgumentParser(prog="sparkd-priv", description="The deeds of a sparkd node that need root.")
    parser.add_argument("--config", type=Path, default=Path("/etc/sparkd/priv.toml"), metavar="FILE")
    options = parser.parse_args(argv)
    configure("info")
    listener = inherited()
    if listener is None or os.geteuid() != 0:
        logging.getLogger("priv").error(
            "sparkd-priv is started by systemd, as root: systemctl start sparkd-priv.socket"
        )
        return EX_USAGE
    os.umask(0o077)
    specs = Path(os.environ.get("RUNTIME_DIRECTORY", "/run/sparkd-priv").split(":")[0]) / "specs"
    specs.mkdir(mode=0o700, exist_ok=True)
    logs = Path(os.environ.get("LOGS_DIRECTORY", "/var/log/sparkd-priv").split(":")[0])
    means = Means(programs=Programs(), specs=specs, settings_file=options.config)
    with listener:
        Server(listener, means, Audit(logs / "audit.log")).serve(told_to_stop())
    return 0


def told_to_stop() -> socket.socket:
    """Return a socket that can be read from once this process is told to stop."""
    ours, its = socket.socketpair()
    its.setblocking(False)  # noqa: FBT003 - the standard library has no name for it
    signal.set_wakeup_fd(its.detach())
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda _number, _frame: None)
    return ours


if __name__ == "__main__":
    sys.exit(main())
