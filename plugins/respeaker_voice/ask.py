"""`python -m sparkd_plugins.respeaker_voice.ask`: what the array says of itself and what it hears, as a line of JSON.

For `sparkctl doctor --respeaker`, which asks in a process of its own: the plugin's packages are not the core's.
Words: the name of the sound card at ALSA, if it is not the ReSpeaker's own.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import anyio
import numpy as np

from sparkd import DeviceError

from .board import Board
from .capture import CHUNK_FRAMES, RATE_HZ, MicrophoneConfig, open_microphone
from .microphone import ARRAY

T = TypeVar("T")
LISTEN_S = 0.5
LIMIT_S = 3.5


async def steered(board: Board) -> dict[str, Any]:
    """Return what the array answers over USB."""
    heard = await board.heard()
    said = {"kind": await board.kind(), "firmware": await board.firmware(), "degrees": heard.degrees}
    return {**said, "speech": heard.speech}


async def recorded(config: MicrophoneConfig) -> dict[str, Any]:
    """Return the channels of the sound card and how loud each is in half a second, in dB of full scale."""
    pieces = []
    async with open_microphone(config) as microphone:
        async for chunk in microphone.chunks():
            pieces.append(chunk.pcm)
            if len(pieces) * CHUNK_FRAMES >= LISTEN_S * RATE_HZ:
                break
        power = np.mean(np.concatenate(pieces).astype(np.float64) ** 2, axis=0) if pieces else np.zeros(1)
        levels = [round(float(10 * np.log10(max(one, 1e-2)) - 20 * np.log10(1 << 15))) for one in power]
        return {"channels": microphone.channels, "raw": len(microphone.raw), "dbfs": levels}


async def ask(board: Board, config: MicrophoneConfig) -> dict[str, Any]:
    """Return what both sides say, or how each fails: `{"usb": {...}, "sound": {...}}`."""
    return {"usb": await _tried(steered, board, LIMIT_S / 3), "sound": await _tried(recorded, config, LIMIT_S)}


async def _tried(question: Callable[[T], Awaitable[dict[str, Any]]], of: T, limit_s: float) -> dict[str, Any]:
    try:
        with anyio.fail_after(limit_s):
            return await question(of)
    except DeviceError as error:
        return {"error": str(error), "remedy": error.remedy}
    except TimeoutError:
        return {"error": "it did not answer in time", "remedy": "unplug it and plug it in again"}


def main(words: list[str]) -> None:
    """Print what the array says."""
    config = MicrophoneConfig(device=words[0] if words else ARRAY)
    sys.stdout.write(json.dumps(anyio.run(ask, Board(), config)) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
