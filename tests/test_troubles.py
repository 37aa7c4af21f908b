"""Several troubles are one state, told when it changes."""

from __future__ import annotations

import pytest

from sparkd import CallError, CallErrorKind, DeviceError, Troubles


class Told:
    def __init__(self) -> None:
        self.said: list[str] = []

    def degraded(self, reason: str, *, remedy: str = "") -> None:
        self.said.append(f"{reason} ({remedy})")

    def recovered(self) -> None:
        self.said.append("recovered")


def test_all_are_told_and_recovered_comes_after_the_last() -> None:
    told = Told()
    troubles = Troubles(told)
    troubles.set("one", DeviceError("no lamp", remedy="buy one"))
    troubles.say("two", "no wick", "buy one")
    troubles.over("one")
    troubles.set("two", None)
    assert told.said == ["no lamp (buy one)", "no lamp; no wick (buy one)", "no wick (buy one)", "recovered"]


def test_the_same_again_is_not_told_again() -> None:
    told = Told()
    troubles = Troubles(told)
    troubles.over("one")
    troubles.say("one", "no lamp", "")
    troubles.say("one", "no lamp", "")
    assert told.said == ["no lamp ()"]
    assert troubles.known == {"one": "no lamp"}


def test_a_deed_that_is_refused_says_nothing_of_the_part() -> None:
    told = Told()
    troubles = Troubles(told)
    with pytest.raises(DeviceError), troubles.watching("one"):
        raise DeviceError("no lamp")
    with pytest.raises(CallError), troubles.watching("one"):
        raise CallError(CallErrorKind.INVALID_PARAMS, "later")
    assert told.said == ["no lamp ()"]
    with troubles.watching("one"):
        pass
    assert told.said[1:] == ["recovered"]
