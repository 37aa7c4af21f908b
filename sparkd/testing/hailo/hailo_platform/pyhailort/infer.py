"""The asynchronous InferModel API: models, bindings, jobs, and the one thread that computes and calls back."""

from __future__ import annotations

import threading  # noqa: TID251 - the real library calls back from a thread of its own
import time
from collections.abc import Callable, Mapping, Sequence
from types import SimpleNamespace
from typing import Any, Self

import numpy as np

from .. import bench  # noqa: TID252 - the package is found under a name that is not ours
from ._pyhailort import FormatOrder, FormatType, HailoRTStatusException
from .chip import Chip
from .engine import SCALE, Array, Edge, Network
from .faults import HailoRTException, exception_of, wrapped

INVALID_ARGUMENT, TIMEOUT, INVALID_OPERATION, NOT_FOUND, STREAM_ABORT = 2, 4, 6, 61, 63
NOT_ACTIVATED, NOT_COMPATIBLE = 69, 93
_DTYPE = {FormatType.UINT8: np.uint8, FormatType.UINT16: np.uint16, FormatType.FLOAT32: np.float32}


def pick(streams: Mapping[str, Any], name: str) -> Any:
    """Return the stream called *name*, or the only one."""
    if not name and len(streams) == 1:
        return next(iter(streams.values()))
    if name not in streams:
        raise HailoRTStatusException(NOT_FOUND)
    return streams[name]


class AsyncInferCompletionInfo:
    """What a callback is told."""

    def __init__(self, exception: HailoRTException | None) -> None:
        self._exception = exception

    @property
    def exception(self) -> HailoRTException | None:
        """None, or why the job failed."""
        return self._exception


class AsyncInferJob:
    """A job under way."""

    def __init__(self, job: threading.Event) -> None:
        self._job = job

    def wait(self, timeout_ms: int) -> None:
        """Wait for the job and its callback. One whose callback raised is never done."""
        with wrapped():
            if not self._job.wait(timeout_ms / 1000):
                raise HailoRTStatusException(TIMEOUT)


def native_type(edge: Edge) -> FormatType:
    """Return the type of an output that nobody asked another of."""
    return FormatType.FLOAT32 if edge.order is FormatOrder.HAILO_NMS_BY_CLASS else FormatType.UINT8


