"""What is listened for, and when an utterance is over: the table `listen`. Imports nothing heavy."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

BUILT_IN = ("okay_nabu", "hey_jarvis", "alexa", "hey_mycroft")
"""The words whose models the package pymicro-wakeword brings."""
CONFIRMABLE = ("okay_nabu", "hey_jarvis", "alexa", "hey_mycroft")
"""The words that the package pyopen-wakeword can confirm."""
_NAME = re.compile(r"[a-z0-9][a-z0-9_]*")


@dataclass(frozen=True, slots=True, kw_only=True)
class ListenConfig:
    """`[plugins.respeaker-voice.listen]`."""

    words: tuple[str, ...] = ("okay_nabu",)
    """The wake words: okay_nabu, hey_jarvis, alexa, hey_mycroft, or models of `word_folder`."""
    word_folder: Path | None = None
    """A folder with microWakeWord models of your own: NAME.json beside NAME.tflite."""
    threshold: float = 0.0
    """How sure the detector must be, above 0 and below 1; 0 for what each model asks for."""
    barge_in: bool = True
    """Whether the wake word is heard while this node itself speaks, and interrupts it."""
    barge_in_threshold: float = 0.9
    """How sure the detector must be then."""
    confirm: Literal["none", "openwakeword"] = "none"
    """Whether a second detector of another kind must agree; it listens to the last two seconds, in half a second."""
    confirm_threshold: float = 0.3
    """How sure that one must be."""
    pre_roll_s: float = 2.0
    """So much sound is kept of what came before, so that no word around the wake word is lost; more if confirming it
    takes more."""
    refractory_s: float = 2.0
    """After a wake word, no other is heard for so long."""
    silence_s: float = 0.7
    """The utterance is over when nobody has spoken for so long."""
    no_speech_s: float = 4.0
    """The utterance is given up when nobody spoke at all for so long after the wake word."""
    limit_s: float = 8.0
    """The utterance is over after this, whoever speaks."""
    speech_threshold: float = 0.5
    """How sure the voice detector must be that a 32nd of a second is speech."""
    gate_db: float = 6.0
    """So far above the noise floor sound must be to be looked at; 0 to look at all."""
    gate_dbfs: float = -62.0
    """Sound below this level, in dB of full scale, is not looked at."""
    denoise: Literal["none", "speex"] = "none"
    """Who takes noise out of what is turned into text; the ReSpeaker's own processed channel needs nobody."""

    def __post_init__(self) -> None:
        if len(set(self.words)) != len(self.words):
            raise ValueError(f"words: the same twice in {list(self.words)}")
        if self.word_folder is not None and not self.word_folder.is_absolute():
            raise ValueError(f"word_folder: an absolute path expected, got {str(self.word_folder)!r}")
        for word in self.words:
            if not _NAME.fullmatch(word):
                raise ValueError(f"words: lower-case letters, digits and _ expected, got {word!r}")
            if self.word_folder is None and word not in BUILT_IN:
                raise ValueError(f"words: {word!r} is none of {', '.join(BUILT_IN)}; set word_folder for your own")
            if self.confirm != "none" and word not in CONFIRMABLE:
                raise ValueError(f"confirm: {word!r} cannot be confirmed, only {', '.join(CONFIRMABLE)}")
        self._check_numbers()

    def _check_numbers(self) -> None:
        for key in ("threshold", "barge_in_threshold", "confirm_threshold", "speech_threshold"):
            if not 0 <= getattr(self, key) < 1:
                raise ValueError(f"{key}: 0 or more and less than 1 expected, got {getattr(self, key)}")
        for key, least, most in (
            ("pre_roll_s", 0.5, 10.0),
            ("refractory_s", 0.0, 60.0),
            ("silence_s", 0.1, 10.0),
            ("no_speech_s", 0.5, 60.0),
            ("limit_s", 1.0, 60.0),
            ("gate_db", 0.0, 40.0),
            ("gate_dbfs", -120.0, 0.0),
        ):
            if not least <= getattr(self, key) <= most:
                raise ValueError(f"{key}: {least:g} to {most:g} expected, got {getattr(self, key)}")
