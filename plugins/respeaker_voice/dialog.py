"""The answers this node knows by itself: the time, how it is, where its power comes from, stop. Works without anyone.

What is said is compared as words; the phrase with the most words that is in it decides. That is no understanding, and
meant as what still works when whoever understands is not there.
"""

from __future__ import annotations

import re
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

from sparkd import CallError, Context, PowerMode, Reply

from .answer_config import DialogConfig, IntentConfig

BUILT_IN = {
    "time": IntentConfig(
        phrases=("what time", "the time", "time is it", "how late is it", "tell me time"), reply="It is {time}."
    ),
    "date": IntentConfig(
        phrases=("what day", "what date", "the date", "which day", "today's date"), reply="Today is {date}."
    ),
    "status": IntentConfig(
        phrases=(
            "how are you",
            "status",
            "how is the system",
            "system doing",
            "are you ok",
            "are you okay",
            "everything all right",
            "everything alright",
            "is anything wrong",
        ),
        reply="{state}",
    ),
    "power": IntentConfig(
        phrases=("battery", "power", "on the grid", "off grid", "on solar", "mains"), reply="{power}"
    ),
    "stop": IntentConfig(
        phrases=("stop", "be quiet", "shut up", "never mind", "nevermind", "cancel", "silence"), reply=""
    ),
}
STOP_WORDS = 3
"""Longer sentences with "stop" or "cancel" in them ask for something else, such as stopping the music."""
POWER = {
    "on-grid": "We are on grid power.",
    "off-grid": "We are running off the grid, with enough power.",
    "low": "We are running on battery, and it is low.",
    "critical": "The battery is nearly empty.",
}
NO_POWER = "Nobody tells me where our power comes from."


@dataclass(frozen=True, slots=True)
class Found:
    """The intent of what was said."""

    name: str
    intent: IntentConfig


def words_of(text: str) -> list[str]:
    """Return the words of *text* as they are compared."""
    return re.findall(r"[^\W_]+(?:'[^\W_]+)?", text.lower())


def has_words(text: str) -> bool:
    """Return whether there is anything to say or to answer in *text*: punctuation and pictures are nothing."""
    return bool(words_of(text))


def understand(text: str, intents: Mapping[str, IntentConfig]) -> Found | None:
    """Return the intent whose phrase with the most words is in *text*; None if there is none."""
    said = words_of(text)
    best: tuple[int, Found] | None = None
    for name, intent in intents.items():
        if name == "stop" and len(said) > STOP_WORDS:
            continue
        for phrase in intent.phrases:
            wanted = _pattern(phrase)
            if wanted.search(" ".join(said)) and (best is None or len(phrase.split()) > best[0]):
                best = len(phrase.split()), Found(name, intent)
    return best[1] if best else None


def _pattern(phrase: str) -> re.Pattern[str]:
    parts = [r"\S+(?: \S+)?" if word == "*" else " ".join(map(re.escape, words_of(word))) for word in phrase.split()]
    return re.compile(rf"(?:^| ){' '.join(part for part in parts if part)}(?:$| )")


class BuiltInDialog:
    """Answers `dialog` with templates."""

    def __init__(self, ctx: Context[Any], config: DialogConfig, *, now: Callable[[], float] = time.time) -> None:
        """Answer as *config* says; what is asked of this node is asked through *ctx*."""
        self._ctx, self._config, self._now = ctx, config, now
        self._intents = {**BUILT_IN, **config.intents}

    async def reply(
        self, *, text: str, utterance_id: str = "", language: str = "", direction_deg: float | None = None
    ) -> Reply:
        """Return the answer to *text*; that nobody knows one is an answer too."""
        del utterance_id, language, direction_deg  # templates need none of them
        found = understand(text, self._intents)
        if found is None:
            return Reply(text=self._config.unknown)
        return Reply(text=await self._filled(found.intent.reply), intent=found.name)

    async def _filled(self, template: str) -> str:
        facts: dict[str, Callable[[], Awaitable[str]]] = {
            "time": self._time,
            "date": self._date,
            "node": self._node,
            "state": self._state,
            "power": self._power,
        }
        for name, fact in facts.items():
            if f"{{{name}}}" in template:
                template = template.replace(f"{{{name}}}", await fact())
        return template

    async def _time(self) -> str:
        local = time.localtime(self._now())
        if self._config.clock == "24h":
            return f"{local.tm_hour}:{local.tm_min:02}" if local.tm_min else f"{local.tm_hour} o'clock"
        return f"{(local.tm_hour + 11) % 12 + 1}:{local.tm_min:02} {'AM' if local.tm_hour < 12 else 'PM'}"  # noqa: PLR2004 - noon

    async def _date(self) -> str:
        local = time.localtime(self._now())
        return f"{time.strftime('%A', local)}, {time.strftime('%B', local)} {local.tm_mday}"

    async def _node(self) -> str:
        return self._ctx.node.replace("-", " ")

    async def _state(self) -> str:
        try:
            status = await self._ctx.request("node.status", deadline_s=5.0)
        except CallError:
            return "I cannot tell how I am."
        unwell = [one["name"] for one in status["services"] if one["state"] not in ("running", "stopped", "disabled")]
        if not unwell and not status["problems"]:
            return f"All is well. {len(status['services'])} services are running."
        named = ", ".join(name.replace("-", " ") for name in unwell[:3])
        more = f" and {len(unwell) - 3} more" if len(unwell) > 3 else ""  # noqa: PLR2004 - as many as one listens to
        return f"Not all is well: {named}{more}." if unwell else f"Not all is well: {status['problems'][0]}"

    async def _power(self) -> str:
        try:
            said = [one.event for one in await self._ctx.bus.retained(PowerMode)]
        except CallError:
            said = []
        own = {(one.scope, one.name): one.mode for one in said}
        mode = own.get(("node", self._ctx.node)) or own.get(("site", self._ctx.site)) or "unknown"
        return POWER.get(mode, NO_POWER)
