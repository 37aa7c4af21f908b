"""The NUT source against a real upsd with its own scripted UPS, and against servers that speak nonsense."""

from __future__ import annotations

import os
import socket
import subprocess
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path

import anyio
import pytest
from anyio.abc import SocketAttribute, SocketStream
from hypothesis import given
from hypothesis import strategies as st

from sparkd import DeviceError, PowerReading, Secret
from sparkd.testing import free_port, short_folder
from sparkd_plugins.power_monitor import nut_wire
from sparkd_plugins.power_monitor.source_nut import NutConfig, NutSource
from tests.plugins.power_listener import Heard, watching

pytestmark = pytest.mark.anyio
FOLDERS = (Path("/lib/nut"), Path("/usr/lib/nut"), Path("/usr/sbin"))
"""Debian's /usr/sbin/upsd is a script that wants to be enabled in /etc; the program itself is beside the drivers."""


def found(name: str) -> Path | None:
    return next((folder / name for folder in FOLDERS if (folder / name).exists()), None)


UPSD, DRIVER = found("upsd"), found("dummy-ups")
ON_LINE = {"ups.status": "OL CHRG", "battery.charge": "100", "battery.runtime": "3000", "ups.load": "20"}
SCRIPT = """\
ups.status: OL
battery.charge: 100
battery.voltage: 13.6
ups.realpower: 12
ups.mfr: Eaton
ups.model: 5E 850i
TIMER 8
ups.status: OB DISCHRG
battery.charge: 80
battery.runtime: 600
TIMER 2
ups.status: OB LB DISCHRG
battery.charge: 8
TIMER 2
ups.status: FSD OB LB
TIMER 600
"""


@dataclass
class Nut:
    folder: Path
    port: int
    upsd: subprocess.Popen[bytes]
    driver: subprocess.Popen[bytes]


def need_nut() -> None:
    if UPSD is None or DRIVER is None or os.geteuid() != 0:
        reason = "needs root and NUT's server (apt-get install nut-server)"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)


