"""Build the Debian package: the core, its plugins and all they need, for one release and one architecture.

    make deb                                  # for bookworm, of this machine's architecture
    make deb ARCH=arm64 RELEASE=trixie

Nothing of the target runs here, so any architecture can be built on any: a venv is three files and a folder of
packages, and the packages are wheels that pip picks for the target. What goes in is checked: each wheel's tags, the
machine of each shared library, and that no path of this build is left in it.
"""

from __future__ import annotations

import argparse
import configparser
import hashlib
import os
import re
import shutil
import struct
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PREFIX = Path("opt/sparkd")
PYTHONS = {"bookworm": "3.11", "trixie": "3.13"}
GLIBC = {"bookworm": 36, "trixie": 41}
"""The minor version of glibc 2 in each release; wheels may ask for it or for an older one."""
MACHINES = {"amd64": ("x86_64", 62), "arm64": ("aarch64", 183)}
"""What Python calls the architecture, and its number in an ELF header (elf(5), e_machine)."""
OLDEST_GLIBC = 17
PURE_SDISTS = ("sdnotify",)
"""Packages that come without a wheel, and are pure Python: their wheel is made here."""
_ELF = b"\x7fELF"
_TEXT = ("", ".cfg", ".pth", ".json", ".txt", ".service", ".socket", ".conf")


@dataclass(frozen=True, slots=True)
class Target:
    """What is built for."""

    release: str
    arch: str
    version: str

    @property
    def python(self) -> str:
        """The release's Python."""
        return PYTHONS[self.release]

    @property
    def platforms(self) -> list[str]:
        """The platform tags that run there, best first."""
        machine = MACHINES[self.arch][0]
        own = [f"manylinux_2_{minor}_{machine}" for minor in range(GLIBC[self.release], OLDEST_GLIBC - 1, -1)]
        return [*own, f"manylinux2014_{machine}", f"linux_{machine}"]

    def full_version(self, revision: str) -> str:
        """Return the package's version."""
        return f"{self.version}-{revision}~{self.release}"

    @property
    def site(self) -> Path:
        """Where the packages go, beneath the root."""
        return PREFIX / "lib" / f"python{self.python}" / "site-packages"


def main(argv: list[str] | None = None) -> int:
    """Build, and print the package's path."""
    options = _options(argv)
    with (ROOT / "pyproject.toml").open("rb") as file:
        version = tomllib.load(file)["project"]["version"]
    target = Target(options.release, options.arch, version)
    options.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="sparkd-deb-") as scratch:
        stage = Path(scratch) / "root"
        stage.mkdir(mode=0o755)
        _fill(stage, Path(scratch) / "wheels", target)
        problems = [*check(stage, target)]
        if problems:
            print("\n".join(problems), file=sys.stderr)
            return 1
        for revision in options.revision or ["1"]:
            package = options.out / f"sparkd_{target.full_version(revision)}_{target.arch}.deb"
            _control(stage, target, revision)
            _run("dpkg-deb", "--root-owner-group", "-Zzstd", "-z3", "--build", str(stage), str(package))
            print(package)
    return 0


def _options(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Build the Debian package.")
    parser.add_argument("--release", choices=PYTHONS, default="bookworm")
    parser.add_argument("--arch", choices=MACHINES, default="")
    parser.add_argument("--revision", action="append", help="several make several packages of the same content")
    parser.add_argument("--out", type=Path, default=ROOT / "dist")
    options = parser.parse_args(argv)
    options.arch = options.arch or _run("dpkg", "--print-architecture").strip()
    if options.arch not in MACHINES:
        parser.error(f"--arch {options.arch}: {' or '.join(MACHINES)} expected")
    for revision in options.revision or ():
        if not re.fullmatch(r"[0-9][0-9A-Za-z.+]*", revision):
            parser.error(f"--revision {revision!r}: digits, letters, dots expected")
    return options


def _run(*command: str) -> str:
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True)  # noqa: S603 - our own words
    return done.stdout


