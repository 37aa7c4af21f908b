"""Model bundles: a folder with a `manifest.toml` that says everything needed to run the model in it.

The manifest names the files (`model`, `labels`), how a picture becomes the model's input (`[input]`), how its outputs
become boxes (`[outputs]`), when to believe them (`[thresholds]`), and the SHA-256 of every file (`[sha256]`). A bundle
is refused as a whole, with every problem at once, each naming the file and the key; nothing of it is used before all
of it has been checked. Files are named by plain paths inside the folder: nothing else is ever opened.
"""

from __future__ import annotations

import hashlib
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from sparkd import ConfigError

from .manifest import Table

MANIFEST = "manifest.toml"
TASKS = ("detect", "classify", "embed")
DECODERS = {
    "detect": ("nanodet", "nms-by-class", "nms-by-score"),
    "classify": ("probabilities", "logits"),
    "embed": ("vector",),
}
"""What may turn a model's outputs into results, by task."""


@dataclass(frozen=True, slots=True, kw_only=True)
class InputSpec:
    """What the model takes."""

    name: str
    width: int
    height: int
    layout: str
    channels: str
    letterbox: bool
    """Whether the picture keeps its shape, centred on black; otherwise it is stretched."""
    mean: tuple[float, ...]
    std: tuple[float, ...]
    crop: float = 0.0
    """If not 0, only the middle of the picture is taken: so much of its shorter side. Never with `letterbox`."""
    sharp: bool = False
    """Whether the picture is scaled bicubically."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OutputSpec:
    """What the model gives.

    The decoder `nanodet` has `scores`, `boxes`, `strides` and `bins`; `{stride}` in a name stands for each of the
    strides. All others have one `output`.
    """

    decoder: str
    scores: str = ""
    boxes: str = ""
    strides: tuple[int, ...] = ()
    bins: int = 0
    output: str = ""
    max_boxes: int = 0
    """Of `nms-by-class`: the most boxes of one class."""
    length: int = 0
    """Of `vector`: how many numbers."""
    unit: bool = False
    """Of `vector`: whether it is scaled to the length 1."""

    def names(self, stride: int) -> tuple[str, str]:
        """Return the names of the scores and the boxes of *stride*."""
        return self.scores.replace("{stride}", str(stride)), self.boxes.replace("{stride}", str(stride))


@dataclass(frozen=True, slots=True, kw_only=True)
class Thresholds:
    """When a result is believed."""

    score: float = 0.0
    iou: float = 1.0
    max_detections: int = 0
    """The most boxes, or labels, of one picture."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bundle:
    """A bundle whose files have all been found and checked."""

    folder: Path
    name: str
    version: str
    task: str
    model: str
    labels: tuple[str, ...]
    input: InputSpec
    outputs: OutputSpec
    thresholds: Thresholds
    sha256: dict[str, str]
    manifest_file: str = MANIFEST

    @property
    def manifest(self) -> Path:
        """The manifest's path, for messages."""
        return self.folder / self.manifest_file

    def model_bytes(self) -> bytes:
        """Return the model file. Its hash is checked again on these very bytes. Raises ConfigError."""
        path = self.folder / self.model
        try:
            content = path.read_bytes()
        except OSError as error:
            raise ConfigError(f"{path}: cannot be read: {error.strerror}") from error
        if hashlib.sha256(content).hexdigest() != self.sha256[self.model]:
            raise ConfigError(f"{path}: changed while it was being loaded; load it again when it is whole")
        return content


def manifest_name(variant: str) -> str:
    """Return the name of the manifest of a *variant*, such as `hailo8l`."""
    return f"manifest.{variant}.toml"


def read_bundle(folder: Path, *, variants: Sequence[str] = ()) -> Bundle:
    """Return the bundle in *folder*, every file checked. Raises ConfigError with all problems found.

    A bundle may hold the same model for several devices: the manifest of the first of *variants* that is there counts,
    without any of them the plain one.
    """
    path = next((file for one in variants if (file := folder / manifest_name(one)).exists()), folder / MANIFEST)
    problems: list[str] = []
    root = Table(str(path), _parse(path), problems)
    name, version = root.text("name"), root.text("version")
    task = root.text("task", choices=TASKS)
    files = {"model": root.text("model")}
    if task != "embed":  # what a vector says has no names
        files["labels"] = root.text("labels")
    spec = _input_spec(root.table("input"))
    outputs = _output_spec(root.table("outputs"), task or TASKS[0])
    thresholds = _thresholds(root, task)
    sha256 = root.table("sha256").texts()
    root.close()
    problems += _file_problems(path, named=files, sha256=sha256)
    if problems:
        raise ConfigError(*problems)
    return Bundle(
        folder=folder,
        name=name,
        version=version,
        task=task,
        model=files["model"],
        labels=_labels(folder / files["labels"]) if "labels" in files else (),
        input=spec,
        outputs=outputs,
        thresholds=thresholds,
        sha256=sha256,
        manifest_file=path.name,
    )


