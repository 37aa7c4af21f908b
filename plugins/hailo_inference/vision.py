"""Looking at pictures without blocking the loop: whose turn it is, what is counted, and the interface `vision`."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import anyio
import anyio.to_thread
from prometheus_client import CollectorRegistry, Counter, Histogram

from sparkd import CallError, CallErrorKind, DeviceError, Inference, ModelInfo

if TYPE_CHECKING:  # brings numpy, which probing must not pay for
    from .pipeline import Model

MAX_WAITING = 32
"""So many calls may wait for a model; each holds its encoded picture in memory."""


class Meters:
    """What the service counts."""

    def __init__(self, registry: CollectorRegistry) -> None:
        """Register the metrics in *registry*."""
        self._pictures = Counter(
            "sparkd_inference_pictures", "Pictures taken in, by outcome", ["origin", "outcome"], registry=registry
        )
        self._detections = Counter(
            "sparkd_inference_detections", "Objects found", ["model", "label"], registry=registry
        )
        self._stages = Histogram(
            "sparkd_inference_stage_seconds",
            "Time of each stage of a picture",
            ["model", "stage"],
            registry=registry,
            buckets=(0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 5.0),
        )

    def looked(self, inference: Inference, *, origin: str) -> None:
        """Count a picture that was looked at."""
        self._pictures.labels(origin, "ok").inc()
        for stage, milliseconds in inference.stages_ms.items():
            self._stages.labels(inference.model, stage).observe(milliseconds / 1000)
        for detection in inference.detections:
            self._detections.labels(inference.model, detection.label).inc()

    def refused(self, *, origin: str, outcome: str) -> None:
        """Count a picture that was not."""
        self._pictures.labels(origin, outcome).inc()


class Engine:
    """A model and its queue. One picture at a time; the folder and the callers take turns."""

    def __init__(self, model: Model) -> None:
        """Queue for *model*."""
        self.model = model
        self._turn = anyio.CapacityLimiter(1)  # first come, first served
        # Callers queue here first, so that of many only one stands in line with the folder.
        self._callers = anyio.Lock()

    async def look(self, image: bytes, *, source: str, source_ns: int = 0) -> Inference:
        """Return what is in *image*. Raises ValueError if it is no picture, DeviceError if the runtime fails."""
        look = partial(self.model.look, image, source=source, source_ns=source_ns)
        return await anyio.to_thread.run_sync(look, limiter=self._turn)

    async def look_for_caller(self, image: bytes, *, source: str) -> Inference:
        """Do the same for a call. Raises CallError if too many wait."""
        waiting = self._callers.statistics().tasks_waiting
        if waiting >= MAX_WAITING:
            raise CallError(
                CallErrorKind.UNAVAILABLE, f"{waiting} calls wait for this model", remedy="call again in a second"
            )
        async with self._callers:
            return await self.look(image, source=source)


class VisionCalls:
    """Answers `vision`. A caller's picture and what is in it go back to the caller and nowhere else."""

    def __init__(self, engines: list[Engine], meters: Meters, *, max_bytes: int) -> None:
        """Answer with *engines*; the first is the one for callers who name none."""
        self._engines = {engine.model.bundle.name: engine for engine in engines}
        self._default = engines[0]
        self._meters = meters
        self._max_bytes = max_bytes

    async def infer(self, *, image: bytes, source: str = "", model: str | None = None) -> Inference:
        """Run a model on one encoded picture."""
        engine = self._default if model is None else self._engines.get(model)
        if engine is None:
            choices = ", ".join(self._engines)
            raise CallError(CallErrorKind.INVALID_PARAMS, f"unknown model {model!r}; choices: {choices}", field="model")
        if len(image) > self._max_bytes:
            raise self._refusal(f"the picture has {len(image)} bytes, more than max_bytes = {self._max_bytes}")
        try:
            inference = await engine.look_for_caller(image, source=source)
        except ValueError as error:
            raise self._refusal(str(error)) from error
        except DeviceError as error:
            raise CallError(CallErrorKind.UNAVAILABLE, str(error), remedy=error.remedy) from error
        self._meters.looked(inference, origin="call")
        return inference

    async def models(self) -> list[ModelInfo]:
        """List the models that are loaded."""
        return [engine.model.info for engine in self._engines.values()]

    def _refusal(self, reason: str) -> CallError:
        self._meters.refused(origin="call", outcome="bad")
        return CallError(CallErrorKind.INVALID_PARAMS, f"image: {reason}", field="image")
