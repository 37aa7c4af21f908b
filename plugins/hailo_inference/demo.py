"""Photographs for a demonstration: a few, cropped, flipped and scaled into a stream of distinct frames."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from .picture import Pixels, encode, open_picture, scale

PICTURES = Path(__file__).parent / "pictures"


def frames(folder: Path = PICTURES, *, count: int, seed: int = 0) -> Iterator[tuple[str, bytes]]:
    """Yield *count* pictures made from those in *folder* as (file name, encoded bytes).

    The same *seed* gives the same frames. No two are alike, in name or content. Raises ValueError if *folder* has no
    photographs.
    """
    photographs = [(path.stem, _load(path)) for path in sorted(folder.glob("*.png"))]
    if not photographs:
        raise ValueError(f"no photographs (*.png) in {folder}")
    chance, seen = random.Random(seed), set[bytes]()
    while len(seen) < count:
        stem, photograph = chance.choice(photographs)
        suffix = chance.choice((".jpg", ".jpg", ".jpg", ".png"))
        frame = encode(_vary(photograph, chance), suffix=suffix, quality=chance.randint(80, 95))
        digest = hashlib.sha256(frame).digest()
        if digest not in seen:
            yield f"frame-{len(seen):06d}-{stem}{suffix}", frame
            seen.add(digest)


def _load(path: Path) -> Pixels:
    picture = open_picture(path.read_bytes(), max_pixels=50_000_000)
    return picture.pixels(picture.width, picture.height)


def _vary(photograph: Pixels, chance: random.Random) -> Pixels:
    height, width = photograph.shape[:2]
    crop_height, crop_width = (round(side * chance.uniform(0.6, 1.0)) for side in (height, width))
    top, left = chance.randint(0, height - crop_height), chance.randint(0, width - crop_width)
    crop = photograph[top : top + crop_height, left : left + crop_width]
    if chance.random() < 0.5:  # noqa: PLR2004 - half of them
        crop = crop[:, ::-1]
    size = chance.uniform(0.6, 1.2)
    return scale(np.ascontiguousarray(crop), width=round(crop_width * size), height=round(crop_height * size))
