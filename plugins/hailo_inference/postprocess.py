"""From a detector's raw outputs to the boxes worth believing. Pure, and without a loop over cells or classes.

NanoDet divides its input into cells, once for each stride. For every cell it gives a score for each class, and for
each side of a box (left, top, right, bottom) a distribution over `bins` distances; the expected bin times the stride
is the distance of that side from the cell's centre. Several cells see the same object, so of boxes of one class that
overlap only the best is kept.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .bundle import Bundle, InputSpec, OutputSpec, Thresholds

Floats = NDArray[np.float32]

MAX_CANDIDATES = 1000
"""The best so many boxes are compared with one another: the comparison is quadratic, and a picture full of noise must
not cost a second. Detectors in common use (torchvision, NanoDet itself) cut at 1000 too."""


@dataclass(frozen=True, slots=True)
class Found:
    """Boxes (n x 4: x0, y0, x1, y1 in the model's input), their scores and class numbers, best first."""

    boxes: Floats
    scores: Floats
    classes: NDArray[np.intp]

    def pick(self, indices: NDArray[np.intp]) -> Found:
        """Return those at *indices*, in that order."""
        return Found(self.boxes[indices], self.scores[indices], self.classes[indices])


def detect(outputs: Mapping[str, Floats], bundle: Bundle) -> Found:
    """Return what the model found, by the bundle's thresholds."""
    candidates = decode_nanodet(outputs, bundle.input, bundle.outputs, threshold=bundle.thresholds.score)
    return suppress(best_first(candidates), bundle.thresholds)


def decode_nanodet(outputs: Mapping[str, Floats], spec: InputSpec, heads: OutputSpec, *, threshold: float) -> Found:
    """Return every (cell, class) that scores *threshold* or more, with its box. NaN scores nothing."""
    parts = [_decode_stride(outputs, spec, heads, stride=stride, threshold=threshold) for stride in heads.strides]
    return Found(
        np.concatenate([part.boxes for part in parts]),
        np.concatenate([part.scores for part in parts]),
        np.concatenate([part.classes for part in parts]),
    )


def _decode_stride(
    outputs: Mapping[str, Floats], spec: InputSpec, heads: OutputSpec, *, stride: int, threshold: float
) -> Found:
    scores_name, boxes_name = heads.names(stride)
    scores = outputs[scores_name][0]
    # Nearly none pass, so all that follows is small. nonzero in two dimensions would take ten times as long.
    cells, classes = np.divmod(np.flatnonzero(scores >= threshold), scores.shape[1])
    logits = outputs[boxes_name][0][cells].reshape(-1, 4, heads.bins)
    sides = _expected_bin(logits) * np.float32(stride)
    rows, columns = np.divmod(cells, -(-spec.width // stride))
    centres = (np.stack([columns, rows], axis=1).astype(np.float32) + np.float32(0.5)) * np.float32(stride)
    boxes = np.concatenate([centres - sides[:, :2], centres + sides[:, 2:]], axis=1)
    return Found(boxes, scores[cells, classes], classes)


def _expected_bin(logits: Floats) -> Floats:
    weights = np.exp(logits - logits.max(axis=-1, keepdims=True))
    bins = np.arange(logits.shape[-1], dtype=np.float32)
    expected: Floats = (weights @ bins) / weights.sum(axis=-1)
    return expected


def best_first(found: Found, *, limit: int = MAX_CANDIDATES) -> Found:
    """Return the best *limit*, best first; equal scores keep their order."""
    return found.pick(np.argsort(-found.scores, kind="stable")[:limit])


def suppress(found: Found, limits: Thresholds) -> Found:
    """Drop every box that overlaps a better one of its class by more than `iou`. *found* must be best first."""
    rivals = (overlaps(found.boxes) > limits.iou) & (found.classes[:, None] == found.classes)
    alive = np.ones(len(found.scores), bool)
    kept = []
    for index in range(len(alive)):
        if alive[index]:
            kept.append(index)
            alive[index + 1 :] &= ~rivals[index, index + 1 :]
            if len(kept) == limits.max_detections:
                break
    return found.pick(np.array(kept, np.intp))


def overlaps(boxes: Floats) -> Floats:
    """Return the intersection over union of every box with every other; 0 where both are empty."""
    low = np.maximum(boxes[:, None, :2], boxes[None, :, :2])
    high = np.minimum(boxes[:, None, 2:], boxes[None, :, 2:])
    shared = np.clip(high - low, 0.0, None).prod(axis=2)
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(axis=1)
    union = areas[:, None] + areas[None, :] - shared
    ratio: Floats = np.divide(shared, union, out=np.zeros_like(shared), where=union > 0)
    return ratio
