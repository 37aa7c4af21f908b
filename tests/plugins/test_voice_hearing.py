"""What is measured on sound, held against the reference implementation and against sound made to measure."""

from __future__ import annotations

import numpy as np
import pyloudnorm
import pytest
from numpy.typing import NDArray

from sparkd_plugins.voice_services.hearing import loudness_lufs, measure, resample, samples_of
from sparkd_plugins.voice_services.speaking import read_wav
from tests.plugins.spoken import espeak


def pcm_of(samples: NDArray[np.float64]) -> bytes:
    return (np.clip(samples, -1, 32_767 / 32_768) * 32_768).astype("<i2").tobytes()


def tone(hertz: float, seconds: float, rate_hz: int, peak: float = 0.5) -> NDArray[np.float64]:
    wave: NDArray[np.float64] = peak * np.sin(2 * np.pi * hertz * np.arange(int(seconds * rate_hz)) / rate_hz)
    return wave


@pytest.mark.parametrize("rate_hz", [16_000, 22_050, 48_000])
def test_loudness_is_that_of_the_reference(rate_hz: int) -> None:
    random = np.random.default_rng(1)
    noise = random.normal(0, 0.1, rate_hz * 3) * np.repeat([1.0, 0.001, 0.3], rate_hz)
    for samples in (noise, tone(997, 2, rate_hz), tone(60, 2, rate_hz), samples_of(espeak("It is a quarter to ten."))):
        meter = pyloudnorm.Meter(rate_hz, filter_class="DeMan")
        assert loudness_lufs(samples, rate_hz) == pytest.approx(meter.integrated_loudness(samples), abs=0.1)


def test_the_tone_of_the_standard_is_as_loud_as_it_says() -> None:
    assert loudness_lufs(tone(997, 5, 48_000, 1.0), 48_000) == pytest.approx(-3.01, abs=0.05)


def test_silence_and_snippets_have_no_loudness() -> None:
    assert loudness_lufs(np.zeros(16_000), 16_000) is None
    assert loudness_lufs(tone(997, 0.3, 16_000), 16_000) is None
    assert measure(b"", 16_000) == {}
    assert "loudness_lufs" not in measure(bytes(100), 16_000)


def test_clipping_is_the_share_of_samples_at_the_rail() -> None:
    samples = np.zeros(10_000)
    samples[:500] = 1.0
    assert measure(pcm_of(samples), 16_000)["clipping_ratio"] == pytest.approx(0.05)


@pytest.mark.parametrize("snr_db", [5.0, 15.0, 30.0])
def test_the_ratio_of_speech_to_noise_is_found(snr_db: float) -> None:
    spoken = samples_of(resample(espeak("The quick brown fox jumps over the lazy dog near the river."), 22_050, 16_000))
    pause = np.zeros(24_000)
    power = float(np.mean(spoken**2))
    speech = np.concatenate([pause, spoken, pause])
    noise = np.random.default_rng(2).normal(0, np.sqrt(power / 10 ** (snr_db / 10)), len(speech))

    found = measure(pcm_of((speech + noise) / 2), 16_000)

    assert found["snr_db"] == pytest.approx(snr_db, abs=3.0)
    assert found["speech_ratio"] == pytest.approx(len(spoken) / len(speech), abs=0.15)


def test_resampling_keeps_the_tone_and_drops_what_does_not_fit() -> None:
    kept = samples_of(resample(pcm_of(tone(440, 1, 22_050)), 22_050, 16_000))
    assert len(kept) == 16_000
    assert np.abs(kept - tone(440, 1, 16_000)).max() < 0.01
    dropped = samples_of(resample(pcm_of(tone(10_000, 1, 44_100)), 44_100, 16_000))
    assert np.abs(dropped[800:-800]).max() < 0.01
    assert resample(b"", 8_000, 16_000) == b""


def test_a_wav_from_a_pipe_is_read() -> None:
    assert len(espeak("Hello.")) > 10_000
    with pytest.raises(Exception, match="gave no sound"):
        read_wav(b"RIFF????WAVE")
