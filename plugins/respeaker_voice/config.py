"""What an operator may set in `[plugins.respeaker-voice]`. Imports nothing heavy, so that a config can be checked."""

from __future__ import annotations

from dataclasses import dataclass, field

from .answer_config import AnswerConfig
from .listen_config import ListenConfig
from .microphone import MicrophoneConfig
from .wyoming_door import DoorConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class RespeakerVoiceConfig:
    """The table `[plugins.respeaker-voice]`."""

    array: bool = True
    """Whether the array's own direction and ring of lights are used, over USB. Without one: false."""
    microphone: MicrophoneConfig = field(default_factory=MicrophoneConfig)
    """Where sound comes from."""
    listen: ListenConfig = field(default_factory=ListenConfig)
    """What is listened for, and when an utterance is over."""
    answer: AnswerConfig = field(default_factory=AnswerConfig)
    """Who turns it into text, who answers, who speaks."""
    wyoming_door: DoorConfig = field(default_factory=DoorConfig)
    """Whether other programs, such as Home Assistant, may use wake words and speech of this node."""
