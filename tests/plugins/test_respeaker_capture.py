"""The microphone: WAV files, pipes, and sound cards through ALSA's own file and null plug-ins."""

from __future__ import annotations

import os
import shutil
import struct
import time
from pathlib import Path

import anyio
import numpy as np
import pytest
from numpy.typing import NDArray

from sparkd import DeviceError
from sparkd_plugins.respeaker_voice import capture_alsa
from sparkd_plugins.respeaker_voice.capture import (
    CHUNK_FRAMES,
    Chunk,
    MicrophoneConfig,
    microphone_when_there,
    open_microphone,
)

pytestmark = pytest.mark.anyio
Samples = NDArray[np.int16]


def noise(frames: int, channels: int) -> Samples:
    return np.random.default_rng(frames).integers(-32768, 32767, (frames, channels), dtype=np.int16)


def wav(path: Path, pcm: Samples, *, extensible: bool = False, rate: int = 16_000, size: int | None = None) -> Path:
    channels, data = pcm.shape[1], pcm.astype("<i2").tobytes()
    head = struct.pack("<HHIIHH", 0xFFFE if extensible else 1, channels, rate, rate * channels * 2, channels * 2, 16)
    if extensible:
        head += struct.pack("<HHIH14s", 22, 16, 0, 1, b"\0" * 14)
    parts = b"fmt " + struct.pack("<I", len(head)) + head + b"LIST\x03\0\0\0abc\0"
    parts += b"data" + struct.pack("<I", len(data) if size is None else size) + data
    path.write_bytes(b"RIFF" + struct.pack("<I", 4 + len(parts)) + b"WAVE" + parts + b"after the samples")
    return path


async def heard(config: MicrophoneConfig, chunks: int = 1 << 30) -> list[Chunk]:
    found: list[Chunk] = []
    async with open_microphone(config) as microphone:
        async for chunk in microphone.chunks():
            found.append(chunk)
            if len(found) == chunks:
                break
    return found


def joined(chunks: list[Chunk]) -> Samples:
    return np.concatenate([chunk.pcm for chunk in chunks])


@pytest.mark.parametrize(("channels", "extensible"), [(1, False), (6, False), (6, True)])
async def test_a_file_comes_whole_in_chunks_of_20_ms(tmp_path: Path, *, channels: int, extensible: bool) -> None:
    pcm = noise(16_100, channels)
    config = MicrophoneConfig(source="file", path=wav(tmp_path / "a.wav", pcm, extensible=extensible), paced=False)
    async with open_microphone(config) as microphone:
        assert (microphone.channels, microphone.processed) == (channels, 0)
        assert microphone.raw == ((1, 2, 3, 4) if channels == 6 else ())
        found = [chunk async for chunk in microphone.chunks()]
    assert np.array_equal(joined(found), pcm)
    assert {len(chunk.pcm) for chunk in found[:-1]} == {CHUNK_FRAMES}
    assert len(found[-1].pcm) == 16_100 % CHUNK_FRAMES
    assert found[10].at - found[0].at == pytest.approx(0.2)


async def test_a_paced_file_takes_as_long_as_it_sounds(tmp_path: Path) -> None:
    config = MicrophoneConfig(source="file", path=wav(tmp_path / "a.wav", noise(4800, 1)))
    begin = time.monotonic()
    await heard(config)
    assert 0.29 < time.monotonic() - begin < 3


async def test_a_recording_that_was_cut_off_is_read_to_its_end(tmp_path: Path) -> None:
    path = wav(tmp_path / "a.wav", noise(640, 1), size=0xFFFFFFFF)
    found = await heard(MicrophoneConfig(source="file", path=path, paced=False))
    assert sum(len(chunk.pcm) for chunk in found) == 640 + len(b"after the samples") // 2


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (b"", "not a WAV file"),
        (b"RIFF\0\0\0\0WAVE", "without samples"),
        (b"RIFF\0\0\0\0WAVEdata\0\0\0\0", "does not say its format"),
        (b"RIFF\0\0\0\0WAVEfmt \x02\0\0\0ab", "half a head"),
        (b"RIFF\0\0\0\0WAVEjunk\xff\xff\xff\x7f", "before its samples"),
        (b"RIFF\0\0\0\0WAVEfmt \x10\0\0\0" + struct.pack("<HHIIHH", 1, 2, 44_100, 1, 4, 16), "44100 Hz"),
        (b"RIFF\0\0\0\0WAVEfmt \x10\0\0\0" + struct.pack("<HHIIHH", 3, 1, 16_000, 1, 4, 32), "32 bits"),
    ],
)
async def test_what_is_no_fit_recording_is_refused(tmp_path: Path, content: bytes, text: str) -> None:
    (tmp_path / "a.wav").write_bytes(content)
    with pytest.raises(DeviceError, match=text) as caught:
        await heard(MicrophoneConfig(source="file", path=tmp_path / "a.wav"))
    assert "sox" in caught.value.remedy


