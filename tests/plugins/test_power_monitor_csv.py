from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparkd import DeviceError
from sparkd_plugins.power_monitor import recording
from sparkd_plugins.power_monitor.source_csv import CsvConfig, CsvSource
from tests.plugins.power_listener import Heard, watching

pytestmark = pytest.mark.anyio
HEAD = "t_s,mains,charge_percent\n"


def config(folder: Path, text: str, **keys: object) -> CsvConfig:
    file = folder / "it.csv"
    file.write_text(text)
    return CsvConfig(file=file, **{"speed": 100.0, "interval_s": 0.05, **keys})  # type: ignore[arg-type]


async def test_it_is_played_in_order_and_its_end_stays_true(tmp_path: Path) -> None:
    text = HEAD + "0,1,90\n10,0,80\n\n# a remark\n20,0,70\n"
    async with watching(CsvSource(config(tmp_path, text))) as heard:
        await heard.until(lambda seen: sum(one.charge_percent == 70 for one in seen.readings) >= 3)

    said = [one.charge_percent for one in heard.readings]
    assert said == sorted(said, key=lambda value: -(value or 0))
    assert set(said) == {90, 80, 70}
    assert heard.whats == ["3 readings over 20 s in it.csv, at 100 x"]


async def test_bad_lines_are_named_by_number_and_passed_over(tmp_path: Path) -> None:
    text = HEAD + '0,1,90\n1,1\nx,1,90\n2,maybe,90\n3,1,much\n,1,5\n4,"1\n5,0,50\n'
    async with watching(CsvSource(config(tmp_path, text))) as heard:
        await heard.until(lambda seen: seen.readings and seen.last.charge_percent == 50)

    assert [reason.partition(":")[0] for reason in heard.bad] == [f"line {number}" for number in (3, 4, 5, 6, 7, 8)]


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "the first line must name the columns"),
        ("mains\n1\n", "t_s among them"),
        ("t_s,maïns\n", "unknown columns maïns"),
        (HEAD, "holds no readings"),
        (HEAD + "x\n", "holds no readings"),
    ],
)
async def test_what_is_no_recording_is_named(tmp_path: Path, text: str, why: str) -> None:
    with pytest.raises(DeviceError, match=why):
        await CsvSource(config(tmp_path, text)).watch(Heard())


async def test_one_that_loops_begins_again(tmp_path: Path) -> None:
    async with watching(CsvSource(config(tmp_path, HEAD + "0,1,90\n1,0,80\n", loop=True))) as heard:
        await heard.until(lambda seen: sum(one.mains is True for one in seen.readings) >= 2)


def test_what_is_recorded_is_read_again(tmp_path: Path) -> None:
    file = tmp_path / "new.csv"
    for _ in range(2):
        recorder = recording.Recorder(file)
        recorder.write(1.5, {"mains": False, "charge_percent": 61.25})
        recorder.close()
    with file.open() as lines:
        rows = list(recording.read(lines))

    assert len(rows) == 2
    assert isinstance(rows[0], recording.Row)
    assert (rows[0].at_s, rows[0].reading.mains, rows[0].reading.charge_percent) == (1.5, False, 61.25)


@given(st.lists(st.text(max_size=40), max_size=5))
def test_any_text_is_rows_or_bad(lines: list[str]) -> None:
    for one in recording.read(iter([HEAD, *lines])):
        assert isinstance(one, recording.Row | recording.Bad)
