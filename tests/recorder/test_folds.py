"""Minutes, totals and their store: sums that agree, bounds that hold, tails that are cut."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from sparkd.recorder import Fold, FoldStore, Left, Minute, Recorded, Row, Sample, read_folds, row
from sparkd.recorder.fold import COUNTED, DAY_S, MAX_SERVICES, OTHERS, Totals, no_totals
from sparkd.recorder.store import FILES, fold_files

BOOT = "b" * 36
SECOND_NS = 1_000_000_000
DAY_MINUTES = 1440
WRITE_MINUTES = 5
MB = 1_000_000
BLOCK = 4096
JOURNAL_BYTES = 12 << 10
"""What ext4 writes besides at each sync: descriptor, inode table, commit."""


def busy(second: int, noise: random.Random, *, services: int = 20) -> Sample:
    """Return a sample of services that are all busy: nothing compresses well."""

    def one(name: str) -> Row:
        return row(
            name,
            "running",
            rss=40_000_000 + noise.randrange(1000) * 4096,
            pss=9_000_000 + noise.randrange(1000) * 1024,
            threads=noise.randrange(3, 12),
            fds=noise.randrange(20, 60),
            processes=1,
            answer_us=noise.randrange(400, 9000),
            cpu_us=noise.randrange(50) * 10_000,
            read=noise.randrange(10) * 4096,
            write=noise.randrange(100) * 4096,
            link=noise.randrange(100_000),
            tcp=noise.randrange(100_000),
            published=noise.randrange(100),
            published_bytes=noise.randrange(50_000),
            received=noise.randrange(100),
            switches=noise.randrange(300),
            preempted=noise.randrange(20),
        )

    names = ["core", "zygote", *(f"service-{at}" for at in range(services))]
    return Sample(second * SECOND_NS, second * SECOND_NS, 1000, [one(name) for name in names])


def test_a_day_of_twenty_busy_services_is_less_than_ten_megabytes_of_flash(tmp_path: Path) -> None:
    noise, minute, store, totals = (
        random.Random(1),
        Minute(BOOT),
        FoldStore(tmp_path, max_bytes=100 << 20),
        no_totals(0),
    )
    pending: list[Fold] = []
    flash = written = 0
    for at in range(DAY_MINUTES + 1):
        for second in (0, 20, 40):  # three looks a minute give the same rows as sixty
            sample = busy(at * 60 + second, noise)
            totals.add(sample.rows)
            if (fold := minute.add(at, sample)) is not None:
                pending.append(fold)
        if len(pending) == WRITE_MINUTES:
            size = store.write(pending, totals)
            written += size
            flash += -(-size // BLOCK) * BLOCK + BLOCK + JOURNAL_BYTES
            pending = []

    assert sum(1 for _ in read_folds(tmp_path)) == DAY_MINUTES
    assert written == sum(file.stat().st_size for file in fold_files(tmp_path))
    assert written < flash < 10 * MB
    print(f"a day: {written / MB:.1f} MB of files, {flash / MB:.1f} MB of flash")  # noqa: T201 - the figure for README


def test_a_minute_says_least_mean_greatest_and_sum() -> None:
    minute = Minute(BOOT)
    for second, rss in enumerate((10, 30, 20)):
        sample = Sample(second * SECOND_NS, 0, 1000, [row("it", "running", rss=rss, write=second * 100)])
        assert minute.add(second + 1, sample) is None
    fold = minute.add(4, Sample(60 * SECOND_NS, 0, 1000, [row("it", "broken")]))
    assert fold is not None
    assert fold.number == 3
    (found,) = fold.rows
    assert (found.state, found.seconds_ms) == ("running", 3000)
    assert found.gauge("rss") == [10, 20, 30]
    assert found.counter("write") == [300, 200]


def test_a_row_of_an_older_sparkd_is_read_with_zeros() -> None:
    minute = Minute(BOOT)
    minute.add(1, Sample(0, 0, 1000, [Row("it", "running", [7])]))
    fold = minute.end()
    assert fold is not None
    assert fold.rows[0].gauge("rss") == [7, 7, 7]
    assert fold.rows[0].counter("restarts") == [0, 0]


def folds(count: int, *, first: int = 1) -> list[Fold]:
    noise = random.Random(first)
    found = []
    for number in range(first, first + count):
        minute = Minute(BOOT)
        minute.add(number, busy(number * 60, noise, services=3))
        fold = minute.end()
        assert fold is not None
        found.append(fold)
    return found


@pytest.mark.parametrize("lost", [1, 7, 100, 500])
def test_a_torn_tail_is_cut_off_and_what_follows_is_read(tmp_path: Path, lost: int) -> None:
    first, second, third = folds(3), folds(3, first=10), folds(2, first=20)
    FoldStore(tmp_path, max_bytes=1 << 20).write(first, no_totals(1.0))
    whole = (tmp_path / "00000001.folds").stat().st_size
    FoldStore(tmp_path, max_bytes=1 << 20).write(second, no_totals(2.0))
    (file,) = fold_files(tmp_path)
    with file.open("r+b") as torn:
        torn.truncate(file.stat().st_size - lost)
    assert list(read_folds(tmp_path))[:3] == first

    FoldStore(tmp_path, max_bytes=1 << 20).write(third, no_totals(3.0))
    found = list(read_folds(tmp_path))
    assert found[:3] == first
    assert found[-2:] == third
    assert all(fold in second for fold in found[3:-2])
    assert file.stat().st_size > whole
    left = Left(tmp_path)
    assert left.totals is not None
    assert left.totals.since == 3.0


def test_the_store_stays_within_its_bound_and_keeps_the_newest_and_the_totals(tmp_path: Path) -> None:
    bound = 200_000
    store, totals = FoldStore(tmp_path, max_bytes=bound), no_totals(7.0)
    for turn in range(150):
        store.write(folds(5, first=turn * 5 + 1), totals)
        assert sum(file.stat().st_size for file in fold_files(tmp_path)) <= bound + bound // FILES
    numbers = [fold.number for fold in read_folds(tmp_path)]
    assert numbers == list(range(numbers[0], 751))
    assert numbers[0] > 1
    left = Left(tmp_path)
    assert left.totals == totals


def test_an_end_in_order_is_told_from_another(tmp_path: Path) -> None:
    assert Left(tmp_path).clean
    FoldStore(tmp_path, max_bytes=1 << 20).write(folds(1), no_totals(0))
    assert not Left(tmp_path).clean
    FoldStore(tmp_path, max_bytes=1 << 20).write(folds(1), no_totals(0), end=True)
    assert Left(tmp_path).clean


def test_a_full_disk_costs_the_oldest_then_is_said_and_leaves_no_half_frame(small_disk: Path) -> None:
    store, folder = FoldStore(small_disk / "recorder", max_bytes=10 << 20), small_disk / "recorder"
    store.write(folds(2), no_totals(0))
    (small_disk / "filler").write_bytes(bytes(small_disk.stat().st_blksize * 200))
    with pytest.raises(OSError, match="No space left"):
        fill(store)
    held = list(read_folds(folder))
    assert held
    (small_disk / "filler").unlink()
    store.write(folds(1, first=9000), no_totals(0))
    assert list(read_folds(folder)) == [*held, *folds(1, first=9000)]


def fill(store: FoldStore) -> None:
    for turn in range(500):
        store.write(folds(5, first=100 + turn * 5), no_totals(0))


def test_totals_know_today_and_a_step_of_the_clock_does_not_begin_a_day_again() -> None:
    totals = no_totals(DAY_S * 100.5)
    at = COUNTED.index("write")

    def write(count: int, wall_s: float) -> tuple[int, int]:
        totals.begin_day(wall_s)
        totals.add([row("it", "running", write=count)])
        used = totals.services["it"]
        return used.today[at], used.ever[at]

    assert write(10, DAY_S * 100.9) == (10, 10)
    assert write(1, DAY_S * 101.0) == (1, 11)
    assert write(1, DAY_S * 101 - 3600) == (2, 12)
    assert write(1, DAY_S * 101.1) == (3, 13)


def test_totals_are_bounded_and_lose_nothing() -> None:
    totals = no_totals(0)
    for number in range(1000):
        totals.add([row(f"short-{number}", "gone", write=1), row("steady", "running", write=100)])
    assert len(totals.services) <= MAX_SERVICES
    at = COUNTED.index("write")
    assert totals.services["steady"].ever[at] == 100_000
    assert totals.services[OTHERS].ever[at] > 0
    assert sum(used.ever[at] for used in totals.services.values()) == 101_000


def test_history_joins_disk_and_memory_is_bounded_and_shows_holes(tmp_path: Path) -> None:
    folder = tmp_path / "state" / "recorder"
    minute, kept = Minute("a" * 36), list[Fold]()
    for number in range(1, 3000):  # another boot, 50 minutes, with a hole of ten
        second = number if number < 1500 else number + 600
        wall = int((1_795_000_000 + second) * 1e9)
        fold = minute.add(number, Sample(second * SECOND_NS, wall, 1000, [row("it", "running", rss=5, write=10)]))
        kept += [fold] if fold else []
    totals = Totals(since=0.0, day=0, number=0, boot="", services={})
    FoldStore(folder, max_bytes=1 << 20).write(kept, totals)

    recorded = Recorded(tmp_path / "run", tmp_path / "state")
    found = recorded.history("it", "write", since_s=10 * 365 * DAY_S, step_s=1.0)
    assert 1 <= len(found.points) <= 2000
    assert found.points[0].mean == 10.0
    (hole,) = found.holes
    assert 600 <= hole[1] - hole[0] <= 720
    assert recorded.names() == {"it"}
    with pytest.raises(ValueError, match="no metric 'weight'"):
        recorded.history("it", "weight", since_s=60)
