"""The power goes at any moment: what was acknowledged is there, once, and every file is the old one or the new one.

Programs run on a file system that keeps what is not synced apart, and loses it: all of it (seed None), or any part.
"""

from __future__ import annotations

import contextlib
import sqlite3
import subprocess
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from sparkd import StorageError
from sparkd.audit.reading import verify
from sparkd.config import node_id
from sparkd.daemon import toggles
from sparkd.daemon.last_good import Shelf
from sparkd.link import KeyStore
from sparkd.outbox.files import read_json
from tests.outbox.disk import box, files, records
from tests.powercut.rig import Cut, cut_disk

pytestmark = pytest.mark.anyio
SEEDS = [None, 1, 2, 3]
LIMITS = "Limits(segment_bytes=1 << 18)"


@pytest.fixture
def disk() -> Iterator[Cut]:
    with cut_disk() as it:
        it.power_on()
        yield it


WRITER = """\
import sys
from pathlib import Path
import anyio
from sparkd.outbox import Limits
from tests.outbox.disk import box, records
{more}
async def main(root):
    async with box(Path(root), {limits}).writer("e") as writer:
        number = 0
        while True:
            seqs = await writer.append(records(20, start=number, size=200), marks={{"n": str(number).encode()}})
            number += 20
            print(seqs[0], seqs[-1], flush=True)

anyio.run(main, sys.argv[1])
"""


def acknowledged(program: subprocess.Popen[str], count: int) -> int:
    """Read *count* lines of a writer; return the last number that it was given."""
    assert program.stdout is not None
    return [int(program.stdout.readline().split()[1]) for _ in range(count)][-1]


def finally_acknowledged(disk: Cut, last: int) -> int:
    """Return the last number that the one program was given before the cut, *last* if nothing was said since."""
    lines = disk.last_words[0].rpartition("\n")[0].splitlines()
    return int(lines[-1].split()[1]) if lines else last


async def bodies(root: Path) -> dict[int, bytes]:
    """Return every record that a new reader finds, by number; none comes twice."""
    found: dict[int, bytes] = {}
    empty = 0
    async with box(root).reader("s", "e", name="late") as reader:
        while empty < 3:
            batch = await reader.read(max_records=500, max_bytes=1 << 20)
            for stored in batch:
                assert stored.seq not in found
                found[stored.seq] = stored.record.body
            empty = 0 if batch else empty + 1
    return found


@pytest.mark.parametrize("seed", SEEDS)
async def test_what_the_outbox_acknowledged_is_there_once(disk: Cut, seed: int | None) -> None:
    writer = disk.run(WRITER.format(limits=LIMITS, more=""), disk.mount / "outbox")
    last = acknowledged(writer, 60)
    disk.cut(seed)
    last = finally_acknowledged(disk, last)

    root = disk.place / "outbox"
    async with box(root).writer("e") as again:
        mark = int(again.mark("n") or b"-1")
        (next_,) = await again.append(records(1, start=10**6))
    found = await bodies(root)
    assert all(found[seq] == b"%d:" % (seq - 1) + b"x" * 200 for seq in range(1, last + 1))
    assert next_ > last, "no number is given twice"
    assert mark >= last - 20, "marks come with their records"
    assert not [name for name in files(root).folder.iterdir() if name.name == "quarantine"], "nothing is damaged"


async def test_the_disk_of_this_test_does_lose_what_is_not_synced(disk: Cut) -> None:
    """A store that does not sync must fail the test above, or the test shows nothing."""
    careless = (
        "import sparkd.outbox.segment as segment, sqlite3\n"
        "careful = segment._connect\n"
        "def careless(path):\n"
        "    db = careful(path)\n"
        "    db.execute('PRAGMA synchronous = OFF')\n"
        "    return db\n"
        "segment._connect = careless\n"
    )
    writer = disk.run(WRITER.format(limits=LIMITS, more=careless), disk.mount / "outbox")
    last = acknowledged(writer, 20)
    disk.cut(None)
    found = dict[int, bytes]()
    with contextlib.suppress(StorageError):  # not even the tables are there
        found = await bodies(disk.place / "outbox")
    assert len([seq for seq in range(1, last + 1) if seq in found]) < last


