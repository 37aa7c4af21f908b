"""The interface `vision`, and what is counted."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Histogram

from sparkd import Array, CallError, CallErrorKind, DeviceError, Inference, ModelInfo, SourceInfo

from .device_lost import DeviceLostError
from .roster import Roster


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


class VisionCalls:
    """Answers `vision`. A caller's picture and what is in it go back to the caller and nowhere else."""

    def __init__(
        self, roster: Roster, meters: Meters, *, max_bytes: int, sources: Callable[[], list[SourceInfo]] = list
    ) -> None:
        """Answer with the models of *roster*; *sources* says what is watched."""
        self._roster = roster
        self._meters = meters
        self._max_bytes = max_bytes
        self._sources = sources

    async def infer(
        self, *, image: bytes = b"", picture: Array | None = None, source: str = "", model: str | None = None
    ) -> Inference:
        """Run a model on one picture."""
        if picture is not None and image:
            raise self._refusal("image", "either image or picture expected, got both")
        if len(image) > self._max_bytes:
            raise self._refusal("image", f"the picture has {len(image)} bytes, more than max_bytes = {self._max_bytes}")
        try:
            with self._roster.held(model) as engine:
                inference = await engine.look_for_caller(image if picture is None else picture, source=source)
        except ValueError as error:
            raise self._refusal("image" if picture is None else "picture", str(error)) from error
        except DeviceLostError as error:
            again = "call again in a few seconds: the service's process is being replaced"
            raise CallError(CallErrorKind.UNAVAILABLE, str(error), remedy=again) from error
        except DeviceError as error:
            raise CallError(CallErrorKind.UNAVAILABLE, str(error), remedy=error.remedy) from error
        self._meters.looked(inference, origin="call")
        return inference

    async def models(self) -> list[ModelInfo]:
        """List the models that are loaded."""
        return self._roster.infos()

    async def sources(self) -> list[SourceInfo]:
        """List what is watched, and how it is."""
        return self._sources()

    async def load(self, *, folder: str) -> ModelInfo:
        """Load a bundle beside the others."""
        return await self._roster.load(folder)

    async def unload(self, *, name: str) -> None:
        """Let go of a model."""
        await self._roster.unload(name)

    async def switch(self, *, folder: str, model: str | None = None) -> ModelInfo:
        """Put a bundle in the place of a model."""
        return await self._roster.switch(folder, model)

    def _refusal(self, parameter: str, reason: str) -> CallError:
        self._meters.refused(origin="call", outcome="bad")
        return CallError(CallErrorKind.INVALID_PARAMS, f"{parameter}: {reason}", field=parameter)
