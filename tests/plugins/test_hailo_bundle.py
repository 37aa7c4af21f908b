"""Model bundles: the packaged one is whole, and every way a bundle can be wrong is named."""

from __future__ import annotations

import hashlib
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sparkd import ConfigError
from sparkd_plugins.hailo_inference.bundle import MANIFEST, read_bundle
from sparkd_plugins.hailo_inference.config import DEFAULT_BUNDLE

MODEL = b"a model, as far as a manifest is concerned"
LABELS = "cat\ndog\n"

GOOD = """\
name = "pets"
version = "2.1"
task = "detect"
model = "pets.onnx"
labels = "labels.txt"

[input]
name = "images"
width = 64
height = 32
layout = "NCHW"
channels = "BGR"
letterbox = true
mean = [1, 2.5, 3]
std = [1.0, 2.0, 3.0]

[outputs]
decoder = "nanodet"
scores = "cls_s{stride}"
boxes = "reg_s{stride}"
strides = [8, 16]
bins = 8

[thresholds]
score = 0.5
iou = 0
max_detections = 10

[sha256]
"pets.onnx" = "MODEL_HASH"
"labels.txt" = "LABELS_HASH"
"""


def make_bundle(folder: Path, manifest: str = GOOD) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "pets.onnx").write_bytes(MODEL)
    (folder / "labels.txt").write_text(LABELS)
    manifest = manifest.replace("MODEL_HASH", hashlib.sha256(MODEL).hexdigest())
    manifest = manifest.replace("LABELS_HASH", hashlib.sha256(LABELS.encode()).hexdigest())
    (folder / MANIFEST).write_text(manifest)
    return folder


def problems_of(folder: Path) -> tuple[str, ...]:
    with pytest.raises(ConfigError) as caught:
        read_bundle(folder)
    return caught.value.problems


def test_the_packaged_bundle_is_whole() -> None:
    bundle = read_bundle(DEFAULT_BUNDLE)

    assert (bundle.name, bundle.task, len(bundle.labels)) == ("nanodet-coco-416", "detect", 80)
    assert {"NOTICE", "coco80.txt", "nanodet-coco-416.onnx"} <= set(bundle.sha256)
    assert hashlib.sha256(bundle.model_bytes()).hexdigest() == bundle.sha256[bundle.model]


def test_every_file_of_the_packaged_bundle_has_its_hash() -> None:
    names = {str(path.relative_to(DEFAULT_BUNDLE)) for path in DEFAULT_BUNDLE.rglob("*") if path.is_file()}

    assert names - {MANIFEST} == set(read_bundle(DEFAULT_BUNDLE).sha256)


def test_a_good_bundle_says_all_it_says(tmp_path: Path) -> None:
    bundle = read_bundle(make_bundle(tmp_path / "pets"))

    assert bundle.labels == ("cat", "dog")
    assert (bundle.input.width, bundle.input.height, bundle.input.mean) == (64, 32, (1.0, 2.5, 3.0))
    assert (bundle.outputs.strides, bundle.outputs.bins) == ((8, 16), 8)
    assert (bundle.thresholds.score, bundle.thresholds.iou, bundle.thresholds.max_detections) == (0.5, 0.0, 10)
    assert bundle.model_bytes() == MODEL


