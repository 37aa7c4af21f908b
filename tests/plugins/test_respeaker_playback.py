"""Where answers are heard: ALSA's own file plug-in, programs that fail as aplay does, folders, disks that are full."""

from __future__ import annotations

import os
import shutil
import struct
import subprocess
import time
import wave
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import anyio
import pytest

from sparkd import DeviceError, Sound, Troubles
from sparkd_plugins.respeaker_voice import playback
from sparkd_plugins.respeaker_voice.answer_config import KeepConfig, PlaybackConfig
from sparkd_plugins.respeaker_voice.keeping import Keeping
from sparkd_plugins.respeaker_voice.playback import Player, player

pytestmark = pytest.mark.anyio
PCM = bytes(range(256)) * 25  # 0.2 s


async def sounds(*rates: int, pcm: bytes = PCM) -> AsyncIterator[Sound]:
    for rate in rates:
        yield Sound(pcm=pcm, rate_hz=rate)


async def played(card: Player, *rates: int, pcm: bytes = PCM) -> list[float]:
    started: list[float] = []
    with anyio.fail_after(10):
        await card.play(sounds(*rates, pcm=pcm), started=lambda: started.append(time.monotonic()))
    return started


@pytest.fixture
def card(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A sound card whose loudspeaker is a file."""
    if shutil.which("aplay") is None:
        pytest.skip("needs aplay: apt install alsa-utils")
    out = tmp_path / "heard.raw"
    text = f'pcm.nothing {{ type null }}\npcm.card {{ type file slave.pcm nothing file "{out}" format raw }}\n'
    (tmp_path / "asound.conf").write_text(text)
    monkeypatch.setenv("ALSA_CONFIG_PATH", str(tmp_path / "asound.conf"))
    return out


async def test_a_card_gets_every_sample(card: Path) -> None:
    assert len(await played(player(PlaybackConfig(device="card")), 16_000, 16_000)) == 1
    assert card.read_bytes()[: 2 * len(PCM)] == PCM * 2


async def test_another_rate_begins_anew(card: Path) -> None:
    assert len(await played(player(PlaybackConfig(device="card")), 22_050, 16_000)) == 1
    assert card.read_bytes().startswith(PCM)


async def test_nothing_to_say_opens_no_card(card: Path) -> None:
    assert await played(player(PlaybackConfig(device="card")), 16_000, pcm=b"") == []
    assert not card.exists()


@pytest.fixture
def aplay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A program that does what aplay does with a card that fails."""
    path = tmp_path / "aplay"
    monkeypatch.setattr(playback, "PROGRAM", str(path))
    return path


def script(path: Path, text: str) -> None:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)


@pytest.mark.parametrize(
    ("says", "why", "remedy"),
    [
        ("aplay: main:831: audio open error: Device or resource busy", "busy", "another program plays"),
        ("aplay: main:831: audio open error: No such file or directory", "No such file", "aplay -L"),
    ],
)
async def test_each_refusal_has_its_remedy(aplay: Path, says: str, why: str, remedy: str) -> None:
    script(aplay, f'echo "{says}" >&2; exit 1')
    with pytest.raises(DeviceError, match=why) as caught:
        await played(player(PlaybackConfig()), *[16_000] * 50)
    assert remedy in caught.value.remedy


async def test_a_card_that_goes_in_mid_answer_is_a_device_error(aplay: Path) -> None:
    script(aplay, 'head -c 6400 >/dev/null; echo "aplay: pcm_write:2127: write error: No such device" >&2; exit 1')
    with pytest.raises(DeviceError, match="No such device"):
        await played(player(PlaybackConfig()), *[16_000] * 200)