READER = """\
import sys
from pathlib import Path
import anyio
from sparkd.outbox import Limits
from tests.outbox.disk import box, records

async def main(root):
    async with box(Path(root), {limits}).writer("e") as writer:
        async with box(Path(root)).reader("s", "e", name="r") as reader:
            while True:
                await writer.append(records(50, size=400))
                batch = await reader.read(max_records=30, max_bytes=1 << 20)
                await reader.advance(batch[-1].seq)
                print(batch[0].seq, batch[-1].seq, flush=True)

anyio.run(main, sys.argv[1])
"""


@pytest.mark.parametrize("seed", SEEDS)
async def test_a_readers_place_is_what_it_passed_and_what_lies_behind_is_there(disk: Cut, seed: int | None) -> None:
    program = disk.run(READER.format(limits=LIMITS), disk.mount / "outbox")
    last = acknowledged(program, 60)
    disk.cut(seed)
    last = finally_acknowledged(disk, last)

    root = disk.place / "outbox"
    async with box(root).reader("s", "e", name="r") as reader:
        assert last <= reader.position <= last + 30
        batch = await reader.read(max_records=1, max_bytes=1 << 20)
        assert batch[0].seq == reader.position + 1, "nothing was trimmed that it had not passed"


@pytest.mark.parametrize("seed", [None, 1, 2])
def test_a_folder_of_a_service_lasts_with_what_it_holds(disk: Cut, seed: int | None) -> None:
    """`ctx.state_dir` is made so that a database in it, once committed, cannot vanish with its folder."""
    program = disk.run(
        "import sqlite3, sys\n"
        "from pathlib import Path\n"
        "from sparkd.lasting import make_lasting\n"
        "folder = Path(sys.argv[1]) / 'plugins' / 'stream-sink'; make_lasting(folder)\n"
        "db = sqlite3.connect(folder / 'x.db', isolation_level=None)\n"
        "db.execute('PRAGMA journal_mode=WAL'); db.execute('PRAGMA synchronous=FULL')\n"
        "db.execute('CREATE TABLE t (n INTEGER)')\n"
        "for number in range(10**6):\n"
        "    db.execute('INSERT INTO t VALUES (?)', (number,))\n"
        "    print(number, number + 1, flush=True)\n",
        disk.mount,
    )
    count = acknowledged(program, 100)
    disk.cut(seed)

    with closing(sqlite3.connect(disk.place / "plugins" / "stream-sink" / "x.db")) as db:
        (rows_,) = db.execute("SELECT count(*) FROM t").fetchone()
    assert rows_ >= count


WRITE_OVER = """\
import sys
from pathlib import Path
{imports}
place = Path(sys.argv[1])
for number in range(10**6):
    {deed}
    print(number, number, flush=True)
"""


def over_and_over(disk: Cut, imports: str, deed: str, *, times: int, seed: int | None) -> int:
    """Let a program write a file again and again; cut the power; return the number of its last finished write."""
    program = disk.run(WRITE_OVER.format(imports=imports, deed=deed), disk.mount)
    last = acknowledged(program, times)
    disk.cut(seed)
    return finally_acknowledged(disk, last)


@pytest.mark.parametrize("seed", SEEDS)
def test_a_small_file_of_the_outbox_is_the_last_written(disk: Cut, seed: int | None) -> None:
    deed = "write_whole(place / 'f.json', json.dumps({'n': number, 'x': 'x' * 9000}))"
    last = over_and_over(disk, "import json; from sparkd.lasting import write_whole", deed, times=20, seed=seed)

    held = read_json(disk.place / "f.json")
    assert held["n"] in (last, last + 1)
    assert len(held["x"]) == 9000


@pytest.mark.parametrize("seed", SEEDS)
def test_a_switch_that_was_confirmed_stays(disk: Cut, seed: int | None) -> None:
    deed = "toggles.write(place, 'eye', number % 2 == 0); toggles.write(place, 'ear', True)"
    last = over_and_over(disk, "from sparkd.daemon import toggles", deed, times=9, seed=seed)

    held = toggles._read(disk.place / "switches" / toggles.FILE)
    assert held["eye"] in ((last % 2 == 0), ((last + 1) % 2 == 0))
    assert held["ear"] is True