BAD_MANIFESTS: list[tuple[str, str, str]] = [
    ('name = "pets"\n', "", "name: missing"),
    ('name = "pets"', "name = 7", "name: a text expected, got 7"),
    ('name = "pets"', 'name = " "', "name: a text expected, got ' '"),
    ('task = "detect"', 'task = "sing"', "task: one of detect, classify, embed expected, got 'sing'"),
    ('version = "2.1"', "version = 2.1", "version: a text expected, got 2.1"),
    ('version = "2.1"', 'versoin = "2.1"', "unknown key 'versoin'. Did you mean 'version'?"),
    ("width = 64", 'width = "64"', "[input]: width: a whole number from 1 to 8192 expected, got '64'"),
    ("width = 64", "width = 0", "[input]: width: a whole number from 1 to 8192 expected, got 0"),
    ("width = 64", "width = 64.0", "[input]: width: a whole number from 1 to 8192 expected, got 64.0"),
    ("width = 64", "width = true", "[input]: width: a whole number from 1 to 8192 expected, got True"),
    ("width = 64", "width = 99999999", "[input]: width: a whole number from 1 to 8192 expected, got 99999999"),
    ("height = 32", "height = 32\ndepth = 3", "[input]: unknown key 'depth'."),
    ('layout = "NCHW"', 'layout = "CHWN"', "[input]: layout: one of NCHW, NHWC expected, got 'CHWN'"),
    ('channels = "BGR"', 'channels = "bgr"', "[input]: channels: one of BGR, RGB expected, got 'bgr'"),
    ("letterbox = true", 'letterbox = "yes"', "[input]: letterbox: true or false expected, got 'yes'"),
    ("mean = [1, 2.5, 3]", "mean = [1, 2]", "[input]: mean: a list of 3 numbers expected, got [1, 2]"),
    ("mean = [1, 2.5, 3]", "mean = [1, nan, 3]", "[input]: mean: a list of 3 numbers expected, got [1, nan, 3]"),
    ("std = [1.0, 2.0, 3.0]", "std = [1.0, 0.0, 3.0]", "[input]: std: a list of 3 numbers above 0.0 expected"),
    (
        'decoder = "nanodet"',
        'decoder = "yolo"',
        "[outputs]: decoder: one of nanodet, nms-by-class, nms-by-score expected, got 'yolo'",
    ),
    ('"cls_s{stride}"', '"cls"', "[outputs]: scores: a text with '{stride}' in it expected, got 'cls'"),
    ("strides = [8, 16]", "strides = []", "[outputs]: strides: a list of whole numbers from 1 to 1024 expected"),
    ("strides = [8, 16]", "strides = [8, 0]", "[outputs]: strides: a list of whole numbers from 1 to 1024 expected"),
    ("score = 0.5", "score = 1.5", "[thresholds]: score: a number from 0.0 to 1.0 expected, got 1.5"),
    ("score = 0.5", "score = inf", "[thresholds]: score: a number from 0.0 to 1.0 expected, got inf"),
    ("[thresholds]", "[treshholds]", "thresholds: missing"),
    ("[thresholds]", "[treshholds]", "unknown key 'treshholds'. Did you mean 'thresholds'?"),
    ('"labels.txt" = "LABELS_HASH"', '"labels.txt" = 3', "[sha256]: 'labels.txt': a text expected, got 3"),
    ('"labels.txt" = "LABELS_HASH"', "", "[sha256]: no entry for 'labels.txt', which labels names"),
    ("MODEL_HASH", "00ff", "[sha256] 'pets.onnx': the file does not match: 42 bytes with hash "),
    ('labels = "labels.txt"', 'labels = "../labels.txt"', "labels: a file inside the bundle expected, got '../lab"),
    ('model = "pets.onnx"', 'model = "/etc/passwd"', "model: a file inside the bundle expected, got '/etc/passwd'"),
    ('model = "pets.onnx"', r'model = "..\\pets.onnx"', "model: a file inside the bundle expected"),
    ('"pets.onnx" = ', '"../../etc/passwd" = ', "[sha256] '../../etc/passwd': a file inside the bundle expected"),
    ('"pets.onnx" = ', '"gone.onnx" = ', "[sha256] 'gone.onnx': the file is missing"),
    ('"pets.onnx" = ', '"." = ', "[sha256] '.': cannot be read: Is a directory"),
    ("[input]", "[input", "not valid TOML"),
    ("letterbox = true", "letterbox = true\ncrop = 0.9", "[input]: crop: only with letterbox = false"),
    ("letterbox = true", "letterbox = false\ncrop = 0", "[input]: crop: a number from 0.01 to 1.0 expected, got 0"),
    ('decoder = "nanodet"', 'decoder = "nms-by-class"', "[outputs]: max_boxes: missing"),
    ('decoder = "nanodet"', 'decoder = "nms-by-score"', "[outputs]: unknown key 'scores'"),
    ('task = "detect"', 'task = "classify"', "[thresholds]: max_labels: missing"),
    ('task = "detect"', 'task = "embed"', "unknown key 'labels'"),
]


@pytest.mark.parametrize(("old", "new", "problem"), BAD_MANIFESTS)
def test_what_is_wrong_in_a_manifest_is_named_by_file_and_key(tmp_path: Path, old: str, new: str, problem: str) -> None:
    assert old in GOOD
    folder = make_bundle(tmp_path / "pets", GOOD.replace(old, new))

    found = problems_of(folder)

    assert any(f"{folder / MANIFEST}: {problem}" in line for line in found), found


