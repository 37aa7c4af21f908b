"""The machines that other tests stand on do what they say."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.machine import roots
from tests.machine.machine import Machine, machine

SYSTEMD = {"bookworm": "systemd 252", "trixie": "systemd 257"}


@pytest.fixture(scope="module", params=roots.RELEASES)
def booted(request: pytest.FixtureRequest) -> Iterator[Machine]:
    with machine(request.param) as it:
        yield it


def test_it_is_up_with_the_systemd_of_its_release(booted: Machine) -> None:
    assert booted.sh("systemctl is-system-running") == "running\n"
    assert SYSTEMD[booted.release] in booted.sh("systemctl --version")


def test_it_has_no_network_but_its_own_loopback(booted: Machine) -> None:
    assert booted.sh("ip -brief link | cut -d' ' -f1") == "lo\n"


def test_a_script_gives_its_code_and_all_it_wrote(booted: Machine) -> None:
    done = booted.run("echo out; echo err >&2; exit 7")

    assert (done.code, done.output) == (7, "out\nerr\n")
    with pytest.raises(AssertionError, match=r"ended with 1:\nfalse\necho not reached"):
        booted.sh("false\necho not reached")


def test_a_script_runs_as_the_user_that_is_named(booted: Machine) -> None:
    assert booted.sh("id -un", user="nobody") == "nobody\n"


def test_a_script_that_takes_too_long_is_ended_and_shown(booted: Machine) -> None:
    with pytest.raises(AssertionError, match=r"not done within 0\.5 s") as told:
        booted.sh("echo begun; exec -a too-long sleep 60", limit_s=0.5)

    assert "begun" in str(told.value)
    assert booted.run("pgrep -f ^too-long").code == 1


def test_what_is_written_outlives_a_power_cut_but_not_the_machine() -> None:
    release = roots.RELEASES[0]
    with machine(release, venv=False) as it:
        it.write("/etc/here", "from outside")
        it.sh("echo from inside >/var/there")
        it.kill()
        it.start()
        assert it.sh("cat /etc/here /var/there") == "from outsidefrom inside\n"
        left = it.folder
    with machine(release, venv=False) as it:
        assert it.run("ls /etc/here /var/there").code == 2
    assert not left.exists()


def test_sparkd_is_installed_from_this_checkout(booted: Machine) -> None:
    booted.checkout()
    booted.install()

    assert booted.sh("/opt/sparkd/bin/sparkd --version").startswith("sparkd ")
    assert booted.sh("cat /src/pyproject.toml") == (roots.CHECKOUT / "pyproject.toml").read_text()
