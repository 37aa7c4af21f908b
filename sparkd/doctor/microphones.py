"""What a ReSpeaker says of itself, and what it hears: asked in a process of its own, as its packages are a plugin's."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping
from typing import Any

from sparkd.devices import RESPEAKERS, usb_devices
from sparkd.doctor.scene import Finding, Scene, named, ok, problem, skipped, warning

MODULE = "sparkd_plugins.respeaker_voice.ask"
_SILENT_DBFS = -100
"""A microphone has noise of its own; what has less is dead, or muted."""


@named("respeaker, asked")
def array(scene: Scene) -> Iterator[Finding]:
    """What the array answers over USB, and what its sound card gives."""
    output = scene.run([sys.executable, "-m", MODULE])
    said = _last_object(output)
    plugged = any(usb_devices(scene.root, one) for one in RESPEAKERS)
    if said is None:
        last = ((output or "").strip().splitlines() or ["no answer within 5 s"])[-1]
        yield (problem if plugged else skipped)(f"it cannot be asked: {last}", "pip install 'sparkd[voice]'")
    elif not plugged and "error" in said["usb"] and "error" in said["sound"]:
        yield skipped(f"{said['usb']['error']}; {said['sound']['error']}", said["usb"]["remedy"])
    else:
        yield _usb(said["usb"])
        yield _sound(said["sound"])


def _usb(said: Mapping[str, Any]) -> Finding:
    if "error" in said:
        return problem(f"USB: {said['error']}", said["remedy"])
    voice = "a voice" if said["speech"] else "no voice"
    return ok(
        f"USB: an {said['kind']} with firmware {said['firmware']}; it hears {voice}, at {said['degrees']} degrees"
    )


def _sound(said: Mapping[str, Any]) -> Finding:
    if "error" in said:
        return problem(f"sound: {said['error']}", said["remedy"])
    levels = ", ".join(str(level) for level in said["dbfs"])
    text = f"sound: {said['channels']} channels, {said['raw']} of them raw; dBFS {levels}"
    # The last of six is what the computer plays: silence there is no fault.
    dead = [index for index, level in enumerate(said["dbfs"][:5]) if level < _SILENT_DBFS]
    if dead:
        return warning(f"{text}; nothing at all on {', '.join(map(str, dead))}", "is it muted? unplug it, plug it in")
    return ok(text)


def _last_object(output: str | None) -> dict[str, Any] | None:
    """Return what stands in the last line, if it is an answer."""
    try:
        found = json.loads((output or "").strip().splitlines()[-1])
    except (IndexError, ValueError):
        return None
    return found if isinstance(found, dict) and {"usb", "sound"} <= found.keys() else None


CHECKS = (array,)