def _parse(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"{path}: not found; a model bundle is a folder with a {MANIFEST}") from None
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from error
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"{path}: not valid TOML: {error}") from error


def _input_spec(table: Table) -> InputSpec:
    spec = InputSpec(
        name=table.text("name"),
        width=table.integer("width", 1, 8192),
        height=table.integer("height", 1, 8192),
        layout=table.text("layout", choices=("NCHW", "NHWC")),
        channels=table.text("channels", choices=("BGR", "RGB")),
        letterbox=table.flag("letterbox"),
        mean=table.numbers("mean", 3),
        std=table.numbers("std", 3, above=0.0),
        crop=table.number("crop", 0.01, 1.0) if table.has("crop") else 0.0,
        sharp=table.flag("sharp") if table.has("sharp") else False,
    )
    if spec.crop and spec.letterbox:
        table.complain("crop", "only with letterbox = false: one takes the middle, the other keeps all")
    table.close()
    return spec


def _output_spec(table: Table, task: str) -> OutputSpec:
    decoder = table.text("decoder", choices=DECODERS[task])
    if decoder in {"nanodet", ""}:
        spec = OutputSpec(
            decoder=decoder,
            scores=table.text("scores", containing="{stride}"),
            boxes=table.text("boxes", containing="{stride}"),
            strides=table.integers("strides", 1, 1024),
            bins=table.integer("bins", 2, 256),
        )
    else:
        vector = decoder == "vector"
        spec = OutputSpec(
            decoder=decoder,
            output=table.text("output"),
            max_boxes=table.integer("max_boxes", 1, 10_000) if decoder == "nms-by-class" else 0,
            length=table.integer("length", 1, 65_536) if vector else 0,
            unit=table.flag("unit") if vector else False,
        )
    table.close()
    return spec


def _thresholds(root: Table, task: str) -> Thresholds:
    if task == "embed":
        return Thresholds()
    table, classifier = root.table("thresholds"), task == "classify"
    limits = Thresholds(
        score=table.number("score", 0.0, 1.0),
        iou=1.0 if classifier else table.number("iou", 0.0, 1.0),
        max_detections=table.integer("max_labels" if classifier else "max_detections", 1, 10_000),
    )
    table.close()
    return limits


def _file_problems(manifest: Path, *, named: dict[str, str], sha256: dict[str, str]) -> list[str]:
    folder, problems = manifest.parent, []
    for key, name in named.items():
        problem = _name_problem(folder, name) if name else ""
        if problem:
            problems.append(f"{manifest}: {key}: {problem}")
        elif name and name not in sha256:
            problems.append(f"{manifest}: [sha256]: no entry for {name!r}, which {key} names")
    for name, expected in sha256.items():
        problem = _name_problem(folder, name) or _hash_problem(folder / name, expected)
        if problem:
            problems.append(f"{manifest}: [sha256] {name!r}: {problem}")
    return problems


def _name_problem(folder: Path, name: str) -> str:
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or "\\" in name or "\0" in name:
        return f"a file inside the bundle expected, got {name!r}"
    try:
        inside = (folder / path).resolve().is_relative_to(folder.resolve())
    except (OSError, RuntimeError) as error:  # RuntimeError: a loop of links
        return f"{name!r} cannot be followed: {error}"
    return "" if inside else f"{name!r} is a link that leads out of the bundle"


def _hash_problem(path: Path, expected: str) -> str:
    try:
        with path.open("rb") as file:
            actual = hashlib.file_digest(file, "sha256").hexdigest()
            size = file.tell()
    except FileNotFoundError:
        return "the file is missing"
    except OSError as error:
        return f"cannot be read: {error.strerror}"
    if actual == expected.lower():
        return ""
    return f"the file does not match: {size} bytes with hash {actual}, expected {expected}; fetch the bundle again"


def _labels(path: Path) -> tuple[str, ...]:
    try:
        labels = tuple(path.read_text("utf-8").split("\n"))
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not UTF-8 text: {error}") from error
    while labels and not labels[-1].strip():
        labels = labels[:-1]
    if not labels or not all(label.strip() for label in labels):
        raise ConfigError(f"{path}: one label a line expected, without empty lines")
    return tuple(label.strip() for label in labels)
