"""What machines are made of, each made once and kept: a Debian of each release, sparkd's wheels, and a venv of them.

Everything is kept in `$SPARKD_MACHINES` (default /var/tmp/sparkd-machines), by release and by what it was made from, so
a change of the packages makes a new one; remove the folder to have it all made afresh. What is made grows beside its
place under a lock and is moved into it whole, so that two runs of the tests may share it and none sees a part of it.

`python -m tests.machine.roots` makes all of it, for those who do not want their first test to wait.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from secrets import token_hex

from tests.machine import cgroups

CHECKOUT = Path(__file__).resolve().parents[2]
RELEASES = ("bookworm", "trixie")
PACKAGES = ("dbus", "iproute2", "make", "procps", "python3", "python3-venv", "systemd-sysv")
MIRROR = "http://deb.debian.org/debian"
KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
VENV = "/opt/sparkd"
NSPAWN = ("systemd-nspawn", "--quiet", "--register=no", "--keep-unit", "--timezone=off")


class MadeNothing(Exception):  # noqa: N818 - it reads as what happened
    """A part of a machine could not be made; its text is what the program said that should have made it."""


def store() -> Path:
    """Return the folder of all machines."""
    folder = Path(os.environ.get("SPARKD_MACHINES", "/var/tmp/sparkd-machines"))
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def base(release: str, extra: Sequence[str] = ()) -> Path:
    """Return a Debian *release* of the fewest packages, with *extra* ones. Nothing may be changed in it."""
    packages = sorted({*PACKAGES, *extra})
    return _kept(f"base-{release}-{_key(packages)}", lambda place: _make_base(place, release, packages))


def wheelhouse(release: str) -> Path:
    """Return a folder of wheels for the Python of *release*: all that sparkd and its extras need, and setuptools."""
    wanted = _requirements()
    return _kept(f"wheels-{release}-{_key(wanted)}", lambda place: _make_wheels(place, release, wanted))


def venv_layer(release: str) -> Path:
    """Return an overlay for the base of *release*: the venv /opt/sparkd with all that sparkd needs, but not sparkd."""
    wanted = _requirements()
    return _kept(f"venv-{release}-{_key([*wanted, *PACKAGES])}", lambda place: _make_venv(place, release, wanted))


def overlaid(root: Path, *, lower: Sequence[Path], upper: Path, work: Path) -> None:
    """Mount *upper* over *lower* (the last is the lowest) at *root*."""
    options = f"lowerdir={':'.join(map(str, lower))},upperdir={upper},workdir={work}"
    command(["mount", "-t", "overlay", "overlay", "-o", options, str(root)])


def command(words: Sequence[str], *, environment: Mapping[str, str] | None = None) -> str:
    """Run *words* and return what they print. Raises MadeNothing with their last lines if they fail."""
    done = subprocess.run(
        words,
        env={**os.environ, **(environment or {})},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        check=False,
    )
    output = done.stdout.decode(errors="replace")
    if done.returncode:
        last = "\n".join(output.splitlines()[-15:])
        raise MadeNothing(f"{' '.join(words)}\nended with {done.returncode}:\n{last}")
    return output


def _make_base(place: Path, release: str, packages: Sequence[str]) -> None:
    """Make a root. mmdebstrap is debootstrap with apt's resolver, in a third of its time (22 s against 60 s)."""
    command(
        [
            "mmdebstrap",
            "--quiet",
            "--mode=root",
            "--variant=minbase",
            f"--keyring={KEYRING}",
            f"--include={','.join(packages)}",
            '--aptopt=APT::Install-Recommends "false"',
            '--aptopt=Acquire::Languages "none"',
            release,
            str(place),
            MIRROR,
        ]
    )
    place.joinpath("var/log/journal").mkdir(exist_ok=True)  # so that what was logged outlives a power cut


def _make_wheels(place: Path, release: str, wanted: Sequence[str]) -> None:
    place.mkdir()
    script = (
        'python3 -m venv /tmp/v && exec /tmp/v/bin/python -m pip wheel --quiet --use-pep517 --wheel-dir /wheels "$@"'
    )
    with _scratch(release) as inside:
        command([*inside, f"--bind={place}:/wheels", "sh", "-c", script, "sh", *wanted])


def _make_venv(place: Path, release: str, wanted: Sequence[str]) -> None:
    place.mkdir()
    script = f'python3 -m venv {VENV} && exec {VENV}/bin/python -m pip install --quiet --no-index -f /wheels "$@"'
    with _scratch(release, upper=place) as inside:
        command([*inside, f"--bind-ro={wheelhouse(release)}:/wheels", "sh", "-c", script, "sh", *wanted])
    for left in ("tmp", "run", "var/tmp"):
        shutil.rmtree(place / left, ignore_errors=True)


def _inside(root: Path, name: str) -> list[str]:
    """Return the words that run a program in *root* over this machine's network, with this machine's way to PyPI."""
    words = [*NSPAWN, "--pipe", "-D", str(root), f"--machine={name}", "--resolv-conf=copy-host"]
    words += [f"--setenv={name}={value}" for name, value in os.environ.items() if name.startswith("PIP_")]
    words += [
        f"--bind-ro={path}"
        for path in ("/etc/pip.conf", os.environ.get("PIP_CERT", ""), os.environ.get("PIP_FIND_LINKS", ""))
        if path.startswith("/") and Path(path).exists()
    ]
    return words


@contextmanager
def _scratch(release: str, upper: Path | None = None) -> Iterator[list[str]]:
    """Yield the words that run a program in the base of *release*; what it changes goes to *upper*, else away."""
    name = f"{release}-{token_hex(3)}"
    lowest, folder = base(release), store() / name
    try:
        for part in ("root", "work", "upper"):
            (folder / part).mkdir(parents=True)
        overlaid(folder / "root", lower=[lowest], upper=upper or folder / "upper", work=folder / "work")
        try:
            with cgroups.own(name) as before:
                yield [*before, *_inside(folder / "root", name)]
        finally:
            command(["umount", str(folder / "root")])
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _kept(name: str, make: Callable[[Path], None]) -> Path:
    """Return the place called *name*, made by *make* if it is not there yet."""
    place = store() / name
    with (store() / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not place.exists():
            part = place.with_name(f"{name}.part")
            command(["rm", "-rf", "--one-file-system", str(part)])
            make(part)
            part.rename(place)
    return place


def _requirements() -> list[str]:
    project = tomllib.loads((CHECKOUT / "pyproject.toml").read_text(encoding="utf-8"))
    extras = project["project"]["optional-dependencies"]
    named = [*project["project"]["dependencies"], *project["build-system"]["requires"], "wheel"]
    named += [word for extra, words in extras.items() if extra != "dev" for word in words]
    return sorted(word for word in named if not word.startswith("sparkd["))


def _key(parts: Sequence[str]) -> str:
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:10]


def main(releases: Sequence[str]) -> int:
    """Make all that machines of *releases* need, the releases side by side."""
    with ThreadPoolExecutor() as pool:
        for place in pool.map(venv_layer, releases or RELEASES):
            print(place)  # noqa: T201 - said to who asked for it
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
