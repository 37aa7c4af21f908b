"""What computes in the place of the chip: models from files made by `sparkd.testing.hailo.make_hef`."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from ._pyhailort import FormatOrder, FormatType, HailoRTStatusException

Array = NDArray[Any]
MAGIC = b"SPARKD-FAKE-HEF\n"
INVALID_HEF = 26
RECORD = np.dtype([("box", "<f4", 4), ("score", "<f4"), ("number", "<u2")])
"""A box by score, without padding."""
SCALE = 1 / 32
"""Of the outputs as the chip gives them: eight bits, which the library turns into floats only if it is asked to."""


@dataclass(frozen=True, slots=True)
class Edge:
    """An input or an output of a network."""

    name: str
    shape: tuple[int, ...]
    order: FormatOrder
    nms: tuple[int, int] | None = None
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    nchw: bool = False

    @classmethod
    def read(cls, values: Mapping[str, Any]) -> Edge:
        """Return the edge that a header describes."""
        nms = tuple(values["nms"]) if values.get("nms") else None
        if nms is not None and values.get("by_score"):
            return cls(
                values["name"], (2 + nms[1] * RECORD.itemsize,), FormatOrder.HAILO_NMS_BY_SCORE, (nms[0], nms[1])
            )
        if nms is not None:
            size = nms[0] * (1 + 5 * nms[1])
            return cls(values["name"], (size,), FormatOrder.HAILO_NMS_BY_CLASS, (nms[0], nms[1]))
        shape = tuple(values["shape"])
        order = FormatOrder.NHWC if len(shape) == 3 else FormatOrder.NC  # noqa: PLR2004 - height, width, channels
        texture = tuple(values.get("mean", ())), tuple(values.get("std", ()))
        return cls(values["name"], shape, order, None, *texture, nchw=bool(values.get("nchw")))


@dataclass(frozen=True, slots=True)
class Network:
    """A network, ready to compute on one frame."""

    name: str
    architecture: str
    inputs: tuple[Edge, ...]
    outputs: tuple[Edge, ...]
    run: Callable[[Mapping[str, Array]], Mapping[str, Array]]

    @classmethod
    def read(cls, content: bytes) -> Network:
        """Return the network of a file. Raises the raw exception if it is no HEF."""
        if not content.startswith(MAGIC):
            raise HailoRTStatusException(INVALID_HEF)
        line, _, weights = content[len(MAGIC) :].partition(b"\n")
        header = json.loads(line)
        inputs = tuple(map(Edge.read, header["inputs"]))
        outputs = tuple(map(Edge.read, header["outputs"]))
        run = _onnx(weights, inputs) if header["function"] == "onnx" else FUNCTIONS[header["function"]](outputs)
        return cls(header["name"], header["architecture"], inputs, outputs, run)

    def compute(self, frame: Mapping[str, Array], kinds: Mapping[str, FormatType]) -> dict[str, Array]:
        """Return the outputs of one frame in the types of *kinds*; AUTO is what the chip gives, eight bits."""
        found = self.run(frame)
        given = {}
        for edge in self.outputs:
            values = np.asarray(found[edge.name]).reshape(edge.shape)
            if edge.order is FormatOrder.HAILO_NMS_BY_SCORE:
                given[edge.name] = values
                continue
            values = values.astype(np.float32)
            if kinds[edge.name] is not FormatType.FLOAT32 and edge.nms is None:
                values = np.clip(np.rint(values / SCALE), 0, 255).astype(np.uint8)
            given[edge.name] = values
        return given


def _onnx(weights: bytes, inputs: tuple[Edge, ...]) -> Callable[[Mapping[str, Array]], Mapping[str, Array]]:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(weights, options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]

    def run(frame: Mapping[str, Array]) -> Mapping[str, Array]:
        feed = {}
        for edge in inputs:
            tensor: Array = frame[edge.name].astype(np.float32)
            if edge.mean:
                tensor = (tensor - np.array(edge.mean, np.float32)) / np.array(edge.std, np.float32)
            tensor = tensor.astype(np.float32)
            feed[edge.name] = (tensor.transpose(2, 0, 1) if edge.nchw else tensor)[None]
        return dict(zip(names, session.run(names, feed), strict=True))

    return run


def _mean(outputs: tuple[Edge, ...]) -> Callable[[Mapping[str, Array]], Mapping[str, Array]]:
    """Every output is filled with the mean of all inputs."""

    def run(frame: Mapping[str, Array]) -> Mapping[str, Array]:
        mean = np.mean([np.mean(tensor, dtype=np.float64) for tensor in frame.values()])
        return {edge.name: np.full(edge.shape, mean, np.float32) for edge in outputs}

    return run


def _bright(outputs: tuple[Edge, ...]) -> Callable[[Mapping[str, Array]], Mapping[str, Array]]:
    """One box of class 0 around all pixels brighter than half, in either layout of NMS; none if there are none."""
    (edge,) = outputs
    assert edge.nms is not None  # noqa: S101 - the file was made for it

    def run(frame: Mapping[str, Array]) -> Mapping[str, Array]:
        (tensor,) = frame.values()
        rows, columns = np.nonzero(tensor.mean(axis=2) > 127)  # noqa: PLR2004 - half of eight bits
        boxes = []
        if rows.size:
            height, width = tensor.shape[:2]
            box = [rows.min() / height, columns.min() / width, (rows.max() + 1) / height, (columns.max() + 1) / width]
            boxes = [(box, 0.9, 0)]
        if edge.order is FormatOrder.HAILO_NMS_BY_SCORE:
            told = len(boxes).to_bytes(2, "little") + np.array(boxes, RECORD).tobytes()
            return {edge.name: np.frombuffer(told.ljust(edge.shape[0], b"\0"), np.uint8)}
        flat = np.zeros(edge.shape, np.float32)
        if boxes:
            flat[:6] = [1, *boxes[0][0], boxes[0][1]]
        return {edge.name: flat}  # a class without boxes takes one item, its count: the others follow at once

    return run


FUNCTIONS = {"mean": _mean, "bright": _bright}
