"""Who turns speech into text, who answers, who speaks, and where: the table `answer`. Imports nothing heavy."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

_INTENT = re.compile(r"[a-z][a-z0-9_]*")


@dataclass(frozen=True, slots=True, kw_only=True)
class ProviderConfig:
    """One of `[[plugins.respeaker-voice.answer.stt]]` or `tts`: who does it, tried in the order they stand in."""

    kind: Literal["local", "node", "wyoming"] = "local"
    """`speech` of this node, `speech` of another node over its link, or a Wyoming server."""
    node: str = ""
    """The other node, for kind `node`."""
    service: str = ""
    """Which service is asked, if several serve `speech`."""
    host: str = ""
    """The Wyoming server's address."""
    port: int = 0
    """And its port: 10300 for speech to text, 10200 for text to speech, mostly."""
    same_site: bool = False
    """Whether that server stands at this site: what is `local` may be sent there. Loopback always may."""
    connect_s: float = 2.0
    """A Wyoming server that has not taken the connection by then is passed over."""
    deadline_s: float = 10.0
    """So long it may take: from the end of the utterance to the text, or from the text to the first sound."""
    voice: str = ""
    """The voice that speaks; the provider's default if empty."""

    def __post_init__(self) -> None:
        if self.kind == "node" and not self.node:
            raise ValueError("kind = 'node' needs node, the name of a linked node")
        if self.kind == "wyoming" and not (self.host and 1 <= self.port <= 65_535):  # noqa: PLR2004 - the highest port
            raise ValueError(f"kind = 'wyoming' needs host and port, got {self.host!r} and {self.port}")
        for key in ("connect_s", "deadline_s"):
            if getattr(self, key) <= 0:
                raise ValueError(f"{key}: must be more than 0, got {getattr(self, key)}")

    @property
    def name(self) -> str:
        """What it is called in traces and messages."""
        if self.kind == "wyoming":
            who = f"wyoming {self.host}:{self.port}"
        else:
            where = f"node {self.node}" if self.kind == "node" else "local"
            who = f"{where} {self.service}" if self.service else where
        return f"{who} ({self.voice})" if self.voice else who

    @property
    def on_this_machine(self) -> bool:
        """Whether nothing leaves this machine."""
        if self.kind != "wyoming":
            return self.kind == "local"
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return self.host == "localhost"


@dataclass(frozen=True, slots=True, kw_only=True)
class IntentConfig:
    """One of `[plugins.respeaker-voice.answer.dialog.intents.NAME]`."""

    phrases: tuple[str, ...]
    """What may be said, as words in a row; `*` stands for one or two words of any kind."""
    reply: str
    """What is answered; `{time}`, `{date}`, `{node}`, `{state}` and so on are filled in."""

    def __post_init__(self) -> None:
        if not self.phrases or not all(re.search(r"[^\W_]", phrase) for phrase in self.phrases):
            raise ValueError(f"phrases: words expected in each, got {list(self.phrases)}")


@dataclass(frozen=True, slots=True, kw_only=True)
class DialogConfig:
    """`[plugins.respeaker-voice.answer.dialog]`: who answers."""

    node: str = ""
    """A linked node whose `dialog` is asked; empty for this one."""
    service: str = ""
    """The service that is asked; empty for the built-in intents."""
    deadline_s: float = 10.0
    """If it has not answered by then, the built-in intents do."""
    intents: dict[str, IntentConfig] = field(default_factory=dict)
    """Built-in ones (time, date, status, power, stop) said otherwise, and more with answers of your own."""
    unknown: str = "Sorry, I did not understand that."
    """Said when nobody knows what to do; empty for nothing."""
    unreachable: str = "Sorry, I cannot reach the one who could answer that."
    """Said when the service that is asked fails and no built-in intent fits; empty for `unknown`."""
    unheard: str = "Sorry, I cannot understand speech at the moment."
    """Said when no speech to text works; empty for nothing."""
    clock: Literal["24h", "12h"] = "24h"
    """How the time is told."""

    def __post_init__(self) -> None:
        if self.deadline_s <= 0:
            raise ValueError(f"deadline_s: must be more than 0, got {self.deadline_s}")
        if self.node and not self.service:
            raise ValueError("node needs service, the one that serves dialog there")
        for name in self.intents:
            if not _INTENT.fullmatch(name):
                raise ValueError(f"intents: lower-case letters, digits and _ expected, got {name!r}")


