"""Speech to test with, made on the spot by espeak-ng."""

from __future__ import annotations

import shutil
import subprocess
from functools import cache

import pytest

from sparkd_plugins.voice_services.speaking import read_wav

NEEDS_ESPEAK = pytest.mark.skipif(shutil.which("espeak-ng") is None, reason="no espeak-ng: apt install espeak-ng")


@cache
def espeak(text: str, *, voice: str = "en-us") -> bytes:
    """Return *text*, spoken: PCM at 22,050 Hz."""
    if shutil.which("espeak-ng") is None:
        pytest.skip("no espeak-ng: apt install espeak-ng")
    done = subprocess.run(
        ["espeak-ng", "-v", voice, "-s", "150", "--stdin", "--stdout"],
        input=text.encode(),
        capture_output=True,
        check=True,
    )
    return read_wav(done.stdout).pcm
