"""Models on a Hailo: loading a HEF, and running it by the library's asynchronous API."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from sparkd import ConfigError, DeviceError

from .backend import Array
from .bundle import Bundle
from .device_config import HailoConfig
from .device_faults import BAD_MODEL, Versions, code_of, explain
from .device_guard import Guard
from .device_lost import DeviceLostError, abandoned

RELEASE_LIMIT_S = 2.0
GRACE_S = 1.0
"""What the guard grants beyond the library's own limits, so that the library's word comes first."""
RECORDS = {"HAILO_NMS_BY_SCORE", "HAILO_NMS_WITH_BYTE_MASK"}
"""Orders of outputs that are records in bytes; all others are asked for as floats."""


class Device(Protocol):
    """What a model needs of the open device."""

    config: HailoConfig
    sdk: Any
    vdevice: Any
    versions: Versions
    lost: DeviceLostError | None

    def check(self) -> None:
        """Raise DeviceLostError if the device is lost."""
        ...

    def lose(self, error: DeviceLostError, *kept: object) -> DeviceLostError:
        """Take it for lost because of *error*, and never free *kept*. Returns *error*."""
        ...


@dataclass(frozen=True)
class Loading:
    """A model on its way to the device."""

    device: Device
    bundle: Bundle
    inputs: Mapping[str, Sequence[int]]
    outputs: Mapping[str, Sequence[int]]
    guard: Guard

    def load(self, content: bytes) -> HailoModel:
        """Put the HEF with that *content* on the device. Raises ConfigError, DeviceError."""
        try:
            model = self.device.vdevice.create_infer_model(content)
            self._check(model)
            dtype = self._set_types(model)
            model.set_batch_size(self.device.config.batch)
            configured = model.configure()
            size = min(self.device.config.batch, int(configured.get_async_queue_size()))
        except ConfigError:
            raise
        except Exception as error:
            told = explain(error, doing=f"loading {self.bundle.model}", versions=self.device.versions)
            if code_of(error) in BAD_MODEL:
                path = self.bundle.folder / self.bundle.model
                raise ConfigError(f"{path}: {told}; {told.remedy}") from error
            raise told from error
        buffers = {name: _buffer_of(model.output(name), shape) for name, shape in self.outputs.items()}
        return HailoModel(self.device, self.bundle, model, configured, dtype, buffers, size, self.guard)

    def _set_types(self, model: Any) -> type[np.generic]:
        """Ask for floats from the outputs, and for bytes at the input where the manifest leaves pixels as they are."""
        kinds, spec = self.device.sdk.FormatType, self.bundle.input
        raw = not any(spec.mean) and all(value == 1 for value in spec.std)
        model.input(spec.name).set_format_type(kinds.UINT8 if raw else kinds.FLOAT32)
        for name in self.outputs:
            if not _is_records(model.output(name)):
                model.output(name).set_format_type(kinds.FLOAT32)
        return np.uint8 if raw else np.float32

    def _check(self, model: Any) -> None:
        problems = self._misfits(model)
        if problems:
            raise ConfigError(*problems)

    def _misfits(self, model: Any) -> list[str]:
        manifest, problems = self.bundle.manifest, []
        if list(model.input_names) != [self.bundle.input.name]:
            names = ", ".join(model.input_names)
            problems.append(f"{manifest}: [input]: {self.bundle.input.name!r} is not the HEF's input: {names}")
        for streams, expected, table in (
            (model.inputs, self.inputs, "input"),
            (model.outputs, self.outputs, "outputs"),
        ):
            actual = {stream.name: list(stream.shape) for stream in streams}
            records = {stream.name for stream in streams if _is_records(stream)}
            for name, shape in expected.items():
                if name not in actual:
                    problems.append(f"{manifest}: [{table}]: the HEF has no {name!r}, only {', '.join(actual)}")
                elif name not in records and not _alike(actual[name], list(shape), exactly=table == "input"):
                    problems.append(
                        f"{manifest}: [{table}]: {name!r} should have shape {list(shape)} by this manifest, but the "
                        f"HEF's has {actual[name]} (height, width, channels)"
                    )
        return problems


def _alike(actual: list[int], expected: list[int], *, exactly: bool) -> bool:
    """Whether an edge of a HEF fits a manifest's shape. Of outputs only the size: rows of cells are cells."""
    return expected[1:] == actual if exactly else int(np.prod(expected)) == int(np.prod(actual))


