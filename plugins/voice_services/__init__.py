"""voice-services: speech to text and text to speech for the nodes of a site, and for Home Assistant.

Serves `speech` on the bus and a Wyoming server. Every engine runs in child processes that are killed when they hang and
started again when they die; what was heard is measured (loudness, noise, clipping) and published as numbers.
"""

from __future__ import annotations

from typing import Any

from sparkd import AnalyticsEvent, Service, Speech, hookimpl

from .config import VoiceServicesConfig
from .service import run


@hookimpl
def sparkd_services() -> list[Service[Any]]:
    """Offer the one service of this plugin."""
    return [
        Service(
            name="voice-services",
            config=VoiceServicesConfig,
            run=run,
            serves=(Speech,),
            publishes=(AnalyticsEvent,),
        )
    ]