async def test_a_card_that_hangs_does_not_hang_us(aplay: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(playback, "STALL_S", 0.3)
    script(aplay, "exec sleep 60")
    with pytest.raises(DeviceError, match="took no sound"):
        await played(player(PlaybackConfig()), *[16_000] * 200)
    with pytest.raises(DeviceError, match="does not end"):
        await played(player(PlaybackConfig()), 16_000)


async def test_no_aplay_says_what_to_install(aplay: Path) -> None:
    with pytest.raises(DeviceError) as caught:
        await played(player(PlaybackConfig()), 16_000)
    assert caught.value.remedy == "apt install alsa-utils"


async def test_an_interruption_is_immediate_and_leaves_no_process(aplay: Path, tmp_path: Path) -> None:
    script(aplay, f'echo $$ > "{tmp_path}/pid"; exec sleep 60')
    begun = anyio.Event()
    async with anyio.create_task_group() as group:

        async def play() -> None:
            await player(PlaybackConfig()).play(sounds(*[16_000] * 500), started=begun.set)

        group.start_soon(play)
        await begun.wait()
        while not (tmp_path / "pid").exists() or not (tmp_path / "pid").read_text():
            await anyio.sleep(0.01)
        before = time.monotonic()
        group.cancel_scope.cancel()
    assert time.monotonic() - before < 0.5
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pid").read_text()), 0)


async def test_a_folder_gets_a_file_for_each_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(playback, "KEPT_FILES", 3)
    made = player(PlaybackConfig(kind="file", path=tmp_path / "answers"))
    for _ in range(5):
        assert len(await played(made, 22_050, 22_050)) == 1
    assert await played(made, 22_050, pcm=b"") == []
    files = sorted((tmp_path / "answers").iterdir())
    assert len(files) == 3
    with wave.open(str(files[0])) as file:
        assert (file.getframerate(), file.readframes(file.getnframes())) == (22_050, PCM * 2)


async def test_no_loudspeaker_takes_all(tmp_path: Path) -> None:
    assert len(await played(player(PlaybackConfig(kind="none")), 16_000, 16_000)) == 1


@pytest.mark.parametrize(
    ("device", "opened"), [("hw:1,0", "plughw:1,0"), ("default", "default"), ("plughw:1", "plughw:1")]
)
async def test_a_bare_card_is_opened_so_that_it_resamples(
    aplay: Path, tmp_path: Path, device: str, opened: str
) -> None:
    script(aplay, f'echo "$@" > "{tmp_path}/words"; exec cat >/dev/null')
    await played(player(PlaybackConfig(device=device)), 16_000)
    assert f"-D {opened} " in (tmp_path / "words").read_text()


@pytest.mark.parametrize(("volume_db", "heard"), [(0.0, 10_000), (-6.0206, 5_000), (6.0206, 20_000), (20.0, 32_767)])
async def test_the_volume_is_what_config_says(tmp_path: Path, volume_db: float, heard: int) -> None:
    made = player(PlaybackConfig(kind="file", path=tmp_path / "answers", volume_db=volume_db))
    assert len(await played(made, 16_000, pcm=struct.pack("<2h", 10_000, -10_000))) == 1
    with wave.open(str(*(tmp_path / "answers").iterdir())) as file:
        up, down = struct.unpack("<2h", file.readframes(2))
    assert abs(up - heard) <= 1
    assert abs(down + heard) <= 1


@pytest.mark.parametrize("volume_db", [-61.0, 21.0])
def test_a_volume_that_nobody_means_is_refused(volume_db: float) -> None:
    with pytest.raises(ValueError, match="volume_db"):
        PlaybackConfig(volume_db=volume_db)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 256 KiB."""
    if os.geteuid() != 0:
        pytest.skip("needs root to mount a small tmpfs")
    folder = tmp_path / "disk"
    folder.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "none", folder], capture_output=True, check=False)
    if done.returncode:
        pytest.skip(f"needs to mount a small tmpfs: {done.stderr.decode().strip()}")
    yield folder
    subprocess.run(["umount", folder], check=True)


class Told:
    def __init__(self) -> None:
        self.states: list[str] = []

    def degraded(self, reason: str, *, remedy: str = "") -> None:
        self.states.append(reason)

    def recovered(self) -> None:
        self.states.append("recovered")


async def test_a_full_disk_keeps_no_sound_says_so_and_leaves_no_halves(small_disk: Path) -> None:
    told = Told()
    keeping = Keeping(small_disk / "utterances", KeepConfig(enabled=True), Troubles(told))
    await keeping.keep("one", bytes(100_000))
    (small_disk / "filler").write_bytes(bytes(100_000))
    await keeping.keep("two", bytes(100_000))
    assert told.states == [f"the sound of utterances is not kept: {small_disk}/utterances: No space left on device"]
    assert [path.name for path in (small_disk / "utterances").iterdir()] == ["one.wav"]
    (small_disk / "filler").unlink()
    await keeping.keep("three", bytes(100_000))
    assert told.states[-1] == "recovered"


async def test_a_full_disk_is_a_device_error_of_the_folder(small_disk: Path) -> None:
    made = player(PlaybackConfig(kind="file", path=small_disk))
    with pytest.raises(DeviceError, match="No space left"):
        await played(made, 16_000, pcm=bytes(400_000))
    assert list(small_disk.iterdir()) == []
    assert len(await played(made, 16_000)) == 1


async def test_what_a_killed_process_left_half_written_goes(tmp_path: Path) -> None:
    (tmp_path / ".old.part").write_bytes(bytes(1000))
    await Keeping(tmp_path, KeepConfig(enabled=True), Troubles(Told())).keep("new", bytes(100))
    assert [path.name for path in tmp_path.iterdir()] == ["new.wav"]


async def test_what_is_kept_is_bounded_in_number_size_and_age(tmp_path: Path) -> None:
    async def kept(config: KeepConfig, count: int) -> list[str]:
        shutil.rmtree(tmp_path / "kept", ignore_errors=True)
        keeping = Keeping(tmp_path / "kept", config, Troubles(Told()))
        for index in range(count):
            await keeping.keep(f"{index}", bytes(50_000))
            old = time.time() - 86_400 * (count - index)
            os.utime(tmp_path / "kept" / f"{index}.wav", (old, old))
        await keeping.keep("last", bytes(50_000))
        return sorted(path.stem for path in (tmp_path / "kept").iterdir())

    assert await kept(KeepConfig(enabled=True, max_files=3, max_age_days=99), 6) == ["4", "5", "last"]
    assert await kept(KeepConfig(enabled=True, max_mb=0.18, max_age_days=99), 6) == ["4", "5", "last"]
    assert await kept(KeepConfig(enabled=True, max_age_days=2.5), 6) == ["4", "5", "last"]


async def test_nothing_coming_deletes_nothing_that_may_stay(tmp_path: Path) -> None:
    keeping = Keeping(tmp_path, KeepConfig(enabled=True, max_files=3), Troubles(Told()))
    for name in "abc":
        await keeping.keep(name, bytes(100))
    keeping.prune(0)
    assert len(list(tmp_path.iterdir())) == 3


@pytest.mark.parametrize("key", ["max_files", "max_mb", "max_age_days"])
def test_bounds_of_nothing_are_refused(key: str) -> None:
    with pytest.raises(ValueError, match=key):
        KeepConfig(**{key: 0})  # type: ignore[arg-type]
