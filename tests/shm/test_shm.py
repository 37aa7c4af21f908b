"""Shared memory by itself: one folder, writers and readers, and what is left when either is killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import msgspec
import pytest

from sparkd.errors import LocalMessageError, RemoteMessageError
from sparkd.reference import Reference, decode_reference, encode_reference, is_reference
from sparkd.shm import GoneError, NoRoomError, NoSharedMemoryError, SharedReader, SharedWriter, make_root, sweep
from sparkd.testing import short_folder

MIB = 1 << 20
ROOM = 8 * MIB

CHILD = """
import os, sys, time
from pathlib import Path
from sparkd.reference import decode_reference, encode_reference
from sparkd.shm import SharedReader, SharedWriter
root = Path(sys.argv[1])
"""
WRITER = """
writer = SharedWriter(root, service="child", max_total_bytes=8 << 20)
n = 0
while True:
    n += 1
    reference = writer.put([bytes([n % 251]) * (1 << 20)])
    print(encode_reference(reference).hex(), flush=True)
"""
READER = """
reader = SharedReader(root)
held = [reader.map(decode_reference(bytes.fromhex(line.strip()))) for line in sys.stdin]
print(len(held), flush=True)
time.sleep(1000)
"""


@pytest.fixture
def root() -> Iterator[Path]:
    with short_folder() as folder:
        yield make_root(folder)


@pytest.fixture
def writer(root: Path) -> Iterator[SharedWriter]:
    made = SharedWriter(root, service="it", max_total_bytes=ROOM)
    yield made
    made.close()


@pytest.fixture
def reader(root: Path) -> SharedReader:
    return SharedReader(root)


def files(root: Path) -> list[Path]:
    return [path for path in root.rglob("*") if path.is_file() and path.name.isdigit()]


def total(root: Path) -> int:
    return sum(path.stat().st_size for path in files(root))


def program(text: str, root: Path, *, stdin: int | None = None) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-c", CHILD + text, str(root)], stdout=subprocess.PIPE, stdin=stdin, env=dict(os.environ)
    )


def until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.002)


def test_what_is_put_is_read_uncopied_and_cannot_be_written_to(writer: SharedWriter, reader: SharedReader) -> None:
    data = os.urandom(MIB)
    reference = writer.put([b"head", memoryview(data), b"tail"])

    view = reader.map(reference)

    assert view == b"head" + data + b"tail"
    assert view.readonly
    assert reader.read(reference) == view
    assert (reference.offset + len(b"head")) % 64 == 0, "an array's data begins at a cache line"


def test_a_slot_is_used_again_and_a_late_reader_is_told(writer: SharedWriter, reader: SharedReader) -> None:
    early = [writer.put([bytes([n]) * MIB]) for n in range(10)]

    assert total(writer._root) <= ROOM // 2
    with pytest.raises(GoneError, match="something else by now"):
        reader.map(early[0])
    assert reader.map(early[-1])[0] == 9


def test_what_a_reader_has_is_never_written_over(writer: SharedWriter, reader: SharedReader) -> None:
    view = reader.map(writer.put([b"\x07" * MIB]))
    part = view[5:10]
    del view

    for n in range(20):
        writer.put([bytes([n]) * MIB])

    assert part == b"\x07" * 5
    assert len(files(writer._root)) == 3


def test_readers_that_hold_everything_cost_the_writer_nothing_but_the_loss(
    writer: SharedWriter, reader: SharedReader
) -> None:
    held = [reader.map(writer.put([bytes([n]) * MIB])) for n in range(3)]

    with pytest.raises(NoRoomError):
        writer.put([b"x" * MIB])
    del held[1]
    assert reader.map(writer.put([b"x" * MIB]))[0] == ord("x")
    assert [view[0] for view in held] == [0, 2]


def test_all_writers_share_one_bound_and_none_has_more_than_half(root: Path) -> None:
    with ExitStack() as stack:
        writers = [SharedWriter(root, service=f"s{n}", max_total_bytes=ROOM) for n in range(4)]
        for one in writers:
            stack.callback(one.close)
        for n in range(40):
            try:
                writers[n % 4].put([b"x" * (MIB - 4096)])
            except NoRoomError:
                continue
            assert total(root) <= ROOM
        assert total(root) > ROOM - 2 * MIB
        with pytest.raises(LocalMessageError, match=r"half of \[bus\] shm_max_bytes"):
            writers[0].put([b"x" * (ROOM // 2)])


def test_sizes_that_change_find_room(writer: SharedWriter, reader: SharedReader) -> None:
    for n in range(200):
        size = (n * 7919) % (3 * MIB) + 70_000
        assert reader.read(writer.put([bytes([n]) * size])) == bytes([n]) * size
    assert total(writer._root) <= ROOM // 2


def test_a_parcel_is_never_written_over_and_is_gone_once_fetched(writer: SharedWriter, reader: SharedReader) -> None:
    parcels = [writer.put([bytes([n]) * MIB], keep_s=60) for n in range(3)]
    with pytest.raises(NoRoomError):
        writer.put([b"x" * MIB], keep_s=60)

    fetched = reader.map(parcels[0], fetch=True)

    assert fetched[0] == 0
    assert len(files(writer._root)) == 2
    assert reader.read(writer.put([b"x" * MIB]))[0] == ord("x")
    with pytest.raises(GoneError):
        reader.map(parcels[0], fetch=True)


def test_a_parcel_that_nobody_fetches_is_removed_in_time(writer: SharedWriter) -> None:
    writer.put([b"x" * MIB], keep_s=0.01)
    time.sleep(0.02)
    writer.trim()

    assert not files(writer._root)


def test_what_is_idle_is_given_back(writer: SharedWriter, monkeypatch: pytest.MonkeyPatch) -> None:
    writer.put([b"x" * MIB])
    writer.trim()
    assert len(files(writer._root)) == 1
    monkeypatch.setattr("sparkd.shm.writer.IDLE_S", 0.0)
    writer.trim()
    assert not files(writer._root)


def test_nothing_is_made_before_it_is_needed_and_nothing_is_left(root: Path) -> None:
    writer = SharedWriter(root, service="it", max_total_bytes=ROOM)
    assert not list(root.iterdir())
    writer.put([b"x"])
    assert sweep(root) == 0
    assert len(files(root)) == 1, "its writer lives"
    writer.close()
    sweep(root)
    assert [path.name for path in root.iterdir()] == [".budget"]


def test_a_folder_that_cannot_be_written_to_is_told(root: Path) -> None:
    writer = SharedWriter(root / "not-there", service="it", max_total_bytes=ROOM)

    with pytest.raises(NoSharedMemoryError, match="No such file"):
        writer.put([b"x"])
    assert not writer._descriptors


@pytest.mark.parametrize("times", [25])
def test_writers_killed_in_the_middle_leave_nothing_and_nothing_torn(root: Path, times: int) -> None:
    """Each is killed while it writes as fast as it can; every reference it gave is whole or gone, never mixed."""
    reader, whole = SharedReader(root), 0
    for n in range(times):
        child = program(WRITER, root)
        assert child.stdout is not None
        lines = [child.stdout.readline() for _ in range(1 + n % 7)]
        child.kill()
        lines += child.stdout.readlines()
        child.wait()
        child.stdout.close()
        for line in [line for line in lines if line.endswith(b"\n")][-5:]:
            try:
                body = reader.read(decode_reference(bytes.fromhex(line.decode().strip())))
            except GoneError:
                continue
            assert body == body[:1] * MIB, "torn"
            whole += 1
        assert sweep(root) == 0
        assert not files(root)
    assert whole > times
    assert [path.name for path in root.iterdir()] == [".budget"]


def test_readers_killed_with_what_they_hold_free_it_at_once(writer: SharedWriter) -> None:
    for _ in range(10):
        references = [writer.put([b"x" * MIB]) for _ in range(3)]
        child = program(READER, writer._root, stdin=subprocess.PIPE)
        assert child.stdin is not None
        assert child.stdout is not None
        child.stdin.write(b"".join(encode_reference(reference).hex().encode() + b"\n" for reference in references))
        child.stdin.close()
        assert child.stdout.readline() == b"3\n"
        with pytest.raises(NoRoomError):
            writer.put([b"y" * MIB])
        os.kill(child.pid, signal.SIGSTOP)
        with pytest.raises(NoRoomError):
            writer.put([b"y" * MIB])
        child.kill()
        child.wait()
        child.stdout.close()

        assert writer.put([b"y" * MIB]).slot
        assert len(files(writer._root)) == 3


def test_a_dead_writers_slot_stays_while_it_is_read(root: Path) -> None:
    child = program(WRITER.replace("print(", "time.sleep(1000) if n > 3 else print("), root)
    assert child.stdout is not None
    last = [child.stdout.readline() for _ in range(3)][2]
    child.kill()
    child.wait()
    child.stdout.close()
    view = SharedReader(root).map(decode_reference(bytes.fromhex(last.decode().strip())))

    assert sweep(root) == 1
    assert view == b"\x03" * MIB
    del view
    assert sweep(root) == 0
    assert not files(root)


def test_a_race_of_writer_and_readers_never_shows_torn_bytes(root: Path) -> None:
    """A child overwrites three slots over and over; each mapping is one payload from its first to its last byte."""
    reader, seen, end = SharedReader(root), 0, time.monotonic() + 20
    child = program(WRITER + "    time.sleep(0.001)\n", root)
    try:
        assert child.stdout is not None
        while seen < 100:
            assert time.monotonic() < end
            reference = decode_reference(bytes.fromhex(child.stdout.readline().decode().strip()))
            try:
                view = reader.map(reference)
            except GoneError:
                continue
            first = bytes(view[:1])
            assert view == first * MIB
            seen += 1
            del view
    finally:
        child.kill()
        child.wait()
        if child.stdout:
            child.stdout.close()


@pytest.mark.parametrize(
    "change",
    [
        {"folder": "../../../etc"},
        {"folder": "it/../it"},
        {"folder": "/etc"},
        {"slot": -1},
        {"length": 1 << 50},
        {"offset": -5},
        {"version": 2},
    ],
)
def test_a_made_up_reference_is_refused_before_anything_is_opened(change: dict[str, object]) -> None:
    good = Reference(1, "it.0123456789abcdef", 1, 1, 64, 10)
    assert decode_reference(encode_reference(good)) == good
    bad = msgspec.structs.replace(good, **change)

    with pytest.raises(RemoteMessageError):
        decode_reference(encode_reference(bad))


@pytest.mark.parametrize("body", [b"\xc7", b"\xc7\x01S", b"\xc8\x00\x01S\xc1", b"\xc7\x02S\x91\x01", b"\xc7\xffS"])
def test_malformed_references_are_refused(body: bytes) -> None:
    assert is_reference(body) == (len(body) > 2)
    with pytest.raises(RemoteMessageError):
        decode_reference(body)


@pytest.mark.parametrize("body", [b"", b"\x80", b"\xc7\x01T\x00", b"S", b"\xd4S\x00"])
def test_other_bodies_are_no_references(body: bytes) -> None:
    assert not is_reference(body)


def test_what_is_no_slot_of_its_folders_owner_is_refused(writer: SharedWriter, reader: SharedReader) -> None:
    good = writer.put([b"x" * MIB])
    folder = writer._root / good.folder
    (folder / "90").symlink_to("/etc/passwd")
    os.mkfifo(folder / "91")
    (folder / "92").mkdir()
    (folder / "93").write_bytes(b"short")
    (folder / "94").write_bytes((folder / str(good.slot)).read_bytes()[:1000])

    for slot in (90, 91, 92, 93, 94):
        with pytest.raises(RemoteMessageError):
            reader.map(msgspec.structs.replace(good, slot=slot))
    with pytest.raises(RemoteMessageError):
        reader.map(msgspec.structs.replace(good, offset=0))
    with pytest.raises(RemoteMessageError):
        reader.map(msgspec.structs.replace(good, offset=MIB))


def test_a_folder_that_others_may_write_to_is_not_trusted(writer: SharedWriter, reader: SharedReader) -> None:
    good = writer.put([b"x" * MIB])
    writer._root.chmod(0o777)

    with pytest.raises(RemoteMessageError, match="others may write"):
        reader.map(good)


def test_a_reference_of_another_daemon_finds_nothing(writer: SharedWriter) -> None:
    good = writer.put([b"x" * MIB])
    with short_folder() as folder, pytest.raises(GoneError):
        SharedReader(make_root(folder)).map(good)


def test_what_was_half_made_is_removed_when_the_daemon_starts(root: Path) -> None:
    (root / ".new-it.0123456789abcdef").mkdir()
    (root / "it.0123456789abcdef").mkdir()
    (root / "it.0123456789abcdef" / "1").write_bytes(b"x" * 100)

    assert sweep(root, alone=True) == 0
    assert not list(root.iterdir())


OTHER_USER = """
import os
os.setgroups([int(sys.argv[2])] if sys.argv[2] else [])
os.setgid(65534)
os.setuid(65534)
reader = SharedReader(root)
for line in sys.stdin:
    try:
        view = reader.map(decode_reference(bytes.fromhex(line.strip())))
        print(len(view), bytes(view[:1]), flush=True)
    except Exception as error:
        print(type(error).__name__, error, flush=True)
