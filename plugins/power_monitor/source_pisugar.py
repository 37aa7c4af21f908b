"""A PiSugar board by its own server's socket."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path

import anyio
from anyio.abc import ByteStream
from anyio.streams.buffered import BufferedByteReceiveStream

from sparkd import DeviceError, PowerReading

from .pace import Pace
from .ranges import HOUR_S, check_range
from .source import Listener

MAX_LINE = 1024
MISSES = 3
QUESTIONS = ("battery", "battery_v", "battery_i", "battery_power_plugged", "battery_charging", "temperature")
REMEDY = "systemctl status pisugar-server; its HTTP port listens to everybody by default: bind it to 127.0.0.1"


def _socket() -> Path:
    return Path("/tmp/pisugar-server.sock")  # noqa: S108 - where PiSugar's own server puts it


@dataclass(frozen=True, slots=True, kw_only=True)
class PisugarConfig:
    """The table `[plugins.power-monitor.pisugar.NAME]`."""

    socket: Path = field(default_factory=_socket)
    host: str = ""
    """Instead of the socket: where its TCP port is."""
    port: int = 8423
    interval_s: float = 1.0
    answer_limit_s: float = 3.0

    def __post_init__(self) -> None:
        check_range("port", self.port, 1, 65_535)
        check_range("interval_s", self.interval_s, 0.1, HOUR_S)
        check_range("answer_limit_s", self.answer_limit_s, 0.1, 60)


class PisugarSource:
    """Asks the server one thing after the other, at an interval."""

    def __init__(self, config: PisugarConfig) -> None:
        self._config = config

    async def watch(self, to: Listener) -> None:
        """Read until cancelled. Raises DeviceError if the server is not there, goes, or tells nothing."""
        async with await self._connect() as stream:
            lines = BufferedByteReceiveStream(stream)
            model = await self._ask(stream, lines, "model")
            to.found(answer_of("model", model) or "a PiSugar that does not tell its model")
            missed, pace = 0, Pace(self._config.interval_s)
            while True:
                answers = {name: await self._ask(stream, lines, name) for name in QUESTIONS}
                reading, doubts = meaning(answers)
                for doubt in doubts:
                    to.garbage(doubt)
                missed = missed + 1 if reading == PowerReading() else 0
                if missed >= MISSES:
                    raise DeviceError("the PiSugar server tells nothing of its board", remedy=REMEDY)
                if not missed:
                    to.reading(reading)
                await anyio.sleep(pace.after(reading.mains))

    async def _connect(self) -> ByteStream:
        config = self._config
        where = f"{config.host}:{config.port}" if config.host else str(config.socket)
        try:
            with anyio.fail_after(config.answer_limit_s):
                if config.host:
                    return await anyio.connect_tcp(config.host, config.port)
                return await anyio.connect_unix(config.socket)
        except (OSError, TimeoutError) as error:
            raise DeviceError(f"no PiSugar server at {where}: {error or 'no answer'}", remedy=REMEDY) from None

    async def _ask(self, stream: ByteStream, lines: BufferedByteReceiveStream, name: str) -> str:
        try:
            with anyio.fail_after(self._config.answer_limit_s):
                await stream.send(f"get {name}\n".encode())
                while True:  # it also says, unasked, when a button is pressed
                    line = (await lines.receive_until(b"\n", MAX_LINE)).decode(errors="replace").strip()
                    if line.startswith((f"{name}:", "Invalid")):
                        return line
        except TimeoutError:
            return ""
        except (OSError, anyio.EndOfStream, anyio.IncompleteRead, anyio.BrokenResourceError):
            raise DeviceError("the PiSugar server is gone", remedy=REMEDY) from None
        except anyio.DelimiterNotFound:
            raise DeviceError(
                "what answers is no PiSugar server: an endless line", remedy="mend socket or host"
            ) from None


def answer_of(name: str, line: str) -> str:
    """Return what `name: ANSWER` says; nothing for any other line."""
    said, _, answer = line.partition(":")
    return answer.strip() if said == name else ""


def meaning(answers: dict[str, str]) -> tuple[PowerReading, list[str]]:
    """Return what *answers* mean, and what of them could not be understood; a board leaves out what it cannot know."""
    doubts: list[str] = []

    def number(name: str) -> float | None:
        text = answer_of(name, answers.get(name, ""))
        if not text:
            return None
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if math.isfinite(value):
            return value
        doubts.append(f"{name}: a number expected, got {text[:40]!r}")
        return None

    def truth(name: str) -> bool | None:
        text = answer_of(name, answers.get(name, "")).lower()
        if text in ("", "true", "false"):
            return None if not text else text == "true"
        doubts.append(f"{name}: true or false expected, got {text[:40]!r}")
        return None

    plugged, charging, amps = truth("battery_power_plugged"), truth("battery_charging"), number("battery_i")
    if amps is not None:  # the server gives it without a sign
        amps = -abs(amps) if plugged is False else abs(amps)
    return (
        PowerReading(
            mains=plugged,
            battery_volts=number("battery_v"),
            battery_amps=amps,
            charge_percent=number("battery"),
            temperature_c=number("temperature"),
            detail={} if charging is None else {"charging": str(charging).lower()},
        ),
        doubts,
    )
