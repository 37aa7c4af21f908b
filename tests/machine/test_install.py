"""Installing, upgrading and removing sparkd on a real Debian: by `make install`, and as a package."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.machine import roots
from tests.machine.machine import Machine, machine

BUILD_LIMIT_S = 300
DEB = roots.CHECKOUT / ".ci" / "deb.py"
COUNTER = """\
import anyio
from sparkd import NoConfig, Record, Service, hookimpl

async def run(ctx, *, task_status):
    async with ctx.outbox.writer("numbers") as writer:
        task_status.started()
        while True:
            await writer.append([Record(topic="t", body=b"x" * 100) for _ in range(10)])
            await anyio.sleep(0.02)

@hookimpl
def sparkd_services():
    return [Service(name="counter", config=NoConfig, run=run)]
"""
WAIT = """\
for i in $(seq 100); do sparkctl status >/dev/null 2>&1 && break; [ $? = 5 ] && break; sleep 0.1; done
"""


def built(folder: Path, *words: str) -> list[Path]:
    """Build packages; skip where there is no network to get wheels from, but not in CI."""
    command = [sys.executable, str(DEB), "--out", str(folder), *words]
    done = subprocess.run(command, capture_output=True, text=True, timeout=BUILD_LIMIT_S, check=False)
    if done.returncode and "No matching distribution" in done.stderr + done.stdout and not os.environ.get("CI"):
        pytest.skip("no network to get wheels from")
    assert done.returncode == 0, done.stderr[-3000:]
    return [Path(line) for line in done.stdout.split()]


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two builds of the same package, the second newer."""
    return built(tmp_path_factory.mktemp("debs"), "--revision", "1", "--revision", "2")


def status(it: Machine) -> dict[str, object]:
    found: dict[str, object] = json.loads(it.run("sparkctl status --json").output)
    return found


def last_seq(it: Machine) -> int:
    (stream,) = json.loads(it.sh("sparkctl outbox --json"))
    return int(stream["last_seq"])


@pytest.fixture(scope="module")
def debian(packages: list[Path]) -> Iterator[Machine]:
    with machine("bookworm", venv=False) as it:
        for package in packages:
            it.copy(package, f"/debs/{package.name}")
        yield it


def test_a_package_is_installed_upgraded_without_a_loss_and_purged_clean(debian: Machine, packages: list[Path]) -> None:
    before = debian.sh("find / -xdev -path '*sparkd*' -not -path '/proc/*' -not -path '/debs*' | sort")
    first, second = (f"/debs/{package.name}" for package in packages)
    debian.sh(f"dpkg -i {first}", limit_s=120)
    assert debian.sh("systemctl is-active sparkd; systemctl is-enabled sparkd") == "active\nenabled\n"
    debian.sh(WAIT)
    assert status(debian)["services"] == [], "the sample runs nothing"

    debian.write("/etc/sparkd/plugins/counter.py", COUNTER)
    debian.write("/etc/sparkd/sparkd.d/10-mine.toml", '[node]\nname = "mine"\n')
    debian.sh("echo '## changed by hand' >>/etc/sparkd/sparkd.toml; systemctl restart sparkd")
    debian.sh("for i in $(seq 100); do sparkctl outbox --json | grep -q numbers && break; sleep 0.1; done")
    identity, given = debian.sh("cat /var/lib/sparkd/node_id"), last_seq(debian)
    pid = debian.sh("systemctl show -P MainPID sparkd")

    debian.sh(f"dpkg -i {second}", limit_s=120)
    debian.sh(WAIT)
    assert debian.sh("systemctl is-active sparkd") == "active\n"
    assert debian.sh("systemctl show -P MainPID sparkd") != pid, "the new version runs"
    assert debian.sh("cat /var/lib/sparkd/node_id") == identity
    assert status(debian)["node"] == "mine"
    assert "## changed by hand" in debian.sh("cat /etc/sparkd/sparkd.toml")
    assert last_seq(debian) >= given
    counted = debian.sh(
        "/opt/sparkd/bin/python3 - <<'END'\n"
        "import glob, sqlite3\n"
        "found = [seq for file in sorted(glob.glob('/var/lib/sparkd/outbox/counter/numbers/*.seg'))\n"
        "         for seq, in sqlite3.connect(f'file:{file}?mode=ro', uri=True).execute('SELECT seq FROM records')]\n"
        "print(sorted(found) == list(range(1, len(found) + 1)))\n"
        "END"
    )
    assert counted == "True\n", "nothing lost, nothing doubled"

    debian.sh("dpkg --remove sparkd", limit_s=60)
    assert debian.run("systemctl is-active sparkd").code != 0
    assert debian.sh("cat /var/lib/sparkd/node_id") == identity, "removing keeps what is yours"
    debian.sh("dpkg --purge sparkd", limit_s=60)
    assert debian.run("getent passwd sparkd").code != 0
    after = debian.sh("find / -xdev -path '*sparkd*' -not -path '/proc/*' -not -path '/debs*' | sort")
    assert after == before, "purged clean"
    assert debian.sh("systemctl --failed --no-legend") == ""


