"""When an utterance is over: a pause, the longest time, or nobody who speaks. Plain arithmetic on what the VAD says."""

from __future__ import annotations

from dataclasses import dataclass

from .happenings import EndReason
from .listen_config import ListenConfig

LESS = 0.15
"""A voice that was heard counts until the detector is by this less sure: the end of a word is not its loudest part."""


@dataclass(slots=True)
class Endpoint:
    """Decides when the utterance that began at `began` is over. Times are `time.monotonic`, in seconds."""

    config: ListenConfig
    began: float
    spoke: bool = False
    """Whether somebody has spoken."""
    spoke_until: float = 0.0
    """When last; `began` if nobody has."""

    def __post_init__(self) -> None:
        self.spoke_until = self.began

    def hear(self, speech: float, at: float) -> None:
        """Take it that a voice is *speech* likely (0 to 1) in the frame that ends at *at*."""
        speaking = self.spoke and at - self.spoke_until < self.config.silence_s
        if speech >= self.config.speech_threshold - (LESS if speaking else 0.0):
            self.spoke, self.spoke_until = True, max(at, self.spoke_until)

    def over(self, at: float) -> EndReason | None:
        """Return why it is over at *at*; None if it is not."""
        if at - self.began >= self.config.limit_s:
            return "limit"
        if self.spoke:
            return "silence" if at - self.spoke_until >= self.config.silence_s else None
        return "nothing" if at - self.began >= self.config.no_speech_s else None