async def test_a_channel_that_is_not_there_cannot_be_recognised_from(tmp_path: Path) -> None:
    path = wav(tmp_path / "a.wav", noise(640, 2))
    with pytest.raises(DeviceError, match="has 2 channels, and channel 4"):
        await heard(MicrophoneConfig(source="file", path=path, processed=4))


@pytest.mark.parametrize(
    "table",
    [
        {"source": "file"},
        {"channels": 40},
        {"processed": -1},
        {"channels": 2, "processed": 2},
        {"channels": 2, "raw_channels": (1, 2)},
    ],
)
def test_settings_that_cannot_be_are_refused(table: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"channels|path"):
        MicrophoneConfig(**table)  # type: ignore[arg-type] # the mistakes of an operator


async def test_a_pipe_waits_for_its_writer_and_is_gone_with_him(tmp_path: Path) -> None:
    path = tmp_path / "pipe"
    os.mkfifo(path)
    pcm, found = noise(CHUNK_FRAMES * 5 + 7, 2), []
    config = MicrophoneConfig(source="pipe", path=path, channels=2)
    async with open_microphone(config) as microphone, anyio.create_task_group() as tasks:
        tasks.start_soon(anyio.Path(path).write_bytes, pcm.tobytes())
        with pytest.raises(DeviceError, match="closed it"):  # noqa: PT012 - what comes before is wanted too
            async for chunk in microphone.chunks():
                found.append(chunk)  # noqa: PERF401 - it ends with an error
    assert np.array_equal(joined(found), pcm[: CHUNK_FRAMES * 5])
    assert abs(found[0].at - time.monotonic()) < 5


async def test_what_is_no_pipe_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"")
    with pytest.raises(DeviceError, match="not a named pipe"):
        await heard(MicrophoneConfig(source="pipe", path=tmp_path / "a"))
    with pytest.raises(DeviceError) as caught:
        await heard(MicrophoneConfig(source="pipe", path=tmp_path / "none"))
    assert "mkfifo" in caught.value.remedy


async def test_a_microphone_is_waited_for_by_what_the_kernel_tells(tmp_path: Path) -> None:
    missing: list[str] = []
    first_try = anyio.Event()

    def told(error: DeviceError) -> None:
        missing.append(str(error))
        first_try.set()

    async def plug_in() -> None:
        await first_try.wait()
        (tmp_path / "snd").mkdir()  # the nearest folder was watched; now this one must be
        wav(tmp_path / "new.wav", noise(320, 1)).rename(tmp_path / "snd" / "a.wav")

    config = MicrophoneConfig(source="file", path=tmp_path / "snd" / "a.wav", paced=False)
    with anyio.fail_after(10):  # less than AGAIN_S
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(plug_in)
            async with microphone_when_there(config, told) as microphone:
                assert microphone.channels == 1
    assert "No such file" in missing[0]


# Sound cards


