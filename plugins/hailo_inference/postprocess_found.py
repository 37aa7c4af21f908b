"""What a decoder finds: boxes with scores and classes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Found:
    """Boxes (n x 4: x0, y0, x1, y1 in the model's input), their scores and class numbers."""

    boxes: Floats
    scores: Floats
    classes: NDArray[np.intp]

    def pick(self, indices: NDArray[np.intp]) -> Found:
        """Return those at *indices*, in that order."""
        return Found(self.boxes[indices], self.scores[indices], self.classes[indices])
