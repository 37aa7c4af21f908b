"""What this node answers by itself."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from sparkd import CallError, CallErrorKind, PowerMode
from sparkd_plugins.respeaker_voice.answer_config import AnswerConfig, DialogConfig, IntentConfig
from sparkd_plugins.respeaker_voice.dialog import BUILT_IN, BuiltInDialog, understand
from tests.plugins.answered import Rig

pytestmark = pytest.mark.anyio
NOON = time.mktime((2026, 11, 23, 12, 5, 0, 0, 0, -1))


def made(tmp_path: Path, *, now: float = NOON, **config: Any) -> tuple[Rig, BuiltInDialog]:
    dialog = DialogConfig(**config)
    rig = Rig(tmp_path, AnswerConfig(dialog=dialog))
    return rig, BuiltInDialog(rig.context, dialog, now=lambda: now)


@pytest.mark.parametrize(
    ("said", "intent"),
    [
        ("What time is it?", "time"),
        ("Um, what's the time please", "time"),
        ("what day is it today", "date"),
        ("How is the system doing?", "status"),
        ("Status.", "status"),
        ("How are we running on battery power?", "power"),
        ("Are we off grid", "power"),
        ("Stop.", "stop"),
        ("Never mind", "stop"),
        ("Okay, stop.", "stop"),
        ("Stop the music in the living room", None),
        ("Cancel all appointments of tomorrow", None),
        ("Turn on the kitchen lights.", None),
        ("statusquo", None),
        ("", None),
        ("???", None),
    ],
)
def test_what_is_understood(said: str, intent: str | None) -> None:
    found = understand(said, BUILT_IN)
    assert (found and found.name) == intent


@pytest.mark.parametrize(
    ("hour", "minute", "clock", "text"),
    [
        (12, 5, "24h", "It is 12:05."),
        (0, 0, "24h", "It is 0 o'clock."),
        (0, 30, "12h", "It is 12:30 AM."),
        (13, 5, "12h", "It is 1:05 PM."),
    ],
)
async def test_the_time(tmp_path: Path, hour: int, minute: int, clock: Any, text: str) -> None:
    now = time.mktime((2026, 11, 23, hour, minute, 0, 0, 0, -1))
    reply = await made(tmp_path, now=now, clock=clock)[1].reply(text="what time is it")
    assert (reply.text, reply.intent) == (text, "time")


async def test_the_date(tmp_path: Path) -> None:
    assert (await made(tmp_path)[1].reply(text="what day is it")).text == "Today is Monday, November 23."


@pytest.mark.parametrize(
    ("services", "problems", "text"),
    [
        ([("a", "running"), ("b", "stopped")], [], "All is well. 2 services are running."),
        ([("cloud-uplink", "degraded")], [], "Not all is well: cloud uplink."),
        ([(name, "broken") for name in "abcde"], [], "Not all is well: a, b, c and 2 more."),
        ([], ["the disk is full."], "Not all is well: the disk is full."),
    ],
)
async def test_how_the_node_is(tmp_path: Path, services: list[Any], problems: list[str], text: str) -> None:
    rig, dialog = made(tmp_path)
    listed = [{"name": name, "state": state} for name, state in services]
    rig.answers["node.status"] = {"services": listed, "problems": problems}
    assert (await dialog.reply(text="status")).text == text


async def test_a_node_that_does_not_answer_is_no_traceback(tmp_path: Path) -> None:
    rig, dialog = made(tmp_path)
    rig.answers["node.status"] = CallError(CallErrorKind.UNAVAILABLE, "no core")
    assert (await dialog.reply(text="status")).text == "I cannot tell how I am."


@pytest.mark.parametrize(
    ("modes", "text"),
    [
        ([], "Nobody tells me where our power comes from."),
        ([("site", "home", "low")], "We are running on battery, and it is low."),
        ([("site", "home", "low"), ("node", "spark-agent", "on-grid")], "We are on grid power."),
        ([("site", "elsewhere", "low")], "Nobody tells me where our power comes from."),
    ],
)
async def test_where_the_power_comes_from(tmp_path: Path, modes: list[Any], text: str) -> None:
    rig, dialog = made(tmp_path)
    rig.modes = [PowerMode(mode=mode, scope=scope, name=name) for scope, name, mode in modes]
    assert (await dialog.reply(text="how is the battery")).text == text


async def test_stop_says_nothing_and_the_unknown_is_told(tmp_path: Path) -> None:
    _, dialog = made(tmp_path, unknown="Pardon?")
    assert (await dialog.reply(text="stop")).text == ""
    reply = await dialog.reply(text="open the pod bay doors")
    assert (reply.text, reply.intent) == ("Pardon?", "")


async def test_intents_of_ones_own(tmp_path: Path) -> None:
    own = {
        "hello": IntentConfig(phrases=("good * morning",), reply="This is {node}; {0} and {unknown} stay."),
        "time": IntentConfig(phrases=("wie spät",), reply="Es ist {time}"),
    }
    _, dialog = made(tmp_path, intents=own)
    assert (await dialog.reply(text="Good very early morning")).text == "This is spark agent; {0} and {unknown} stay."
    assert (await dialog.reply(text="Wie spät ist es?")).text == "Es ist 12:05"
    assert (await dialog.reply(text="what time is it")).intent == ""


@pytest.mark.parametrize(
    ("config", "why"),
    [
        ({"intents": {"Not One": IntentConfig(phrases=("x",), reply="")}}, "intents"),
        ({"deadline_s": 0.0}, "deadline_s"),
        ({"node": "cloud"}, "needs service"),
    ],
)
def test_a_wrong_key_is_named(config: dict[str, Any], why: str) -> None:
    with pytest.raises(ValueError, match=why):
        DialogConfig(**config)


@pytest.mark.parametrize("phrases", [(), ("",), ("* *",)])
def test_an_intent_that_nothing_can_be_said_for(phrases: tuple[str, ...]) -> None:
    with pytest.raises(ValueError, match="phrases"):
        IntentConfig(phrases=phrases, reply="x")
