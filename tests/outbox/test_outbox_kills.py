"""Writers and readers killed at any moment: what was acknowledged is read exactly once, no number is used twice."""

from __future__ import annotations

import os
import random
import subprocess
import threading
from pathlib import Path

import anyio
import pytest

from sparkd.outbox import Limits, inspect
from tests.outbox.disk import box, files, numbers, read_all, records, run

pytestmark = pytest.mark.anyio

SMALL = Limits(segment_bytes=1 << 16)
STEPS = [
    "outbox.before-fsync",
    "outbox.after-fsync",
    "outbox.before-cursor",
    "outbox.after-cursor",
    "outbox.before-unlink",
    "outbox.after-unlink",
]

WRITER = """
import sys
from pathlib import Path
import anyio
from sparkd import Record
from sparkd.outbox import Limits, open_outbox

async def main(root, round, both):
    box = open_outbox(Path(root), node_id="n" * 32, service="s", limits=Limits(segment_bytes=1 << 16))
    async with box.writer("e") as writer, anyio.create_task_group() as tasks:
        if both:
            tasks.start_soon(read, box)
        for batch in range(int(1e9)):
            bodies = [b"%s:%d:%d:" % (round.encode(), batch, n) + b"x" * 300 for n in range(10)]
            for seq, body in zip(await writer.append([Record(topic="t", body=body) for body in bodies]), bodies):
                print(seq, body[:-300].decode())
            sys.stdout.flush()

async def read(box):
    async with box.reader("s", "e", name="inside") as reader:
        while True:
            found = await reader.read(max_records=50, max_bytes=1 << 20)
            if not found:
                await reader.wait()
                continue
            await reader.advance(found[-1].seq)

anyio.run(main, *sys.argv[1:3], len(sys.argv) > 3)
"""


class Ledger:
    """What writers said is stored, and what a live reader has got."""

    def __init__(self) -> None:
        self.acknowledged: dict[int, bytes] = {}
        self.read: dict[int, bytes] = {}

    def note(self, line: bytes) -> None:
        seq, _, body = line.strip().partition(b" ")
        if line.endswith(b"\n"):
            assert int(seq) not in self.acknowledged, "a number was used twice"
            self.acknowledged[int(seq)] = body

    def settle(self) -> None:
        lost = {seq for seq, body in self.acknowledged.items() if self.read.get(seq) != body}
        assert not lost
        assert len(self.acknowledged) > 0


async def follow(root: Path, ledger: Ledger, until: anyio.Event) -> None:
    """Read live, as the uplink does; a record that comes twice fails."""
    async with box(root).reader("s", "e", name="outside") as reader:
        while True:
            done = until.is_set()
            for stored in (found := await reader.read(max_records=40, max_bytes=1 << 20)):
                assert stored.seq not in ledger.read
                ledger.read[stored.seq] = stored.record.body[:-300]
            if found:
                await reader.advance(found[-1].seq)
            elif done:
                return
            else:
                with anyio.move_on_after(0.05):
                    await reader.wait()


def kill_after(process: subprocess.Popen[bytes], lines: int, ledger: Ledger) -> None:
    """Take what the writer says; after so many lines, kill it wherever it is."""
    assert process.stdout is not None
    timer: threading.Timer | None = None
    with process:
        for count, line in enumerate(process.stdout):
            ledger.note(line)
            if lines and count == lines:
                timer = threading.Timer(random.uniform(0, 0.004), process.kill)
                timer.start()
    if timer:
        timer.join()


async def rounds(root: Path, ledger: Ledger, *, both: bool, crashes: list[tuple[str, int]]) -> None:
    """Run a writer again and again, and a reader throughout."""
    async with box(root, SMALL).writer("e"):
        pass
    async with anyio.create_task_group() as tasks:
        until = anyio.Event()
        tasks.start_soon(follow, root, ledger, until)
        for number, (crash_at, lines) in enumerate(crashes):
            process = run(WRITER, root, f"r{number}", *(["both"] if both else []), crash_at=crash_at)
            await anyio.to_thread.run_sync(kill_after, process, lines, ledger)
            assert process.returncode == -9
        until.set()


