"""The listener, with the real models, on the recordings that ship: what it hears, and that every utterance ends."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from sparkd import DeviceError
from sparkd_plugins.respeaker_voice.chunks import Chunk
from sparkd_plugins.respeaker_voice.gate import Gate
from sparkd_plugins.respeaker_voice.happenings import Ended, Happening, Voice, Woken
from sparkd_plugins.respeaker_voice.listen_config import ListenConfig
from sparkd_plugins.respeaker_voice.listening import Listener
from sparkd_plugins.respeaker_voice.wake_word import Confirming, WakeWords, make_detector
from tests.plugins.recorded import WAKE_S, chunks, hush, recorded, said

TIME, STATUS, STOP = "1-time-joe", "2-status-rms", "5-stop-joe"


def listener(*, raw: tuple[int, ...] = (), processed: int = 0, **config: Any) -> Listener:
    return Listener(ListenConfig(**config), processed=processed, raw=raw)


def hear(listener: Listener, sound: NDArray[np.int16], *, channels: int = 1, at: float = 0.0) -> list[Happening]:
    return [happening for chunk in chunks(sound, channels=channels, at=at) for happening in listener.feed(chunk)]


def told(happenings: list[Happening]) -> list[str]:
    """Return what happened in a word each, the voice left out."""
    return [
        (one.word or "awaited") if isinstance(one, Woken) else one.reason
        for one in happenings
        if not isinstance(one, Voice)
    ]


def voice(happenings: list[Happening]) -> bytes:
    return b"".join(one.pcm for one in happenings if isinstance(one, Voice))


def only(happenings: list[Happening], kind: type[Any]) -> Any:
    (found,) = [one for one in happenings if isinstance(one, kind)]
    return found


def test_a_wake_word_and_what_follows_it() -> None:
    heard = hear(listener(), said(recorded(TIME)), at=100.0)

    assert told(heard) == ["okay_nabu", "silence"]
    woken, ended = only(heard, Woken), only(heard, Ended)
    assert 101.0 + WAKE_S - 0.3 < woken.at < 101.0 + WAKE_S + 0.3
    assert 0.8 < woken.score <= 1.0
    assert not woken.barge_in
    assert 0.65 <= ended.at - ended.spoke_until < 0.8
    assert ended.audio_s == pytest.approx(len(voice(heard)) / 32_000, abs=0.001)


def test_nothing_said_on_the_heels_of_the_wake_word_is_lost() -> None:
    heard = hear(listener(), said(recorded(TIME)))

    whole = recorded(TIME).astype("<i2").tobytes()
    after = whole[round((WAKE_S + 0.15) * 32_000) & ~1 :]
    assert after[:16_000] in voice(heard)


@pytest.mark.parametrize(("channels", "processed", "raw"), [(1, 0, ()), (6, 0, (1, 2, 3, 4)), (2, 1, ())])
def test_any_layout_of_channels(channels: int, processed: int, raw: tuple[int, ...]) -> None:
    ears = listener(processed=processed, raw=raw)
    heard = hear(ears, said(recorded(STOP)), channels=channels)

    assert told(heard) == ["okay_nabu", "silence"]
    half = ears.raw_half_second()
    assert half is None if not raw else half is not None and half.shape == (8320, 4)


def test_in_a_quiet_room_nothing_but_the_level_is_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    ears = listener()
    hear(ears, hush(1.0))
    monkeypatch.setattr(ears._voices, "of", lambda pcm: pytest.fail("the voice detector ran"))
    monkeypatch.setattr(ears._words, "heard", lambda pcm, **_: pytest.fail("the wake word's model ran"))

    assert hear(ears, hush(5.0), at=1.0) == []
    assert ears.stats["gated"] >= 250


def test_a_word_without_a_voice_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    ears = listener()
    monkeypatch.setattr(ears._voices, "of", lambda pcm: iter([0.1] * (len(pcm) // 1024)))
    assert hear(ears, said(recorded(TIME))) == []
    assert ears.stats["voiceless"] >= 1


def noises() -> Iterator[tuple[str, NDArray[np.int16]]]:
    chance, frames = np.random.default_rng(3), 6 * 16_000
    yield "silence", np.zeros(frames, np.int16)
    yield "full scale noise", chance.integers(-32768, 32767, frames, dtype=np.int16)
    yield "an offset", np.full(frames, 20_000, np.int16)
    yield "a square wave", np.where(np.arange(frames) % 80 < 40, -32768, 32767).astype(np.int16)
    clicks = np.zeros(frames, np.int16)
    clicks[::8000] = 32767
    yield "clicks", clicks


@pytest.mark.parametrize("noise", [noise for _, noise in noises()], ids=[name for name, _ in noises()])
def test_noise_wakes_nobody(noise: NDArray[np.int16]) -> None:
    ears = listener()
    assert hear(ears, noise) == []
    assert told(hear(ears, np.concatenate([hush(3.0), said(recorded(TIME))]), at=6.0)) == ["okay_nabu", "silence"]


def test_a_fan_holds_the_gate_open_for_seconds_not_for_ever() -> None:
    gate, fan, quiet = Gate(6.0, -62.0), hush(0.02, level=1000), hush(0.02)
    assert not any(gate.passes(quiet, 0.02) for _ in range(50))
    opened = [gate.passes(fan, 0.02) for _ in range(1500)]
    assert opened[0]
    assert not any(opened[-200:])


def test_nobody_who_speaks_after_the_wake_word() -> None:
    heard = hear(listener(no_speech_s=2.0), said(recorded(TIME)[: round(WAKE_S * 16_000)], hush(3.0)))
    assert told(heard) in (["okay_nabu", "nothing"], ["okay_nabu", "silence"])
    assert only(heard, Ended).audio_s < 2.2


def test_endless_speech_is_cut_at_the_limit() -> None:
    talk = recorded(STATUS)[round(1.3 * 16_000) :]
    heard = hear(listener(limit_s=3.0, silence_s=1.5), said(recorded(TIME), *[talk] * 5))

    assert told(heard) == ["okay_nabu", "limit"]
    assert only(heard, Ended).audio_s == pytest.approx(3.0, abs=0.05)


def test_the_wake_word_twice_in_a_row_is_one_utterance() -> None:
    word = recorded(STOP)[: round(0.85 * 16_000)]
    assert told(hear(listener(), said(word, word, recorded(TIME)))) == ["okay_nabu", "silence"]


def test_after_a_wake_word_no_other_counts_for_a_while() -> None:
    word = np.concatenate([recorded(STOP)[: round(0.85 * 16_000)], hush(1.2)])
    short: dict[str, Any] = {"no_speech_s": 0.5, "silence_s": 0.3, "limit_s": 1.0}
    assert told(hear(listener(refractory_s=30.0, **short), said(word, word))).count("okay_nabu") == 1
    assert told(hear(listener(refractory_s=0.0, **short), said(word, word))).count("okay_nabu") == 2


def test_while_this_node_speaks_only_the_wake_word_is_heard() -> None:
    ears = listener(barge_in_threshold=0.5)
    ears.speaking(on=True)
    assert hear(ears, said(recorded(STATUS)[round(1.3 * 16_000) :])) == []
    heard = hear(ears, said(recorded(TIME)), at=10.0)
    assert told(heard) == ["okay_nabu", "silence"]
    assert only(heard, Woken).barge_in


def test_barge_in_can_be_forbidden() -> None:
    ears = listener(barge_in=False)
    ears.speaking(on=True)
    assert hear(ears, said(recorded(TIME))) == []
    assert ears.stats["while-speaking"] == 1
    ears.speaking(on=False)
    assert told(hear(ears, said(recorded(TIME)), at=10.0)) == ["okay_nabu", "silence"]


def test_an_awaited_answer_needs_no_wake_word() -> None:
    ears = listener()
    hear(ears, hush(1.0))
    happenings = ears.listen(1.0)
    assert ears.listen(1.0) == []
    happenings += hear(ears, np.concatenate([hush(0.3), recorded(STATUS)[round(1.3 * 16_000) :], hush(1.5)]), at=1.0)
    assert told(happenings) == ["awaited", "silence"]


def test_an_awaited_answer_that_does_not_come() -> None:
    ears = listener(no_speech_s=1.0)
    assert told([*ears.listen(0.0), *hear(ears, hush(1.5))]) == ["awaited", "nothing"]


def test_the_microphone_goes_in_mid_utterance() -> None:
    ears, sound = listener(), said(recorded(TIME))
    heard = hear(ears, sound[: round(2.2 * 16_000)])
    assert told(heard) == ["okay_nabu"]
    (lost,) = ears.stop(9.0)
    assert isinstance(lost, Ended)
    assert lost.reason == "lost"
    assert lost.at == 9.0
    assert 1.0 + WAKE_S < lost.spoke_until <= 2.2  # when somebody last spoke, not when the loss was noticed
    assert ears.stop(2.3) == []
    assert told(hear(ears, sound, at=60.0)) == ["okay_nabu", "silence"]


def test_pauses_are_told_by_the_samples_not_by_when_they_come() -> None:
    ears, happenings = listener(), []
    for chunk in chunks(said(recorded(TIME))):  # as from a program that writes faster than it sounds
        happenings += ears.feed(Chunk(chunk.pcm, chunk.at / 10))
    assert told(happenings) == ["okay_nabu", "silence"]
    assert only(happenings, Ended).at < 1.0


def test_a_last_chunk_that_is_short_or_empty() -> None:
    ears = listener()
    for frames in (7, 0, 320):
        assert ears.feed(Chunk(np.zeros((frames, 1), np.int16), 0.0)) == []


def test_speex_takes_noise_out_of_the_utterance() -> None:
    def quietest(denoise: str) -> float:
        noisy = said(recorded(TIME)) + hush(3 + len(recorded(TIME)) / 16_000, level=300)[: len(said(recorded(TIME)))]
        sound = np.frombuffer(voice(hear(listener(denoise=denoise), noisy)), "<i2").astype(float)
        return float(np.sqrt(np.mean(sound[-6000:] ** 2)))

    assert quietest("speex") < quietest("none") / 2


def confirmed(config: dict[str, Any], *, yes: bool | None) -> tuple[Listener, list[Happening]]:
    ears, happenings = listener(confirm="openwakeword", **config), []
    for chunk in chunks(said(recorded(TIME))):
        happenings += ears.feed(chunk)
        if yes is not None and ears.suspected is not None and chunk.at - ears.suspected.at > 0.25:
            happenings += ears.confirmed(yes=yes)
    return ears, happenings


def test_what_is_said_while_the_word_is_confirmed_is_not_lost() -> None:
    _, heard = confirmed({}, yes=True)
    assert told(heard) == ["okay_nabu", "silence"]
    whole = recorded(TIME).astype("<i2").tobytes()
    assert whole[round((WAKE_S + 0.15) * 32_000) & ~1 :][:16_000] in voice(heard)


def test_a_late_opinion_loses_nothing_though_config_keeps_little() -> None:
    ears, happenings = listener(confirm="openwakeword", pre_roll_s=0.5), []
    for chunk in chunks(said(recorded(TIME))):
        happenings += ears.feed(chunk)
        if ears.suspected is not None and chunk.at - ears.suspected.at > 1.3:
            assert len(ears.suspected.pcm) >= 1.7 * 32_000  # the whole word, for the second opinion
            happenings += ears.confirmed(yes=True)
    assert told(happenings) == ["okay_nabu", "silence"]
    whole = recorded(TIME).astype("<i2").tobytes()
    assert whole[round((WAKE_S + 0.15) * 32_000) & ~1 :][:16_000] in voice(happenings)


def test_the_voice_detector_catches_up_a_little_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    ears, runs, most, happenings = listener(confirm="openwakeword"), 0, 0, []
    process = ears._voices._detector.process_chunk

    def counted(frame: bytes) -> float:
        nonlocal runs
        runs += 1
        return process(frame)

    for chunk in chunks(said(recorded(TIME))):
        if ears.suspected is not None and chunk.at - ears.suspected.at > 1.3:
            monkeypatch.setattr(ears._voices._detector, "process_chunk", counted)
            happenings += ears.confirmed(yes=True)
            assert runs == 0
        before = runs
        happenings += ears.feed(chunk)
        most = max(most, runs - before)
    assert told(happenings) == ["okay_nabu", "silence"]
    assert 1 <= most <= 2


def test_what_is_caught_up_with_does_not_stretch_the_limit() -> None:
    talk = recorded(STATUS)[round(1.3 * 16_000) :]
    ears, happenings = listener(confirm="openwakeword", limit_s=2.0, silence_s=1.5), []
    for chunk in chunks(said(recorded(TIME), *[talk] * 4)):
        happenings += ears.feed(chunk)
        if ears.suspected is not None and chunk.at - ears.suspected.at > 1.3:
            happenings += ears.confirmed(yes=True)
    assert told(happenings) == ["okay_nabu", "limit"]
    assert only(happenings, Ended).audio_s == pytest.approx(2.0, abs=0.05)


@pytest.mark.parametrize("yes", [False, None], ids=["refused", "no opinion in time"])
def test_a_word_that_is_not_confirmed_does_not_count(yes: bool | None) -> None:  # noqa: FBT001
    ears, heard = confirmed({}, yes=yes)
    assert heard == []
    assert ears.stats["unconfirmed"] == 1


def test_the_second_opinion_knows_the_word_from_others() -> None:
    pytest.importorskip("pyopen_wakeword")
    second = Confirming(["okay_nabu"])
    word, other = recorded(TIME)[: round(1.3 * 16_000)], recorded(STATUS)[-round(1.3 * 16_000) :]
    assert second.score("okay_nabu", said(word).astype("<i2").tobytes()[:96_000]) > 0.5
    assert second.score("okay_nabu", said(other).astype("<i2").tobytes()) < 0.1


def test_models_of_ones_own(tmp_path: Path) -> None:
    import pymicro_wakeword  # noqa: PLC0415

    models = Path(pymicro_wakeword.__file__).parent / "models"
    described = json.loads((models / "okay_nabu.json").read_text())
    (tmp_path / "computer.json").write_text(json.dumps({**described, "model": "computer.tflite"}))
    (tmp_path / "computer.tflite").write_bytes((models / "okay_nabu.tflite").read_bytes())

    ears = listener(words=("computer",), word_folder=tmp_path)
    assert told(hear(ears, said(recorded(TIME)))) == ["computer", "silence"]


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (None, "No such file"),
        ("{", "JSONDecodeError"),
        ('{"model": "gone.tflite"}', "gone.tflite"),
        ("[]", "TypeError"),
    ],
)
def test_a_model_that_cannot_be_had_is_named(tmp_path: Path, content: str | None, why: str) -> None:
    if content is not None:
        (tmp_path / "computer.json").write_text(content)
    with pytest.raises(DeviceError, match=why) as caught:
        listener(words=("computer",), word_folder=tmp_path)
    assert "computer.json" in str(caught.value)
    assert "NAME.json" in caught.value.remedy


@pytest.mark.anyio
async def test_a_client_of_the_door_has_a_detector_of_its_own() -> None:
    detector = make_detector(ListenConfig())([])
    sound = said(recorded(TIME)).astype("<i2").tobytes()
    found = [await detector.heard(sound[begin : begin + 2048]) for begin in range(0, len(sound), 2048)]
    assert [word for word in found if word] == ["okay_nabu"]


def test_each_word_has_its_own_threshold() -> None:
    words = WakeWords(ListenConfig(words=("okay_nabu", "hey_jarvis")))
    assert words.words == ("okay_nabu", "hey_jarvis")
    assert words._thresholds == {"okay_nabu": 0.85, "hey_jarvis": 0.97}
    words.close()


@pytest.mark.parametrize(
    ("key", "value", "why"),
    [
        ("words", ("computer",), "none of okay_nabu"),
        ("words", ("okay_nabu", "okay_nabu"), "the same twice"),
        ("words", ("../x",), "letters, digits"),
        ("word_folder", Path("words"), "absolute"),
        ("threshold", 1.0, "less than 1"),
        ("silence_s", 0.0, "0.1 to 10"),
        ("limit_s", float("nan"), "1 to 60"),
        ("pre_roll_s", 99, "0.5 to 10"),
    ],
)
def test_a_wrong_key_is_named(key: str, value: Any, why: str) -> None:
    with pytest.raises(ValueError, match=why) as caught:
        ListenConfig(**{key: value})
    assert key in str(caught.value)
