"""A stand-in for Hailo's `hailo_platform` 4.23, for machines without the device. Layer: programs.

`FOLDER` on the path (`PYTHONPATH`, or `sys.path`) makes `import hailo_platform` find it. It has the documented
signatures, really computes what its models say, and fails in every way that the documentation and field reports tell
of: `Board` says how. A board is a file, so it can be changed while a process uses it. It speaks for the documentation,
not for the device: what passes here has not been tried on a real one.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent
"""What to put on the path."""
VARIABLE = "SPARKD_FAKE_HAILO"
"""The environment variable that names the board's file."""
MAGIC = b"SPARKD-FAKE-HEF\n"


class Board:
    """What is in the machine: devices, versions, heat, and which calls fail.

    `faults` names for an operation (`create`, `identify`, `complete`...) the status `code` it fails with, `after` how
    many successes and for how many `times`; `hangs` names operations that do not return until they are taken off.
    """

    def __init__(self, path: Path, **values: Any) -> None:
        """Keep the board in *path*; *values* replace those of a Hailo-8L in good health."""
        self.path = path
        self.values: dict[str, Any] = {
            "devices": ["0001:01:00.0"],
            "architecture": "HAILO8L",
            "firmware": [4, 23, 0],
            "library": "4.23.0",
            "temperature_c": 45.0,
            "power_w": None,
            "infer_s": 0.0,
            "queue": 8,
            "faults": {},
            "hangs": [],
        }
        self.change(**values)

    @property
    def environment(self) -> dict[str, str]:
        """What a process needs in its environment to have this board."""
        return {VARIABLE: str(self.path), "PYTHONPATH": os.pathsep.join(filter(None, [str(FOLDER), _python_path()]))}

    def change(self, **values: Any) -> None:
        """Set *values*, at once for every process."""
        self.values |= values
        fresh = self.path.with_suffix(".new")
        fresh.write_text(json.dumps(self.values))
        fresh.replace(self.path)

    def fail(self, operation: str, code: int, *, after: int = 0, times: int = 1_000_000) -> None:
        """Let *operation* fail with the status *code*."""
        self.change(faults={**self.values["faults"], operation: {"code": code, "after": after, "times": times}})

    def heal(self) -> None:
        """Let nothing fail or hang any more."""
        self.change(faults={}, hangs=[])


def _python_path() -> str:
    return os.environ.get("PYTHONPATH", "")


def make_hef(
    model: bytes | str,
    *,
    inputs: Sequence[Mapping[str, Any]],
    outputs: Sequence[Mapping[str, Any]],
    architecture: str = "HAILO8L",
    name: str = "net",
) -> bytes:
    """Return a file that the stand-in takes for a HEF.

    *model* is the content of an ONNX file, or the name of a function of the stand-in's engine: `mean`, `bright`. Each
    input has `name`, `shape` (h, w, c), and may have `mean`, `std` and `nchw`, as a compiler puts them into a HEF. Each
    output has `name` and `shape`; `nms` = (classes, boxes) makes it Hailo's NMS_BY_CLASS, with `by_score` NMS_BY_SCORE.
    """
    function, weights = (model, b"") if isinstance(model, str) else ("onnx", model)
    header = {
        "name": name,
        "architecture": architecture,
        "function": function,
        "inputs": [dict(one) for one in inputs],
        "outputs": [dict(one) for one in outputs],
    }
    return MAGIC + json.dumps(header).encode() + b"\n" + weights
