"""The listener: from chunks of sound to wake words and utterances. No clock, no I/O: time comes with the sound.

    quiet ──gate opens──► listening ──wake word──► (confirming) ──► utterance ──pause, limit──► listening

Sound that the gate holds back costs its level only; when it opens, the last half second is looked at too, so that the
beginning of a word is not lost. While listening only the small wake word models run; the voice detector, ten times as
dear, is asked when one of them has found something, and throughout an utterance.

An utterance begins at the gap behind the wake word, which is in the past by the time the word is sure (and more so when
it was confirmed): that sound is kept, so nothing said on its heels is lost. It is told at once; the voice detector
catches up with it in the next chunks, because two seconds at once would hold up all else that the process does.
"""

from __future__ import annotations

from collections import Counter, deque
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .chunks import Chunk
from .denoise import Denoiser
from .endpoint import Endpoint
from .gate import Gate, level_dbfs
from .happenings import Ended, EndReason, Happening, Voice, Woken
from .listen_config import ListenConfig
from .microphone import RATE_HZ
from .voice_activity import VoiceActivity
from .wake_word import WakeWords

LOOK_BACK_S = 0.6
"""When the gate opens, so much of what came before is looked at for a wake word."""
GAP_S = 0.3
"""The gap behind a wake word is looked for in so much before the detector was sure: it takes a few strides to be."""
VOICED_S = 1.0
"""A wake word counts only if there is a voice in so much before it: clicks and music are none."""
CONFIRM_LIMIT_S = 1.5
"""A second opinion that takes longer is not waited for: the word does not count."""
DIRECTION_S = 0.5
LOOKS = 3
"""With each chunk the voice detector takes so many that wait, 60 ms of sound: it runs twice at most."""
GAP_LIMIT_S = 0.25
"""Sound that comes so much later than its samples count was interrupted; less is jitter, or a clock that runs slow."""


@dataclass(frozen=True, slots=True)
class Heard:
    """A chunk as it is kept."""

    pcm: bytes
    level: float
    ends: float
    """By the sound's own clock, which its samples count: what is decided about pauses is decided by this one."""
    at: float
    """By `time.monotonic`, as far as the microphone knows: what is told is told in this one."""


@dataclass(frozen=True, slots=True)
class Suspected:
    """A wake word that is to be confirmed: the sound of the last seconds, for `Confirming.score`."""

    word: str
    score: float
    pcm: bytes
    ends: float
    at: float
    barge_in: bool


