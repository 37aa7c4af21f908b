"""The platform's own fleet file with keys made for the test, and smaller ones."""

from __future__ import annotations

import base64
import os
import shutil
import subprocess
from pathlib import Path

import pytest
import zmq

from sparkd.fleet import Fleet, load_fleet
from sparkd.fleet.keys import _unz85

ROOT = Path(__file__).parents[2]
SAMPLE = ROOT / "etc" / "fleet.toml"
SPARKD = ("control-pc", "nas", "primecore1", "primecore2", "primecore3", "primecore4", "spark-agent")


def wireguard_pair() -> tuple[str, str]:
    """Return a public and a private key of WireGuard: the curve is that of ZeroMQ's keys."""
    public, secret = (bytearray(_unz85(key.decode())) for key in zmq.curve_keypair())
    secret[0] &= 248
    secret[31] = (secret[31] & 127) | 64
    return base64.b64encode(public).decode(), base64.b64encode(secret).decode()


def link_pair() -> tuple[str, str]:
    """Return a public and a secret key of the link."""
    public, secret = zmq.curve_keypair()
    return public.decode(), secret.decode()


def make_keys(folder: Path, names: tuple[str, ...] = SPARKD) -> dict[str, str]:
    """Write public keys for *names*; return WireGuard's private ones."""
    folder.mkdir(exist_ok=True)
    private = {}
    for name in names:
        public, private[name] = wireguard_pair()
        put_key(folder / f"{name}.wireguard.pub", public)
        put_key(folder / f"{name}.link.pub", link_pair()[0])
    return private


def put_key(file: Path, key: str) -> None:
    file.write_text(f"{key}\n")
    file.chmod(0o644)


def platform(folder: Path, *changes: tuple[str, str]) -> Path:
    """Copy the platform's fleet file with keys into *folder*, with each change made in its text; return it."""
    text = SAMPLE.read_text()
    for old, new in changes:
        assert old in text, old
        text = text.replace(old, new)
    file = folder / "fleet.toml"
    file.write_text(text)
    if not (folder / "fleet-keys").exists():
        make_keys(folder / "fleet-keys")
    return file


def loaded(folder: Path, *changes: tuple[str, str]) -> Fleet:
    return load_fleet(platform(folder, *changes))


def needs(*tools: str, root: bool = False) -> None:
    """Skip the test, or fail it in CI, if a program is missing or root is needed."""
    missing = [tool for tool in tools if shutil.which(tool, path=f"{os.environ['PATH']}:/usr/sbin:/sbin") is None]
    reason = f"needs {' '.join(missing)}" if missing else "needs root" if root and os.geteuid() != 0 else ""
    if reason and os.environ.get("CI"):
        pytest.fail(reason)
    if reason:
        pytest.skip(reason)


def apart(script: str, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Run a shell script as root in namespaces of its own: network, mounts, processes; nothing is left of them."""
    words = [
        "unshare",
        "--net",
        "--mount",
        "--pid",
        "--fork",
        "--kill-child",
        "--mount-proc",
        "sh",
        "-euc",
        script,
        "sh",
    ]
    environment = {**os.environ, "PATH": f"{os.environ['PATH']}:/usr/sbin:/sbin"}
    return subprocess.run(
        [*words, *map(str, arguments)], capture_output=True, text=True, check=False, timeout=50, env=environment
    )