@pytest.mark.parametrize("both", [False, True])
async def test_twenty_kills_at_any_moment_lose_and_double_nothing(tmp_path: Path, *, both: bool) -> None:
    ledger = Ledger()

    await rounds(tmp_path, ledger, both=both, crashes=[("", random.randint(1, 1500)) for _ in range(20)])

    ledger.settle()
    (status,) = inspect(tmp_path)
    assert status.gaps == []
    assert status.first_seq > 1  # segments were trimmed
    async with box(tmp_path, SMALL).writer("e") as writer:
        assert await writer.append(records(1)) == [status.last_seq + 1]


@pytest.mark.parametrize("step", STEPS)
async def test_kills_at_a_step_lose_and_double_nothing(tmp_path: Path, step: str) -> None:
    ledger = Ledger()
    times = (1, 3) if "unlink" in step else (1, 7, 60)
    await rounds(tmp_path, ledger, both=True, crashes=[(f"{step}:{n}", 0) for n in times])

    ledger.settle() if step != "outbox.before-fsync" or ledger.acknowledged else None
    assert inspect(tmp_path)[0].gaps == []


DIE = """
import os, shutil, signal, sys
from pathlib import Path
from sparkd import Record
from sparkd.outbox import Limits
from sparkd.outbox.files import Files
from sparkd.outbox.stream import open_stream

folder = Path(sys.argv[1])
with open_stream(Files(folder), Limits()) as stream:
    for size in map(int, sys.argv[2:]):
        (shm,) = folder.glob("*-shm")
        shutil.copy(shm, folder / "before")
        stream.append([Record(topic="t", body=b"x" * 500)] * size, {})
    os.kill(os.getpid(), signal.SIGKILL)
"""


BEFORE_THE_INDEX = """
import sys
from pathlib import Path

(shm,) = Path(sys.argv[1]).glob("*-shm")
with shm.open("r+b") as file:  # as if the kill had come after the log was written and before its index
    file.write(Path(sys.argv[1], "before").read_bytes())
"""


async def test_what_a_kill_leaves_behind_in_the_log_is_no_damage(tmp_path: Path) -> None:
    folder = files(tmp_path).folder
    run(DIE, folder, 1).communicate()
    async with box(tmp_path).reader("s", "e", name="r") as reader:  # as long as it is there, the log's index stays
        await reader.read(max_records=1, max_bytes=1)
        run(DIE, folder, 5, 100).communicate()
        run(BEFORE_THE_INDEX, folder).communicate()
        os.truncate(files(tmp_path).tick, 0)
        run(DIE, folder, 1).communicate()
        async with box(tmp_path).writer("e") as writer:
            assert await writer.append(records(1)) == [8]
        found = await reader.read(max_records=1000, max_bytes=1 << 20)

    assert numbers(found) == list(range(2, 9))
    (status,) = inspect(tmp_path)
    assert (status.gaps, status.quarantined) == ([], [])


async def test_a_reader_waits_through_a_restart_of_the_writer(tmp_path: Path) -> None:
    got: list[int] = []
    done = anyio.Event()

    async def read() -> None:
        async with box(tmp_path).reader("s", "e", name="r") as reader:
            while len(got) < 3:
                got.extend(numbers(await reader.read(max_records=9, max_bytes=9999)))
                await reader.wait()
        done.set()

    async with box(tmp_path).writer("e"):
        pass
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(read)
        await anyio.wait_all_tasks_blocked()
        for expected in range(1, 4):
            with anyio.fail_after(2):  # less than the slow look would take
                async with box(tmp_path, Limits(segment_bytes=1)).writer("e") as writer:
                    assert await writer.append(records(1, size=70_000)) == [expected]
        with anyio.fail_after(2):
            async with box(tmp_path).writer("e") as writer:
                await writer.append(records(1))
            await done.wait()
    assert got in ([1, 2, 3], [1, 2, 3, 4])
    assert files(tmp_path).segments()


async def test_what_is_read_again_after_a_kill_begins_after_the_cursor(tmp_path: Path) -> None:
    process = run(WRITER, tmp_path, "r", "both", crash_at="outbox.after-cursor:5")
    process.communicate()
    position = next(reader.position for reader in inspect(tmp_path)[0].readers if reader.name == "inside")

    assert numbers(await read_all(tmp_path, name="inside"))[:1] in ([], [position + 1])
