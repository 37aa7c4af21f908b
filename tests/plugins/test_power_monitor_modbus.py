"""Victron's registers, read from a real Modbus-TCP server on loopback."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pymodbus.server import ModbusTcpServer
from pymodbus.simulator import DataType, SimData, SimDevice

from sparkd import DeviceError
from sparkd.testing import free_port
from sparkd_plugins.power_monitor.source_modbus import MAPS, ModbusConfig, ModbusSource, battery, charger, system
from tests.plugins.power_listener import Heard, watching

pytestmark = pytest.mark.anyio
SYSTEM = {817: 120, 820: 0xFFF6, 826: 1, 840: 524, 841: 0xFF9C, 842: 0xFE0C, 843: 77, 846: 36, 850: 300}


def image(values: dict[int, int]) -> list[int]:
    found = [0] * 1000
    for register, value in values.items():
        found[register] = value
    return found


@asynccontextmanager
async def gx(values: dict[int, int], *, unit: int = 100) -> AsyncIterator[tuple[int, ModbusTcpServer]]:
    """Serve *values* as the registers of *unit*."""
    port = free_port()
    device = SimDevice(id=unit, simdata=[SimData(0, values=image(values), datatype=DataType.REGISTERS)])
    server = ModbusTcpServer(device, address=("127.0.0.1", port))
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(server.serve_forever)
        with anyio.fail_after(5):
            while not server.is_active():
                await anyio.sleep(0.01)
        try:
            yield port, server
        finally:
            with anyio.CancelScope(shield=True):
                await server.shutdown()  # type: ignore[no-untyped-call]
            tasks.cancel_scope.cancel()


def source(port: int, **keys: Any) -> ModbusSource:
    return ModbusSource(ModbusConfig(host="127.0.0.1", port=port, interval_s=0.1, answer_limit_s=0.5, **keys))


async def test_a_house_by_its_gx_device() -> None:
    async with gx(SYSTEM) as (port, _), watching(source(port, capacity_wh=5000.0)) as heard:
        await heard.until(lambda seen: seen.readings)

    assert heard.whats == [f"victron-system at 127.0.0.1:{port}, unit 100"]
    seen = heard.last
    assert (seen.mains, seen.load_watts, seen.grid_watts, seen.solar_watts) == (True, 120, -10, 300)
    assert (seen.battery_watts, seen.charge_percent, seen.time_to_empty_s) == (-500, 77, 3600)
    assert seen.battery_volts == pytest.approx(52.4)
    assert seen.battery_amps == pytest.approx(-10)
    assert seen.capacity_wh == 5000


async def test_a_unit_that_is_not_there_is_garbage_and_then_an_error() -> None:
    async with gx(SYSTEM, unit=100) as (port, _):
        heard = Heard()
        with pytest.raises(DeviceError, match=f"127.0.0.1:{port}: ") as lost:
            await source(port, unit=7).watch(heard)
    assert not heard.readings
    assert heard.bad
    assert "Modbus TCP" in lost.value.remedy


async def test_a_device_that_goes_is_lost() -> None:
    async with gx(SYSTEM) as (port, server):
        heard = Heard()
        lost: list[DeviceError] = []

        async def watch() -> None:
            try:
                await source(port).watch(heard)
            except DeviceError as error:
                lost.append(error)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(watch)
            await heard.until(lambda seen: seen.readings)
            await server.shutdown()  # type: ignore[no-untyped-call]
        assert "127.0.0.1" in str(lost[0])
    with pytest.raises(DeviceError, match="nobody answers"):
        await source(port).watch(Heard())


async def test_something_else_that_listens_there_is_named() -> None:
    async def speak(stream: anyio.abc.SocketStream) -> None:
        async with stream:
            async for _ in stream:
                await stream.send(b"HTTP/1.1 400 Bad Request\r\n\r\n")

    async with await anyio.create_tcp_listener(local_host="127.0.0.1") as listener, anyio.create_task_group() as tasks:
        tasks.start_soon(listener.serve, speak)
        port = listener.extra(anyio.abc.SocketAttribute.local_port)
        heard = Heard()
        with pytest.raises(DeviceError, match=f"127.0.0.1:{port}"):
            await source(port).watch(heard)
        tasks.cancel_scope.cancel()
    assert not heard.readings


@pytest.mark.parametrize(("active", "mains"), [(0, None), (1, True), (2, True), (3, True), (240, False), (99, None)])
def test_the_active_input_tells_of_the_mains(active: int, mains: object) -> None:
    assert system(SYSTEM | {826: active}).mains is mains


def test_what_a_device_does_not_know_is_not_a_number() -> None:
    unknown = dict.fromkeys(SYSTEM, 0xFFFF) | dict.fromkeys((820, 821, 822, 841, 842), 0x7FFF)
    seen = system(unknown)

    assert (seen.charge_percent, seen.grid_watts, seen.battery_watts, seen.load_watts) == (None, None, None, None)


def test_batteries_and_chargers_have_scales_of_their_own() -> None:
    seen = battery({258: 0xFFCE, 259: 2642, 261: 0xFFEC, 262: 215, 266: 885, 303: 100})
    assert (seen.battery_watts, seen.charge_percent, seen.time_to_empty_s) == (-50, 88.5, 10_000)
    assert seen.battery_volts == pytest.approx(26.42)
    assert seen.temperature_c == pytest.approx(21.5)
    sun = charger({771: 1379, 772: 20, 788: 2, 789: 304})
    assert sun.solar_watts == pytest.approx(30.4)
    assert sun.detail == {"error": "2"}


@given(st.dictionaries(st.integers(200, 1000), st.integers(0, 0xFFFF)))
def test_any_registers_are_a_reading(registers: dict[int, int]) -> None:
    for one in MAPS.values():
        one.meaning(registers)
