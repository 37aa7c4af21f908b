"""VE.Direct's text protocol: bytes in, blocks of fields out, and what they mean. Pure.

A block is a row of fields `CR LF name TAB value`; the last is `Checksum`, whose value is the one byte that makes the
sum of all bytes of the block a multiple of 256. Between, and even within, a device may say HEX frames, from `:` to LF:
they are no part of it. A block that is damaged is dropped whole.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from sparkd import PowerReading

MAX_BLOCK, MAX_FIELDS = 2048, 60
"""A real block has at most 22 fields of 42 bytes."""
LAST = b"Checksum"
TAB, LF, COLON = b"\t\n:"
STATES = {
    0: "off",
    1: "low power",
    2: "fault",
    3: "bulk",
    4: "absorption",
    5: "float",
    6: "storage",
    7: "equalise",
    9: "inverting",
    11: "power supply",
    245: "starting",
    246: "repeated absorption",
    247: "auto equalise",
    248: "BatterySafe",
    252: "external control",
}
KEPT = ("PID", "SER#", "FW", "FWE", "BMV", "LOAD", "Relay", "Alarm", "AR", "MPPT", "ERR", "CE", "H19", "H20", "H22")
MINUTE_S = 60.0


@dataclass(slots=True)
class Blocks:
    """Takes bytes as they come; keeps what is not whole yet."""

    damaged: int = 0
    """Blocks that were dropped."""
    _block: bytearray = field(default_factory=bytearray)
    _in_hex: bool = False
    _checked: bool = False
    """Whether the next byte is the checksum."""

    def feed(self, data: bytes) -> list[dict[str, str]]:
        """Return the blocks that are whole by now."""
        found = []
        for byte in data:
            if self._in_hex:
                self._in_hex = byte != LF
            elif self._checked:
                found += self._end(byte)
            elif byte == COLON:  # a colon is in no name, and in no value of the text protocol
                self._in_hex = True
            else:
                self._add(byte)
        return found

    def _add(self, byte: int) -> None:
        self._block.append(byte)
        if byte == TAB and self._block.endswith(b"\n" + LAST + b"\t"):
            self._checked = True
        elif len(self._block) > MAX_BLOCK:
            self._block.clear()
            self.damaged += 1

    def _end(self, byte: int) -> list[dict[str, str]]:
        block, self._block, self._checked = bytes(self._block), bytearray(), False
        if (sum(block) + byte) % 256:
            self.damaged += 1
            return []
        fields = _fields(block)
        if fields is None:
            self.damaged += 1
        return [] if fields is None else [fields]


def _fields(block: bytes) -> dict[str, str] | None:
    found: dict[str, str] = {}
    if not block.startswith(b"\r\n"):  # of a block that was heard from its middle on, the checksum proves nothing
        return None
    for line in block.split(b"\r\n")[1:-1]:
        name, tab, value = line.partition(b"\t")
        if not tab or not name or not line.isascii() or len(found) >= MAX_FIELDS:
            return None
        found[name.decode()] = value.decode()
    return found


def meaning(fields: Mapping[str, str], *, capacity_wh: float = 0.0) -> tuple[PowerReading, list[str]]:
    """Return what a block means, and what of it could not be understood.

    A solar charger tells of its panels (`PPV`), a battery monitor of the charge (`SOC`); both of the battery.
    """
    doubts: list[str] = []

    def number(name: str, scale: float) -> float | None:
        text = fields.get(name)
        if text is None or text == "---":  # what a monitor says of what it is not connected to
            return None
        try:
            return int(text) * scale
        except (ValueError, OverflowError):
            doubts.append(f"{name}: a whole number expected, got {text[:40]!r}")
            return None

    volts, amps, watts = number("V", 1e-3), number("I", 1e-3), number("P", 1.0)
    if watts is None and volts is not None and amps is not None:
        watts = volts * amps
    load, minutes, charge = number("IL", 1e-3), number("TTG", 1.0), number("SOC", 0.1)
    return (
        PowerReading(
            battery_volts=volts,
            battery_amps=amps,
            battery_watts=watts,
            charge_percent=charge,
            capacity_wh=capacity_wh or None,
            time_to_empty_s=minutes * MINUTE_S if minutes is not None and minutes >= 0 else None,
            solar_watts=number("PPV", 1.0),
            load_volts=volts if load is not None else None,
            load_amps=load,
            load_watts=volts * load if load is not None and volts is not None else None,
            temperature_c=number("T", 1.0),
            detail=_detail(fields),
        ),
        doubts,
    )


def _detail(fields: Mapping[str, str]) -> dict[str, str]:
    found = {name: fields[name][:40] for name in KEPT if name in fields}
    state = fields.get("CS", "")
    if state.isdigit():
        found["state"] = STATES.get(int(state), f"state {int(state)}")
    return found


def who(fields: Mapping[str, str]) -> str:
    """Return what the device is, as far as it tells."""
    kind = "solar charger" if "PPV" in fields or "VPV" in fields else "battery monitor" if "SOC" in fields else "device"
    return f"Victron {kind} {fields.get('BMV') or fields.get('PID', '')} {fields.get('SER#', '')}".strip()
