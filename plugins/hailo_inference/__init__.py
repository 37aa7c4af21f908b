"""hailo-inference: run a detector on photographs and say what is in them.

Serves `vision`, and watches a folder: every picture that appears there becomes one durable `Inference` event, exactly
once. Models are bundles, folders with a manifest and a checksum for each file; one is part of the package.
"""

from __future__ import annotations

from typing import Any

from sparkd import Inference, Service, Vision, hookimpl

from .config import HailoInferenceConfig
from .service import run


@hookimpl
def sparkd_services() -> list[Service[Any]]:
    """Offer the one service of this plugin."""
    return [
        Service(
            name="hailo-inference",
            config=HailoInferenceConfig,
            run=run,
            start_limit_s=30.0,
            serves=(Vision,),
            publishes=(Inference,),
        )
    ]