class Listener:
    """Listens to one microphone. Not for several threads; each call takes a few milliseconds at the most."""

    def __init__(self, config: ListenConfig, *, processed: int, raw: tuple[int, ...]) -> None:
        """Recognise from channel *processed*; keep channels *raw* for the direction. Raises DeviceError."""
        self.stats: Counter[str] = Counter()
        self._config, self._processed, self._raw = config, processed, list(raw)
        self._gate = Gate(config.gate_db, config.gate_dbfs)
        self._voices, self._words = VoiceActivity(), WakeWords(config)
        self._denoiser = Denoiser() if config.denoise == "speex" else None
        self._past: deque[Heard] = deque()
        self._unlooked: deque[Heard] = deque()
        confirming_s = CONFIRM_LIMIT_S + GAP_S if config.confirm != "none" else 0.0
        self._keep_s = max(config.pre_roll_s, VOICED_S, confirming_s)
        self._raw_past: deque[NDArray[np.int16]] = deque()
        self._raw_at_wake: NDArray[np.int16] | None = None
        self._open = self._speaking = False
        self._deaf_until = -1e9
        self._suspected: Suspected | None = None
        self._endpoint: Endpoint | None = None
        self._given_s = 0.0
        self._clock: float | None = None

    @property
    def words(self) -> tuple[str, ...]:
        """The wake words listened for."""
        return self._words.words

    @property
    def suspected(self) -> Suspected | None:
        """The word that waits to be confirmed; see `confirmed`."""
        return self._suspected

    def speaking(self, *, on: bool) -> None:
        """Say whether this node itself is heard now: then only a wake word gets through, if config lets it."""
        self._speaking = on

    def feed(self, chunk: Chunk) -> list[Happening]:
        """Take the next sound; return what happened in it."""
        heard = self._kept(chunk)
        self.stats["chunks"] += 1
        if self._endpoint is not None:
            return self._utterance(self._endpoint, heard)
        was_open, self._open = self._open, self._gate.passes(_samples(heard.pcm), len(heard.pcm) / 2 / RATE_HZ)
        if self._suspected is not None:
            if heard.ends - self._suspected.ends > CONFIRM_LIMIT_S:
                self._drop("unconfirmed")
            return []
        if not self._open:
            self.stats["gated"] += 1
            return []
        recent = [heard] if was_open else self._last(LOOK_BACK_S, heard.ends)
        return self._listen(b"".join(one.pcm for one in recent), heard)

    def listen(self, at: float) -> list[Happening]:
        """Begin an utterance without a wake word, at *at*; nothing if there is one already."""
        if self._endpoint is not None:
            return []
        self._suspected, self._raw_at_wake = None, None
        return self._begin(Woken("", 1.0, at), at if self._clock is None else self._clock)

    def confirmed(self, *, yes: bool) -> list[Happening]:
        """Take the second opinion on `suspected`."""
        suspected = self._suspected
        if suspected is None:
            return []
        if not yes:
            self._drop("unconfirmed")
            return []
        self._suspected = None
        return self._wake(suspected)

    def stop(self, at: float) -> list[Happening]:
        """End what is open, at *at*: the microphone is gone. The next sound is of another time."""
        ended = [] if self._endpoint is None else [self._end("lost", at, self._spoke_until(self._endpoint, at))]
        self._clock = None
        self._past.clear()
        self._raw_past.clear()
        self._suspected, self._open = None, False
        self._gate.reset()
        self._voices.reset()
        self._words.reset()
        return list(ended)

    def raw_half_second(self) -> NDArray[np.int16] | None:
        """Return the raw channels of the half second that the last wake word ended in, of shape (frames, channels)."""
        return self._raw_at_wake

    def close(self) -> None:
        """Free the models."""
        self._words.close()

    def _kept(self, chunk: Chunk) -> Heard:
        one = np.ascontiguousarray(chunk.pcm[:, self._processed])
        length = len(one) / RATE_HZ
        if self._clock is None or chunk.at > self._clock + GAP_LIMIT_S:  # the first, or sound was lost
            self._clock = chunk.at
        self._clock += length
        heard = Heard(one.astype("<i2").tobytes(), level_dbfs(one), self._clock, chunk.at + length)
        self._past.append(heard)
        while self._past and self._past[0].ends < heard.ends - self._keep_s:
            self._past.popleft()
        if self._raw:
            self._raw_past.append(chunk.pcm[:, self._raw])
            while sum(map(len, self._raw_past)) > (DIRECTION_S + 0.02) * RATE_HZ:
                self._raw_past.popleft()
        return heard

    def _last(self, seconds: float, ends: float) -> list[Heard]:
        return [one for one in self._past if one.ends > ends - seconds]

    def _listen(self, pcm: bytes, last: Heard) -> list[Happening]:
        """Look for a wake word in *pcm*, which ends with *last*."""
        at = last.ends
        least = self._config.barge_in_threshold if self._speaking else 0.0
        found = self._words.heard(pcm, at_least=least) if self._words.words else None
        if found is None or at < self._deaf_until:
            return []
        word, score = found
        if not self._voiced(at):
            self._drop("voiceless")
            return []
        if self._speaking and not self._config.barge_in:
            self._drop("while-speaking")
            return []
        sound = b"".join(one.pcm for one in self._past)
        suspected = Suspected(word, score, sound, at, last.at, self._speaking)
        self._raw_at_wake = np.concatenate(self._raw_past) if self._raw_past else None
        if self._config.confirm == "none":
            return self._wake(suspected)
        self._suspected = suspected
        return []

    def _voiced(self, at: float) -> bool:
        """Return whether there is a voice in the second before *at*. Asked of a wake word only: it costs 40 ms."""
        self._voices.reset()
        sound = b"".join(one.pcm for one in self._last(VOICED_S, at))
        return any(speech >= self._config.speech_threshold for speech in self._voices.of(sound))

    def _drop(self, why: str) -> None:
        self.stats[why] += 1
        self._suspected = None
        self._words.reset()

    def _wake(self, suspected: Suspected) -> list[Happening]:
        self.stats["wakes"] += 1
        woken = Woken(suspected.word, round(suspected.score, 3), suspected.at, barge_in=suspected.barge_in)
        self._deaf_until = suspected.ends + self._config.refractory_s
        before = [one for one in self._past if suspected.ends - GAP_S < one.ends <= suspected.ends]
        gap = min(before, key=lambda one: one.level).ends if before else suspected.ends
        return self._begin(woken, gap)

    def _begin(self, woken: Woken, begins: float) -> list[Happening]:
        """Begin an utterance at *begins*, by the sound's clock; what was heard since then is its first part."""
        self._speaking = False  # whoever speaks is stopped by what this tells
        self._words.reset()
        self._voices.reset()
        if self._denoiser is not None:
            self._denoiser.reset()
        self._endpoint = Endpoint(self._config, begins)
        self._given_s = 0.0
        self._unlooked = deque(one for one in self._past if one.ends > begins)
        return [woken, *(Voice(pcm) for one in self._unlooked if (pcm := self._given(one)))]

    def _utterance(self, endpoint: Endpoint, heard: Heard) -> list[Happening]:
        pcm = self._given(heard)
        happenings: list[Happening] = [Voice(pcm)] if pcm else []
        self._unlooked.append(heard)
        if reason := self._reason(endpoint, heard.ends):
            happenings.append(self._end(reason, heard.at, self._spoke_until(endpoint, heard.at)))
        return happenings

    def _reason(self, endpoint: Endpoint, ends: float) -> EndReason | None:
        """Look at the oldest of what waits; return why the utterance is over by then, or by its length at *ends*."""
        for _ in range(min(LOOKS, len(self._unlooked))):
            one = self._unlooked.popleft()
            for speech in self._voices.of(one.pcm):
                endpoint.hear(speech, one.ends)
            if reason := endpoint.over(one.ends):
                return reason
        return "limit" if ends - endpoint.began >= self._config.limit_s else None

    def _given(self, heard: Heard) -> bytes:
        """Return what is told of *heard*: cleaned, if config says so; then there may be nothing yet."""
        pcm = heard.pcm if self._denoiser is None else self._denoiser.of(heard.pcm)
        self._given_s += len(pcm) / 2 / RATE_HZ
        return pcm

    def _spoke_until(self, endpoint: Endpoint, at: float) -> float:
        """Return when the last speech was heard, by `time.monotonic`; *at* if there was no sound at all."""
        if not self._past:
            return at
        last = self._past[-1]
        return last.at - (last.ends - endpoint.spoke_until)

    def _end(self, reason: EndReason, at: float, spoke_until: float) -> Ended:
        self.stats[reason] += 1
        self._endpoint = None
        self._unlooked.clear()
        self._words.reset()
        return Ended(reason, at, spoke_until, round(self._given_s, 3))


def _samples(pcm: bytes) -> NDArray[np.int16]:
    return np.frombuffer(pcm, "<i2")
