"""The packaged model on the photographs whose results are known, and what a backend refuses."""

from __future__ import annotations

import hashlib
import re
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from sparkd import ConfigError, DeviceError
from sparkd_plugins.hailo_inference.bundle import MANIFEST, read_bundle
from sparkd_plugins.hailo_inference.config import DEFAULT_BUNDLE, HailoInferenceConfig
from sparkd_plugins.hailo_inference.demo import PICTURES
from sparkd_plugins.hailo_inference.device import Runtimes
from sparkd_plugins.hailo_inference.pipeline import STAGES, Model, open_models
from sparkd_plugins.hailo_inference.postprocess import overlaps

Box = tuple[float, float, float, float]
KNOWN: dict[str, list[tuple[str, float, Box]]] = {
    "astronaut": [("person", 0.734, (15, 14, 364, 508))],
    "chelsea": [("cat", 0.578, (2, 0, 440, 296))],
    "coffee": [("dining table", 0.506, (8, 3, 596, 398))],
    "rocket": [],
}
SIZES = {"astronaut": (512, 512), "chelsea": (451, 300), "coffee": (600, 400), "rocket": (640, 427)}


@pytest.fixture(scope="module")
def model() -> Model:
    return open_models(HailoInferenceConfig())[0]


@pytest.mark.parametrize("name", sorted(KNOWN))
def test_what_is_in_the_photographs_is_found(model: Model, name: str) -> None:
    inference = model.look((PICTURES / f"{name}.png").read_bytes(), source=name, source_ns=7)

    assert [found.label for found in inference.detections] == [label for label, _, _ in KNOWN[name]]
    for found, (_, score, box) in zip(inference.detections, KNOWN[name], strict=True):
        assert found.score == pytest.approx(score, abs=0.10)
        assert overlaps(np.array([found.box, box], np.float32))[0, 1] >= 0.85
    assert (inference.width, inference.height) == SIZES[name]
    assert (inference.model, inference.model_version, inference.task) == ("nanodet-coco-416", "1.0.0", "detect")
    assert (inference.backend, inference.source, inference.source_ns) == ("onnxruntime", name, 7)
    assert tuple(inference.stages_ms) == STAGES
    assert all(0 < time < 10_000 for time in inference.stages_ms.values())


def test_a_dog_that_is_hardly_there_is_left_out_by_the_threshold(model: Model) -> None:
    bundle = replace(model.bundle, thresholds=replace(model.bundle.thresholds, score=0.35))
    keen = replace(model, bundle=bundle)

    labels = [found.label for found in keen.look((PICTURES / "chelsea.png").read_bytes(), source="").detections]

    assert labels[:1] == ["cat"]
    assert "dog" in labels


def test_the_model_says_who_it_is(model: Model) -> None:
    info = model.info

    assert (info.name, info.version, info.task, info.backend, info.labels) == (
        "nanodet-coco-416",
        "1.0.0",
        "detect",
        "onnxruntime",
        80,
    )


def test_the_limit_on_pixels_holds(model: Model) -> None:
    with pytest.raises(ValueError, match="more than max_pixels = 1000"):
        replace(model, max_pixels=1000).look((PICTURES / "chelsea.png").read_bytes(), source="")


def copied_bundle(folder: Path, *changes: tuple[str, str]) -> Path:
    shutil.copytree(DEFAULT_BUNDLE, folder)
    manifest = (folder / MANIFEST).read_text()
    for old, new in changes:
        assert old in manifest
        manifest = manifest.replace(old, new)
    (folder / MANIFEST).write_text(manifest)
    return folder


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (("width = 416", "width = 320"), "[input]: 'images' should have shape [1, 3, 416, 320] by this manifest"),
        (('"NCHW"', '"NHWC"'), "'images' should have shape [1, 416, 416, 3] by this manifest"),
        (('name = "images"', 'name = "pictures"'), "[input]: the model has no 'pictures', only images"),
        (("bins = 11", "bins = 12"), "[outputs]: 'reg_s8' should have shape [1, 2704, 48]"),
        (("[8, 16, 32]", "[8, 16, 64]"), "[outputs]: the model has no 'cls_s64', only cls_s8, "),
    ],
)
def test_a_manifest_that_does_not_fit_its_model_is_refused(
    tmp_path: Path, change: tuple[str, str], problem: str
) -> None:
    bundle = read_bundle(copied_bundle(tmp_path / "bundle", change))

    with pytest.raises(ConfigError, match=re.escape(problem)) as caught:
        Runtimes("auto", 1).load(bundle)

    assert str(bundle.manifest) in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"not a model", "half"])
def test_a_model_that_is_none_is_refused_although_its_hash_is_right(tmp_path: Path, content: bytes | str) -> None:
    folder = copied_bundle(tmp_path / "bundle")
    path = folder / "nanodet-coco-416.onnx"
    good = path.read_bytes()
    bad = content if isinstance(content, bytes) else good[: len(good) // 2]
    path.write_bytes(bad)
    hashes = hashlib.sha256(good).hexdigest(), hashlib.sha256(bad).hexdigest()
    (folder / MANIFEST).write_text((folder / MANIFEST).read_text().replace(*hashes))

    with pytest.raises(ConfigError, match="onnxruntime cannot load it") as caught:
        Runtimes("onnxruntime", 1).load(read_bundle(folder))

    assert str(path) in str(caught.value)


def test_a_truncated_model_with_the_old_hash_never_reaches_the_runtime(tmp_path: Path) -> None:
    folder = copied_bundle(tmp_path / "bundle")
    path = folder / "nanodet-coco-416.onnx"
    path.write_bytes(path.read_bytes()[:1_000_000])

    with pytest.raises(ConfigError, match="the file does not match: 1000000 bytes"):
        open_models(HailoInferenceConfig(bundles=[folder]))


def test_all_bad_bundles_are_told_at_once_and_names_are_unique(tmp_path: Path) -> None:
    twin = copied_bundle(tmp_path / "twin")
    bundles = [DEFAULT_BUNDLE, twin, tmp_path / "none", tmp_path / "nothing"]

    with pytest.raises(ConfigError) as caught:
        open_models(HailoInferenceConfig(bundles=bundles))

    assert len(caught.value.problems) == 3
    assert f"{twin}/manifest.toml: name: 'nanodet-coco-416' is taken by another bundle" in caught.value.problems


def test_a_missing_runtime_has_a_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)

    with pytest.raises(DeviceError) as caught:
        open_models(HailoInferenceConfig())

    assert caught.value.remedy == "pip install 'sparkd[inference]'"


def test_a_runtime_that_fails_is_a_device_error(model: Model) -> None:
    with pytest.raises(DeviceError, match="onnxruntime failed on model nanodet-coco-416"):
        model.backend.infer([np.zeros((1, 3, 10, 10), np.float32)])


def test_a_closed_backend_says_so() -> None:
    backend = open_models(HailoInferenceConfig())[0].backend
    backend.close()

    with pytest.raises(DeviceError, match="closed"):
        backend.infer([np.zeros((1, 3, 416, 416), np.float32)])