@pytest.mark.parametrize("seed", SEEDS)
def test_keys_are_whole_and_stay(disk: Cut, seed: int | None) -> None:
    imports = "import zmq; from sparkd.link import KeyStore\nstore = KeyStore(Path(sys.argv[1]) / 'keys')"
    deed = "store.new(force=True); store.trust('peer', zmq.curve_keypair()[0].decode())"
    over_and_over(disk, imports, deed, times=4, seed=seed)

    store = KeyStore(disk.place / "keys")
    assert store.load().secret
    assert set(store.trusted()) == {"peer"}


@pytest.mark.parametrize("seed", SEEDS)
def test_the_nodes_identity_never_changes(disk: Cut, seed: int | None) -> None:
    program = disk.run(
        "import sys; from pathlib import Path; from sparkd.config import node_id\n"
        "print(node_id(Path(sys.argv[1])), flush=True)\nimport time; time.sleep(60)",
        disk.mount,
    )
    assert program.stdout is not None
    known = program.stdout.readline().strip()
    disk.cut(seed)

    assert node_id(disk.place) == known


@pytest.mark.parametrize("seed", SEEDS)
def test_the_last_good_version_is_whole(disk: Cut, seed: int | None) -> None:
    imports = (
        "from sparkd.daemon.last_good.shelf import Shelf, Taken\n"
        "main = Path(sys.argv[1]) / 'sparkd.toml'; main.write_text('')\n"
        "shelf = Shelf(Path(sys.argv[1]) / 'good', main, ())"
    )
    deed = (
        "main.write_text(f'# {number}\\n' * 500); version = shelf.on_disk(); shelf.keep(version); "
        "shelf.note(Taken(good=version.name))"
    )
    over_and_over(disk, imports, deed, times=8, seed=seed)

    shelf = Shelf(disk.place / "good", disk.place / "sparkd.toml", ())
    assert shelf.taken.good
    kept = shelf.config_of(shelf.taken.good)
    assert kept is not None
    assert len(kept.read_text().splitlines()) == 500


@pytest.mark.parametrize("seed", [None, 1, 2, 3])
def test_a_command_that_was_taken_is_not_forgotten(disk: Cut, seed: int | None) -> None:
    script = """\
import sys
from importlib import import_module
from pathlib import Path
import anyio
journal = import_module("sparkd_plugins.cloud_uplink.journal")
from sparkd.lasting import make_lasting

async def main():
    folder = Path(sys.argv[1]) / "uplink"
    make_lasting(folder)
    async with journal.open_journal(folder / "commands.db") as held:
        for number in range(10**6):
            await held.take(f"id-{number}", "node.status", {}, now_ns=1, expires_ns=0)
            print(number, number + 1, flush=True)

anyio.run(main)
"""
    count = acknowledged(disk.run(script, disk.mount), 50)
    disk.cut(seed)

    with closing(sqlite3.connect(disk.place / "uplink" / "commands.db")) as db:
        known = {row[0] for row in db.execute("SELECT id FROM commands")}
    assert known >= {f"id-{number}" for number in range(count)}


@pytest.mark.parametrize("seed", SEEDS)
def test_the_audit_trail_has_every_recorded_deed_and_is_taken_for_whole(disk: Cut, seed: int | None) -> None:
    script = """\
import sys
from pathlib import Path
from sparkd.audit.deed import Deed
from sparkd.audit.files import TrailFiles
trail = TrailFiles(Path(sys.argv[1]) / "audit", max_bytes=1 << 20)
trail.append([trail.open()])
for number in range(10**6):
    (entry,) = trail.append([Deed(door="rpc", method=f"plugins.stop{number}", outcome="ok")])
    print(entry.seq, entry.seq, flush=True)
"""
    last = acknowledged(disk.run(script, disk.mount), 60)
    disk.cut(seed)
    last = finally_acknowledged(disk, last)

    report = verify(disk.place / "audit")
    assert report.problems == [], "a power cut is nobody's meddling"
    assert report.last_seq >= last
    assert report.first_seq == 1