class InferModel:
    """A model before it is configured."""

    class InferStream:
        """An input or output, and the format asked for."""

        def __init__(self, infer_stream: Edge, *, native: FormatType) -> None:
            self._edge = infer_stream
            self._type, self._order = native, infer_stream.order

        @property
        def name(self) -> str:
            """Its name."""
            return self._edge.name

        @property
        def shape(self) -> list[int]:
            """Its shape; one number for the NMS layouts."""
            return list(self._edge.shape)

        @property
        def format(self) -> SimpleNamespace:
            """Type and order."""
            return SimpleNamespace(type=self._type, order=self._order, flags=0)

        @property
        def quant_infos(self) -> list[SimpleNamespace]:
            """How eight bits become numbers."""
            return [SimpleNamespace(qp_zp=0.0, qp_scale=SCALE, limvals_min=0.0, limvals_max=255 * SCALE)]

        @property
        def is_nms(self) -> bool:
            """Whether boxes come out."""
            return self._edge.nms is not None

        def set_format_type(self, type: FormatType) -> None:  # noqa: A002 - the real name
            """Ask for a type."""
            bench.note("set_format_type", (self.name, FormatType(type)))
            self._type = FormatType(type)

        def set_format_order(self, order: FormatOrder) -> None:
            """Ask for an order."""
            self._order = FormatOrder(order)

        def set_nms_score_threshold(self, threshold: float) -> None:
            """Wrong use fails at configure only."""
            bench.note("set_nms_score_threshold", threshold)

        def set_nms_iou_threshold(self, threshold: float) -> None:
            """Wrong use fails at configure only."""
            bench.note("set_nms_iou_threshold", threshold)

        def set_nms_max_proposals_per_class(self, max_proposals: int) -> None:
            """Wrong use fails at configure only."""
            bench.note("set_nms_max_proposals_per_class", max_proposals)

        def set_nms_max_accumulated_mask_size(self, max_accumulated_mask_size: int) -> None:
            """Wrong use fails at configure only."""
            bench.note("set_nms_max_accumulated_mask_size", max_accumulated_mask_size)

    def __init__(self, infer_model: Network, hef_path: Any, *, vdevice: Any = None, hef: Any = None) -> None:
        self._network, self._vdevice, self._hef_source, self._hef = infer_model, vdevice, hef_path, hef
        self._inputs = {e.name: self.InferStream(e, native=FormatType.UINT8) for e in infer_model.inputs}
        self._outputs = {e.name: self.InferStream(e, native=native_type(e)) for e in infer_model.outputs}

    @property
    def hef(self) -> Any:
        """The HEF it was made from."""
        return self._hef(self._hef_source)

    @property
    def input_names(self) -> list[str]:
        """Names of the inputs."""
        return list(self._inputs)

    @property
    def output_names(self) -> list[str]:
        """Names of the outputs."""
        return list(self._outputs)

    @property
    def inputs(self) -> list[InferModel.InferStream]:
        """The inputs."""
        return list(self._inputs.values())

    @property
    def outputs(self) -> list[InferModel.InferStream]:
        """The outputs."""
        return list(self._outputs.values())

    def input(self, name: str = "") -> InferModel.InferStream:
        """One input."""
        with wrapped():
            stream: InferModel.InferStream = pick(self._inputs, name)
            return stream

    def output(self, name: str = "") -> InferModel.InferStream:
        """One output."""
        with wrapped():
            stream: InferModel.InferStream = pick(self._outputs, name)
            return stream

    def set_batch_size(self, batch_size: int) -> None:
        """Say how many frames go in one burst."""
        bench.note("set_batch_size", batch_size)

    def set_power_mode(self, power_mode: int) -> None:
        """PERFORMANCE 0 or ULTRA_PERFORMANCE 1."""
        bench.note("set_power_mode", power_mode)

    def configure(self) -> ConfiguredInferModel:
        """Put the model on the device."""
        with wrapped():
            bench.enter("configure", self._network.name)
            if self._network.architecture == "HAILO8" and bench.board()["architecture"] == "HAILO8L":
                raise HailoRTStatusException(NOT_COMPATIBLE)
            if any(s.format.order is FormatOrder.HAILO_NMS_BY_SCORE and s.format.type != 1 for s in self.outputs):
                raise HailoRTStatusException(INVALID_ARGUMENT)
            return ConfiguredInferModel(self._vdevice.take(self), self)


