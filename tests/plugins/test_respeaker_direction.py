"""Directions from raw channels: a far source made by exact delays, in noise. Rooms: benchmarks/direction.py."""

from __future__ import annotations

import math

import numpy as np
import pytest
from numpy.typing import NDArray

from sparkd.testing.respeaker import FakeArray
from sparkd_plugins.respeaker_voice.board import Board
from sparkd_plugins.respeaker_voice.direction import RADIUS_M, SOUND_M_S, Bearing, Compass, apart, circular_mean

pytestmark = pytest.mark.anyio
FRAMES = 8000


def from_afar(degrees: float, *, snr_db: float, seed: int = 1) -> NDArray[np.int16]:
    """Return half a second of syllables from *degrees*, delayed exactly for each microphone, and noise."""
    random = np.random.default_rng(seed)
    voice = random.standard_normal(FRAMES) * (np.sin(np.arange(FRAMES) / 16000 * 2 * math.pi * 5) > 0)
    spectrum, frequencies = np.fft.rfft(voice), np.fft.rfftfreq(FRAMES, 1 / 16000)
    spectrum[(frequencies < 200) | (frequencies > 5000)] = 0
    early = RADIUS_M / SOUND_M_S * np.cos(np.radians(degrees) - np.arange(4) * math.pi / 2)
    heard = np.fft.irfft(spectrum * np.exp(2j * math.pi * frequencies * early[:, None]), FRAMES).T
    heard /= np.sqrt(np.mean(heard**2))
    noise = random.standard_normal(heard.shape) * 10 ** (-snr_db / 20)
    return ((heard + noise) * 1000).astype(np.int16)


@pytest.mark.parametrize("degrees", [0, 33, 90, 135, 181, 270, 301, 359])
def test_a_far_voice_is_found(degrees: float) -> None:
    found = Bearing().of(from_afar(degrees, snr_db=10))
    assert found is not None
    assert apart(found, degrees) < 3


def test_what_is_no_voice_from_somewhere_is_no_direction() -> None:
    bearing = Bearing()
    noise = np.random.default_rng(3).normal(0, 1000, (FRAMES, 4)).astype(np.int16)
    assert bearing.of(noise) is None
    assert bearing.of(np.zeros((FRAMES, 4), dtype=np.int16)) is None
    assert bearing.of(noise[:, :2]) is None
    assert bearing.of(noise[:500]) is None


def test_the_mean_of_directions_goes_around_the_circle() -> None:
    mean = circular_mean([350.0, 10.0, 0.0])
    assert mean is not None
    assert apart(mean, 0) < 1e-6
    assert circular_mean([0.0, 180.0]) is None
    assert circular_mean([]) is None
    assert (apart(350, 10), apart(10, 350), apart(0, 180)) == (20, 20, 180)


def test_one_stray_direction_is_passed_over_and_a_new_speaker_is_not() -> None:
    compass = Compass()
    for degrees in (40.0, 44.0, 42.0):
        compass.smoothed(degrees)
    stray = compass.smoothed(200.0)
    assert stray is not None
    assert apart(stray, 42) < 1e-6
    again = compass.smoothed(42.0)
    assert again is not None
    assert apart(again, 42) < 1
    compass.smoothed(200.0)
    turned = compass.smoothed(204.0)
    assert turned is not None
    assert apart(turned, 202) < 1e-6


async def test_the_array_is_asked_first_and_the_channels_when_it_does_not_say() -> None:
    fake = FakeArray()
    fake.registers |= {(21, 0): 120, (19, 32): 1}
    raw = from_afar(240, snr_db=20)
    compass = Compass(Board(fake))
    assert await compass.of(raw) == pytest.approx(120)
    assert compass.from_array
    fake.plugged = False
    compass = Compass(Board(fake))
    found = await compass.of(raw)
    assert found is not None
    assert apart(found, 240) < 3
    assert not compass.from_array