def _fill(stage: Path, wheels: Path, target: Target) -> None:
    _packages(stage, wheels, target)
    _venv(stage, target)
    _files(stage)
    for path in (stage, *stage.rglob("*")):
        if not path.is_symlink():
            path.chmod(0o755 if path.is_dir() or path.stat().st_mode & 0o100 else 0o644)


def _packages(stage: Path, wheels: Path, target: Target) -> None:
    """Put sparkd and all it needs into the target's site-packages."""
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "-q"]
    _run(*pip, "wheel", "--no-deps", "-w", str(wheels), str(ROOT), *PURE_SDISTS)
    own = next(wheels.glob("sparkd-*.whl"))
    words = ["install", "--target", str(stage / target.site), "--no-compile", "--only-binary=:all:"]
    words += ["--python-version", target.python, "--implementation", "cp", "--find-links", str(wheels)]
    words += [word for platform in target.platforms for word in ("--platform", platform)]
    _run(*pip, *words, f"sparkd[all] @ {own.as_uri()}")
    shutil.rmtree(stage / target.site / "bin", ignore_errors=True)  # for this machine's Python
    for record in (stage / target.site).glob("*.dist-info/direct_url.json"):
        record.unlink()  # names a folder of this build


def _venv(stage: Path, target: Target) -> None:
    """Make the venv around the packages: what `python -m venv` would leave."""
    home = stage / PREFIX
    (home / "bin").mkdir(parents=True)
    text = f"home = /usr/bin\ninclude-system-site-packages = false\nversion = {target.python}\n"
    (home / "pyvenv.cfg").write_text(text)
    (home / "bin" / "python3").symlink_to(f"/usr/bin/python{target.python}")
    (home / "bin" / "python").symlink_to("python3")
    for name, place in _scripts(stage / target.site):
        module, _, function = place.partition(":")
        text = f"#!/{PREFIX}/bin/python3\nimport sys\nfrom {module} import {function}\nsys.exit({function}())\n"
        script = home / "bin" / name
        script.write_text(text)
        script.chmod(0o755)


def _scripts(site: Path) -> Iterator[tuple[str, str]]:
    """Yield the name and the function of each of sparkd's own programs."""
    points = configparser.ConfigParser()
    points.read(next(site.glob("sparkd-*.dist-info")) / "entry_points.txt")
    yield from points["console_scripts"].items()


def _files(stage: Path) -> None:
    """Put units, samples, links, completion and documents in place."""
    places = {"service": "systemd/system", "socket": "systemd/system"}
    for file in sorted((ROOT / "systemd").iterdir()):
        kind = file.suffix.lstrip(".")
        if kind in places:
            _copy(file, stage / "usr/lib" / places[kind] / file.name)
        elif kind in ("sysusers", "tmpfiles"):
            _copy(file, stage / f"usr/lib/{kind}.d" / f"{file.stem}.conf")
    for file in sorted((ROOT / "etc/udev").glob("*.rules")):
        _copy(file, stage / "usr/lib/udev/rules.d" / file.name)
    for file in sorted(path for path in (ROOT / "etc").rglob("*") if path.is_file()):
        _copy(file, stage / "usr/share/sparkd/etc" / file.relative_to(ROOT / "etc"))
    for name in ("README.md", "CHANGELOG.md"):
        _copy(ROOT / name, stage / "usr/share/doc/sparkd" / name)
    licence = "License: Apache-2.0\n https://www.apache.org/licenses/LICENSE-2.0\n"
    (stage / "usr/share/doc/sparkd/copyright").write_text(licence)
    (stage / "usr/bin").mkdir(parents=True)
    for script in sorted((stage / PREFIX / "bin").iterdir()):
        if not script.name.startswith("python") and script.name in ("sparkd", "sparkctl"):
            (stage / "usr/bin" / script.name).symlink_to(f"/{PREFIX}/bin/{script.name}")
    completion = stage / "usr/share/bash-completion/completions/sparkctl"
    completion.parent.mkdir(parents=True)
    completion.write_text(_run(sys.executable, "-m", "sparkd.cli", "completion", "bash"))


