"""text-embedding: texts to vectors, by a model on this machine or by an Ollama.

`policy` is the arithmetic, `device_onnx` and `backend_ollama` are what runs models, `service` lets calls share runs.
"""

from __future__ import annotations

from typing import Any

from sparkd import Embed, EnergyClass, Service, hookimpl

from .config import TextEmbeddingConfig
from .start import run


@hookimpl
def sparkd_services() -> list[Service[Any]]:
    """Offer the one service of this plugin."""
    return [
        Service(
            name="text-embedding",
            config=TextEmbeddingConfig,
            run=run,
            serves=(Embed,),
            energy=EnergyClass.DEFERRABLE,
            start_limit_s=30.0,
        )
    ]
