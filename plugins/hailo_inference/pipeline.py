"""One model, ready to look at pictures: decode, preprocess, infer, postprocess, each stage timed."""

from __future__ import annotations

import time
from dataclasses import dataclass

from sparkd import ConfigError, Detection, Inference, ModelInfo

from .bundle import Bundle, read_bundle
from .config import HailoInferenceConfig
from .device import Backend, open_backend
from .picture import open_picture
from .postprocess import detect
from .preprocess import place, to_source, to_tensor

STAGES = ("decode", "preprocess", "infer", "postprocess")


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

    def look(self, image: bytes, *, source: str, source_ns: int = 0) -> Inference:
        """Return what is in *image*.

        Raises ValueError if it is no picture or too large a one, DeviceError if the runtime fails.
        """
        bundle = self.bundle
        marks = [time.perf_counter_ns()]
        picture = open_picture(image, max_pixels=self.max_pixels)
        placement = place(picture.width, picture.height, bundle.input)
        pixels = picture.pixels(placement.width, placement.height)
        marks.append(time.perf_counter_ns())
        tensor = to_tensor(pixels, placement, bundle.input)
        marks.append(time.perf_counter_ns())
        outputs = self.backend.infer(tensor)
        marks.append(time.perf_counter_ns())
        found = detect(outputs, bundle)
        boxes = to_source(found.boxes, placement).tolist()
        detections = [
            Detection(label=bundle.labels[number], score=score, box=tuple(box))
            for number, score, box in zip(found.classes.tolist(), found.scores.tolist(), boxes, strict=True)
        ]
        marks.append(time.perf_counter_ns())
        spans = zip(STAGES, marks, marks[1:], strict=False)
        return Inference(
            model=bundle.name,
            model_version=bundle.version,
            task=bundle.task,
            source=source,
            width=picture.width,
            height=picture.height,
            backend=self.backend.name,
            detections=detections,
            stages_ms={stage: (end - start) / 1e6 for stage, start, end in spans},
            source_ns=source_ns,
        )


def open_models(config: HailoInferenceConfig) -> list[Model]:
    """Load every bundle of *config*.

    Raises ConfigError with the problems of all of them, DeviceError if the backend cannot be had.
    """
    bundles: list[Bundle] = []
    problems: list[str] = []
    for folder in config.bundle_folders:
        try:
            bundles.append(read_bundle(folder))
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
    return [
        Model(bundle, open_backend(config.backend, bundle, threads=config.threads), config.max_pixels)
        for bundle in bundles
    ]
