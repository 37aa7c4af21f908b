"""The parameters of the ReSpeaker 4 Mic Array v2.0 (XVF-3000), and what each request looks like on the wire.

Everything here is a function of values; `usb_control` moves the bytes. A request is a vendor control transfer to the
device itself, so no interface is claimed and the sound goes on. Source of table and layout: the maker's `tuning.py`
(respeaker/usb_4_mic_array at 00585f08), rewritten: it fails on Python from 3.9, checks no range and waits 100 s.

Numbers are little-endian. Writing: request 0, value 0, index = page, three int32: offset, the value (a float32 if it is
one), and 1 for an integer. Reading: value = 0x80 | offset, | 0x40 for an integer; the answer is two int32: the integer
and nothing, or a mantissa and a power of two.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass

from sparkd import DeviceError

READ, INTEGER = 0x80, 0x40
FIRMWARE_VALUE, FIRMWARE_PAGE, FIRMWARE_BYTES = 0x80, 0, 1
ANSWER = struct.Struct("<ii")
_INT, _FLOAT = struct.Struct("<iii"), struct.Struct("<ifi")

RING_PAGE = 0x1C
RING_LEDS = 12


@dataclass(frozen=True, slots=True)
class Parameter:
    """One setting or measurement of the array."""

    name: str
    page: int
    offset: int
    kind: type[int | float]
    low: float
    high: float
    writable: bool
    meaning: str


_TABLE = """
AECFREEZEONOFF       18  7 i 0 1 rw 1 stops the adaptation of the echo canceller
AECNORM              18 19 f 0.25 16 rw limit on the norm of the echo canceller's filter
AECPATHCHANGE        18 25 i 0 1 ro a change of the echo's path was seen
RT60                 18 26 f 0.25 0.9 ro reverberation time, seconds
HPFONOFF             18 27 i 0 3 rw high-pass: 0 off, 1 70 Hz, 2 125 Hz, 3 180 Hz
RT60ONOFF            18 28 i 0 1 rw estimation of the reverberation time
AECSILENCELEVEL      18 30 f 1e-9 1 rw power below which the far end is silent; 1e-8 is -80 dBov
AECSILENCEMODE       18 31 i 0 1 ro the far end is silent
AGCONOFF             19  0 i 0 1 rw automatic gain control
AGCMAXGAIN           19  1 f 1 1000 rw largest gain, a factor; 31.6 is 30 dB
AGCDESIREDLEVEL      19  2 f 1e-8 0.99 rw power to reach; 0.005 is -23 dBov
AGCGAIN              19  3 f 1 1000 rw gain of the moment, a factor
AGCTIME              19  4 f 0.1 1 rw time of a ramp, seconds
CNIONOFF             19  5 i 0 1 rw comfort noise
FREEZEONOFF          19  6 i 0 1 rw 1 freezes the beam
STATNOISEONOFF       19  8 i 0 1 rw suppression of stationary noise
GAMMA_NS             19  9 f 0 3 rw over-subtraction of stationary noise
MIN_NS               19 10 f 0 1 rw gain floor of stationary noise; 0.15 by default
NONSTATNOISEONOFF    19 11 i 0 1 rw suppression of other noise
GAMMA_NN             19 12 f 0 3 rw over-subtraction of other noise
MIN_NN               19 13 f 0 1 rw gain floor of other noise; 0.3 by default
ECHOONOFF            19 14 i 0 1 rw echo suppression
GAMMA_E              19 15 f 0 3 rw over-subtraction of the direct and early echo
GAMMA_ETAIL          19 16 f 0 3 rw over-subtraction of the echo's tail
GAMMA_ENL            19 17 f 0 5 rw over-subtraction of non-linear echo
NLATTENONOFF         19 18 i 0 1 rw attenuation of non-linear echo
NLAEC_MODE           19 20 i 0 2 rw training for non-linear echo: 0 off, 1 and 2 its phases
SPEECHDETECTED       19 22 i 0 1 ro speech is detected
FSBUPDATED           19 23 i 0 1 ro the beam was updated
FSBPATHCHANGE        19 24 i 0 1 ro a change of the beam's path was seen
TRANSIENTONOFF       19 29 i 0 1 rw suppression of transient echo
VOICEACTIVITY        19 32 i 0 1 ro a voice is active
STATNOISEONOFF_SR    19 33 i 0 1 rw suppression of stationary noise, channel for recognition
NONSTATNOISEONOFF_SR 19 34 i 0 1 rw suppression of other noise, channel for recognition
GAMMA_NS_SR          19 35 f 0 3 rw over-subtraction of stationary noise for recognition; 1.0 by default
GAMMA_NN_SR          19 36 f 0 3 rw over-subtraction of other noise for recognition; 1.1 by default
MIN_NS_SR            19 37 f 0 1 rw gain floor of stationary noise for recognition; 0.15 by default
MIN_NN_SR            19 38 f 0 1 rw gain floor of other noise for recognition; 0.3 by default
GAMMAVAD_SR          19 39 f 0 1000 rw threshold of voice activity; 1.5 is 3.5 dB
DOAANGLE             21  0 i 0 359 ro direction of the voice, degrees
"""


def _read_table() -> Mapping[str, Parameter]:
    found = {}
    for line in _TABLE.strip().splitlines():
        name, page, offset, kind, low, high, access, meaning = line.split(maxsplit=7)
        cls = int if kind == "i" else float
        found[name] = Parameter(name, int(page), int(offset), cls, float(low), float(high), access == "rw", meaning)
    return found


PARAMETERS = _read_table()


def parameter(name: str) -> Parameter:
    """Return what is known of *name*. Raises ValueError if there is no such parameter."""
    if name not in PARAMETERS:
        raise ValueError(f"the array has no parameter {name!r}; it has {', '.join(PARAMETERS)}")
    return PARAMETERS[name]


def read_value(wanted: Parameter) -> int:
    """Return the `wValue` that asks for a parameter."""
    return READ | wanted.offset | (INTEGER if wanted.kind is int else 0)


def parsed(wanted: Parameter, answer: bytes) -> float:
    """Return what the array answered. Raises DeviceError if it is not eight bytes or no number."""
    if len(answer) != ANSWER.size:
        text = f"the array answered {len(answer)} bytes for {wanted.name}, {ANSWER.size} expected"
        raise DeviceError(text, remedy="unplug it and plug it in again")
    first, power = ANSWER.unpack(answer)
    if wanted.kind is int:
        return int(first)
    try:
        return math.ldexp(first, power)
    except OverflowError:
        text = f"the array answered {first} x 2^{power} for {wanted.name}"
        raise DeviceError(text, remedy="unplug it and plug it in again") from None


def written(wanted: Parameter, value: float) -> bytes:
    """Return the bytes that set a parameter. Raises ValueError if it is only read, or *value* is out of its range."""
    if not wanted.writable:
        raise ValueError(f"{wanted.name} can only be read")
    whole = wanted.kind is int
    if not math.isfinite(value) or (whole and value != int(value)):
        raise ValueError(f"{wanted.name} = {value}: a {'whole' if whole else 'finite'} number expected")
    if not wanted.low <= value <= wanted.high:
        raise ValueError(f"{wanted.name} = {value}: {wanted.low:g} to {wanted.high:g} expected ({wanted.meaning})")
    return _INT.pack(wanted.offset, int(value), 1) if whole else _FLOAT.pack(wanted.offset, value, 0)
