"""Word error rate of the speech to text that ships by default, on sentences that nothing here was tuned on.

Every sentence of `voice_sentences.txt` is spoken by each voice, resampled, and heard by `voice-services`' own engine in
its own child process. A word error rate is substitutions, deletions and insertions by words spoken, with letter case,
punctuation and the spelling of numbers up to twelve taken out; the sentences are spelled as in America. Ends with exit
code 1 if all voices together are over the limit.

    python benchmarks/voice_wer.py [--beam 1] [--voices espeak-en-us,en_US-joe-medium] [--limit 0.15] [--show]
"""

from __future__ import annotations

import argparse
import re
import statistics
import sys
import tempfile
import time
from pathlib import Path

import anyio

from sparkd_plugins.voice_services.config import VoiceServicesConfig
from sparkd_plugins.voice_services.hearing import resample
from sparkd_plugins.voice_services.speaking import Espeak, Piper
from sparkd_plugins.voice_services.whisper import Whisper

SENTENCES = Path(__file__).with_name("voice_sentences.txt").read_text().splitlines()
VOICES = "en_US-joe-medium,espeak-en-us,espeak-en-gb"
NUMBERS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"]


def words(text: str) -> list[str]:
    """Return the words of *text* as they are compared."""
    found = re.findall(r"[a-z0-9']+", text.lower().replace("-", " "))
    return [NUMBERS[int(word)] if word.isdigit() and int(word) < len(NUMBERS) else word for word in found]


def errors(spoken: list[str], heard: list[str]) -> int:
    """Return the least number of words to change, leave out or put in."""
    row = list(range(len(heard) + 1))
    for i, word in enumerate(spoken, 1):
        last, row[0] = row[0], i
        for j, other in enumerate(heard, 1):
            last, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, last + (word != other))
    return row[-1]


async def bench(options: argparse.Namespace, state: Path) -> float:
    """Measure, print a line per voice, and return the rate of all together."""
    config = VoiceServicesConfig(stt_beam=options.beam, idle_unload_s=0)
    whisper, piper, espeak = Whisper(config), Piper(config, state / "piper"), Espeak(config)
    for engine in (whisper, piper, espeak):
        if problem := engine.missing():
            raise SystemExit(f"{problem}: {problem.remedy}")
    total_errors = total_words = 0
    async with anyio.create_task_group() as group:
        for pool in (whisper.pool, *piper.pools.values()):
            await group.start(pool.run)
        for voice in options.voices.split(","):
            speaking = espeak if voice.startswith("espeak-") else piper
            wrong = spoken = 0
            audio_s, took = 0.0, []
            for sentence in SENTENCES:
                pcm = b""
                async for sound in speaking.speak(sentence, voice=voice):
                    pcm += resample(sound.pcm, sound.rate_hz, 16_000)
                begin = time.monotonic()
                heard, _ = await whisper.transcribe(pcm, language="en")
                took.append(time.monotonic() - begin)
                audio_s += len(pcm) / 32_000
                missed = errors(words(sentence), words(heard))
                if missed and options.show:
                    print(f"  {missed}  {sentence}  ->  {heard}")
                wrong += missed
                spoken += len(words(sentence))
            total_errors, total_words = total_errors + wrong, total_words + spoken
            middle = statistics.median(took)
            print(f"{voice:20} {len(SENTENCES)} sentences, {spoken} words: WER {wrong / spoken:6.1%}", end="")
            print(f", {middle:.2f} s each (median), {sum(took) / audio_s:.2f} of real time", flush=True)
        group.cancel_scope.cancel()
    print(f"{'all':20} WER {total_errors / total_words:6.1%}")
    return total_errors / total_words


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--beam", type=int, default=1)
    parser.add_argument("--voices", default=VOICES)
    parser.add_argument("--limit", type=float, default=0.15)
    parser.add_argument("--show", action="store_true", help="print what was heard wrongly")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as state:
        rate = anyio.run(bench, options, Path(state))
    sys.exit(rate > options.limit)


if __name__ == "__main__":
    main()
