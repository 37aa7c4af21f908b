"""Decoding and suppression against a slow reference written the plainest way: loops over cells, classes and boxes."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sparkd_plugins.hailo_inference.bundle import InputSpec, OutputSpec, Thresholds, read_bundle
from sparkd_plugins.hailo_inference.config import DEFAULT_BUNDLE
from sparkd_plugins.hailo_inference.postprocess import (
    Found,
    best_first,
    decode_nanodet,
    detect,
    overlaps,
    suppress,
)

BUNDLE = read_bundle(DEFAULT_BUNDLE)
SPEC = InputSpec(
    name="images",
    width=40,
    height=24,
    layout="NCHW",
    channels="BGR",
    letterbox=True,
    mean=(0.0, 0.0, 0.0),
    std=(1.0, 1.0, 1.0),
)
HEADS = OutputSpec(decoder="nanodet", scores="cls_s{stride}", boxes="reg_s{stride}", strides=(8, 16), bins=5)
CLASSES = 3
Row = tuple[float, int, tuple[float, float, float, float]]


def plain_decode(outputs: dict[str, np.ndarray], threshold: float) -> list[Row]:
    found = []
    for stride in HEADS.strides:
        across, down = math.ceil(SPEC.width / stride), math.ceil(SPEC.height / stride)
        for row in range(down):
            for column in range(across):
                cell = row * across + column
                for number in range(CLASSES):
                    score = float(outputs[f"cls_s{stride}"][0][cell][number])
                    if score >= threshold:
                        sides = plain_sides(outputs[f"reg_s{stride}"][0][cell], stride)
                        x, y = (column + 0.5) * stride, (row + 0.5) * stride
                        found.append((score, number, (x - sides[0], y - sides[1], x + sides[2], y + sides[3])))
    return found


def plain_sides(logits: np.ndarray, stride: int) -> list[float]:
    sides = []
    for side in range(4):
        own = [float(value) for value in logits[side * HEADS.bins : (side + 1) * HEADS.bins]]
        weights = [math.exp(value - max(own)) for value in own]
        sides.append(stride * sum(n * weight for n, weight in enumerate(weights)) / sum(weights))
    return sides


def plain_overlap(a: tuple[float, ...], b: tuple[float, ...]) -> float:
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    shared = max(0.0, width) * max(0.0, height)
    union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - shared
    return shared / union if union > 0 else 0.0


def plain_suppress(rows: list[Row], iou: float) -> list[Row]:
    kept: list[Row] = []
    for row in sorted(rows, key=lambda row: -row[0]):
        if all(row[1] != other[1] or plain_overlap(row[2], other[2]) <= iou for other in kept):
            kept.append(row)
    return kept


def as_found(rows: list[Row]) -> Found:
    return Found(
        np.array([row[2] for row in rows], np.float32).reshape(-1, 4),
        np.array([row[0] for row in rows], np.float32),
        np.array([row[1] for row in rows], np.intp),
    )


def random_outputs(seed: int) -> dict[str, np.ndarray]:
    chance = np.random.default_rng(seed)
    outputs = {}
    for stride in HEADS.strides:
        cells = math.ceil(SPEC.width / stride) * math.ceil(SPEC.height / stride)
        outputs[f"cls_s{stride}"] = chance.random((1, cells, CLASSES), np.float32)
        outputs[f"reg_s{stride}"] = (chance.standard_normal((1, cells, 4 * HEADS.bins)) * 4).astype(np.float32)
    return outputs


@given(seed=st.integers(0, 2**32), threshold=st.sampled_from([0.0, 0.3, 0.6, 0.9, 1.1]))
@settings(max_examples=60, deadline=None)
def test_decoding_equals_the_plain_reference(seed: int, threshold: float) -> None:
    outputs = random_outputs(seed)

    fast = decode_nanodet(outputs, SPEC, HEADS, threshold=threshold)
    slow = plain_decode(outputs, threshold)

    assert fast.scores.tolist() == [row[0] for row in slow]
    assert fast.classes.tolist() == [row[1] for row in slow]
    np.testing.assert_allclose(fast.boxes, as_found(slow).boxes, atol=1e-3)


# Whole numbers, so that overlaps are exact ratios and neither side rounds across the threshold.
CORNER = st.integers(0, 30)
BOXES = st.lists(st.tuples(st.integers(1, 100), st.integers(0, 2), CORNER, CORNER, CORNER, CORNER), max_size=40).map(
    lambda rows: [
        (score / 128, number, (float(min(x, v)), float(min(y, w)), float(max(x, v)), float(max(y, w))))
        for score, number, x, y, v, w in rows
    ]
)


@given(rows=BOXES, iou=st.sampled_from([0.0, 0.3, 0.6, 1.0]))
@settings(max_examples=200, deadline=None)
def test_suppression_equals_the_plain_reference(rows: list[Row], iou: float) -> None:
    limits = Thresholds(score=0.0, iou=np.float32(iou).item(), max_detections=1000)

    fast = suppress(best_first(as_found(rows)), limits)
    slow = plain_suppress(rows, np.float32(iou).item())

    assert fast.scores.tolist() == [row[0] for row in slow]
    assert fast.classes.tolist() == [row[1] for row in slow]
    assert fast.boxes.tolist() == [list(row[2]) for row in slow]


@given(rows=BOXES)
@settings(max_examples=50, deadline=None)
def test_overlaps_are_symmetrical_and_at_most_one(rows: list[Row]) -> None:
    matrix = overlaps(as_found(rows).boxes)

    assert np.array_equal(matrix, matrix.T)
    assert ((matrix >= 0) & (matrix <= 1)).all()


def test_the_best_are_kept_when_there_are_too_many() -> None:
    rows: list[Row] = [(n / 4096, 0, (50.0 * n, 0.0, 50.0 * n + 40, 40.0)) for n in range(1500)]

    found = suppress(best_first(as_found(rows)), Thresholds(score=0.0, iou=0.6, max_detections=100))

    assert found.scores.tolist() == [n / 4096 for n in range(1499, 1399, -1)]


@pytest.mark.parametrize("junk", [np.nan, np.inf, -np.inf])
def test_outputs_gone_mad_end_nothing(junk: float) -> None:
    outputs = {}
    for stride, cells in ((8, 2704), (16, 676), (32, 169)):
        outputs[f"cls_s{stride}"] = np.full((1, cells, 80), junk, np.float32)
        outputs[f"reg_s{stride}"] = np.zeros((1, cells, 44), np.float32)

    found = detect(outputs, BUNDLE)

    assert len(found.scores) == (100 if junk == np.inf else 0)


def test_a_picture_full_of_noise_gives_no_more_than_the_most() -> None:
    chance = np.random.default_rng(1)
    outputs = {}
    for stride, cells in ((8, 2704), (16, 676), (32, 169)):
        outputs[f"cls_s{stride}"] = chance.random((1, cells, 80), np.float32)
        outputs[f"reg_s{stride}"] = chance.standard_normal((1, cells, 44)).astype(np.float32)
    few = replace(BUNDLE, thresholds=replace(BUNDLE.thresholds, max_detections=7))

    assert len(detect(outputs, few).scores) == 7
