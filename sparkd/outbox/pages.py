"""Records out of the bare pages of a segment, for a file that SQLite refuses: a broken header, root or write-ahead log.

Each page is looked at by itself, and a record is taken only if its own checksum holds. So the cost is that of reading
the file once, whatever is broken in it. (SQLite's file format, sections 1.6, 2.1 and 4.1, says what a page looks like.)
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from pathlib import Path

from sparkd.outbox.segment import Row, stored_of

PAGE_BYTES = 4096
"""What SQLite makes by default; all our segments have it."""
WAL_HEAD_BYTES = 32
FRAME_HEAD_BYTES = 24
_FRAME_BYTES = FRAME_HEAD_BYTES + PAGE_BYTES
_MAGIC = 0x377F0682
_TABLE_LEAF = 0x0D
_COLUMNS = 11
_FLOAT = 7
_INT_BYTES = {1: 1, 2: 2, 3: 3, 4: 4, 5: 6, 6: 8}
_MAX_LOCAL = PAGE_BYTES - 35
_MIN_LOCAL = (PAGE_BYTES - 12) * 32 // 255 - 23

PageOf = Callable[[int], bytes]


def rows_in_pages(path: Path) -> dict[int, Row]:
    """Return every record that is whole in the pages of the segment at *path* and of its WAL."""
    wal = path.with_name(f"{path.name}-wal")
    frames = list(_frames(wal)) if wal.exists() else []
    logged = {int.from_bytes(frame[:4]): frame[FRAME_HEAD_BYTES:] for frame in frames}
    found: dict[int, Row] = {}
    with path.open("rb") as file:
        size = path.stat().st_size

        def page_of(number: int) -> bytes:
            if number in logged:
                return logged[number]
            file.seek((number - 1) * PAGE_BYTES)
            return file.read(PAGE_BYTES)

        for at in range(0, size, PAGE_BYTES):
            file.seek(at)
            _take(found, file.read(PAGE_BYTES), 100 if at == 0 else 0, page_of)
        for frame in frames:  # the file first: what it holds was committed
            _take(found, frame[FRAME_HEAD_BYTES:], 100 if frame[:4] == b"\0\0\0\1" else 0, page_of)
    return found


def is_cut(wal: Path) -> bool:
    """Whether the WAL has lost transactions that were committed: one goes on behind a place that is broken.

    SQLite takes such a place for the end, and says nothing. A process that is killed leaves none.
    """
    try:
        with wal.open("rb") as file:
            head = file.read(WAL_HEAD_BYTES)
            size = wal.stat().st_size
    except FileNotFoundError:
        return False
    order = {_MAGIC: "<", _MAGIC + 1: ">"}.get(int.from_bytes(head[:4]))
    if order is None or _checksum(head[:24], (0, 0), order) != struct.unpack(">II", head[24:]):
        return size >= WAL_HEAD_BYTES + _FRAME_BYTES
    chain, whole = struct.unpack(">II", head[24:]), True
    for frame in _frames(wal):
        if whole:
            chain = _checksum(frame[FRAME_HEAD_BYTES:], _checksum(frame[:8], chain, order), order)
            whole = chain == struct.unpack_from(">II", frame, 16)
        elif frame[4:8] != bytes(4):  # it ends a transaction
            return True
    return False


def _checksum(content: bytes, begin: tuple[int, ...], order: str) -> tuple[int, ...]:
    one, two = begin
    words = struct.unpack(f"{order}{len(content) // 4}I", content)
    for index in range(0, len(words), 2):
        one = one + words[index] + two & 0xFFFFFFFF
        two = two + words[index + 1] + one & 0xFFFFFFFF
    return one, two


def _frames(wal: Path) -> Iterator[bytes]:
    """Yield the frames that the WAL's present round has written; those of earlier rounds have another salt."""
    with wal.open("rb") as file:
        salt = file.read(WAL_HEAD_BYTES)[16:24]
        while len(frame := file.read(_FRAME_BYTES)) == _FRAME_BYTES:
            if frame[8:16] == salt and frame[:4] != bytes(4):
                yield frame


def _take(found: dict[int, Row], page: bytes, begin: int, page_of: PageOf) -> None:
    for row in _rows(page, begin, page_of):
        try:
            whole = row[0] not in found and stored_of(row) is not None
        except (ValueError, TypeError, OverflowError):
            continue
        if whole:
            found[row[0]] = row


def _rows(page: bytes, begin: int, page_of: PageOf) -> Iterator[Row]:
    """Yield what might be the rows in *page*, which has its head at *begin*."""
    if len(page) < begin + 8 or page[begin] != _TABLE_LEAF:
        return
    for index in range(int.from_bytes(page[begin + 3 : begin + 5])):
        at = begin + 8 + 2 * index
        try:
            yield _row(page, int.from_bytes(page[at : at + 2]), page_of)
        except (IndexError, ValueError, struct.error):
            continue


def _row(page: bytes, at: int, page_of: PageOf) -> Row:
    size, at = _varint(page, at)
    seq, at = _varint(page, at)
    content = _payload(page, at, size, page_of)
    head, place = _varint(content, 0)
    if head > len(content):
        raise ValueError("a head longer than its record")
    values: list[object] = []
    body = head
    while place < head:
        kind, place = _varint(content, place)
        value, body = _value(content, kind, body)
        values.append(value)
    if len(values) != _COLUMNS:
        raise ValueError("not one of our records")
    return (seq, *values[1:])  # type: ignore[return-value] # the first column is the row's number; the checksum proves the rest


def _payload(page: bytes, at: int, size: int, page_of: PageOf) -> bytes:
    if size <= _MAX_LOCAL:
        return page[at : at + size]
    local = _MIN_LOCAL + (size - _MIN_LOCAL) % (PAGE_BYTES - 4)
    local = local if local <= _MAX_LOCAL else _MIN_LOCAL
    parts, left = [page[at : at + local]], size - local
    following = int.from_bytes(page[at + local : at + local + 4])
    while left > 0 and following:
        more = page_of(following)
        parts.append(more[4 : 4 + left])
        if len(parts[-1]) == 0:
            break
        left -= len(parts[-1])
        following = int.from_bytes(more[:4])
    if left > 0:
        raise ValueError("an overflow page is missing")
    return b"".join(parts)


def _value(content: bytes, kind: int, at: int) -> tuple[object, int]:
    if kind in _INT_BYTES:
        end = at + _INT_BYTES[kind]
        return int.from_bytes(content[at:end], signed=True), end
    if kind >= 12:  # noqa: PLR2004 - 12 and more, even: a blob; 13 and more, odd: a text
        end = at + (kind - 12) // 2
        if end > len(content):
            raise ValueError("a value beyond its record")
        return content[at:end].decode() if kind % 2 else content[at:end], end
    if kind == _FLOAT:
        return struct.unpack_from(">d", content, at)[0], at + 8
    constants: dict[int, object] = {0: None, 8: 0, 9: 1}
    return constants.get(kind), at


def _varint(content: bytes, at: int) -> tuple[int, int]:
    value = 0
    for index in range(8):
        byte = content[at + index]
        value = value << 7 | byte & 0x7F
        if byte < 0x80:  # noqa: PLR2004 - the highest bit says that more follows
            return value, at + index + 1
    return value << 8 | content[at + 8], at + 9