class ConfiguredInferModel:
    """A model on the device."""

    class Bindings:
        """The buffers of one frame."""

        class InferStream:
            """The buffer of one input or output."""

            def __init__(self, infer_stream: InferModel.InferStream) -> None:
                self._stream = infer_stream
                self._buffer: Any = None

            def set_buffer(self, buffer: Array) -> None:
                """Take a contiguous array of the right type and size."""
                with wrapped():
                    wanted = _DTYPE[self._stream.format.type]
                    size = int(np.prod(self._stream.shape))
                    if buffer.dtype != wanted or buffer.size != size or not buffer.flags.c_contiguous:
                        raise HailoRTStatusException(INVALID_ARGUMENT)
                self._buffer = buffer

            def get_buffer(self, tf_format: bool | None = False) -> Array:  # noqa: FBT001, FBT002 - the real one
                """Return the buffer; of NMS outputs only the raw one (None): this stand-in has none of their views."""
                if self._stream.is_nms and tf_format is not None:
                    raise NotImplementedError("the stand-in gives NMS outputs raw only: get_buffer(None)")
                buffer: Array = self._buffer
                return buffer

        def __init__(self, bindings: InferModel) -> None:
            self._inputs = {n: self.InferStream(bindings.input(n)) for n in bindings.input_names}
            self._outputs = {n: self.InferStream(bindings.output(n)) for n in bindings.output_names}

        def input(self, name: str = "") -> ConfiguredInferModel.Bindings.InferStream:
            """One input."""
            with wrapped():
                stream: ConfiguredInferModel.Bindings.InferStream = pick(self._inputs, name)
                return stream

        def output(self, name: str = "") -> ConfiguredInferModel.Bindings.InferStream:
            """One output."""
            with wrapped():
                stream: ConfiguredInferModel.Bindings.InferStream = pick(self._outputs, name)
                return stream

    def __init__(self, configured_infer_model: Chip, infer_model: InferModel) -> None:
        self._chip, self._model = configured_infer_model, infer_model
        self._aborted = self._active = False
        self._queued = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *args: object) -> None:
        self._chip.forget(self)

    def create_bindings(
        self, input_buffers: Mapping[str, Array] | None = None, output_buffers: Mapping[str, Array] | None = None
    ) -> ConfiguredInferModel.Bindings:
        """Make the bindings of a frame."""
        bindings = self.Bindings(self._model)
        for name, buffer in (input_buffers or {}).items():
            bindings.input(name).set_buffer(buffer)
        for name, buffer in (output_buffers or {}).items():
            bindings.output(name).set_buffer(buffer)
        return bindings

    def activate(self) -> None:
        """Only without a scheduler, and only one model at a time."""
        with wrapped():
            self._chip.activate(self)

    def deactivate(self) -> None:
        """Only without a scheduler."""
        with wrapped():
            self._chip.forget(self)

    def wait_for_async_ready(self, timeout_ms: int = 1000, frames_count: int = 1) -> None:
        """Wait for room in the queue; more frames than it holds can only time out."""
        with wrapped():
            bench.enter("ready", frames_count)
            deadline = time.monotonic() + timeout_ms / 1000
            while self._queued + frames_count > bench.board()["queue"]:
                if time.monotonic() > deadline:
                    raise HailoRTStatusException(TIMEOUT)
                time.sleep(0.001)  # noqa: TID251 - a thread of the library's user
            self._must_live()

    def run(self, bindings: Sequence[ConfiguredInferModel.Bindings], timeout: int) -> None:
        """Do it and wait."""
        self.run_async(bindings).wait(timeout)

    def run_async(
        self, bindings: Sequence[ConfiguredInferModel.Bindings], callback: Callable[..., Any] | None = None
    ) -> AsyncInferJob:
        """Begin a job."""
        with wrapped():
            bench.enter("run_async", len(bindings))
            self._must_live()
            if not self._chip.scheduled and not self._active:
                raise HailoRTStatusException(NOT_ACTIVATED)
            done = threading.Event()
            self._queued += len(bindings)
            self._chip.begin(lambda: self._work(bindings, callback, done))
            return AsyncInferJob(done)

    def _must_live(self) -> None:
        if self._aborted:
            raise HailoRTStatusException(STREAM_ABORT)

    def _work(self, bindings: Any, callback: Callable[..., Any] | None, done: threading.Event) -> None:
        time.sleep(bench.board()["infer_s"])  # noqa: TID251 - the chip's time, in the library's own thread
        while "complete" in bench.board()["hangs"]:
            time.sleep(0.005)  # noqa: TID251 - likewise
        code = bench.failure("complete")
        self._aborted = self._aborted or bool(code)
        if not code:
            for frame in bindings:
                self._compute(frame)
        self._queued -= len(bindings)
        if callback is not None:
            callback(completion_info=AsyncInferCompletionInfo(exception_of(code) if code else None))
        done.set()  # not reached if the callback raised: the job is never done

    def _compute(self, frame: ConfiguredInferModel.Bindings) -> None:
        network = self._model._network  # noqa: SLF001 - one file
        given = {e.name: frame.input(e.name).get_buffer(None).reshape(e.shape) for e in network.inputs}
        kinds = {stream.name: stream.format.type for stream in self._model.outputs}
        for name, values in network.compute(given, kinds).items():
            buffer = frame.output(name).get_buffer(None)
            buffer[...] = values.reshape(buffer.shape)

    def set_scheduler_timeout(self, timeout_ms: int) -> None:
        """Only with a scheduler."""
        self._scheduled("set_scheduler_timeout", timeout_ms)

    def set_scheduler_threshold(self, threshold: int) -> None:
        """Only with a scheduler."""
        self._scheduled("set_scheduler_threshold", threshold)

    def set_scheduler_priority(self, priority: int) -> None:
        """Only with a scheduler; 0 to 31."""
        self._scheduled("set_scheduler_priority", priority)

    def _scheduled(self, what: str, value: int) -> None:
        with wrapped():
            bench.note(what, value)
            if not self._chip.scheduled:
                raise HailoRTStatusException(INVALID_OPERATION)

    def get_async_queue_size(self) -> int:
        """How many frames may wait."""
        size: int = bench.board()["queue"]
        return size

    def shutdown(self) -> None:
        """End it; not usable afterwards."""
        self._aborted = True