@pytest.fixture
def alsa(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Make this machine's cards: a file each, played over a null device, as `libasound` itself does."""
    if shutil.which("arecord") is None:
        pytest.skip("needs arecord: apt install alsa-utils")
    cards = "".join(
        f'pcm.{name} {{ type file slave.pcm "nothing" file "/dev/null" infile "{tmp_path}/{name}.raw" format "raw" }}\n'
        for name in ("six", "one")
    )
    gone = 'pcm.gone { type hw card "ArrayUAC10" device 0 }\n'
    (tmp_path / "asound.conf").write_text(f"pcm.nothing {{ type null }}\n{cards}{gone}")
    monkeypatch.setenv("ALSA_CONFIG_PATH", str(tmp_path / "asound.conf"))
    return tmp_path


@pytest.mark.parametrize(("name", "channels"), [("six", 6), ("one", 1)])
async def test_a_card_is_read_as_it_is(alsa: Path, name: str, channels: int) -> None:
    pcm = noise(CHUNK_FRAMES * 40, channels)
    (alsa / f"{name}.raw").write_bytes(pcm.tobytes())
    found = await heard(MicrophoneConfig(device=name, channels=channels), chunks=30)
    assert np.array_equal(joined(found), pcm[: CHUNK_FRAMES * 30])


async def test_a_card_that_is_asked_for_nothing_gives_six_channels(alsa: Path) -> None:
    (alsa / "six.raw").write_bytes(noise(CHUNK_FRAMES * 40, 6).tobytes())
    async with open_microphone(MicrophoneConfig(device="six")) as microphone:
        assert (microphone.channels, microphone.raw, microphone.overruns) == (6, (1, 2, 3, 4), 0)


async def test_a_card_that_is_not_there_is_a_device_error_with_a_remedy(alsa: Path) -> None:
    with pytest.raises(DeviceError, match="gone: ") as caught:
        await heard(MicrophoneConfig(device="gone"))
    assert "plug it in" in caught.value.remedy


async def test_no_arecord_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(capture_alsa, "PROGRAM", "arecord-that-is-not-there")
    with pytest.raises(DeviceError) as caught:
        await heard(MicrophoneConfig())
    assert "alsa-utils" in caught.value.remedy


@pytest.fixture
def arecord(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A program that says and does what arecord does with a card that fails (alsa-utils 1.2.8, aplay.c)."""
    path = tmp_path / "arecord"
    monkeypatch.setattr(capture_alsa, "PROGRAM", str(path))
    return path


def script(path: Path, body: str) -> None:
    path.write_text(f'#!/bin/sh\nwhile [ "$1" != -c ]; do shift; done\nchannels=$2\n{body}\n')
    path.chmod(0o755)


ONE_ONLY = (
    'if [ "$channels" != 1 ]; then\n'
    '  echo "arecord: set_params:1352: Channels count non available" >&2; exit 1\nfi\nhead -c 6400 /dev/zero\n'
)


async def test_the_firmware_of_one_channel_is_found(arecord: Path) -> None:
    script(arecord, ONE_ONLY + "sleep 9")
    async with open_microphone(MicrophoneConfig()) as microphone:
        assert (microphone.channels, microphone.raw) == (1, ())


async def test_a_card_with_other_channels_than_asked_for_says_so(arecord: Path) -> None:
    script(arecord, ONE_ONLY)
    with pytest.raises(DeviceError, match="Channels count") as caught:
        await heard(MicrophoneConfig(channels=4))
    assert "channels" in caught.value.remedy


async def test_unplugging_is_a_device_error_and_lost_sound_is_counted(arecord: Path) -> None:
    lost = 'echo "overrun!!! (at least 12.500 ms long)" >&2\n'
    gone = 'echo "arecord: pcm_read:2221: read error: No such device" >&2; exit 1'
    script(arecord, f"head -c 6400 /dev/zero\n{lost}{lost}{gone}")
    count = 0
    async with open_microphone(MicrophoneConfig(channels=1)) as microphone:
        with pytest.raises(DeviceError, match="No such device"):  # noqa: PT012 - likewise
            async for _ in microphone.chunks():
                count += 1
        assert microphone.overruns == 2
    assert count == 10


@pytest.mark.parametrize(
    ("says", "remedy"),
    [
        ("audio open error: Device or resource busy", "fuser"),
        ("audio open error: Permission denied", "audio"),
        ("Warning: rate is not accurate (requested = 16000Hz, got = 48000Hz)", "plughw"),
    ],
)
async def test_each_refusal_has_its_remedy(arecord: Path, says: str, remedy: str) -> None:
    script(arecord, f'echo "arecord: main:831: {says}" >&2; echo "         please, try the plug plugin" >&2')
    with pytest.raises(DeviceError) as caught:
        await heard(MicrophoneConfig(channels=1))
    assert remedy in caught.value.remedy
    assert says in str(caught.value)


async def test_a_card_that_hangs_is_given_up_and_its_child_killed(
    arecord: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(capture_alsa, "SILENT_S", 0.2)
    monkeypatch.setattr(capture_alsa, "STOP_S", 0.2)
    script(arecord, f"trap '' TERM\necho $$ >{tmp_path}/pid\nhead -c 640 /dev/zero\nwhile :; do sleep 0.05; done")
    with pytest.raises(DeviceError, match="no sound came"):
        await heard(MicrophoneConfig(channels=1))
    assert not Path(f"/proc/{int((tmp_path / 'pid').read_text())}").exists()


async def test_a_card_that_is_plugged_in_again_is_found_by_what_the_kernel_tells(arecord: Path, tmp_path: Path) -> None:
    cards, missing, unplugged = tmp_path / "dev/snd", list[DeviceError](), anyio.Event()
    cards.parent.mkdir()
    there = cards / "pcmC1D0c"
    lacks = (
        f'[ -e {there} ] || {{ echo "arecord: main:831: audio open error: No such file or directory" >&2; exit 1; }}'
    )
    script(arecord, f"{lacks}\nwhile [ -e {there} ]; do head -c 3840 /dev/zero; sleep 0.02; done; exit 1")

    def told(error: DeviceError) -> None:
        missing.append(error)
        unplugged.set()

    async def plug_in() -> None:
        await unplugged.wait()
        cards.mkdir()
        there.touch()

    with anyio.fail_after(10):  # less than AGAIN_S
        for _ in range(2):
            unplugged = anyio.Event()
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(plug_in)
                async with microphone_when_there(MicrophoneConfig(), told, cards=cards) as microphone:
                    assert microphone.channels == 6
                    with pytest.raises(DeviceError, match="ended"):  # noqa: PT012 - it ends within
                        async for _ in microphone.chunks():
                            shutil.rmtree(cards, ignore_errors=True)
    assert {"plug it in" in error.remedy for error in missing} == {True}
