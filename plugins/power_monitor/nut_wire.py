"""The text protocol of NUT (RFC 9271): lines to words, variables to a reading. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from sparkd import PowerReading

MAX_LINE = 4096
"""No variable is longer; a server that sends more speaks something else."""
REMEDIES = {
    "ACCESS-DENIED": "allow it in upsd.users, or give username and password",
    "UNKNOWN-UPS": "see the names with: upsc -l",
    "DRIVER-NOT-CONNECTED": "start the UPS's driver: systemctl status nut-driver@UPS",
    "DATA-STALE": "look at the cable between the UPS and its server",
    "USERNAME-REQUIRED": "give username and password",
    "PASSWORD-REQUIRED": "give username and password",
    "INVALID-USERNAME": "mend username",
    "INVALID-PASSWORD": "mend password",
}
TEMPORARY = ("DATA-STALE", "DRIVER-NOT-CONNECTED")
"""The server is there and has nothing to tell just now."""
FSD, ON_LINE, ON_BATTERY, LOW, WAIT = "FSD", "OL", "OB", "LB", "WAIT"


class NutSaysError(Exception):
    """The server answered ERR; `code` is its word."""

    def __init__(self, code: str) -> None:
        super().__init__(f"the server says {code}")
        self.code = code


def words(line: str) -> list[str]:
    """Split a line; what is between quotes is one word, a backslash takes the next letter as it is.

    Raises ValueError for a quote that is not closed.
    """
    found: list[str] = []
    word, quoted, escaped, begun = "", False, False, False
    for letter in line:
        if escaped:
            word, escaped = word + letter, False
        elif letter == "\\":
            escaped = begun = True
        elif letter == '"':
            quoted, begun = not quoted, True
        elif letter == " " and not quoted:
            found += [word] if begun else []
            word, begun = "", False
        else:
            word, begun = word + letter, True
    if quoted or escaped:
        raise ValueError(f"a quote that is not closed in {line[:80]!r}")
    return [*found, word] if begun else found


def checked(line: str) -> list[str]:
    """Return the words of an answer. Raises NutSaysError for `ERR`, ValueError for what is no answer."""
    found = words(line)
    if not found:
        raise ValueError("an empty answer")
    if found[0] == "ERR":
        raise NutSaysError(found[1] if len(found) > 1 else "ERR")
    return found


def variable(line: str, ups: str) -> tuple[str, str]:
    """Return name and value of a line `VAR ups name "value"`. Raises ValueError if it is none, or of another UPS."""
    match words(line):
        case ["VAR", found, name, value] if found == ups:
            return name, value
    raise ValueError(f"VAR {ups} NAME VALUE expected, got {line[:80]!r}")


def reading(variables: Mapping[str, str]) -> tuple[PowerReading, list[str]]:
    """Return what *variables* mean, and what of them could not be understood."""
    doubts: list[str] = []

    def number(name: str) -> float | None:
        text = variables.get(name)
        if text is None or text == "":
            return None
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not math.isfinite(value):
            doubts.append(f"{name}: a number expected, got {text[:40]!r}")
            return None
        return value

    status = variables.get("ups.status", "").split()
    if not status:
        doubts.append("ups.status is not there")
    volts, amps = number("battery.voltage"), number("battery.current")
    measured, load, nominal = number("ups.realpower"), number("ups.load"), number("ups.realpower.nominal")
    watts = measured if measured is not None or load is None or nominal is None else load / 100 * nominal
    mains = _mains(status)
    return (
        PowerReading(
            mains=mains,
            supply_volts=number("input.voltage"),
            load_volts=number("output.voltage"),
            load_amps=number("output.current"),
            load_watts=watts,
            battery_volts=volts,
            battery_amps=amps if amps is None or mains is not False else -abs(amps),
            charge_percent=number("battery.charge"),
            time_to_empty_s=number("battery.runtime") if mains is False else None,
            temperature_c=number("battery.temperature"),
            battery_low=LOW in status and ON_BATTERY in status,
            shutdown=FSD in status,
            detail={"status": " ".join(status), **_named(variables)},
        ),
        doubts,
    )


def _mains(status: Sequence[str]) -> bool | None:
    """`OL` and `OB` tell; a driver that is starting says `WAIT`, and one that says both knows neither."""
    if FSD in status and ON_LINE not in status:
        return False
    if WAIT in status or (ON_LINE in status) == (ON_BATTERY in status):
        return None
    return ON_LINE in status


def _named(variables: Mapping[str, str]) -> dict[str, str]:
    names = ("ups.load", "ups.alarm", "battery.charger.status", "ups.mode")
    return {name: variables[name][:80] for name in names if name in variables}


def who(variables: Mapping[str, str]) -> str:
    """Return maker and model, as far as the UPS tells."""
    said = [variables.get(f"{part}.{what}", "") for what in ("mfr", "model") for part in ("device", "ups")]
    known = [word for word in dict.fromkeys(said) if word]
    return " ".join(known) or "a UPS that does not tell what it is"
