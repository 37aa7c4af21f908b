"""How far the direction of a voice is off, in simulated rooms: `respeaker-voice` without the array's own answer.

Rooms are simulated by pyroomacoustics (image sources): four microphones as in the ReSpeaker (a circle of 32.5 mm), a
voice 1 to 2.5 m away at a random angle, walls for the RT60, and white noise of each microphone's own, 10 dB below the
voice. Voices: five of espeak-ng and two recordings of alsa-utils (a woman: "front center", "rear left"). None was
used to choose a constant of the code; for that is `--tune`: another espeak-ng voice, other rooms, other angles.

Two errors: of each half second in which `Bearing` says something, and of `Compass`, as a listener gets it: the mean of
the utterance's last directions. The target, median at most 5 and worst at most 15 degrees, is for the second.

    apt install espeak-ng alsa-utils; pip install pyroomacoustics
    python benchmarks/direction.py [--trials N] [--tune] [--json]
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
import wave
from collections.abc import Iterator
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path

import numpy as np
import pyroomacoustics
from numpy.typing import NDArray
from scipy.signal import resample_poly

from sparkd_plugins.respeaker_voice.direction import RADIUS_M, Bearing, Compass, apart

RATE_HZ = 16_000
BLOCK, STEP = 8000, 4000
HELD_OUT = ("en-gb+m3", "en-us+f2", "en-gb-scotland+m7", "de+f4", "fr+m1")
TUNING = ("en+m5",)
SENTENCE = "turn on the light in the kitchen and tell me how warm it is outside"
RECORDED = ("Front_Center", "Rear_Left")
RT60_S = (0.2, 0.35, 0.5)
SNR_DB = 10.0
Sound = NDArray[np.float64]


@dataclass
class Errors:
    """Degrees off, by block and by utterance."""

    blocks: list[float] = field(default_factory=list)
    utterances: list[float] = field(default_factory=list)
    mute: int = 0
    seconds: float = 0.0
    heard_s: float = 0.0


def read(content: bytes) -> Sound:
    with wave.open(BytesIO(content)) as file:
        rate, channels = file.getframerate(), file.getnchannels()
        pcm = np.frombuffer(file.readframes(file.getnframes()), dtype="<i2").reshape(-1, channels)[:, 0]
    sound: Sound = resample_poly(pcm.astype(np.float64), RATE_HZ, rate)
    loud = np.flatnonzero(np.abs(sound) > 0.02 * np.abs(sound).max())
    return sound[loud[0] : loud[-1]]


def spoken(voice: str) -> Sound:
    command = ["espeak-ng", "-v", voice, "--stdout", SENTENCE]
    content = bytearray(subprocess.run(command, capture_output=True, check=True).stdout)
    content[4:8] = (len(content) - 8).to_bytes(4, "little")  # a streamed file does not know its length
    content[40:44] = (len(content) - 44).to_bytes(4, "little")
    return read(bytes(content))


def voices(*, tune: bool) -> dict[str, Sound]:
    found = {voice: spoken(voice) for voice in (TUNING if tune else HELD_OUT)}
    for name in () if tune else RECORDED:
        path = Path(f"/usr/share/sounds/alsa/{name}.wav")
        if path.exists():
            found[f"recorded {name}"] = read(path.read_bytes())
    return found


def in_a_room(sound: Sound, degrees: float, rt60_s: float, random: np.random.Generator) -> NDArray[np.int16]:
    """Return what the four microphones hear, with noise."""
    size = random.uniform([4, 3.5, 2.5], [7, 6, 3.2])
    absorption, order = pyroomacoustics.inverse_sabine(rt60_s, size)
    room = pyroomacoustics.ShoeBox(
        size, fs=RATE_HZ, materials=pyroomacoustics.Material(absorption), max_order=min(order, 40)
    )
    centre = size * [0.5, 0.5, 0] + np.array([*random.uniform(-0.3, 0.3, 2), 0.8])
    turn = np.radians(degrees)
    far = random.uniform(1.0, min(2.5, size[:2].min() / 2 - 0.5))
    room.add_source(centre + np.array([far * np.cos(turn), far * np.sin(turn), random.uniform(0.1, 0.6)]), signal=sound)
    own = np.arange(4) * np.pi / 2
    room.add_microphone_array(centre[:, None] + RADIUS_M * np.array([np.cos(own), np.sin(own), 0 * own]))
    room.simulate()
    heard = room.mic_array.signals.T
    heard = heard / np.sqrt(np.mean(heard**2))
    noisy = heard + random.standard_normal(heard.shape) * 10 ** (-SNR_DB / 20)
    return (noisy * 1000).astype(np.int16)


def blocks(raw: NDArray[np.int16]) -> Iterator[NDArray[np.int16]]:
    for begin in range(0, len(raw) - BLOCK + 1, STEP):
        yield raw[begin : begin + BLOCK]


def measure(sound: Sound, rt60_s: float, degrees: float, random: np.random.Generator, errors: Errors) -> None:
    raw = in_a_room(sound, degrees, rt60_s, random)
    bearing, compass, last = Bearing(), Compass(), None
    for block in blocks(raw):
        begin = time.perf_counter()
        found = bearing.of(block)
        errors.seconds += time.perf_counter() - begin
        errors.heard_s += BLOCK / RATE_HZ
        if found is not None:
            errors.blocks.append(apart(found, degrees))
            last = compass.smoothed(found)
    if last is None:
        errors.mute += 1
    else:
        errors.utterances.append(apart(last, degrees))


def run(*, trials: int, tune: bool) -> list[dict[str, object]]:
    random = np.random.default_rng(11 if tune else 2026)
    rows = []
    sounds = voices(tune=tune)
    for rt60_s in RT60_S:
        errors = Errors()
        for sound in sounds.values():
            for _ in range(trials):
                measure(sound, rt60_s, random.uniform(0, 360), random, errors)
        rows.append(
            {
                "rt60_s": rt60_s,
                "utterances": len(errors.utterances),
                "mute": errors.mute,
                "median": round(float(np.median(errors.utterances)), 1),
                "worst": round(max(errors.utterances), 1),
                "block_median": round(float(np.median(errors.blocks)), 1),
                "block_p95": round(float(np.quantile(errors.blocks, 0.95)), 1),
                "block_worst": round(max(errors.blocks), 1),
                "ms_per_half_second": round(1000 * errors.seconds / errors.heard_s * BLOCK / RATE_HZ, 2),
            }
        )
    return rows


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=12, help="angles and rooms for each voice and RT60")
    parser.add_argument("--tune", action="store_true", help="the voice and rooms that constants may be chosen by")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    rows = run(trials=options.trials, tune=options.tune)
    if options.json:
        print(json.dumps(rows))
        return 0
    print(f"SNR {SNR_DB:g} dB; errors in degrees")
    for row in rows:
        print(", ".join(f"{name} {value}" for name, value in row.items()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
