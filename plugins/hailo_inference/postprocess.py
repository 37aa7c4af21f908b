"""From a model's raw outputs to what is worth believing. Pure, and without a loop over cells or boxes.

A classifier gives a number for each class, an embedding model a vector. A detector either lists its boxes itself
(`nms_layouts.py`) or gives what boxes are made of:

NanoDet divides its input into cells, once for each stride. For every cell it gives a score for each class, and for
each side of a box (left, top, right, bottom) a distribution over `bins` distances; the expected bin times the stride
is the distance of that side from the cell's centre. Several cells see the same object, so of boxes of one class that
overlap only the best is kept.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from sparkd import DeviceError

from .bundle import Bundle, InputSpec, OutputSpec, Thresholds
from .nms_layouts import decode_by_class, decode_by_score
from .postprocess_found import Floats, Found

__all__ = ["Found", "best_first", "classify", "decode_nanodet", "detect", "embed", "overlaps", "suppress"]

MAX_CANDIDATES = 1000
"""The best so many boxes are compared with one another: the comparison is quadratic, and a picture full of noise must
not cost a second. Detectors in common use (torchvision, NanoDet itself) cut at 1000 too."""


def detect(outputs: Mapping[str, Floats], bundle: Bundle) -> Found:
    """Return what the model found, by the bundle's thresholds."""
    spec, heads, limits = bundle.input, bundle.outputs, bundle.thresholds
    if heads.decoder == "nanodet":
        candidates = decode_nanodet(outputs, spec, heads, threshold=limits.score)
        return suppress(best_first(candidates), limits)
    output, classes = _output(outputs, heads), len(bundle.labels)
    if heads.decoder == "nms-by-class":
        found = decode_by_class(output, spec, classes=classes, max_boxes=heads.max_boxes)
    else:
        found = decode_by_score(output, spec, classes=classes)
    believed = found.pick(np.flatnonzero(found.scores >= limits.score))
    return best_first(believed, limit=limits.max_detections)


def classify(outputs: Mapping[str, Floats], bundle: Bundle) -> list[tuple[int, float]]:
    """Return the classes worth believing and their probabilities, best first. NaN is worth nothing."""
    values = _output(outputs, bundle.outputs).astype(np.float32).reshape(-1)
    if len(values) != len(bundle.labels):
        raise DeviceError(f"the model gives {len(values)} classes, the bundle has {len(bundle.labels)} labels")
    if bundle.outputs.decoder == "logits":
        weights = np.exp(values - values.max())
        values = weights / weights.sum()
    order = np.argsort(-np.nan_to_num(values, nan=-1.0), kind="stable")[: bundle.thresholds.max_detections]
    return [(int(number), float(values[number])) for number in order if values[number] >= bundle.thresholds.score]


def embed(outputs: Mapping[str, Floats], bundle: Bundle) -> list[float]:
    """Return the vector. Raises DeviceError if it is none."""
    vector = _output(outputs, bundle.outputs).astype(np.float32).reshape(-1)
    size = float(np.linalg.norm(vector))
    if len(vector) != bundle.outputs.length or not np.isfinite(size):
        raise DeviceError(f"the model gives no vector of {bundle.outputs.length} numbers: {len(vector)}, length {size}")
    values: list[float] = (vector / size if bundle.outputs.unit and size else vector).tolist()
    return values


def _output(outputs: Mapping[str, Floats], heads: OutputSpec) -> NDArray[np.generic]:
    if heads.output not in outputs:
        raise DeviceError(f"the model has no output {heads.output!r}, only {', '.join(outputs)}")
    return outputs[heads.output]


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