@dataclass(frozen=True, slots=True, kw_only=True)
class PlaybackConfig:
    """`[plugins.respeaker-voice.answer.playback]`: where answers are heard."""

    kind: Literal["alsa", "file", "none"] = "alsa"
    """A sound card, WAV files in a folder, or nowhere."""
    device: str = "default"
    """What ALSA calls the sound card (`aplay -L`). `hw:` is opened as `plughw:`, which resamples if need be."""
    volume_db: float = 0.0
    """How much louder (or, below 0, quieter) than it is spoken; what is too loud is clipped."""
    path: Path | None = None
    """The folder, for kind `file`; it is made, and the newest 100 files are kept."""
    tail_s: float = 0.3
    """So long after the last sound this node still hears itself."""

    def __post_init__(self) -> None:
        if self.kind == "file" and (self.path is None or not self.path.is_absolute()):
            raise ValueError(f"kind = 'file' needs path, an absolute one, got {str(self.path)!r}")
        if not -60 <= self.volume_db <= 20:  # noqa: PLR2004 - dB: hardly to be heard, and distorted
            raise ValueError(f"volume_db: -60 to 20 expected, got {self.volume_db}")
        if not 0 <= self.tail_s <= 5:  # noqa: PLR2004 - seconds
            raise ValueError(f"tail_s: 0 to 5 expected, got {self.tail_s}")


@dataclass(frozen=True, slots=True, kw_only=True)
class KeepConfig:
    """`[plugins.respeaker-voice.answer.keep]`: whether the sound of utterances is kept on this machine."""

    enabled: bool = False
    max_files: int = 200
    max_mb: float = 50.0
    max_age_days: float = 7.0

    def __post_init__(self) -> None:
        for key in ("max_files", "max_mb", "max_age_days"):
            if getattr(self, key) <= 0:
                raise ValueError(f"{key}: must be more than 0, got {getattr(self, key)}")


def _local() -> tuple[ProviderConfig, ...]:
    return (ProviderConfig(),)


@dataclass(frozen=True, slots=True, kw_only=True)
class AnswerConfig:
    """`[plugins.respeaker-voice.answer]`."""

    privacy: Literal["node", "local", "shared"] = "local"
    """How far the voice and its words may travel: this machine, the nodes of this site, or any trusted node."""
    language: str = "en"
    """What is spoken here, as BCP 47 says."""
    stt: tuple[ProviderConfig, ...] = field(default_factory=_local)
    """Who turns speech into text, the first that can."""
    tts: tuple[ProviderConfig, ...] = field(default_factory=_local)
    """Who speaks, the first that can."""
    dialog: DialogConfig = field(default_factory=DialogConfig)
    playback: PlaybackConfig = field(default_factory=PlaybackConfig)
    keep: KeepConfig = field(default_factory=KeepConfig)
    publish_text: bool = True
    """Whether the trace of an utterance has its words in it. It is of the class `privacy`."""
    retry_s: float = 30.0
    """A provider that failed is passed over for so long, if there is another."""

    def __post_init__(self) -> None:
        if self.retry_s < 0:
            raise ValueError(f"retry_s: must not be negative, got {self.retry_s}")
        for job, one in [("stt", one) for one in self.stt] + [("tts", one) for one in self.tts]:
            if self.privacy == "node" and not one.on_this_machine:
                raise ValueError(f"{job}: {one.name} is another machine, and privacy = 'node' keeps speech on this one")
            if self.privacy == "local" and one.kind == "wyoming" and not (one.on_this_machine or one.same_site):
                text = f"{job}: {one.name} would take speech of the class 'local' off this site; "
                raise ValueError(text + "set same_site = true if it stands here, or privacy = 'shared'")
        if self.privacy == "node" and self.dialog.node:
            raise ValueError(
                f"dialog: {self.dialog.node} is another machine, and privacy = 'node' keeps words on this one"
            )
