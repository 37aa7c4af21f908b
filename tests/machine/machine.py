"""A Debian machine with a real systemd, for as long as a block: booted in systemd-nspawn, its changes thrown away.

    with machine("bookworm") as m:
        m.checkout("/src")
        m.sh("systemctl start sparkd")           # raises AssertionError with all it printed, unless it succeeds
        assert m.run("systemctl is-active x").code == 3

Theory of operation: the root is an overlay in memory over a root that is never changed (`roots`), so a machine costs
half a second. nspawn tells through its notify socket which process is the machine's first, and when its default target
is reached. A script runs as a transient unit of the machine's own systemd, which this module asks for from within the
machine's namespaces. The machine has a network of its own with nothing but loopback, unless told otherwise.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from secrets import token_hex

import pytest

from tests.machine import cgroups, roots

BOOT_LIMIT_S = 60.0
HALT_LIMIT_S = 30.0
SCRIPT_LIMIT_S = 60.0
NEEDED = ("systemd-nspawn", "mmdebstrap", "nsenter")
ENVIRONMENT = {
    "LANG": "C.UTF-8",
    "SYSTEMD_COLORS": "0",
    "SYSTEMD_PAGER": "cat",
    "PIP_DISABLE_PIP_VERSION_CHECK": "1",
    "PIP_FIND_LINKS": "/wheels",
    "PIP_NO_INDEX": "1",  # what is installed inside comes from the wheelhouse
    "PIP_ROOT_USER_ACTION": "ignore",
}


@dataclass(frozen=True, slots=True)
class Done:
    """What became of a script."""

    code: int
    output: str
    """What it wrote to stdout and stderr, in that order of time."""


@dataclass
class Machine:
    """A machine of *release*. Use `machine`."""

    release: str
    folder: Path
    network: bool = False
    options: Sequence[str] = ()
    _process: subprocess.Popen[bytes] | None = None
    _leader: int = 0
    _group: ExitStack = field(default_factory=ExitStack, repr=False)

    @property
    def root(self) -> Path:
        """Where the machine's `/` is seen from here. Its /run and /tmp are its own and are not seen."""
        return self.folder / "root"

    @property
    def console(self) -> str:
        """What the machine wrote to its console, over all its boots."""
        return (self.folder / "console").read_text(encoding="utf-8", errors="replace")

    def write(self, path: str, text: str, *, mode: int = 0o644) -> None:
        """Write a file of root's in the machine, folders and all, whether it runs or not."""
        file = self._outside(path)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")
        file.chmod(mode)

    def copy(self, source: Path, path: str) -> None:
        """Copy a file or a folder of this machine's into it, as root's."""
        target = self._outside(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        roots.command(["cp", "-rT", "--preserve=mode,timestamps,links", str(source), str(target)])

    def checkout(self, path: str = "/src") -> None:
        """Copy this checkout into it: what git tracks and what is new and not ignored, as it is now."""
        named = ["git", "-c", f"safe.directory={roots.CHECKOUT}", "-C", str(roots.CHECKOUT), "ls-files", "-coz"]
        names = roots.command([*named, "--exclude-standard"]).split("\0")
        for name in filter(None, names):
            source, target = roots.CHECKOUT / name, self._outside(path) / name
            if source.exists():
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(source, target, follow_symlinks=False)

    def install(self, source: str = "/src") -> None:
        """Put sparkd into the venv /opt/sparkd from the checkout at *source* in the machine."""
        self.sh(f"{roots.VENV}/bin/python -m pip install -q --no-deps --no-build-isolation {source}")

    def start(self) -> None:
        """Boot it; return when its default target is reached. Raises AssertionError with its console otherwise."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as told:
            notify = self.folder / "notify"
            notify.unlink(missing_ok=True)
            told.bind(str(notify))
            self._boot(notify)
            self._wait_until_up(told)

    def stop(self) -> None:
        """Power it off as an operator would; it must go within 30 s. `start` boots it again with all it had."""
        if self._process is None:
            return
        self.run("systemctl poweroff --no-block", limit_s=HALT_LIMIT_S)
        try:
            self._process.wait(HALT_LIMIT_S)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"not off within {HALT_LIMIT_S:g} s; its console:\n{self._last_lines()}") from None
        finally:
            self.kill()

    def kill(self) -> None:
        """End it at once, as a power cut does, but for its files: they are what its programs have written."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
        self._process = None
        self._group.close()

    def run(self, script: str, *, limit_s: float = SCRIPT_LIMIT_S, user: str = "root") -> Done:
        """Run a bash script as a unit of its own. Raises AssertionError with its output if it takes too long."""
        unit = f"script-{token_hex(4)}"
        words = ["systemd-run", "--quiet", "--pipe", "--wait", "--collect", f"--unit={unit}", f"--uid={user}"]
        words += [f"--setenv={name}={value}" for name, value in ENVIRONMENT.items()]
        words += ["--setenv=HOME=/root"] if user == "root" else []  # systemd sets those of others
        words += ["/bin/bash", "-c", script]
        try:
            done = self._enter(words, limit_s)
        except subprocess.TimeoutExpired as late:
            self._enter(["systemctl", "kill", "--signal=KILL", unit], HALT_LIMIT_S)
            said = (late.stdout or b"").decode(errors="replace")
            raise AssertionError(f"not done within {limit_s:g} s:\n{script}\nit said:\n{said}") from None
        return Done(done.returncode, done.stdout.decode(errors="replace"))

    def sh(self, script: str, *, limit_s: float = SCRIPT_LIMIT_S, user: str = "root") -> str:
        """Run a bash script that stops at its first failure; return what it printed. Raises AssertionError."""
        done = self.run(f"set -euo pipefail\n{script}", limit_s=limit_s, user=user)
        assert done.code == 0, f"ended with {done.code}:\n{script}\nit said:\n{done.output}"
        return done.output

    def journal(self, unit: str, *more: str) -> str:
        """Return the messages of *unit* since the last boot, and what systemd says of it."""
        return self.sh(f"journalctl --sync; journalctl -b -u {unit} -o cat --no-pager {' '.join(more)}")

    def _enter(self, words: Sequence[str], limit_s: float) -> subprocess.CompletedProcess[bytes]:
        assert self._process is not None, "the machine is off"
        assert self._process.poll() is None, f"the machine went down; its console:\n{self._last_lines()}"
        inside = ["nsenter", "--target", str(self._leader), "--mount", "--uts", "--ipc", "--net", "--pid"]
        return subprocess.run(
            [*inside, *words],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=limit_s,
            check=False,
        )

    def _boot(self, notify: Path) -> None:
        words = self._group.enter_context(cgroups.own(self.folder.name))
        words += ["setpriv", "--pdeathsig", "KILL"]  # who kills the tests ends the machine too
        words += [*roots.NSPAWN, "--boot", "-D", str(self.root), f"--machine={self.folder.name}", "--notify-ready=yes"]
        words += [f"--bind-ro={roots.wheelhouse(self.release)}:/wheels", "--console=pipe", *self.options]
        words += [] if self.network else ["--private-network", "--resolv-conf=off"]
        environment = {**os.environ, "NOTIFY_SOCKET": str(notify), "SYSTEMD_NSPAWN_UNIFIED_HIERARCHY": "1"}
        with (self.folder / "console").open("ab") as console:
            self._process = subprocess.Popen(
                words, env=environment, stdin=subprocess.DEVNULL, stdout=console, stderr=console
            )

    def _wait_until_up(self, told: socket.socket) -> None:
        deadline = time.monotonic() + BOOT_LIMIT_S
        told.settimeout(0.5)
        ready = False
        while not (ready and self._leader):
            assert self._process is not None
            failed = self._process.poll() is not None or time.monotonic() > deadline
            assert not failed, f"not up within {BOOT_LIMIT_S:g} s; its console:\n{self._last_lines()}"
            with suppress(TimeoutError):
                for line in told.recv(4096).decode().splitlines():
                    ready = ready or line == "READY=1"
                    if line.startswith("X_NSPAWN_LEADER_PID="):
                        self._leader = int(line.partition("=")[2])

    def _outside(self, path: str) -> Path:
        assert path.startswith("/"), path
        assert not path.startswith(("/run/", "/tmp/")), f"{path}: only the machine itself can write there: use sh()"
        return self.root / path[1:]

    def _last_lines(self) -> str:
        return "\n".join(self.console.splitlines()[-40:])


@contextmanager
def machine(
    release: str,
    *,
    venv: bool = True,
    packages: Sequence[str] = (),
    network: bool = False,
    options: Sequence[str] = (),
    boot: bool = True,
) -> Iterator[Machine]:
    """Run a machine of *release* ("bookworm" or "trixie") while the block runs.

    With *venv* it has /opt/sparkd, a venv with all that sparkd needs (`install` adds sparkd). *packages* are Debian's,
    beyond those of `roots.PACKAGES`; each new set of them takes half a minute, once. *network* gives it this machine's
    network. *options* go to systemd-nspawn. Without *boot* it is left to the block to `start` it. Skips the test where
    there can be no machine; in CI it fails instead.
    """
    _check_place()
    try:
        layers = [*([roots.venv_layer(release)] if venv else []), roots.base(release, packages)]
        roots.wheelhouse(release)
    except roots.MadeNothing as error:
        _refuse(f"no {release} machine can be made here: {error}")
    with _root(release, layers) as folder:
        it = Machine(release, folder, network, options)
        try:
            if boot:
                it.start()
            yield it
            it.stop()
        finally:
            it.kill()


@contextmanager
def _root(release: str, layers: Sequence[Path]) -> Iterator[Path]:
    """Yield a folder in memory with the machine's `root`; both are gone in the end."""
    live = roots.store() / "live"
    live.mkdir(exist_ok=True)
    _sweep(live)
    folder = live / f"{release}-{token_hex(3)}"
    with (live / f"{folder.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        folder.mkdir()
        try:
            roots.command(["mount", "-t", "tmpfs", "-o", "size=4g,mode=755", "tmpfs", str(folder)])
            for name in ("root", "upper", "work"):
                (folder / name).mkdir()
            (folder / "upper").chmod(0o755)
            roots.overlaid(folder / "root", lower=layers, upper=folder / "upper", work=folder / "work")
            yield folder
        finally:
            _clear(folder)
            (live / f"{folder.name}.lock").unlink()


def _sweep(live: Path) -> None:
    """Remove what machines have left whose tests were killed."""
    for path in live.glob("*.lock"):
        with suppress(BlockingIOError, FileNotFoundError), path.open("r+") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if (folder := path.with_suffix("")).exists():  # else it is just being made
                _clear(folder)
                path.unlink()


def _clear(folder: Path) -> None:
    cgroups.remove(folder.name)
    subprocess.run(["umount", "--recursive", "--lazy", "-q", folder], stderr=subprocess.DEVNULL, check=False)
    folder.rmdir()


def _check_place() -> None:
    if os.geteuid() != 0:
        _refuse("only root can boot a machine")
    if absent := [name for name in NEEDED if not shutil.which(name)]:
        _refuse(f"not installed: {', '.join(absent)}: apt-get install systemd-container mmdebstrap util-linux")


def _refuse(why: str) -> None:
    if os.environ.get("CI"):
        pytest.fail(why)
    pytest.skip(why)
