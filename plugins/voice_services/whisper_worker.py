"""The child of speech to text: a program of its own, which never reaches for the network.

Its arguments are the model's folder, threads and beam. It says `{"ready": true}` on stdout once the model is loaded.
A request is a line `{"bytes": N, "language": "en"}` and N bytes of PCM at 16 kHz; the answer is a line with `text` and
`language`, or with `error`. It ends with its stdin. Run by path: nothing of sparkd is imported here.
"""

from __future__ import annotations

import json
import os
import sys
from typing import Any, BinaryIO


def main() -> None:
    """Answer until stdin ends."""
    folder, threads, beam = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    answers = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)  # whatever a library prints must not stand between the answers
    os.environ["HF_HUB_OFFLINE"] = "1"
    from faster_whisper import WhisperModel  # noqa: PLC0415 - only once the network is forbidden

    model = WhisperModel(folder, device="cpu", compute_type="int8", cpu_threads=threads, local_files_only=True)
    _say(answers, {"ready": True, "multilingual": model.model.is_multilingual})
    for line in sys.stdin.buffer:
        request = json.loads(line)
        pcm = sys.stdin.buffer.read(request["bytes"])
        if len(pcm) < request["bytes"]:
            return
        try:
            _say(answers, transcribe(model, pcm, request["language"], beam))
        except Exception as error:  # noqa: BLE001 - the runtime may raise anything; the next request may be better
            _say(answers, {"error": f"{type(error).__name__}: {error}"})


def transcribe(model: Any, pcm: bytes, language: str, beam: int) -> dict[str, str]:
    """Return the text of *pcm* and its language. One temperature only: on noise the model must not try six times."""
    import numpy as np  # noqa: PLC0415 - the model brought it

    samples = np.frombuffer(pcm, np.int16).astype(np.float32) / 32_768
    known = language.partition("-")[0].lower()
    wanted = known if model.model.is_multilingual and known in model.supported_languages else None
    segments, info = model.transcribe(
        samples,
        language=wanted,
        beam_size=beam,
        temperature=0.0,
        condition_on_previous_text=False,
        without_timestamps=True,
    )
    return {"text": " ".join(segment.text.strip() for segment in segments), "language": info.language}


def _say(answers: BinaryIO, message: dict[str, Any]) -> None:
    answers.write(json.dumps(message).encode() + b"\n")


if __name__ == "__main__":
    main()
