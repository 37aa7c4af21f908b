"""A PiSugar's server, spoken by a stand-in on a real Unix socket."""

from __future__ import annotations

import socketserver
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparkd import DeviceError
from sparkd.testing import short_folder
from sparkd_plugins.power_monitor.source_pisugar import PisugarConfig, PisugarSource, meaning
from tests.plugins.power_listener import Heard, watching

pytestmark = pytest.mark.anyio
BOARD = {
    "model": "PiSugar 3",
    "battery": "87.3",
    "battery_v": "4.05",
    "battery_power_plugged": "true",
    "battery_charging": "true",
}


class Board(socketserver.StreamRequestHandler):
    says: dict[str, str]

    def handle(self) -> None:
        for line in self.rfile:
            name = line.decode().split()[1]
            answer = f"{name}: {self.says[name]}" if name in self.says else "Invalid request."
            self.wfile.write(f"single\n{answer}\n".encode())


@contextmanager
def board(says: dict[str, str]) -> Iterator[Path]:
    handler = type("Handler", (Board,), {"says": says})
    with short_folder() as folder, socketserver.ThreadingUnixStreamServer(str(folder / "s"), handler) as server:
        serving = threading.Thread(target=server.serve_forever, args=(0.05,))
        serving.start()
        yield folder / "s"
        server.shutdown()
        serving.join()


def source(socket: Path) -> PisugarSource:
    return PisugarSource(PisugarConfig(socket=socket, interval_s=0.1, answer_limit_s=0.5))


async def test_what_a_board_knows_and_its_mains() -> None:
    says = dict(BOARD)
    with board(says) as socket:
        async with watching(source(socket)) as heard:
            await heard.until(lambda seen: seen.readings)
            assert heard.whats == ["PiSugar 3"]
            assert (heard.last.mains, heard.last.charge_percent, heard.last.battery_volts) == (True, 87.3, 4.05)
            assert heard.last.battery_amps is None

            says.update({"battery_power_plugged": "false", "battery_i": "0.62", "battery": "nan"})
            await heard.until(lambda seen: seen.last.mains is False and seen.last.charge_percent is None)
            assert heard.last.battery_amps == -0.62
        assert heard.bad[-1].startswith("battery: a number expected")


async def test_a_server_without_a_board_and_none_at_all() -> None:
    with board({"model": ""}) as socket:
        heard = Heard()
        with pytest.raises(DeviceError, match="tells nothing of its board"):
            await source(socket).watch(heard)
        assert not heard.readings
    with pytest.raises(DeviceError, match="no PiSugar server at"):
        await source(Path("/nowhere/s")).watch(Heard())


@given(st.dictionaries(st.sampled_from([*BOARD, "battery_i", "temperature"]), st.text(max_size=20)))
def test_whatever_it_says_is_a_reading(said: dict[str, str]) -> None:
    meaning({name: f"{name}: {text}" for name, text in said.items()})
    meaning(said)
