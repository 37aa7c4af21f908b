"""respeaker-voice: listen for a wake word, hear what is said, and answer.

Sound comes from an array of microphones, any sound card, a file or a pipe. The wake word is found here; who turns
speech into text, who answers and who speaks are lists in config, tried in order, so that it works without a network.
"""

from __future__ import annotations

from typing import Any

from sparkd import Dialog, PowerMode, Service, Utterance, Wake, hookimpl

from .config import RespeakerVoiceConfig
from .service import run


@hookimpl
def sparkd_services() -> list[Service[Any]]:
    """Offer the one service of this plugin."""
    return [
        Service(
            name="respeaker-voice",
            config=RespeakerVoiceConfig,
            run=run,
            start_limit_s=30.0,
            serves=(Dialog,),
            publishes=(Wake, Utterance),
            reads=(PowerMode,),
        )
    ]
