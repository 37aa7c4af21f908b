"""One model, ready to look at pictures: decode, preprocess, infer, postprocess, each stage timed."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from sparkd import Array, Classification, ConfigError, Detection, DeviceError, Inference, ModelInfo

from .backend import Backend
from .bundle import Bundle, read_bundle
from .config import HailoInferenceConfig
from .device import Runtimes, open_runtimes
from .picture import Pixels, open_picture, raw_picture
from .postprocess import classify, detect, embed
from .preprocess import Placement, place, to_source, to_tensor

STAGES = ("decode", "preprocess", "infer", "postprocess")


class Still(Protocol):
    """A picture that can be asked for its pixels: encoded, raw, or a frame of a video."""

    @property
    def width(self) -> int:
        """Of the picture, in pixels."""
        ...

    @property
    def height(self) -> int:
        """Of the picture, in pixels."""
        ...

    def fitted(self, placement: Placement, *, sharp: bool) -> Pixels:
        """Return what *placement* wants of the picture, scaled. Raises ValueError if the picture is damaged."""
        ...


@dataclass(frozen=True, slots=True)
class Shot:
    """A picture to look at."""

    picture: Still
    source: str
    source_ns: int = 0
    spent_ms: Mapping[str, float] = field(default_factory=dict)
    """What it has cost so far, by stage."""


@dataclass(frozen=True, slots=True)
class _Ready:
    shot: Shot
    placement: Placement
    tensor: NDArray[Any]
    spent_ms: dict[str, float]


@dataclass(frozen=True, slots=True)
class Model:
    """A bundle on a backend. Blocking, and for one thread at a time."""

    bundle: Bundle
    backend: Backend
    max_pixels: int

    @property
    def info(self) -> ModelInfo:
        """What `vision.models` says about it."""
        bundle = self.bundle
        return ModelInfo(
            name=bundle.name,
            version=bundle.version,
            task=bundle.task,
            backend=self.backend.name,
            labels=len(bundle.labels),
        )

    def look(self, image: bytes | Array, *, source: str, source_ns: int = 0) -> Inference:
        """Return what is in *image*, encoded or RGB pixels.

        Raises ValueError if it is no picture or too large a one, DeviceError if the runtime fails.
        """
        start = time.perf_counter_ns()
        if isinstance(image, Array):
            picture: Still = raw_picture(image.view(), max_pixels=self.max_pixels)
        else:
            picture = open_picture(image, max_pixels=self.max_pixels)
        shot = Shot(picture, source, source_ns, {"decode": _since(start)})
        return self.look_at([shot])[0]

    def look_at(self, shots: Sequence[Shot]) -> list[Inference]:
        """Return what is in each of *shots*, computed as one batch; each is told its share of the batch's time.

        Raises ValueError if one is damaged, DeviceError if the runtime fails.
        """
        ready = [self._prepare(shot) for shot in shots]
        start = time.perf_counter_ns()
        outputs = self.backend.infer([one.tensor for one in ready])
        share = _since(start) / len(ready)
        return [self._conclude(one, raw, share) for one, raw in zip(ready, outputs, strict=True)]

    def try_out(self) -> None:
        """Run it once on black, so that it is warm. Raises ConfigError if its outputs are not those of its manifest."""
        spec = self.bundle.input
        black = raw_picture(np.zeros((spec.height, spec.width, 3), np.uint8), max_pixels=self.max_pixels)
        try:
            self.look_at([Shot(black, "")])
        except (DeviceError, ValueError, LookupError) as error:
            raise ConfigError(f"{self.bundle.manifest}: tried out on black, the model fails: {error}") from error

    def _prepare(self, shot: Shot) -> _Ready:
        spec, spent = self.bundle.input, dict(shot.spent_ms)
        start = time.perf_counter_ns()
        placement = place(shot.picture.width, shot.picture.height, spec)
        pixels = shot.picture.fitted(placement, sharp=spec.sharp)
        spent["decode"] = spent.get("decode", 0.0) + _since(start)
        start = time.perf_counter_ns()
        tensor = to_tensor(pixels, placement, spec)
        spent["preprocess"] = _since(start)
        return _Ready(shot, placement, tensor, spent)

    def _conclude(self, ready: _Ready, outputs: Mapping[str, NDArray[Any]], infer_ms: float) -> Inference:
        start, bundle, shot = time.perf_counter_ns(), self.bundle, ready.shot
        found = self._found(outputs, ready.placement)
        return Inference(
            model=bundle.name,
            model_version=bundle.version,
            task=bundle.task,
            source=shot.source,
            width=shot.picture.width,
            height=shot.picture.height,
            backend=self.backend.name,
            stages_ms=ready.spent_ms | {"infer": infer_ms, "postprocess": _since(start)},
            source_ns=shot.source_ns,
            **found,
        )

    def _found(self, outputs: Mapping[str, NDArray[Any]], placement: Placement) -> dict[str, Any]:
        bundle = self.bundle
        if bundle.task == "classify":
            seen = classify(outputs, bundle)
            return {"labels": [Classification(label=bundle.labels[number], score=score) for number, score in seen]}
        if bundle.task == "embed":
            return {"embedding": embed(outputs, bundle)}
        found = detect(outputs, bundle)
        boxes = to_source(found.boxes, placement).tolist()
        return {
            "detections": [
                Detection(label=bundle.labels[number], score=score, box=tuple(box))
                for number, score, box in zip(found.classes.tolist(), found.scores.tolist(), boxes, strict=True)
            ]
        }


def _since(start_ns: int) -> float:
    return (time.perf_counter_ns() - start_ns) / 1e6


def open_models(config: HailoInferenceConfig, runtimes: Runtimes | None = None) -> list[Model]:
    """Load every bundle of *config* on *runtimes*, or on what there is.

    Raises ConfigError with the problems of all of them, DeviceError if the backend cannot be had.
    """
    runtimes = runtimes or open_runtimes(config)
    bundles: list[Bundle] = []
    problems: list[str] = []
    for folder in config.bundle_folders:
        try:
            bundles.append(read_bundle(folder, variants=runtimes.variants))
        except ConfigError as error:
            problems.extend(error.problems)
    names = [bundle.name for bundle in bundles]
    problems += [
        f"{bundle.manifest}: name: {bundle.name!r} is taken by another bundle"
        for index, bundle in enumerate(bundles)
        if bundle.name in names[:index]
    ]
    if problems:
        raise ConfigError(*problems)
    return [_opened(bundle, config, runtimes) for bundle in bundles]


def open_model(folder: Path, config: HailoInferenceConfig, runtimes: Runtimes) -> Model:
    """Load the bundle in *folder* and try it out. Raises ConfigError or DeviceError as `open_models` does."""
    model = _opened(read_bundle(folder, variants=runtimes.variants), config, runtimes)
    if model.bundle.outputs.decoder == "nanodet":
        model.try_out()
    return model


def _opened(bundle: Bundle, config: HailoInferenceConfig, runtimes: Runtimes) -> Model:
    try:
        backend = runtimes.load(bundle)
    except (ConfigError, DeviceError) as error:
        if not runtimes.may_step_in(bundle, error):
            raise
        bundle = read_bundle(bundle.folder)
        backend = runtimes.load(bundle)
    model = Model(bundle, backend, config.max_pixels)
    if bundle.outputs.decoder != "nanodet":  # the backend has compared that one's shapes with the manifest
        try:
            model.try_out()
        except ConfigError:
            model.backend.close()
            raise
    return model
