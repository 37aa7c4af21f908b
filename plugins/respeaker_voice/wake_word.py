"""Wake words: microWakeWord's small models for each moment, openWakeWord's larger ones to confirm.

Both come from packages that carry their models; the small ones take a few thousandths of a core.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import anyio.to_thread

from sparkd import DeviceError
from sparkd_plugins.wyoming_wire.server import Detector

from .listen_config import BUILT_IN, ListenConfig

OPEN_CHUNK_BYTES = 2560
"""80 ms, openWakeWord's step."""
TAIL_S = 0.8
"""openWakeWord is sure a while after the word: it is given so much quiet behind it. Of 20 okay_nabu by espeak-ng voices
that `benchmarks/voice_wake.py` does not use, it knew 9 with 0.4, 13 with 0.8 and with 1.0."""


class WakeWords:
    """Detectors of all words for one stream of sound."""

    def __init__(self, config: ListenConfig, words: Sequence[str] = ()) -> None:
        """Load the models of *words*, or of all that *config* names. Raises DeviceError for what is not there."""
        try:
            import pymicro_wakeword  # noqa: PLC0415 - an extra
        except ImportError as error:
            raise DeviceError(f"wake words need a package: {error}", remedy="pip install 'sparkd[voice]'") from error
        self._package: Any = pymicro_wakeword
        self._features = pymicro_wakeword.MicroWakeWordFeatures()
        self._models = {word: self._load(word, config.word_folder) for word in words or config.words}
        self._thresholds = {
            word: config.threshold or float(model.probability_cutoff) for word, model in self._models.items()
        }

    @property
    def words(self) -> tuple[str, ...]:
        """The words listened for."""
        return tuple(self._models)

    def heard(self, pcm: bytes, *, at_least: float = 0.0) -> tuple[str, float] | None:
        """Return the word that ends in *pcm* and how sure that is; None if there is none. The best of several."""
        best: tuple[str, float] | None = None
        for features in self._features.process_streaming(pcm):
            for word, model in self._models.items():
                score = float(model.process_streaming_prob(features) or 0.0)
                if score > max(self._thresholds[word], at_least) and (best is None or score > best[1]):
                    best = word, score
        return best

    def reset(self) -> None:
        """Forget what was heard."""
        self._features = self._package.MicroWakeWordFeatures()
        for model in self._models.values():
            model.reset()

    def close(self) -> None:
        """Free the models."""
        for model in self._models.values():
            model.close()

    def _load(self, word: str, folder: Path | None) -> Any:
        own = None if folder is None else folder / f"{word}.json"
        if own is None or (word in BUILT_IN and not own.exists()):
            return self._package.MicroWakeWord.from_builtin(self._package.Model(word))
        try:
            described = json.loads(own.read_text(encoding="utf-8"))
            (own.parent / described["model"]).open("rb").close()  # the library would crash if it were not there
            return self._package.MicroWakeWord.from_config(own)
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            text = f"wake word {word}: {own}: {type(error).__name__}: {error}"
            raise DeviceError(text, remedy="put NAME.json and its model there, as microWakeWord makes them") from error


class Confirming:
    """A second opinion on two seconds of sound. Takes half a second of a core: for a thread."""

    def __init__(self, words: Sequence[str]) -> None:
        """Load the models of *words*. Raises DeviceError if the package is not there."""
        try:
            import pyopen_wakeword  # noqa: PLC0415 - an extra
        except ImportError as error:
            remedy = "pip install pyopen-wakeword, or set confirm = 'none'"
            raise DeviceError(f"confirming a wake word needs a package: {error}", remedy=remedy) from error
        self._features = pyopen_wakeword.OpenWakeWordFeatures.from_builtin()
        self._models = {word: pyopen_wakeword.OpenWakeWord.from_builtin(pyopen_wakeword.Model(word)) for word in words}
        self.score(words[0], bytes(OPEN_CHUNK_BYTES))  # it fills eight seconds with silence the first time

    def score(self, word: str, pcm: bytes) -> float:
        """Return how sure it is that *word* is in *pcm*, 0 to 1."""
        model = self._models[word]
        model.reset()
        padded = pcm + bytes(round(TAIL_S * 32_000))
        padded += bytes(-len(padded) % OPEN_CHUNK_BYTES)
        return max(self._scores(model, padded), default=0.0)

    def _scores(self, model: Any, pcm: bytes) -> Iterator[float]:
        for begin in range(0, len(pcm), OPEN_CHUNK_BYTES):
            for embeddings in self._features.process_streaming(pcm[begin : begin + OPEN_CHUNK_BYTES]):
                yield from model.process_streaming(embeddings)


class WordDetector:
    """Listens for wake words in what one client of the Wyoming door sends."""

    def __init__(self, config: ListenConfig, words: Sequence[str]) -> None:
        """Listen for *words*; none for all. The models are loaded with the first sound."""
        self._config, self._words = config, words
        self._models: WakeWords | None = None

    async def heard(self, pcm: bytes) -> str | None:
        """Return the word that ends in this piece of 16 kHz sound, or None."""
        if self._models is None:
            self._models = await anyio.to_thread.run_sync(WakeWords, self._config, self._words)
        found = await anyio.to_thread.run_sync(self._models.heard, pcm)
        if found is None:
            return None
        self._models.reset()
        return found[0]


def make_detector(config: ListenConfig) -> Callable[[Sequence[str]], Detector]:
    """Return what makes a detector of its own for each client."""
    return lambda words: WordDetector(config, words)
