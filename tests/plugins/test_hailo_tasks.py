"""What models of each task find: the packaged ones on known photographs, and boxes in HailoRT's layouts."""

from __future__ import annotations

import struct
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sparkd import Array, DeviceError
from sparkd_plugins.hailo_inference.bundle import MANIFEST, InputSpec, OutputSpec, Thresholds, read_bundle
from sparkd_plugins.hailo_inference.config import DEFAULT_BUNDLE, HailoInferenceConfig
from sparkd_plugins.hailo_inference.demo import PICTURES
from sparkd_plugins.hailo_inference.nms_layouts import decode_by_class, decode_by_score
from sparkd_plugins.hailo_inference.picture import open_picture
from sparkd_plugins.hailo_inference.pipeline import Model, Shot, open_models
from sparkd_plugins.hailo_inference.postprocess import classify, detect, embed, overlaps

MODELS = DEFAULT_BUNDLE.parent
LABELS = read_bundle(MODELS / "efficientnet-lite0-224").labels
SPEC = InputSpec(
    name="x",
    width=64,
    height=32,
    layout="NHWC",
    channels="RGB",
    letterbox=True,
    mean=(0.0, 0.0, 0.0),
    std=(1.0, 1.0, 1.0),
)


def opened(name: str) -> Model:
    return open_models(HailoInferenceConfig(bundles=[MODELS / name]))[0]


def pixels(name: str) -> np.ndarray:
    picture = open_picture((PICTURES / f"{name}.png").read_bytes(), max_pixels=10_000_000)
    return picture.pixels(picture.width, picture.height)


@pytest.fixture(scope="module")
def classifier() -> Model:
    return opened("efficientnet-lite0-224")


@pytest.mark.parametrize("name", ["nanodet-coco-416-int8", "efficientnet-lite0-224"])
def test_every_packaged_bundle_has_a_hash_for_each_file(name: str) -> None:
    files = {str(path.relative_to(MODELS / name)) for path in (MODELS / name).rglob("*") if path.is_file()}

    assert files - {MANIFEST} == set(read_bundle(MODELS / name).sha256)


@pytest.mark.parametrize(
    ("name", "numbers", "score", "tolerance"),
    [("coffee", {967}, 0.945, 0.08), ("chelsea", {281, 282, 285}, None, 0), ("rocket", {657}, 0.345, 0.08)],
)
def test_the_classifier_says_what_is_known(
    classifier: Model, name: str, numbers: set[int], score: float | None, tolerance: float
) -> None:
    inference = classifier.look((PICTURES / f"{name}.png").read_bytes(), source=name)

    best = inference.labels[0]
    assert best.label in {LABELS[number] for number in numbers}
    assert score is None or best.score == pytest.approx(score, abs=tolerance)
    assert [one.score for one in inference.labels] == sorted((one.score for one in inference.labels), reverse=True)
    assert (inference.task, inference.detections, inference.embedding) == ("classify", [], [])


INT8 = {
    "astronaut": ("person", 0.741, (9, 14, 365, 508)),
    "chelsea": ("cat", 0.565, (3, 0, 448, 296)),
    "coffee": ("dining table", 0.516, (4, 3, 595, 400)),
    "rocket": None,
}


def test_the_small_detector_finds_what_is_known() -> None:
    model = opened("nanodet-coco-416-int8")
    for name, known in INT8.items():
        found = model.look((PICTURES / f"{name}.png").read_bytes(), source=name).detections
        if known is None:
            assert found == []
            continue
        (one,) = found
        assert one.label == known[0]
        assert one.score == pytest.approx(known[1], abs=0.10)
        assert overlaps(np.array([one.box, known[2]], np.float32))[0, 1] >= 0.85


@pytest.mark.parametrize("name", ["coffee", "chelsea"])
@pytest.mark.parametrize("bundle", ["nanodet-coco-416-int8", "efficientnet-lite0-224"])
def test_pixels_give_what_the_encoded_picture_gives(bundle: str, name: str) -> None:
    model = opened(bundle)

    encoded = model.look((PICTURES / f"{name}.png").read_bytes(), source="")
    raw = model.look(Array.of(pixels(name)), source="")

    assert (raw.width, raw.height) == (encoded.width, encoded.height)
    assert [one.label for one in raw.labels[:1] + encoded.labels[:1]] == [one.label for one in encoded.labels[:1] * 2]
    assert [one.label for one in raw.detections] == [one.label for one in encoded.detections]
    for one, other in zip(raw.detections, encoded.detections, strict=True):
        assert one.box == pytest.approx(other.box, abs=4)


