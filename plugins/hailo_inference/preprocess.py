"""From the pixels of a picture to the tensor a model takes, and back from the model's boxes to the picture. Pure."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .bundle import InputSpec


@dataclass(frozen=True, slots=True)
class Placement:
    """Where a picture of `source_width` x `source_height` lies in a model's input: scaled, then shifted."""

    source_width: int
    source_height: int
    left: int
    top: int
    width: int
    height: int
    window: tuple[float, float, float, float] | None = None
    """The part of the picture that is scaled (x0, y0, x1, y1 in its pixels); None for all of it."""


def place(width: int, height: int, spec: InputSpec) -> Placement:
    """Return where a picture of *width* x *height* goes: centred in its shape, its middle alone, or stretched."""
    if spec.crop:
        scale = min(width / spec.width, height / spec.height) * spec.crop
        across, down = spec.width * scale, spec.height * scale
        x, y = (width - across) / 2, (height - down) / 2
        return Placement(width, height, 0, 0, spec.width, spec.height, (x, y, x + across, y + down))
    if not spec.letterbox:
        return Placement(width, height, 0, 0, spec.width, spec.height)
    scale = min(spec.width / width, spec.height / height)
    inner_width = max(1, round(width * scale))  # a line one pixel high must not vanish
    inner_height = max(1, round(height * scale))
    left, top = (spec.width - inner_width) // 2, (spec.height - inner_height) // 2
    return Placement(width, height, left, top, inner_width, inner_height)


def to_tensor(pixels: NDArray[np.uint8], placement: Placement, spec: InputSpec) -> NDArray[np.float32]:
    """Return RGB *pixels*, already of the placement's size, as a normalised batch of one on black."""
    mean = np.asarray(spec.mean, np.float32)
    scale = 1.0 / np.asarray(spec.std, np.float32)
    planes = np.empty((3, spec.height, spec.width), np.float32)
    planes[:] = (-mean * scale)[:, None, None]
    rows = slice(placement.top, placement.top + placement.height)
    columns = slice(placement.left, placement.left + placement.width)
    for plane in range(3):  # one pass a plane is three times as fast as one broadcast over the whole picture
        channel = 2 - plane if spec.channels == "BGR" else plane
        inner = planes[plane, rows, columns]
        np.subtract(pixels[:, :, channel], mean[plane], out=inner, dtype=np.float32)
        inner *= scale[plane]
    tensor = planes if spec.layout == "NCHW" else np.ascontiguousarray(planes.transpose(1, 2, 0))
    return tensor[None]


def to_source(boxes: NDArray[np.float32], placement: Placement) -> NDArray[np.float32]:
    """Return *boxes* (n x 4: x0, y0, x1, y1 in the model's input) in pixels of the picture, clipped to it."""
    shift = np.array([placement.left, placement.top] * 2, np.float32)
    limits = np.array([placement.source_width, placement.source_height] * 2, np.float32)
    inner = np.array([placement.width, placement.height] * 2, np.float32)
    x0, y0, x1, y1 = placement.window or (0.0, 0.0, float(limits[0]), float(limits[1]))
    scale = np.array([x1 - x0, y1 - y0] * 2, np.float32) / inner
    moved: NDArray[np.float32] = np.clip((boxes - shift) * scale + np.array([x0, y0] * 2, np.float32), 0.0, limits)
    return moved