@contextmanager
def nut(script: str) -> Iterator[Nut]:
    """Start the real driver and server, as root in a folder of their own."""
    need_nut()
    with short_folder() as folder:
        folder.chmod(0o755)
        port = free_port()
        (folder / "it.dev").write_text(script)
        (folder / "ups.conf").write_text(f"[it]\ndriver = dummy-ups\nport = {folder}/it.dev\ndesc = test\n")
        (folder / "upsd.conf").write_text(f"LISTEN 127.0.0.1 {port}\nMAXAGE 3\n")
        (folder / "upsd.users").write_text("")
        for name in ("ups.conf", "upsd.conf", "upsd.users", "it.dev"):
            (folder / name).chmod(0o640)
        environment = {**os.environ, "NUT_CONFPATH": str(folder), "NUT_STATEPATH": str(folder)}
        quiet = {"env": environment, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        driver = subprocess.Popen([str(DRIVER), "-a", "it", "-D", "-u", "root"], **quiet)  # type: ignore[call-overload]
        try:
            wait_for(lambda: any(folder.glob("dummy-ups-it*")))
            upsd = subprocess.Popen([str(UPSD), "-D", "-u", "root"], **quiet)  # type: ignore[call-overload]
            try:
                wait_for(lambda: answers(port))
                yield Nut(folder, port, upsd, driver)
            finally:
                upsd.kill()
                upsd.wait()
        finally:
            driver.kill()
            driver.wait()


def wait_for(seen: object) -> None:
    deadline = time.monotonic() + 15
    while not seen():  # type: ignore[operator]
        assert time.monotonic() < deadline
        time.sleep(0.05)


def answers(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@asynccontextmanager
async def server(*answers_: bytes, silent: bool = False) -> AsyncIterator[int]:
    """Answer each line with the next of *answers_*, the last one again and again; or read and say nothing."""
    left = list(answers_)

    async def speak(stream: SocketStream) -> None:
        async with stream:
            while True:
                try:
                    await stream.receive()
                except (anyio.EndOfStream, anyio.BrokenResourceError):
                    return
                if not silent:
                    await stream.send(left.pop(0) if len(left) > 1 else left[0])

    async with await anyio.create_tcp_listener(local_host="127.0.0.1") as listener, anyio.create_task_group() as tasks:
        tasks.start_soon(listener.serve, speak)
        yield listener.extra(SocketAttribute.local_port)
        tasks.cancel_scope.cancel()


def source(port: int, **keys: object) -> NutSource:
    return NutSource(NutConfig(port=port, interval_s=0.1, answer_limit_s=1.0, **keys))  # type: ignore[arg-type]


def listing(**variables: str) -> bytes:
    lines = "".join(f'VAR it {name.replace("_", ".")} "{value}"\n' for name, value in variables.items())
    return f"BEGIN LIST VAR it\n{lines}END LIST VAR it\n".encode()


@pytest.mark.timeout(60)
async def test_a_real_server_tells_a_discharge_to_its_end() -> None:
    with nut(SCRIPT) as it:
        async with watching(source(it.port)) as heard:
            await heard.until(lambda seen: any(one.mains for one in seen.readings))
            await heard.until(lambda seen: seen.whats[-1] == f"Eaton 5E 850i (it@127.0.0.1:{it.port})")
            await heard.until(lambda seen: seen.readings and seen.last.mains is False, limit_s=30)
            assert (heard.last.charge_percent, heard.last.time_to_empty_s, heard.last.load_watts) == (80, 600, 12)
            await heard.until(lambda seen: seen.last.battery_low)
            await heard.until(lambda seen: seen.last.shutdown)


@pytest.mark.timeout(60)
async def test_a_server_that_is_killed_is_gone_and_one_without_its_driver_tells_nothing() -> None:
    with nut(SCRIPT) as it:
        heard = Heard()
        it.driver.kill()
        with pytest.raises(DeviceError, match="tells nothing"):
            await source(it.port).watch(heard)
        it.upsd.kill()
        it.upsd.wait()
        with pytest.raises(DeviceError, match="no NUT server at") as lost:
            await source(it.port).watch(Heard())
        assert "nut-server" in lost.value.remedy


@pytest.mark.parametrize(
    ("said", "why"),
    [
        (b"ERR ACCESS-DENIED\n", "ACCESS-DENIED"),
        (b"ERR UNKNOWN-UPS\n", "UNKNOWN-UPS"),
        (b"HTTP/1.1 400 Bad Request\n", "does not speak as NUT does"),
        (b"\n", "does not speak as NUT does"),
        (b"BEGIN LIST VAR other\n", "does not speak as NUT does"),
        (b'BEGIN LIST VAR it\nVAR it x "open\nEND LIST VAR it\n', "does not speak as NUT does"),
        (b"BEGIN LIST VAR it\nVAR other a 1\nEND LIST VAR it\n", "does not speak as NUT does"),
        (b"x" * 8192, "does not speak as NUT does"),
        (b"BEGIN LIST VAR it\nVAR it ups.sta", "is gone: no answer within 1 s"),
        (b"BEGIN LIST VAR it\n" + b'VAR it a "1"\n' * 2000, "more than 1000 lines"),
    ],
)
async def test_a_server_that_speaks_nonsense_is_named(said: bytes, why: str) -> None:
    async with server(said) as port:
        heard = Heard()
        with pytest.raises(DeviceError, match=why):
            await source(port, ups="it").watch(heard)
        assert not heard.readings


async def test_a_silent_server_is_given_up_on() -> None:
    async with server(b"", silent=True) as port:
        with pytest.raises(DeviceError, match="no answer within 1 s"):
            await source(port, ups="it").watch(Heard())


async def test_stale_data_is_no_reading_and_may_come_back() -> None:
    async with server(b"ERR DATA-STALE\n", listing(ups_status="OL")) as port, watching(source(port, ups="it")) as heard:
        await heard.until(lambda seen: seen.readings)
        assert heard.bad[0].startswith("the server says DATA-STALE: look at the cable")
        assert heard.last.mains is True


async def test_several_upss_must_be_told_apart() -> None:
    async with server(b'BEGIN LIST UPS\nUPS a "x"\nUPS b "y"\nEND LIST UPS\n') as port:
        with pytest.raises(DeviceError, match=r"has 2 UPSs \(a, b\)"):
            await source(port).watch(Heard())


async def test_a_password_is_said_to_the_server_only() -> None:
    async with server(b"OK\n", b"ERR INVALID-PASSWORD\n") as port:
        with pytest.raises(DeviceError, match="INVALID-PASSWORD") as refused:
            await source(port, ups="it", username="me", password=Secret("hunter2", "test")).watch(Heard())
        assert "hunter2" not in str(refused.value) + refused.value.remedy


@pytest.mark.parametrize(
    ("status", "mains", "low", "shutdown"),
    [
        ("OL", True, False, False),
        ("OL CHRG LB", True, False, False),
        ("OB DISCHRG", False, False, False),
        ("OB LB", False, True, False),
        ("FSD", False, False, True),
        ("FSD OL", True, False, True),
        ("WAIT", None, False, False),
        ("OL OB", None, False, False),
        ("CAL NEWWORD", None, False, False),
        ("", None, False, False),
    ],
)
def test_the_status_words(status: str, mains: object, *, low: bool, shutdown: bool) -> None:
    reading, _ = nut_wire.reading({"ups.status": status})

    assert (reading.mains, reading.battery_low, reading.shutdown) == (mains, low, shutdown)


@pytest.mark.parametrize("said", ["", "nan", "inf", "-inf", "abc", "1e999", "12 V"])
def test_a_number_that_is_none_is_left_out_and_named(said: str) -> None:
    reading, doubts = nut_wire.reading({**ON_LINE, "battery.charge": said})

    assert reading.charge_percent is None
    assert (doubts == []) == (said == "")


def test_watts_by_load_and_nominal_power() -> None:
    reading, _ = nut_wire.reading({**ON_LINE, "ups.realpower.nominal": "480"})

    assert reading.load_watts == pytest.approx(96)


def test_quotes_and_backslashes() -> None:
    assert nut_wire.words(r'VAR it a "x \"y\" \\ z" ""') == ["VAR", "it", "a", 'x "y" \\ z', ""]


@given(st.text(max_size=60))
def test_any_line_is_words_or_refused(line: str) -> None:
    try:
        nut_wire.words(line)
        nut_wire.variable(line, "it")
    except ValueError:
        pass


@given(st.dictionaries(st.sampled_from([*ON_LINE, "battery.voltage", "battery.current"]), st.text(max_size=8)))
def test_any_variables_are_a_reading(variables: dict[str, str]) -> None:
    reading, _ = nut_wire.reading(variables)

    assert isinstance(reading, PowerReading)
