"""What a Wyoming server says of itself: the pieces of its `info`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sparkd import Speaker

NOBODY = {"name": "sparkd", "url": ""}


def artifact(name: str, description: str = "", **more: Any) -> dict[str, Any]:
    """Return what every program, model and voice has, and *more*."""
    return {
        "name": name,
        "attribution": NOBODY,
        "installed": True,
        "description": description or name,
        "version": None,
        **more,
    }


def asr(engine: str, model: str, languages: Sequence[str]) -> list[dict[str, Any]]:
    """Return the `asr` of an info: one program with one model; its sound is wanted whole, cut by whoever asks."""
    models = [artifact(model, languages=list(languages))]
    return [artifact(engine, models=models, supports_transcript_streaming=False, requires_external_vad=True)]


def tts(speakers: Sequence[Speaker]) -> list[dict[str, Any]]:
    """Return the `tts` of an info: a program for each engine with its voices."""
    programs: dict[str, list[dict[str, Any]]] = {}
    for speaker in speakers:
        voice = artifact(speaker.name, languages=[speaker.language], speakers=None)
        programs.setdefault(speaker.engine, []).append(voice)
    return [artifact(engine, voices=voices) for engine, voices in programs.items()]


def wake(engine: str, words: Sequence[str]) -> list[dict[str, Any]]:
    """Return the `wake` of an info: one program with a model for each of *words*."""
    models = [artifact(word, languages=[], phrase=word.replace("_", " ")) for word in words]
    return [artifact(engine, models=models)]