@pytest.mark.parametrize(
    "array",
    [
        np.zeros((4, 4), np.uint8),
        np.zeros((4, 4, 4), np.uint8),
        np.zeros((4, 4, 3), np.float32),
        np.zeros((0, 4, 3), np.uint8),
    ],
)
def test_pixels_that_are_none_are_refused(classifier: Model, array: np.ndarray) -> None:
    with pytest.raises(ValueError, match="RGB pixels of the shape"):
        classifier.look(Array.of(array), source="")


def test_pixels_have_the_same_limit(classifier: Model) -> None:
    with pytest.raises(ValueError, match="more than max_pixels = 10"):
        replace(classifier, max_pixels=10).look(Array.of(np.zeros((4, 4, 3), np.uint8)), source="")


def test_a_batch_gives_what_single_pictures_give(classifier: Model) -> None:
    names = ["coffee", "rocket", "chelsea"]
    shots = [Shot(open_picture((PICTURES / f"{name}.png").read_bytes(), max_pixels=10_000_000), name) for name in names]

    together = classifier.look_at(shots)

    assert [one.source for one in together] == names
    for name, one in zip(names, together, strict=True):
        assert one.labels == classifier.look((PICTURES / f"{name}.png").read_bytes(), source=name).labels


def of_task(task: str, outputs: OutputSpec, *, labels: int = 3, limits: Thresholds | None = None) -> object:
    return replace(
        read_bundle(DEFAULT_BUNDLE),
        task=task,
        input=SPEC,
        outputs=outputs,
        labels=tuple(f"label {number}" for number in range(labels)),
        thresholds=limits or Thresholds(score=0.25, iou=0.5, max_detections=4),
    )


Row = tuple[int, float, tuple[float, float, float, float]]
SHARE = st.integers(0, 64).map(lambda n: n / 64)
ROWS = st.lists(st.tuples(st.integers(0, 2), SHARE, st.tuples(SHARE, SHARE, SHARE, SHARE)), max_size=12)


def plainly(rows: list[Row]) -> list[Row]:
    """The same, one box at a time: by score, x first, in pixels of the input."""
    believed = [row for row in rows if row[1] >= 0.25]
    believed.sort(key=lambda row: -row[1])
    return [
        (number, score, (box[1] * 64, box[0] * 32, box[3] * 64, box[2] * 32)) for number, score, box in believed[:4]
    ]


def as_rows(found: object) -> list[Row]:
    return [
        (int(number), float(score), tuple(box))
        for number, score, box in zip(found.classes, found.scores, found.boxes.tolist(), strict=True)  # type: ignore[attr-defined]
    ]


def by_class(rows: list[Row], *, after: int = 0) -> np.ndarray:
    values: list[float] = []
    for number in range(3):
        own = [row for row in rows if row[0] == number]
        values.append(len(own))
        for _, score, box in own:
            values += [*box, score]
    return np.array(values + [777.0] * after, np.float32)


def by_score(rows: list[Row]) -> np.ndarray:
    packed = struct.pack("<H", len(rows))
    packed += b"".join(struct.pack("<fffffH", *box, score, number) for number, score, box in rows)
    return np.frombuffer(packed + bytes(9), np.uint8)


@given(rows=ROWS, after=st.integers(0, 5))
@settings(max_examples=150, deadline=None)
def test_boxes_by_class_are_those_of_the_plain_reference(rows: list[Row], after: int) -> None:
    rows = sorted(rows, key=lambda row: row[0])
    bundle = of_task("detect", OutputSpec(decoder="nms-by-class", output="o", max_boxes=12))

    assert as_rows(detect({"o": by_class(rows, after=after)}, bundle)) == plainly(rows)  # type: ignore[arg-type]


@given(rows=ROWS)
@settings(max_examples=150, deadline=None)
def test_boxes_by_score_are_those_of_the_plain_reference(rows: list[Row]) -> None:
    bundle = of_task("detect", OutputSpec(decoder="nms-by-score", output="o"))

    assert as_rows(detect({"o": by_score(rows)}, bundle)) == plainly(rows)  # type: ignore[arg-type]


