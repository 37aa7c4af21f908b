"""A stand-in for Hailo's package of this name; see `sparkd.testing.hailo`. The top level has what the real one has."""

from __future__ import annotations

import os

from . import bench
from .pyhailort.infer import AsyncInferJob
from .pyhailort.pyhailort import (
    HEF,
    Device,
    FormatOrder,
    FormatType,
    HailoCommunicationClosedException,
    HailoRTException,
    HailoRTStreamAbortedByUser,
    HailoSchedulingAlgorithm,
    VDevice,
)


class MissingPyHRTLib(Exception):  # noqa: N818 - the real name
    """The package is there without its compiled half."""


__version__: str = bench.board()["library"]
if bench.board().get("import") == "no library":
    raise MissingPyHRTLib("pyhailort/ should include a _pyhailort library")
if bench.board().get("import") == "mismatch":
    raise ImportError(f"_pyhailort version (4.20.0) does not match pyhailort version ({__version__})")
bench.note("import", os.environ.get("HAILORT_LOGGER_PATH"))

__all__ = [
    "HEF",
    "AsyncInferJob",
    "Device",
    "FormatOrder",
    "FormatType",
    "HailoCommunicationClosedException",
    "HailoRTException",
    "HailoRTStreamAbortedByUser",
    "HailoSchedulingAlgorithm",
    "VDevice",
]
