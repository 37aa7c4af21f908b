"""The microphone array as a device that may come and go: its parameters, its direction, its lights.

Every transfer runs in a thread, one at a time, and takes half a second at the most. After an unplugging the next
request looks for the array again, so nobody has to be told that it is back.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

import anyio
import anyio.to_thread

from sparkd import DeviceError

from . import xvf3000, xvf3800
from .usb_control import Control, Gone, open_control

T = TypeVar("T")
Colour = tuple[int, int, int]
"""Red, green, blue, 0 to 255 each."""


@dataclass(frozen=True, slots=True)
class Heard:
    """What the array says of the moment."""

    degrees: int
    """0 is at the first microphone, 90 at the second."""
    speech: bool
    """Whether it hears a voice: only then the direction is one."""


class Board:
    """An array on USB, found when it is first needed."""

    def __init__(self, backend: Any = None) -> None:
        """Look for it by pyusb's *backend*: libusb, unless a test brings another."""
        self._backend = backend
        self._control: Control | None = None
        self._turns = anyio.CapacityLimiter(1)

    async def kind(self) -> Literal["xvf3000", "xvf3800"]:
        """Return which array it is. Like every method raises DeviceError, with a remedy, if it cannot be used."""
        return await self._do(lambda control: control.kind)

    async def firmware(self) -> str:
        """Return the version of its firmware."""
        return await self._do(_firmware)

    async def read(self, name: str) -> float:
        """Return a parameter of an XVF-3000. Raises ValueError if there is none of that name."""
        wanted = xvf3000.parameter(name)
        return await self._do(lambda control: _read(control, wanted))

    async def write(self, name: str, value: float) -> None:
        """Set a parameter of an XVF-3000. Raises ValueError for a wrong name or value; nothing is sent then."""
        wanted = xvf3000.parameter(name)
        data = xvf3000.written(wanted, value)
        await self._do(lambda control: _only_3000(control).write(value=0, index=wanted.page, data=data))

    async def heard(self) -> Heard:
        """Return the direction, and whether there is a voice in it."""
        return await self._do(_heard)

    async def light(self, colours: list[Colour]) -> None:
        """Give each of the twelve LEDs its colour."""
        await self._do(lambda control: _light(control, colours))

    async def light_by_itself(self, pattern: Literal["listen", "think", "speak"]) -> None:
        """Have the array play one of its own patterns."""
        await self._do(lambda control: _pattern(control, pattern))

    async def close(self) -> None:
        """Let go of the array; the next request opens it again."""
        await anyio.to_thread.run_sync(self._drop, limiter=self._turns)

    async def _do(self, deed: Callable[[Control], T]) -> T:
        return await anyio.to_thread.run_sync(self._blocking, deed, limiter=self._turns)

    def _blocking(self, deed: Callable[[Control], T]) -> T:
        fresh = self._control is None
        try:
            return self._once(deed)
        except Gone:
            self._drop()
            if fresh:
                raise
        return self._once(deed)  # it was unplugged since the last request, and may be back under another number

    def _once(self, deed: Callable[[Control], T]) -> T:
        if self._control is None:
            self._control = open_control(self._backend)
        try:
            return deed(self._control)
        except Gone:
            self._drop()
            raise

    def _drop(self) -> None:
        control, self._control = self._control, None
        if control is not None:
            control.close()


def _only_3000(control: Control) -> Control:
    if control.kind != "xvf3000":
        text = f"the parameters are those of an XVF-3000, and this is an {control.kind}"
        raise DeviceError(text, remedy="set it up with the maker's xvf_host")
    return control


def _firmware(control: Control) -> str:
    if control.kind == "xvf3800":
        return ".".join(str(number) for number in _asked(control, xvf3800.VERSION))
    answer = control.read(value=xvf3000.FIRMWARE_VALUE, index=xvf3000.FIRMWARE_PAGE, size=xvf3000.FIRMWARE_BYTES)
    return str(answer[0]) if answer else "unknown"


def _read(control: Control, wanted: xvf3000.Parameter) -> float:
    value, size = xvf3000.read_value(wanted), xvf3000.ANSWER.size
    return xvf3000.parsed(wanted, _only_3000(control).read(value=value, index=wanted.page, size=size))


def _heard(control: Control) -> Heard:
    if control.kind == "xvf3800":
        angle, speech = _asked(control, xvf3800.DIRECTION)
        return Heard(angle % 360, bool(speech))
    voice = any(_read(control, xvf3000.parameter(name)) for name in ("VOICEACTIVITY", "SPEECHDETECTED"))
    return Heard(int(_read(control, xvf3000.parameter("DOAANGLE"))) % 360, voice)


def _asked(control: Control, command: xvf3800.Command) -> tuple[int, ...]:
    for _ in range(xvf3800.ATTEMPTS):
        size = 1 + command.form.size
        answer = control.read(value=xvf3800.READ | command.number, index=command.resource, size=size)
        found = xvf3800.parsed(command, answer)
        if found is not None:
            return found
        time.sleep(xvf3800.AGAIN_S)  # noqa: TID251 - in a thread; the array says nothing when it is ready
    text = f"the array was busy for {xvf3800.ATTEMPTS * xvf3800.AGAIN_S:g} s"
    raise DeviceError(text, remedy="unplug it and plug it in again")


def _set(control: Control, command: xvf3800.Command, *numbers: int) -> None:
    control.write(value=command.number, index=command.resource, data=command.form.pack(*numbers))


def _light(control: Control, colours: list[Colour]) -> None:
    if len(colours) != xvf3000.RING_LEDS:
        raise ValueError(f"{len(colours)} colours for {xvf3000.RING_LEDS} LEDs")
    if control.kind == "xvf3800":
        _set(control, xvf3800.LED_RING, *(red << 16 | green << 8 | blue for red, green, blue in colours))
        _set(control, xvf3800.LED_EFFECT, xvf3800.EFFECT_RING)
        return
    control.write(value=_SHOW, index=xvf3000.RING_PAGE, data=b"".join(bytes((*colour, 0)) for colour in colours))


_SHOW = 6
_PATTERNS = {"listen": 2, "speak": 3, "think": 4}
"""Commands of the ring (respeaker/pixel_ring at ddae7784, usb_pixel_ring_v2.py); one without data is sent a zero."""
_EFFECTS = {
    "listen": (xvf3800.EFFECT_SINGLE, 0x0000A0),
    "speak": (xvf3800.EFFECT_BREATH, 0x00A050),
    "think": (xvf3800.EFFECT_BREATH, 0xA06000),
}


def _pattern(control: Control, pattern: Literal["listen", "think", "speak"]) -> None:
    if control.kind == "xvf3800":
        effect, colour = _EFFECTS[pattern]
        _set(control, xvf3800.LED_COLOR, colour)
        _set(control, xvf3800.LED_EFFECT, effect)
    else:
        control.write(value=_PATTERNS[pattern], index=xvf3000.RING_PAGE, data=b"\0")
