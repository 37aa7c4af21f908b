"""What runs a model: the one file that knows a runtime's SDK.

A backend takes the tensor of one picture and returns the model's raw outputs by name. Backends stand in the table
`BACKENDS`; `auto` takes the first of `PREFERENCE`. A backend that cannot be had is a DeviceError with a remedy; a model
file that it cannot load is a ConfigError that names the file.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from sparkd import ConfigError, DeviceError

from .bundle import Bundle

Floats = NDArray[np.float32]


class Backend(Protocol):
    """A model, loaded and ready. Used from one thread at a time, never from the event loop."""

    name: str

    def infer(self, tensor: Floats) -> Mapping[str, Floats]:
        """Return the raw outputs for a batch of one. Raises DeviceError if the runtime fails."""
        ...

    def close(self) -> None:
        """Let go of the model's memory. Nothing may be inferred afterwards."""
        ...


def open_backend(choice: str, bundle: Bundle, *, threads: int) -> Backend:
    """Load *bundle* on the backend called *choice*, or on the best there is for `auto`.

    Raises ConfigError if the bundle and its model file do not fit together, DeviceError if there is no such backend.
    """
    name = PREFERENCE[0] if choice == "auto" else choice
    return BACKENDS[name](bundle, threads)


class OnnxRuntime:
    """A model on the CPU, by ONNX Runtime."""

    name = "onnxruntime"

    def __init__(self, session: Any, bundle: Bundle) -> None:
        """Take an open *session* of the bundle's model."""
        self._session = session
        self._bundle = bundle
        self._outputs = [output.name for output in session.get_outputs()]

    def infer(self, tensor: Floats) -> Mapping[str, Floats]:
        """Return the raw outputs for a batch of one."""
        if self._session is None:
            raise DeviceError(f"model {self._bundle.name} is closed")
        try:
            values = self._session.run(self._outputs, {self._bundle.input.name: tensor})
        except Exception as error:  # the runtime's errors have no other base
            raise DeviceError(f"onnxruntime failed on model {self._bundle.name}: {error}") from error
        return dict(zip(self._outputs, values, strict=True))

    def close(self) -> None:
        """Let go of the session."""
        self._session = None


def _open_onnxruntime(bundle: Bundle, threads: int) -> Backend:
    try:
        import onnxruntime  # noqa: PLC0415 - probing a plugin must not cost a runtime; 60 ms and 40 MB
    except ImportError as error:
        raise DeviceError(
            f"onnxruntime cannot be imported: {error}", remedy="pip install 'sparkd[inference]'"
        ) from error
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.enable_cpu_mem_arena = False  # an arena keeps the largest picture's memory for ever
    # Worker threads may spin while a picture is being worked on, but not while waiting for the next: that took 40 ms
    # of CPU a picture and no time off it.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    options.log_severity_level = 3  # errors: the rest is about what it did not optimise
    model = bundle.model_bytes()
    try:
        session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # the runtime's errors have no other base
        raise ConfigError(f"{bundle.folder / bundle.model}: onnxruntime cannot load it: {error}") from error
    problems = _misfits(session, bundle)
    if problems:
        raise ConfigError(*problems)
    return OnnxRuntime(session, bundle)


def _open_hailo(_bundle: Bundle, _threads: int) -> Backend:
    # The place of the Hailo-8/8L backend: open the VDevice here, and put "hailo" first in PREFERENCE when it is there.
    raise DeviceError(
        "the hailo backend is not part of this version of sparkd",
        remedy="set backend = 'auto' or 'onnxruntime' in [plugins.hailo-inference]",
    )


BACKENDS: dict[str, Callable[[Bundle, int], Backend]] = {"onnxruntime": _open_onnxruntime, "hailo": _open_hailo}
PREFERENCE = ("onnxruntime",)


def expected_shapes(bundle: Bundle) -> tuple[dict[str, list[int]], dict[str, list[int]]]:
    """Return the shapes of the inputs and outputs that *bundle*'s manifest implies, by name."""
    spec, heads = bundle.input, bundle.outputs
    planes = [3, spec.height, spec.width] if spec.layout == "NCHW" else [spec.height, spec.width, 3]
    outputs = {}
    for stride in heads.strides:
        cells = -(-spec.width // stride) * -(-spec.height // stride)
        scores, boxes = heads.names(stride)
        outputs[scores] = [1, cells, len(bundle.labels)]
        outputs[boxes] = [1, cells, 4 * heads.bins]
    return {spec.name: [1, *planes]}, outputs


def _misfits(session: Any, bundle: Bundle) -> list[str]:
    actual_inputs = {node.name: node.shape for node in session.get_inputs()}
    actual_outputs = {node.name: node.shape for node in session.get_outputs()}
    inputs, outputs = expected_shapes(bundle)
    problems = [] if len(actual_inputs) == 1 else [f"{bundle.manifest}: [input]: the model has {len(actual_inputs)}"]
    for table, expected, actual in (("input", inputs, actual_inputs), ("outputs", outputs, actual_outputs)):
        for name, shape in expected.items():
            if name not in actual:
                problems.append(f"{bundle.manifest}: [{table}]: the model has no {name!r}, only {', '.join(actual)}")
            elif actual[name] != shape:
                problems.append(
                    f"{bundle.manifest}: [{table}]: {name!r} should have shape {shape} by this manifest and its "
                    f"labels, but the model's has {actual[name]}"
                )
    return problems
