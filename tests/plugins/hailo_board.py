"""The stand-in for the device, in this process; and bundles that have a model for it."""

from __future__ import annotations

import hashlib
import importlib
import shutil
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from sparkd.testing.hailo import FOLDER, VARIABLE, Board, make_hef
from sparkd_plugins.hailo_inference.bundle import MANIFEST
from sparkd_plugins.hailo_inference.config import DEFAULT_BUNDLE

MEAN, STD = [103.53, 116.28, 123.675], [57.375, 57.12, 58.395]
HEADS = [
    {"name": name, "shape": [416 // stride, 416 // stride, channels]}
    for stride in (8, 16, 32)
    for name, channels in ((f"cls_s{stride}", 80), (f"reg_s{stride}", 44))
]


def forget() -> None:
    """Let the next import of the stand-in be its first."""
    for name in [name for name in sys.modules if name.partition(".")[0] == "hailo_platform"]:
        del sys.modules[name]


@pytest.fixture
def board(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Board]:
    made = Board(tmp_path / "board.json")
    monkeypatch.setenv(VARIABLE, str(made.path))
    monkeypatch.setattr(sys, "path", [str(FOLDER), *sys.path])
    forget()
    yield made
    made.heal()
    forget()


def bench() -> Any:
    """Return the stand-in's own memory of what was asked of it."""
    return importlib.import_module("hailo_platform.bench")


def asked(operation: str) -> list[Any]:
    """Return what was asked of the stand-in, for one operation."""
    return [what for name, what in bench().calls if name == operation]


def on_a_machine(root: Path, *, version: str = "4.23.0") -> Path:
    """Make the files of a machine with the device."""
    (root / "dev").mkdir(parents=True)
    (root / "dev/hailo0").touch()
    (root / "sys/module/hailo_pci").mkdir(parents=True)
    (root / "sys/module/hailo_pci/version").write_text(version + "\n")
    return root


def hef_bundle(
    folder: Path, *, hef: bytes | None = None, variant: str = "hailo8l", changes: Sequence[tuple[str, str]] = ()
) -> Path:
    """Make a bundle with the packaged detector for the CPU, and for the device too."""
    if not folder.exists():
        shutil.copytree(DEFAULT_BUNDLE, folder)
    if hef is None:
        image = {"name": "images", "shape": [416, 416, 3], "mean": MEAN, "std": STD, "nchw": True}
        hef = make_hef((folder / "nanodet-coco-416.onnx").read_bytes(), inputs=[image], outputs=HEADS)
    (folder / f"{variant}.hef").write_bytes(hef)
    text = (folder / MANIFEST).read_text()
    old = hashlib.sha256((folder / "nanodet-coco-416.onnx").read_bytes()).hexdigest()
    pairs = [
        (old, hashlib.sha256(hef).hexdigest()),
        ("nanodet-coco-416.onnx", f"{variant}.hef"),
        ("NCHW", "NHWC"),
        (f"mean = {MEAN}", "mean = [0, 0, 0]"),
        (f"std = {STD}", "std = [1, 1, 1]"),
        *changes,
    ]
    for before, after in pairs:
        assert before in text
        text = text.replace(before, after)
    (folder / f"manifest.{variant}.toml").write_text(text)
    return folder


def mean_hef(**more: Any) -> bytes:
    """Return a HEF for the same manifest whose outputs are all the mean of its input."""
    return make_hef("mean", inputs=[{"name": "images", "shape": [416, 416, 3]}], outputs=HEADS, **more)
