"""What models can run on here: the CPU by ONNX Runtime, and a Hailo if there is one.

A backend (`backend.py`) takes tensors and returns the model's raw outputs by name. `open_runtimes` looks what this
machine has, once for all models of a process. A backend that cannot be had is a DeviceError with a remedy; a model file
that it cannot load is a ConfigError that names the file. This is the one file that knows ONNX Runtime.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sparkd import ConfigError, DeviceError

from .backend import Array, Backend, DeviceLostError
from .bundle import MANIFEST, Bundle, manifest_name
from .config import HailoInferenceConfig
from .device_hailo import HailoDevice, is_there

HEF = ".hef"
NO_HEF = "compile the model for it: a bundle with manifest.hailo8l.toml and a HEF, see README"


@dataclass
class Runtimes:
    """What this process runs models on."""

    choice: str = "auto"
    threads: int = 2
    hailo: HailoDevice | None = None
    unused: DeviceError | None = None
    """Why the Hailo that is there is not used, if so."""
    on_cpu: dict[str, Exception] = field(default_factory=dict)
    """Why models that could run on the Hailo do not, by name."""

    def may_step_in(self, bundle: Bundle, error: Exception) -> bool:
        """Whether the CPU may run *bundle* because the Hailo refused it: `auto`, and there is a model for the CPU."""
        if self.choice != "auto" or not bundle.model.endswith(HEF) or isinstance(error, DeviceLostError):
            return False
        self.on_cpu[bundle.name] = error
        return (bundle.folder / MANIFEST).exists()

    @property
    def variants(self) -> tuple[str, ...]:
        """The kinds of models to prefer in a bundle, best first; see `read_bundle`."""
        return self.hailo.variants if self.hailo is not None else ()

    def load(self, bundle: Bundle) -> Backend:
        """Load *bundle* on what its model file is for.

        Raises ConfigError if the bundle and its model file do not fit together, DeviceError if it cannot be run here.
        """
        if bundle.model.endswith(HEF):
            if self.hailo is None:
                raise self.unused or DeviceError(
                    f"model {bundle.name} is for a Hailo, and there is none here",
                    remedy="sparkctl doctor --hailo; or give the bundle a manifest.toml with an ONNX model",
                )
            return self.hailo.load(bundle, *expected_shapes(bundle))
        if self.choice == "hailo":
            raise ConfigError(f"{bundle.folder}: no model for this Hailo, and backend = 'hailo': {NO_HEF}")
        return _open_onnxruntime(bundle, self.threads)

    def close(self) -> None:
        """Give the device back, once its models are closed."""
        if self.hailo is not None:
            self.hailo.close()


def open_runtimes(config: HailoInferenceConfig, *, root: Path = Path("/")) -> Runtimes:
    """Open what *config* asks for; `auto` takes the device if there is one and a bundle has a model for it.

    Raises DeviceError if a Hailo is asked for and cannot be had. With `auto`, why it cannot is in `unused`.
    """
    runtimes = Runtimes(config.backend, config.threads)
    if config.backend == "onnxruntime" or (config.backend == "auto" and not is_there(root)):
        return runtimes
    if config.backend == "auto" and not any(has_hef(folder) for folder in config.bundle_folders):
        runtimes.unused = DeviceError("a Hailo is there, and no bundle has a model for it", remedy=NO_HEF)
        return runtimes
    try:
        runtimes.hailo = HailoDevice.open(config.hailo, root=root)
    except DeviceError as error:
        if config.backend == "hailo":
            raise
        runtimes.unused = error
    return runtimes


def has_hef(folder: Path) -> bool:
    """Whether the bundle in *folder* has a model for a Hailo."""
    return any((folder / manifest_name(one)).exists() for one in ("hailo8", "hailo8l")) or any(folder.glob("*" + HEF))


class OnnxRuntime:
    """A model on the CPU, by ONNX Runtime."""

    name = "onnxruntime"

    def __init__(self, session: Any, bundle: Bundle) -> None:
        """Take an open *session* of the bundle's model."""
        self._session = session
        self._bundle = bundle
        self._outputs = [output.name for output in session.get_outputs()]

    @property
    def max_batch(self) -> int:
        """One: a manifest's shapes have a leading 1, and a CPU gains nothing by more."""
        return 1

    def infer(self, tensors: Sequence[Array]) -> list[Mapping[str, Array]]:
        """Return the raw outputs of each tensor."""
        if self._session is None:
            raise DeviceError(f"model {self._bundle.name} is closed")
        try:
            return [self._run(tensor) for tensor in tensors]
        except Exception as error:  # the runtime's errors have no other base
            raise DeviceError(f"onnxruntime failed on model {self._bundle.name}: {error}") from error

    def _run(self, tensor: Array) -> Mapping[str, Array]:
        values = self._session.run(self._outputs, {self._bundle.input.name: tensor})
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


def expected_shapes(bundle: Bundle) -> tuple[dict[str, list[int]], dict[str, list[int]]]:
    """Return the shapes of the inputs and outputs that *bundle*'s manifest implies, by name.

    Of a list of boxes by score only the model knows how long it is: its shape is empty. Of all outputs but a detector's
    raw heads only the size counts.
    """
    spec, heads = bundle.input, bundle.outputs
    planes = [3, spec.height, spec.width] if spec.layout == "NCHW" else [spec.height, spec.width, 3]
    outputs = {heads.output: _shape_of_one(bundle)} if heads.output else {}
    for stride in heads.strides:
        cells = -(-spec.width // stride) * -(-spec.height // stride)
        scores, boxes = heads.names(stride)
        outputs[scores] = [1, cells, len(bundle.labels)]
        outputs[boxes] = [1, cells, 4 * heads.bins]
    return {spec.name: [1, *planes]}, outputs


def _shape_of_one(bundle: Bundle) -> list[int]:
    heads = bundle.outputs
    match heads.decoder:
        case "nms-by-class":  # for each class a count, and room for so many boxes of five numbers
            return [1, len(bundle.labels) * (1 + 5 * heads.max_boxes)]
        case "nms-by-score":
            return []
        case "vector":
            return [1, heads.length]
    return [1, len(bundle.labels)]


def _fits(actual: list[Any], expected: list[int], *, exactly: bool) -> bool:
    if exactly or not expected:
        return actual == expected or not expected
    sizes = [size for size in actual if isinstance(size, int)]  # a text stands for a size that varies
    return len(sizes) < len(actual) or math.prod(sizes) == math.prod(expected)


def _misfits(session: Any, bundle: Bundle) -> list[str]:
    actual_inputs = {node.name: node.shape for node in session.get_inputs()}
    actual_outputs = {node.name: node.shape for node in session.get_outputs()}
    inputs, outputs = expected_shapes(bundle)
    problems = [] if len(actual_inputs) == 1 else [f"{bundle.manifest}: [input]: the model has {len(actual_inputs)}"]
    for table, expected, actual in (("input", inputs, actual_inputs), ("outputs", outputs, actual_outputs)):
        for name, shape in expected.items():
            if name not in actual:
                problems.append(f"{bundle.manifest}: [{table}]: the model has no {name!r}, only {', '.join(actual)}")
            elif not _fits(actual[name], shape, exactly=table == "input" or not bundle.outputs.output):
                problems.append(
                    f"{bundle.manifest}: [{table}]: {name!r} should have shape {shape} by this manifest and its "
                    f"labels, but the model's has {actual[name]}"
                )
    return problems