def _copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, target)


def check(stage: Path, target: Target) -> Iterator[str]:
    """Yield what is wrong with the tree *stage*: wheels or libraries of another machine, paths of this build."""
    fits = {"any", *target.platforms}
    for wheel in sorted((stage / target.site).glob("*.dist-info/WHEEL")):
        tags = [line.partition(":")[2].strip() for line in wheel.read_text().splitlines() if line.startswith("Tag:")]
        if not any(tag.rpartition("-")[2] in fits for tag in tags):
            yield f"{wheel.parent.name}: its tags {tags} do not fit {target.arch} on {target.release}"
        if not any(_fits_python(tag.split("-")[0], target.python) for tag in tags):
            yield f"{wheel.parent.name}: its tags {tags} do not fit Python {target.python}"
    wanted = MACHINES[target.arch][1]
    for path in sorted(stage.rglob("*")):
        if path.is_symlink() or not path.is_file():
            continue
        machine = _machine(path)
        if machine not in (None, wanted):
            yield f"{path.relative_to(stage)}: a library for machine {machine}, not {wanted}"
        if path.suffix in _TEXT and str(stage) in path.read_text(errors="replace"):
            yield f"{path.relative_to(stage)}: names a folder of this build"
        if path.relative_to(stage).parts[0] not in ("opt", "usr"):
            yield f"{path.relative_to(stage)}: nothing belongs there"


def _fits_python(tag: str, python: str) -> bool:
    """Whether a wheel's Python tag, which may be several joined by dots, is for *python*."""
    major, minor = python.split(".")
    for one in tag.split("."):
        match = re.fullmatch(r"(cp|py)(\d)(\d*)", one)
        if match and match[2] == major and int(match[3] or 0) <= int(minor):
            return True
    return False


def _machine(path: Path) -> int | None:
    """Return the machine that an ELF file is for; None if it is none."""
    with path.open("rb") as file:
        head = file.read(20)
    return struct.unpack_from("<H", head, 18)[0] if head[:4] == _ELF and len(head) == 20 else None  # noqa: PLR2004 - up to e_machine


def _control(stage: Path, target: Target, revision: str) -> None:
    """Write the package's own files."""
    folder = stage / "DEBIAN"
    shutil.rmtree(folder, ignore_errors=True)
    sums = []
    size = 0
    for path in sorted(stage.rglob("*")):
        if path.is_file() and not path.is_symlink():
            size += path.stat().st_size
            digest = hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()
            sums.append(f"{digest}  {path.relative_to(stage)}\n")
    folder.mkdir(mode=0o755)
    major, minor = target.python.split(".")
    fields = {
        "Package": "sparkd",
        "Version": target.full_version(revision),
        "Architecture": target.arch,
        "Maintainer": "sparkd <sparkd@localhost>",
        "Section": "net",
        "Priority": "optional",
        "Installed-Size": str(size // 1024),
        "Depends": f"python3 (>= {target.python}~), python3 (<< {major}.{int(minor) + 1}~), systemd, libc6 (>= 2.28), "
        "libstdc++6, libgcc-s1, zlib1g",
        "Recommends": "ca-certificates",
        "Suggests": "wireguard-tools, smartmontools, alsa-utils, libusb-1.0-0",
        "Description": "edge daemon of a private AI platform\n"
        " One daemon for every machine: it runs plugins as supervised services, carries\n"
        " their events and calls, and delivers what must not be lost to other nodes.",
    }
    (folder / "control").write_text("".join(f"{name}: {value}\n" for name, value in fields.items()))
    (folder / "md5sums").write_text("".join(sums))
    for script in ("postinst", "prerm", "postrm"):
        shutil.copyfile(ROOT / "systemd" / "debian" / script, folder / script)
        (folder / script).chmod(0o755)


if __name__ == "__main__":
    os.umask(0o022)
    sys.exit(main())
