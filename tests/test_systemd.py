from __future__ import annotations

import os
import socket
from collections.abc import Iterator

import pytest

from sparkd.systemd import Notifier, watchdog_interval_s
from sparkd.testing import short_folder


@pytest.fixture
def manager(monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    with short_folder() as folder, socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind(str(folder / "notify"))
        listening.settimeout(2)
        monkeypatch.setenv("NOTIFY_SOCKET", str(folder / "notify"))
        yield listening


def heard(manager: socket.socket) -> list[str]:
    return manager.recv(4096).decode().split("\n")


def test_each_word_reaches_the_manager(manager: socket.socket) -> None:
    notifier = Notifier()
    notifier.ready("all\nwell …")
    assert heard(manager) == ["READY=1", "STATUS=all well …", f"MAINPID={os.getpid()}"]
    notifier.reloading()
    reloading = heard(manager)
    assert reloading[0] == "RELOADING=1"
    assert int(reloading[1].removeprefix("MONOTONIC_USEC=")) > 0
    notifier.extend_timeout(1.5)
    assert heard(manager) == ["EXTEND_TIMEOUT_USEC=1500000"]
    notifier.watchdog()
    assert heard(manager) == ["WATCHDOG=1"]
    notifier.status("x")
    assert heard(manager) == ["STATUS=x"]
    notifier.stopping()
    assert heard(manager) == ["STOPPING=1"]
    notifier.close()


def test_a_status_can_say_nothing_but_a_status(manager: socket.socket) -> None:
    notifier = Notifier()
    notifier.status("71 °C\nREADY=1\x00\x1b" + "x" * 100_000)
    notifier.close()

    (line,) = heard(manager)
    assert line.startswith("STATUS=71 °C READY=1  xxx")


def test_who_is_stopping_is_not_ready_again(manager: socket.socket) -> None:
    notifier = Notifier()
    notifier.stopping()
    notifier.ready("1 of 2 services run")
    notifier.close()

    assert heard(manager) == ["STOPPING=1"]
    assert heard(manager) == ["STATUS=1 of 2 services run"]


def test_an_abstract_socket_is_spoken_to(monkeypatch: pytest.MonkeyPatch) -> None:
    name = f"sparkd-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind(f"\0{name}")
        listening.settimeout(2)
        monkeypatch.setenv("NOTIFY_SOCKET", f"@{name}")
        notifier = Notifier()
        notifier.stopping()
        notifier.close()

        assert heard(listening) == ["STOPPING=1"]


def test_a_manager_that_does_not_listen_holds_nobody(manager: socket.socket) -> None:
    notifier = Notifier()
    for _ in range(10_000):
        notifier.watchdog()
    notifier.close()


def test_without_a_manager_nothing_happens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    notifier = Notifier()
    notifier.ready("well")
    notifier.close()


@pytest.mark.parametrize(
    ("usec", "pid", "interval"), [("3000000", None, 3.0), ("3000000", "1", 0.0), ("x", None, 0.0), (None, None, 0.0)]
)
def test_the_watchdog_interval(
    monkeypatch: pytest.MonkeyPatch, usec: str | None, pid: str | None, interval: float
) -> None:
    for name, value in (("WATCHDOG_USEC", usec), ("WATCHDOG_PID", pid)):
        if value is None:
            monkeypatch.delenv(name, raising=False)
        else:
            monkeypatch.setenv(name, value)

    assert watchdog_interval_s() == interval