def test_the_samples_of_the_package_are_a_config(debian: Machine, packages: list[Path]) -> None:
    debian.sh(f"dpkg -i /debs/{packages[1].name}", limit_s=120)
    assert "no problems" in debian.sh("sparkctl check")
    assert debian.sh("ls /usr/share/sparkd/etc/sparkd.d | wc -l").strip() != "0"
    assert "shtab" in debian.sh("cat /usr/share/bash-completion/completions/sparkctl")
    debian.sh("dpkg --purge sparkd", limit_s=60)


@pytest.mark.parametrize("release", roots.RELEASES)
def test_a_package_for_the_pi_has_wheels_for_its_python_and_machine(release: str, tmp_path: Path) -> None:
    (package,) = built(tmp_path, "--arch", "arm64", "--release", release)
    listed = subprocess.run(["dpkg-deb", "-c", package], capture_output=True, text=True, check=True).stdout
    shown = subprocess.run(["dpkg-deb", "-f", package], capture_output=True, text=True, check=True).stdout

    assert "Architecture: arm64" in shown
    python = {"bookworm": "3.11", "trixie": "3.13"}[release]
    assert f"./opt/sparkd/lib/python{python}/site-packages/sparkd/" in listed
    tag = f"cpython-{python.replace('.', '')}"
    assert f"{tag}-aarch64-linux-gnu.so" in listed
    assert "x86_64" not in listed
    assert "./usr/lib/udev/rules.d/60-sparkd-respeaker.rules" in listed
    assert all(
        line.split()[5].startswith(("./usr/", "./opt/")) for line in listed.splitlines()[1:] if len(line.split()[5]) > 6
    )


MAKE = "cd /src && make -s {}"


@pytest.mark.parametrize("release", roots.RELEASES)
def test_make_install_upgrades_and_uninstalls(release: str) -> None:
    with machine(release, venv=False) as it:
        it.checkout("/src")
        installed = it.sh(MAKE.format("install") + " 2>&1", limit_s=240)
        assert "sparkctl init; systemctl enable --now sparkd" in installed
        assert it.sh("stat -c %U:%G:%a /etc/sparkd") == "root:root:755\n"
        assert "2886" in it.sh("cat /etc/udev/rules.d/60-sparkd-respeaker.rules")
        it.sh("sparkctl init -y --name here && systemctl enable -q --now sparkd")
        it.sh(WAIT)
        assert status(it)["node"] == "here"
        it.sh("echo '## mine' >>/etc/sparkd/sparkd.toml")

        again = it.sh(MAKE.format("install") + " 2>&1", limit_s=240)
        assert "upgraded and restarted" in again
        assert "## mine" in it.sh("cat /etc/sparkd/sparkd.toml")
        it.sh(WAIT)
        assert status(it)["node"] == "here"

        it.sh(MAKE.format("uninstall"))
        assert it.run("systemctl cat sparkd").code != 0
        assert it.run("ls -d /opt/sparkd /usr/local/bin/sparkctl").code == 2
        assert it.sh("ls /etc/udev/rules.d") == ""
        assert "## mine" in it.sh("cat /etc/sparkd/sparkd.toml; test -e /var/lib/sparkd/node_id")