def _is_records(stream: Any) -> bool:
    order = stream.format.order
    return getattr(order, "name", str(order)).rpartition(".")[2] in RECORDS


def _buffer_of(stream: Any, shape: Sequence[int]) -> tuple[tuple[int, ...], type[np.generic]]:
    """Return shape and type of the buffer that takes an output; of records only the HEF knows how many bytes."""
    return ((1, int(np.prod(stream.shape))), np.uint8) if _is_records(stream) else (tuple(shape), np.float32)


@dataclass
class HailoModel:
    """A model on the device."""

    device: Device
    bundle: Bundle
    model: Any
    configured: Any
    dtype: type[np.generic]
    outputs: dict[str, tuple[tuple[int, ...], type[np.generic]]]
    """Shape and type of each."""
    max_batch: int
    guard: Guard
    name: str = "hailo"

    def infer(self, tensors: Sequence[Array]) -> list[Mapping[str, Array]]:
        """Return the raw outputs of each tensor. Raises DeviceLostError: after an error the pipeline is dead."""
        found: list[Mapping[str, Array]] = []
        for start in range(0, len(tensors), self.max_batch):
            found += self._batch(tensors[start : start + self.max_batch])
        return found

    def _batch(self, tensors: Sequence[Array]) -> list[Mapping[str, Array]]:
        self.device.check()
        configured = self.configured
        if configured is None:
            raise DeviceError(f"model {self.bundle.name} is closed")
        given = [self._prepared(tensor) for tensor in tensors]
        taken = [{name: np.empty(shape, kind) for name, (shape, kind) in self.outputs.items()} for _ in tensors]
        doing = f"running {self.bundle.name}"
        limit_s = 2 * self.device.config.timeout_s + GRACE_S
        try:
            self.guard.call(lambda: self._run(configured, given, taken), limit_s=limit_s, doing=doing)
        except Exception as error:  # the library's errors have no other base
            raise self.device.lose(_lost(error, doing), self, given, taken) from error
        return list(taken)

    def _prepared(self, tensor: Array) -> Array:
        if tensor.shape[1:] != (self.bundle.input.height, self.bundle.input.width, 3):
            raise DeviceError(f"Hailo: {self.bundle.name} takes no tensor of shape {tensor.shape}")
        frame = tensor[0]
        # Where bytes are wanted the manifest leaves pixels as they are: each float is a whole number from 0 to 255.
        return np.ascontiguousarray(frame, dtype=self.dtype)

    def _run(self, configured: Any, given: list[Array], taken: list[dict[str, Array]]) -> None:
        milliseconds = int(self.device.config.timeout_s * 1000)
        bindings = [
            configured.create_bindings(input_buffers={self.bundle.input.name: one}, output_buffers=outputs)
            for one, outputs in zip(given, taken, strict=True)
        ]
        outcome: list[BaseException | None] = []
        configured.wait_for_async_ready(timeout_ms=milliseconds, frames_count=len(bindings))
        job = configured.run_async(bindings, _noting(outcome))
        job.wait(milliseconds)
        if not outcome:
            raise DeviceError("the job ended and nobody was told how")
        if outcome[0] is not None:
            raise outcome[0]

    def close(self) -> None:
        """Take it off the device."""
        configured, self.configured = self.configured, None
        if configured is None or self.device.lost is not None:
            abandoned.append(configured)
            return
        try:
            self.guard.call(configured.shutdown, limit_s=RELEASE_LIMIT_S, doing="unloading a model")
        except Exception:  # noqa: BLE001 - it is not used any more, and the process's end gives it back too
            abandoned.append(configured)
        self.model = None  # as long as it is there, so is the VDevice
        self.guard.end()


def _lost(error: Exception, doing: str) -> DeviceLostError:
    told = explain(error, doing=doing, lost=True)
    return told if isinstance(told, DeviceLostError) else DeviceLostError(str(told), remedy=told.remedy)


def _noting(outcome: list[BaseException | None]) -> Callable[..., None]:
    """Return a callback that cannot raise: the library would never end the job, nor free its buffers."""

    def ended(*_: object, **told: Any) -> None:
        try:
            outcome.append(told["completion_info"].exception)
        except Exception as error:  # noqa: BLE001 - see above
            outcome.append(error)

    return ended
