"""A UPS behind a NUT server (`upsd`), of this machine or another."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import anyio
from anyio.streams.buffered import BufferedByteReceiveStream

from sparkd import DeviceError, PowerReading, Secret

from . import nut_wire
from .nut_wire import MAX_LINE, REMEDIES, TEMPORARY, NutSaysError
from .pace import Pace
from .ranges import HOUR_S, check_range
from .source import Listener

MAX_VARIABLES = 1000
MISSES = 3
"""So many answers in a row that tell nothing: it is gone."""
PORT_LIMIT = 65_535


@dataclass(frozen=True, slots=True, kw_only=True)
class NutConfig:
    """The table `[plugins.power-monitor.nut.NAME]`."""

    host: str = "127.0.0.1"
    port: int = 3493
    ups: str = ""
    """Its name there; none for the only one."""
    username: str = ""
    """Reading needs none, unless the server's operator wants it."""
    password: Secret | None = field(default=None, repr=False)
    interval_s: float = 1.0
    answer_limit_s: float = 5.0
    """How long the server may take for an answer."""

    def __post_init__(self) -> None:
        check_range("port", self.port, 1, PORT_LIMIT)
        check_range("interval_s", self.interval_s, 0.1, HOUR_S)
        check_range("answer_limit_s", self.answer_limit_s, 0.1, 60)
        if any(letter in self.ups + self.username + self.host for letter in ' "\\\n\r'):
            raise ValueError("ups, username and host: no spaces, quotes or backslashes expected")


class NutSource:
    """Asks a NUT server for all of a UPS's variables, at an interval."""

    def __init__(self, config: NutConfig) -> None:
        self._config = config
        self._who = ""

    async def watch(self, to: Listener) -> None:
        """Read until cancelled. Raises DeviceError if the server is not there, goes, or has no such UPS."""
        async with self._open() as server:
            await self._greet(server)
            ups = self._config.ups or await self._only(server)
            missed, pace = 0, Pace(self._config.interval_s)
            while True:
                reading = await self._look(server, ups, to)
                missed = missed + 1 if reading is None else 0
                if missed >= MISSES:
                    remedy = REMEDIES["DRIVER-NOT-CONNECTED"]
                    raise DeviceError(f"{ups} at {self._where} tells nothing", remedy=remedy)
                await anyio.sleep(self._config.interval_s if reading is None else pace.after(reading.mains))

    @property
    def _where(self) -> str:
        return f"{self._config.host}:{self._config.port}"

    @asynccontextmanager
    async def _open(self) -> AsyncIterator[_Server]:
        config = self._config
        try:
            with anyio.fail_after(config.answer_limit_s):
                stream = await anyio.connect_tcp(config.host, config.port)
        except (OSError, TimeoutError) as error:
            why = str(error) or "no answer"
            remedy = "systemctl status nut-server, or mend host and port"
            raise DeviceError(f"no NUT server at {self._where}: {why}", remedy=remedy) from None
        async with stream:
            yield _Server(stream, config.answer_limit_s, self._where)

    async def _greet(self, server: _Server) -> None:
        if not self._config.username:
            return
        try:
            nut_wire.checked(await server.ask(f"USERNAME {self._config.username}"))
            if self._config.password is not None:
                nut_wire.checked(await server.ask(f'PASSWORD "{_escaped(self._config.password.reveal())}"'))
        except NutSaysError as error:
            raise self._refused(error) from None
        except ValueError as error:
            raise self._strange(error) from None

    async def _only(self, server: _Server) -> str:
        try:
            names = [line.split()[1] for line in await server.list_of("UPS")]
        except NutSaysError as error:
            raise self._refused(error) from None
        except (ValueError, IndexError) as error:
            raise self._strange(error) from None
        if len(names) != 1:
            found = ", ".join(names) or "none"
            raise DeviceError(f"{self._where} has {len(names)} UPSs ({found})", remedy="say which with the key ups")
        return names[0]

    async def _look(self, server: _Server, ups: str, to: Listener) -> PowerReading | None:
        """Tell what the UPS says now, and return it; None if it says nothing."""
        try:
            lines = await server.list_of(f"VAR {ups}")
            variables = dict(nut_wire.variable(line, ups) for line in lines)
        except NutSaysError as error:
            if error.code not in TEMPORARY:
                raise self._refused(error) from None
            to.garbage(f"{error}: {REMEDIES[error.code]}")
            return None
        except ValueError as error:
            raise self._strange(error) from None  # the answers that follow may be of anything
        who = f"{nut_wire.who(variables)} ({ups}@{self._where})"
        if who != self._who:  # a driver that is starting does not know it yet
            self._who = who
            to.found(who)
        reading, doubts = nut_wire.reading(variables)
        if doubts:
            to.garbage("; ".join(doubts))
        to.reading(reading)
        return reading

    def _refused(self, error: NutSaysError) -> DeviceError:
        return DeviceError(f"NUT at {self._where}: {error}", remedy=REMEDIES.get(error.code, "see upsd's log"))

    def _strange(self, error: Exception) -> DeviceError:
        return DeviceError(f"{self._where} does not speak as NUT does: {error}", remedy="mend host and port")


class _Server:
    """A connection; one question at a time."""

    def __init__(self, stream: anyio.abc.SocketStream, limit_s: float, where: str) -> None:
        self._stream = stream
        self._lines = BufferedByteReceiveStream(stream)
        self._limit_s = limit_s
        self._where = where

    async def ask(self, question: str) -> str:
        """Return the line that answers *question*. Raises DeviceError if none comes."""
        try:
            with anyio.fail_after(self._limit_s):
                await self._stream.send(f"{question}\n".encode())
                return await self._line()
        except (OSError, TimeoutError, anyio.BrokenResourceError, anyio.ClosedResourceError) as error:
            raise self._gone(error) from None

    async def list_of(self, what: str) -> list[str]:
        """Return the lines of a list. Raises NutSaysError, ValueError, or DeviceError if it does not come whole."""
        begin = await self.ask(f"LIST {what}")
        if nut_wire.checked(begin) != ["BEGIN", "LIST", *what.split()]:
            raise ValueError(f"BEGIN LIST {what} expected, got {begin[:80]!r}")
        lines: list[str] = []
        try:
            with anyio.fail_after(self._limit_s):
                while (line := await self._line()) != f"END LIST {what}":
                    lines.append(line)
                    if len(lines) > MAX_VARIABLES:
                        raise ValueError(f"a list of more than {MAX_VARIABLES} lines")
        except (OSError, TimeoutError, anyio.BrokenResourceError) as error:
            raise self._gone(error) from None
        return lines

    async def _line(self) -> str:
        try:
            line = await self._lines.receive_until(b"\n", MAX_LINE)
        except anyio.DelimiterNotFound:
            raise ValueError(f"a line of more than {MAX_LINE} bytes") from None
        except (anyio.IncompleteRead, anyio.EndOfStream):
            raise OSError("it closed the connection") from None
        return line.decode(errors="replace").rstrip("\r")

    def _gone(self, error: Exception) -> DeviceError:
        why = str(error) or f"no answer within {self._limit_s:g} s"
        return DeviceError(f"the NUT server at {self._where} is gone: {why}", remedy="systemctl status nut-server")


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"')
