"""The ReSpeaker XVF3800: the few commands that are used of it, as bytes.

Source: the maker's `xvf_host.py` (reSpeaker_XVF3800_USB_4MIC_ARRAY at a652fe79). Writing: value = command, index =
resource. Reading: value = 0x80 | command; the answer begins with a status: 0 is good, 64 asks to be asked again.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from sparkd import DeviceError

READ = 0x80
GOOD, AGAIN = 0, 64
AGAIN_S, ATTEMPTS = 0.01, 30


@dataclass(frozen=True, slots=True)
class Command:
    """One thing that can be asked for or set."""

    resource: int
    number: int
    form: struct.Struct


VERSION = Command(48, 0, struct.Struct("<3B"))
DIRECTION = Command(20, 18, struct.Struct("<2H"))
"""The angle in degrees, and whether there is speech."""
LED_EFFECT = Command(20, 12, struct.Struct("<B"))
LED_COLOR = Command(20, 16, struct.Struct("<I"))
LED_RING = Command(20, 19, struct.Struct("<12I"))
EFFECT_OFF, EFFECT_BREATH, EFFECT_RAINBOW, EFFECT_SINGLE, EFFECT_RING = 0, 1, 2, 3, 5


def parsed(command: Command, answer: bytes) -> tuple[int, ...] | None:
    """Return what was answered; None if the array wants to be asked again. Raises DeviceError for anything else."""
    if len(answer) == 1 + command.form.size and answer[0] == GOOD:
        return tuple(int(number) for number in command.form.unpack(answer[1:]))
    if answer and answer[0] == AGAIN:
        return None
    text = f"the array answered {answer.hex() or 'nothing'} to command {command.number} of {command.resource}"
    raise DeviceError(text, remedy="unplug it and plug it in again; is its firmware 2.1 or newer?")
