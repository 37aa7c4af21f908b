"""Where a picture lies in a model's input, what its pixels become, and where boxes come back to."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparkd_plugins.hailo_inference.bundle import InputSpec
from sparkd_plugins.hailo_inference.preprocess import Placement, place, to_source, to_tensor

SPEC = InputSpec(
    name="images",
    width=416,
    height=416,
    layout="NCHW",
    channels="BGR",
    letterbox=True,
    mean=(103.53, 116.28, 123.675),
    std=(57.375, 57.12, 58.395),
)
SIDES = st.integers(1, 10_000)


@pytest.mark.parametrize(
    ("width", "height", "expected"),
    [
        (512, 512, (0, 0, 416, 416)),
        (832, 416, (0, 104, 416, 208)),
        (416, 832, (104, 0, 208, 416)),
        (100, 50, (0, 104, 416, 208)),
        (10_000, 1, (0, 207, 416, 1)),
        (1, 1, (0, 0, 416, 416)),
    ],
)
def test_a_letterboxed_picture_keeps_its_shape_in_the_middle(
    width: int, height: int, expected: tuple[int, int, int, int]
) -> None:
    assert place(width, height, SPEC) == Placement(width, height, *expected)


def test_without_a_letterbox_it_is_stretched() -> None:
    assert place(832, 100, replace(SPEC, letterbox=False)) == Placement(832, 100, 0, 0, 416, 416)


@given(width=SIDES, height=SIDES, letterbox=st.booleans())
def test_a_placement_lies_within_the_input(width: int, height: int, letterbox: bool) -> None:  # noqa: FBT001 - drawn
    placed = place(width, height, replace(SPEC, letterbox=letterbox))

    assert 0 <= placed.left <= placed.left + placed.width <= 416
    assert 0 <= placed.top <= placed.top + placed.height <= 416
    assert min(placed.width, placed.height) >= 1


@given(width=SIDES, height=SIDES)
def test_the_whole_placement_comes_back_as_the_whole_picture(width: int, height: int) -> None:
    placed = place(width, height, SPEC)
    corners = [placed.left, placed.top, placed.left + placed.width, placed.top + placed.height]
    boxes = np.array([corners, [-9e9, -9e9, 9e9, 9e9]], np.float32)

    np.testing.assert_allclose(to_source(boxes, placed), [[0, 0, width, height]] * 2, rtol=1e-5)


def test_no_boxes_come_back_as_none() -> None:
    assert to_source(np.empty((0, 4), np.float32), place(10, 10, SPEC)).shape == (0, 4)


@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
@pytest.mark.parametrize("channels", ["BGR", "RGB"])
def test_the_tensor_is_what_the_formula_says(layout: str, channels: str) -> None:
    spec = replace(SPEC, width=8, height=6, layout=layout, channels=channels)
    placed = place(8, 3, spec)
    pixels = np.random.default_rng(2).integers(0, 256, (placed.height, placed.width, 3), np.uint8)
    canvas = np.zeros((6, 8, 3))
    canvas[placed.top : placed.top + 3] = pixels
    if channels == "BGR":
        canvas = canvas[:, :, ::-1]
    expected = (canvas - np.array(spec.mean)) / np.array(spec.std)

    tensor = to_tensor(pixels, placed, spec)

    assert tensor.dtype == np.float32
    assert tensor.flags["C_CONTIGUOUS"]
    np.testing.assert_allclose(tensor[0], expected.transpose(2, 0, 1) if layout == "NCHW" else expected, atol=1e-5)
