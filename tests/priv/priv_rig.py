"""A real sparkd-priv server in a folder of its own; only the programs it runs are stand-ins, which note what they got.

`systemd-run` here starts the unit's command as another user, with the credential it was to load, as systemd would.
"""

from __future__ import annotations

import json
import os
import pwd
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sparkd.deeds import LENGTH, Deed, Reply, _decode_reply, frame
from sparkd.priv.audit import Audit
from sparkd.priv.perform import Means
from sparkd.priv.programs import Programs
from sparkd.priv.server import Server

NOBODY = pwd.getpwnam("nobody").pw_uid
STAND_IN = Path(__file__).with_name("stand_in.py")
NAMES = ("systemctl", "systemd-run", "systemd-inhibit", "networkctl", "nmcli", "nft", "wg")


@dataclass
class Priv:
    """A server that runs, and what it did."""

    folder: Path
    wake: socket.socket
    server: Server = field(init=False)

    @property
    def path(self) -> Path:
        return self.folder / "priv.sock"

    @property
    def settings(self) -> Path:
        return self.folder / "etc" / "priv.toml"

    @property
    def config(self) -> Path:
        return self.folder / "etc" / "sparkd.toml"

    def ran(self) -> list[list[str]]:
        """Return the arguments of each program that was run."""
        log = self.folder / "programs" / "ran"
        return [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []

    def audited(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in (self.folder / "audit.log").read_text().splitlines()]

    def ask(self, deed: Deed | bytes) -> Reply:
        """Send a request, or any bytes; return the reply."""
        content = deed if isinstance(deed, bytes) else frame(deed)
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(30)
            connection.connect(str(self.path))
            connection.sendall(content)
            return self.reply(connection)

    @staticmethod
    def reply(connection: socket.socket) -> Reply:
        got = b""
        while len(got) < LENGTH.size or len(got) < LENGTH.size + LENGTH.unpack(got[:4])[0]:
            chunk = connection.recv(65_536)
            assert chunk, got
            got += chunk
        reply: Reply = _decode_reply(got[LENGTH.size :])
        return reply


@contextmanager
def priv_in(folder: Path) -> Iterator[Priv]:
    """Run a server in *folder*, for the account that runs the tests and for `nobody`'s core."""
    programs = folder / "programs"
    for made in ("programs", "etc", "etc/sparkd.d", "etc/nft", "specs", "run"):
        (folder / made).mkdir(parents=True, exist_ok=True, mode=0o755)
    for name in NAMES:
        (programs / name).write_text(f"#!{sys.executable} -I\n" + STAND_IN.read_text())
        (programs / name).chmod(0o755)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as wake, socket.socket(socket.AF_UNIX) as listener:
        wake.bind(("127.0.0.1", 0))
        wake.settimeout(5)
        priv = Priv(folder, wake)
        priv.settings.write_text(
            f'config = "{priv.config}"\nruntime_dir = "{folder}/run"\nnft_dir = "{folder}/etc/nft"\naccount = "root"\n'
        )
        priv.config.write_text("")
        listener.bind(str(priv.path))
        priv.path.chmod(0o666)
        listener.listen(16)
        means = Means(
            programs=Programs(programs, programs),
            specs=folder / "specs",
            settings_file=priv.settings,
            wake_to=wake.getsockname(),
        )
        priv.server = Server(listener, means, Audit(folder / "audit.log"), idle_s=0)
        ours, its = socket.socketpair()
        thread = threading.Thread(target=priv.server.serve, args=(its,))
        thread.start()
        try:
            yield priv
        finally:
            ours.close()
            thread.join()
            its.close()
            end_units(folder)


def end_units(folder: Path) -> None:
    """Kill what the stand-in for systemd-run has started."""
    for state in (folder / "programs").glob("unit-*"):
        pid = json.loads(state.read_text())["pid"]
        subprocess.run(["kill", "-9", str(pid)], check=False, capture_output=True)


def usable() -> str:
    """Say why such a server cannot run here; nothing if it can."""
    if os.geteuid() != 0:
        return "it is root's"
    return "" if shutil.which("setpriv") else "setpriv (util-linux) is not installed"