try:
    SharedWriter(root, service="stranger", max_total_bytes=8 << 20).put([b"x" * 100_000])
    print("wrote", flush=True)
except Exception as error:
    print(type(error).__name__, error, flush=True)
"""


@pytest.mark.skipif(os.getuid() != 0, reason="needs root, to become another user")
@pytest.mark.parametrize("group", [0, 54321])
def test_a_member_of_the_readers_group_reads_and_nobody_else_does(group: int) -> None:
    with short_folder() as runtime:
        runtime.chmod(0o755)
        root = make_root(runtime, gid=54321)
        writer = SharedWriter(root, service="it", max_total_bytes=ROOM)
        reference = encode_reference(writer.put([b"x" * MIB])).hex()
        found = subprocess.run(
            [sys.executable, "-c", CHILD + OTHER_USER, str(root), str(group or "")],
            input=f"{reference}\n",
            capture_output=True,
            check=True,
            text=True,
        ).stdout.splitlines()
        writer.close()

    assert found[0] == (f"{MIB} b'x'" if group else f"RemoteMessageError shared memory {_path(reference)}: {DENIED}")
    assert found[1].startswith("NoSharedMemoryError no shared memory: Permission denied")


DENIED = "Permission denied"


def _path(reference: str) -> str:
    decoded = decode_reference(bytes.fromhex(reference))
    return f"{decoded.folder}/{decoded.slot}"