@given(content=st.binary(max_size=200))
@settings(max_examples=300, deadline=None)
def test_any_bytes_are_boxes_or_a_clear_error(content: bytes) -> None:
    numbers = np.frombuffer(content[: len(content) // 4 * 4], np.float32)
    by_number = partial(decode_by_class, numbers, SPEC, classes=3, max_boxes=5)
    for decode in (by_number, partial(decode_by_score, np.frombuffer(content, np.uint8), SPEC, classes=3)):
        try:
            found = decode()
        except DeviceError:
            continue
        else:
            assert np.isfinite(found.boxes).all()


@pytest.mark.parametrize("first", [-1.0, 0.5, 6.0, np.nan, np.inf])
def test_a_count_that_is_none_is_named(first: float) -> None:
    with pytest.raises(DeviceError, match="class 0 has"):
        decode_by_class(np.full(40, first, np.float32), SPEC, classes=3, max_boxes=5)


def test_a_class_without_a_label_is_an_error() -> None:
    with pytest.raises(DeviceError, match="a box of class 9"):
        decode_by_score(by_score([(9, 0.5, (0, 0, 1, 1))]), SPEC, classes=3)


def test_logits_become_probabilities() -> None:
    bundle = of_task("classify", OutputSpec(decoder="logits", output="o"))

    seen = classify({"o": np.array([[2.0, 1000.0, 999.0]], np.float32)}, bundle)  # type: ignore[arg-type]

    assert [number for number, _ in seen] == [1, 2]
    assert [score for _, score in seen] == pytest.approx([0.7311, 0.2689], abs=1e-3)


def test_a_classifier_gone_mad_says_nothing() -> None:
    bundle = of_task("classify", OutputSpec(decoder="probabilities", output="o"))

    assert classify({"o": np.array([np.nan, 0.5, np.nan], np.float32)}, bundle) == [(1, 0.5)]  # type: ignore[arg-type]
    with pytest.raises(DeviceError, match="gives 2 classes, the bundle has 3 labels"):
        classify({"o": np.zeros(2, np.float32)}, bundle)  # type: ignore[arg-type]
    with pytest.raises(DeviceError, match="no output 'o', only p"):
        classify({"p": np.zeros(3, np.float32)}, bundle)  # type: ignore[arg-type]


def test_a_vector_is_given_as_it_is_or_with_length_one() -> None:
    heads = OutputSpec(decoder="vector", output="o", length=2)
    raw = {"o": np.array([[3.0, 4.0]], np.float32)}

    assert embed(raw, of_task("embed", heads)) == [3.0, 4.0]  # type: ignore[arg-type]
    assert embed(raw, of_task("embed", replace(heads, unit=True))) == pytest.approx([0.6, 0.8])  # type: ignore[arg-type]
    for bad in ([1.0], [1.0, np.nan]):
        with pytest.raises(DeviceError, match="no vector of 2 numbers"):
            embed({"o": np.array(bad, np.float32)}, of_task("embed", heads))  # type: ignore[arg-type]


def test_an_embedding_bundle_of_a_real_model_gives_a_vector(tmp_path: Path) -> None:
    """The classifier's probabilities, taken as a vector: a bundle without labels or thresholds."""
    source = MODELS / "efficientnet-lite0-224"
    for path in ("efficientnet-lite0-224-int8.onnx", "imagenet1k.txt", "NOTICE"):
        (tmp_path / path).write_bytes((source / path).read_bytes())
    manifest = (source / MANIFEST).read_text()
    head, _, hashes = manifest.partition("[thresholds]")
    hashes = "\n".join(line for line in hashes[hashes.index("[sha256]") :].splitlines() if "licenses/" not in line)
    head = head.replace('"classify"', '"embed"').replace('labels = "imagenet1k.txt"\n', "")
    head = head.replace('"probabilities"', '"vector"\nlength = 1000\nunit = true')
    (tmp_path / MANIFEST).write_text(head + hashes)

    (model,) = open_models(HailoInferenceConfig(bundles=[tmp_path]))
    inference = model.look((PICTURES / "coffee.png").read_bytes(), source="")

    assert len(inference.embedding) == 1000
    assert np.linalg.norm(inference.embedding) == pytest.approx(1.0, abs=1e-4)
    assert int(np.argmax(inference.embedding)) == 967