def test_all_problems_come_at_once(tmp_path: Path) -> None:
    manifest = GOOD.replace('task = "detect"', 'task = "x"').replace("width = 64", "width = -1").replace("iou = 0", "")

    assert len(problems_of(make_bundle(tmp_path / "pets", manifest))) == 3


def truncate_model(folder: Path) -> None:
    (folder / "pets.onnx").write_bytes(MODEL[:20])


def remove_model(folder: Path) -> None:
    (folder / "pets.onnx").unlink()


def link_out(folder: Path) -> None:
    (folder / "labels.txt").unlink()
    outside = folder.parent / "outside.txt"
    outside.write_text(LABELS)
    (folder / "labels.txt").symlink_to(outside)


def link_in_a_circle(folder: Path) -> None:
    (folder / "labels.txt").unlink()
    (folder / "labels.txt").symlink_to("labels.txt")


def not_text(folder: Path) -> None:
    (folder / MANIFEST).write_bytes(b"\xff\xfe\x00")


def no_manifest(folder: Path) -> None:
    (folder / MANIFEST).unlink()


def manifest_is_a_folder(folder: Path) -> None:
    (folder / MANIFEST).unlink()
    (folder / MANIFEST).mkdir()


@pytest.mark.parametrize(
    ("damage", "problem"),
    [
        (truncate_model, "'pets.onnx': the file does not match: 20 bytes with hash"),
        (remove_model, "'pets.onnx': the file is missing"),
        (link_out, "'labels.txt' is a link that leads out of the bundle"),
        (link_in_a_circle, "labels.txt"),
        (not_text, "not valid TOML"),
        (no_manifest, "not found; a model bundle is a folder with a manifest.toml"),
        (manifest_is_a_folder, "cannot be read: Is a directory"),
    ],
)
def test_a_damaged_bundle_is_refused(tmp_path: Path, damage: Callable[[Path], None], problem: str) -> None:
    folder = make_bundle(tmp_path / "pets")
    damage(folder)

    assert any(problem in line and str(folder) in line for line in problems_of(folder))


@pytest.mark.parametrize(
    ("labels", "problem"), [("\n\n", "one label a line"), ("cat\n\ndog\n", "without empty"), ("", "one label a line")]
)
def test_labels_have_no_holes(tmp_path: Path, labels: str, problem: str) -> None:
    manifest = GOOD.replace("LABELS_HASH", hashlib.sha256(labels.encode()).hexdigest())
    folder = make_bundle(tmp_path / "pets", manifest)
    (folder / "labels.txt").write_text(labels)

    assert problem in problems_of(folder)[0]


def test_labels_that_are_no_text_are_refused(tmp_path: Path) -> None:
    manifest = GOOD.replace("LABELS_HASH", hashlib.sha256(b"\xff\xff").hexdigest())
    folder = make_bundle(tmp_path / "pets", manifest)
    (folder / "labels.txt").write_bytes(b"\xff\xff")

    assert "not UTF-8 text" in problems_of(folder)[0]


def test_a_model_that_changes_after_it_was_checked_is_not_used(tmp_path: Path) -> None:
    bundle = read_bundle(make_bundle(tmp_path / "pets"))
    truncate_model(bundle.folder)

    with pytest.raises(ConfigError, match="changed while it was being loaded"):
        bundle.model_bytes()

    remove_model(bundle.folder)
    with pytest.raises(ConfigError, match="cannot be read: No such file"):
        bundle.model_bytes()


@pytest.mark.parametrize("key", [key for key, value in tomllib.loads(GOOD).items() if isinstance(value, dict)])
@pytest.mark.parametrize("value", [3, "text", [1]])
def test_a_table_that_is_no_table_is_named(tmp_path: Path, key: str, value: Any) -> None:
    head, _, rest = GOOD.partition(f"[{key}]\n")
    _, _, others = rest.partition("\n\n")
    manifest = f"{key} = {value!r}\n" + head + others

    assert any(
        f"{key}: a table expected, got {value!r}" in line
        for line in problems_of(make_bundle(tmp_path / "pets", manifest))
    )
