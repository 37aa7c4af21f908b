"""The ring: whole samples only, whatever happens to its writer."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from sparkd.recorder import RingWriter, Sample, read_ring, row
from sparkd.recorder.ring import CELL, MIN_BYTES

BOOT = "b" * 36
KILLS = 12
WRITER = """\
import sys
from pathlib import Path
from tests.recorder.test_ring import BOOT, MIN_BYTES, RingWriter, made
ring = RingWriter(Path(sys.argv[1]), size_bytes=MIN_BYTES, boot_id=BOOT)
ring.open()
print("open", flush=True)
while True:
    ring.append(made(ring.number + 1))
"""


def made(number: int, *, services: int = 20) -> Sample:
    """Return a sample whose every value follows from its number, so that a mixture of two would show."""
    noise = random.Random(number)
    rows = [
        row(f"service-{at}", "running", rss=number * 4096, write=number, cpu_us=noise.randrange(1 << 30))
        for at in range(services)
    ]
    return Sample(boot_ns=number * 1_000_000_000, wall_ns=number, span_ms=1000, rows=rows)


def writer(path: Path, *, boot: str = BOOT) -> RingWriter:
    return RingWriter(path, size_bytes=MIN_BYTES, boot_id=boot)


def test_the_newest_and_those_after_a_number_are_read_without_the_rest(tmp_path: Path) -> None:
    path = tmp_path / "ring"
    ring = RingWriter(path, size_bytes=MIN_BYTES, boot_id=BOOT)
    ring.open()
    assert read_ring(path).last() is None
    for number in range(1, 11):
        ring.append(made(number))
    held = read_ring(path)

    assert held.last() == made(10)
    assert list(held.samples(after=8)) == [(9, made(9)), (10, made(10))]
    assert list(held.samples(after=10)) == []
    ring.close(clean=True)


def test_what_is_appended_is_read_also_while_it_is_written_on(tmp_path: Path) -> None:
    ring = writer(tmp_path / "ring")
    assert ring.open() is None
    for number in range(1, 6):
        assert ring.append(made(number)) == number
        assert list(read_ring(ring.path).samples()) == [(n, made(n)) for n in range(1, number + 1)]
    assert not read_ring(ring.path).clean

    ring.close(clean=True)
    assert read_ring(ring.path).clean


def test_a_full_ring_holds_the_last_samples_without_a_hole(tmp_path: Path) -> None:
    ring = writer(tmp_path / "ring")
    ring.open()
    sizes = set()
    for number in range(1, 1000):
        ring.append(made(number, services=1 + number % 40))
        sizes.add(ring.path.stat().st_size)
    held = list(read_ring(ring.path).samples())

    assert sizes == {MIN_BYTES}
    assert [number for number, _ in held] == list(range(1000 - len(held), 1000))
    assert all(sample == made(number, services=1 + number % 40) for number, sample in held)
    assert len(held) > 20


def test_a_thousand_short_lived_services_do_not_make_it_grow(tmp_path: Path) -> None:
    ring = writer(tmp_path / "ring")
    ring.open()
    for number in range(1, 1001):
        ring.append(Sample(number, number, 1000, [row(f"short-{number}", "running", rss=1)]))

    assert ring.path.stat().st_size == MIN_BYTES
    assert list(read_ring(ring.path).samples())[-1][1].rows[0].name == "short-1000"


def test_no_kill_leaves_a_torn_sample_and_the_next_run_goes_on(tmp_path: Path) -> None:
    path, last = tmp_path / "ring", 0
    for turn in range(KILLS):
        with subprocess.Popen([sys.executable, "-c", WRITER, str(path)], stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == b"open\n"
            deadline = time.monotonic() + 0.01 + 0.005 * turn
            while time.monotonic() < deadline:  # a reader beside the writer
                assert all(sample == made(number) for number, sample in list(read_ring(path).samples()))
            process.send_signal(signal.SIGKILL)
        held = list(read_ring(path).samples())
        assert held[-1][0] > last, "the run before is not continued"
        last = held[-1][0]
        assert [number for number, _ in held] == list(range(held[0][0], last + 1))
        assert all(sample == made(number) for number, sample in held)


@pytest.mark.parametrize("seed", range(20))
def test_a_write_that_was_cut_off_anywhere_costs_that_sample_alone(tmp_path: Path, seed: int) -> None:
    ring = writer(tmp_path / "ring")
    ring.open()
    for number in range(1, 200):
        ring.append(made(number))
    before, held = ring.path.read_bytes(), list(read_ring(ring.path).samples())
    ring.append(made(200))
    after = ring.path.read_bytes()
    changed = [at for at, (old, new) in enumerate(zip(before, after, strict=True)) if old != new]
    cut = random.Random(seed).randrange(changed[0], changed[-1])
    ring.path.write_bytes(after[:cut] + before[cut:])

    found = list(read_ring(ring.path).samples())
    assert all(sample == made(number) for number, sample in found)
    assert found == [pair for pair in held if pair in found]
    assert found[-1][0] == 199
    assert len(held) - len(found) <= 2


def test_garbage_is_no_ring_and_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "ring"
    path.write_bytes(os.urandom(MIN_BYTES))
    with pytest.raises(ValueError, match="not a ring"):
        read_ring(path)

    ring = writer(path)
    assert ring.open() is None
    ring.append(made(1))
    assert list(read_ring(path).samples()) == [(1, made(1))]


def test_damaged_cells_cost_the_samples_in_them(tmp_path: Path) -> None:
    ring = writer(tmp_path / "ring")
    ring.open()
    for number in range(1, 100):
        ring.append(made(number))
    content = bytearray(ring.path.read_bytes())
    for at in range(CELL * 5, len(content), CELL * 101):
        content[at + 30] ^= 0xFF
    ring.path.write_bytes(content)

    found = list(read_ring(ring.path).samples())
    assert found
    assert all(sample == made(number) for number, sample in found)


def test_a_ring_of_another_boot_is_not_continued(tmp_path: Path) -> None:
    ring = writer(tmp_path / "ring")
    ring.open()
    ring.append(made(1))
    again = writer(ring.path, boot="c" * 36)
    assert again.open() is None
    assert list(read_ring(ring.path).samples()) == []


def test_no_room_is_said_at_once_and_leaves_nothing(small_disk: Path) -> None:
    ring = RingWriter(small_disk / "ring", size_bytes=64 << 20, boot_id=BOOT)
    with pytest.raises(OSError, match="No space left"):
        ring.open()
    assert not ring.path.exists()
    assert not ring.is_open
