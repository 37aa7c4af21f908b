"""What the rest of the plugin knows of a runtime: a model that turns batches of tensors into raw outputs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from numpy.typing import NDArray

from .device_lost import DeviceLostError

Array = NDArray[Any]

__all__ = ["Array", "Backend", "DeviceLostError"]


class Backend(Protocol):
    """A model, loaded and ready. Used from one thread at a time, never from the event loop."""

    @property
    def name(self) -> str:
        """What runs it, as `vision.models` and each result say."""
        ...

    @property
    def max_batch(self) -> int:
        """So many tensors are computed at once; more are taken, and computed one batch after the other."""
        ...

    def infer(self, tensors: Sequence[Array]) -> list[Mapping[str, Array]]:
        """Return the raw outputs by name for each of *tensors*, in their order.

        Each tensor has the shape of the model's input, with a leading 1; so has each output. Raises DeviceError if the
        runtime fails, DeviceLostError if it will not work again.
        """
        ...

    def close(self) -> None:
        """Let go of the model's memory. Nothing may be inferred afterwards."""
        ...
