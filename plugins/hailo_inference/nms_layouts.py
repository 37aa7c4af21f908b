"""The boxes of a model that has suppressed overlaps itself, in the two layouts that HailoRT gives. Pure.

By class: float32 numbers; for each class a count, then so many boxes of y_min, x_min, y_max, x_max, score. The classes
stand one after the other without a gap; what follows the last is whatever was in the buffer before.
By score: bytes; a count (uint16), then so many records of four float32 as above, the score (float32) and the class
(uint16), without padding.
Positions are shares (0 to 1) of the model's input.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from sparkd import DeviceError

from .bundle import InputSpec
from .postprocess_found import Found

RECORD = np.dtype([("box", "<f4", 4), ("score", "<f4"), ("number", "<u2")])
"""A box by score: 22 bytes."""
ROW = 5
REMEDY = "check that the bundle's decoder and labels are those of the model, and load it again"


def decode_by_class(output: NDArray[Any], spec: InputSpec, *, classes: int, max_boxes: int) -> Found:
    """Return the boxes of *output* by class. Raises DeviceError if it cannot be such an output."""
    numbers = np.ascontiguousarray(output, np.float32).reshape(-1)
    rows, kinds, at = [], [], 0
    for number in range(classes):
        count = float(numbers[at]) if at < len(numbers) else np.nan
        if not (0 <= count <= max_boxes and count == int(count) and at + 1 + ROW * int(count) <= len(numbers)):
            raise _malformed(f"class {number} has {count:g} boxes, {max_boxes} is the most, at {at} of {len(numbers)}")
        end = at + 1 + ROW * int(count)
        rows.append(numbers[at + 1 : end].reshape(-1, ROW))
        kinds.append(np.full(int(count), number, np.intp))
        at = end
    boxes = np.concatenate(rows)
    return _found(boxes[:, :4], boxes[:, 4], np.concatenate(kinds), spec)


def decode_by_score(output: NDArray[Any], spec: InputSpec, *, classes: int) -> Found:
    """Return the boxes of *output* by score. Raises DeviceError if it cannot be such an output."""
    content = np.ascontiguousarray(output).view(np.uint8).reshape(-1).tobytes()
    count = int.from_bytes(content[:2], "little") if len(content) >= 2 else 1  # noqa: PLR2004 - a uint16
    if 2 + count * RECORD.itemsize > len(content):
        raise _malformed(f"{count} boxes announced in {len(content)} bytes")
    records = np.frombuffer(content, RECORD, count, offset=2)
    kinds = records["number"].astype(np.intp)
    if count and kinds.max() >= classes:
        raise _malformed(f"a box of class {kinds.max()}, and there are {classes}")
    return _found(records["box"], records["score"], kinds, spec)


def _found(boxes: NDArray[np.float32], scores: NDArray[np.float32], kinds: NDArray[np.intp], spec: InputSpec) -> Found:
    sane = np.isfinite(boxes).all(axis=1)
    turned = boxes[:, [1, 0, 3, 2]] * np.array([spec.width, spec.height] * 2, np.float32)
    return Found(turned[sane], scores[sane].astype(np.float32), kinds[sane])


def _malformed(what: str) -> DeviceError:
    return DeviceError(f"the model's list of boxes makes no sense: {what}", remedy=REMEDY)
