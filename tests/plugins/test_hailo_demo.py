"""The stream of demonstration frames: distinct, repeatable, and real pictures."""

from __future__ import annotations

from pathlib import Path

import pytest

from sparkd_plugins.hailo_inference.demo import PICTURES, frames
from sparkd_plugins.hailo_inference.picture import open_picture
from sparkd_plugins.hailo_inference.sources import wanted


def test_frames_are_distinct_pictures_that_the_folder_would_take() -> None:
    made = list(frames(PICTURES, count=40, seed=1))

    assert len({name for name, _ in made}) == len({frame for _, frame in made}) == 40
    assert all(wanted(name) for name, _ in made)
    assert all(open_picture(frame, max_pixels=1_000_000).width > 100 for _, frame in made)
    assert [name for name, _ in made] == sorted(name for name, _ in made)


def test_a_seed_always_gives_the_same_frames() -> None:
    first = list(frames(PICTURES, count=5, seed=3))

    assert first == list(frames(PICTURES, count=5, seed=3))
    assert first == list(frames(PICTURES, count=9, seed=3))[:5]
    assert first != list(frames(PICTURES, count=5, seed=4))


def test_a_folder_without_photographs_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no photographs"):
        next(frames(tmp_path, count=1))
