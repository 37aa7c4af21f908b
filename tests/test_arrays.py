from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass, field
from typing import Any

import msgpack
import msgspec
import numpy as np
import pytest

from sparkd import Array, LocalMessageError, RemoteMessageError
from sparkd.arrays import about, encode_pieces, holds_arrays, shown, total_bytes
from sparkd.codec import decode_body, encode_body


@dataclass(frozen=True, slots=True, kw_only=True)
class Frame:
    n: int
    picture: Array
    more: list[Array] = field(default_factory=list)
    by_name: dict[str, tuple[int, Array]] = field(default_factory=dict)
    other: Array | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Plain:
    n: int
    data: bytes


def frame() -> Frame:
    chance = np.random.default_rng(1)
    return Frame(
        n=7,
        picture=Array.of(chance.integers(0, 255, (48, 64, 3), dtype=np.uint8)),
        more=[Array.of(chance.random((3, 5000), dtype=np.float32)), Array.of(np.arange(3))],
        by_name={"mask": (1, Array.of(np.ones((100, 100), dtype=bool)))},
    )


@pytest.mark.parametrize("dtype", ["|u1", "<i2", "<u4", "<i8", "<f2", "<f4", "<f8", "<c8", "|b1", ">i4"])
@pytest.mark.parametrize("shape", [(), (0,), (7,), (3, 4), (2, 0, 5), (2, 3, 4, 5)])
def test_an_array_comes_back_as_it_was(dtype: str, shape: tuple[int, ...]) -> None:
    source = np.asarray(np.random.default_rng(2).random(shape) * 100).astype(dtype)

    array = decode_body(Array, encode_body(Array.of(source)))

    assert (array.dtype, array.shape) == (dtype, shape)
    np.testing.assert_array_equal(array.view(), source)


def test_pieces_joined_are_what_is_encoded_and_long_data_is_not_copied() -> None:
    event = frame()
    pieces = encode_pieces(event)

    assert decode_body(Frame, b"".join(pieces)).n == 7
    assert total_bytes(pieces) == len(b"".join(pieces))
    uncopied = [piece.obj for piece in pieces if isinstance(piece, memoryview)]
    assert uncopied == [event.picture.data.obj, event.more[0].data.obj, event.by_name["mask"][1].data.obj]
    found = decode_body(Frame, b"".join(pieces))
    np.testing.assert_array_equal(found.more[0].view(), event.more[0].view())
    np.testing.assert_array_equal(found.by_name["mask"][1].view(), event.by_name["mask"][1].view())


def test_what_is_decoded_is_a_view_that_cannot_be_written_to() -> None:
    body = bytearray(encode_body(frame()))
    picture = decode_body(Frame, memoryview(body)).picture.view()
    before = picture[0, 0, 0]
    at = body.index(picture.tobytes()[:64])
    body[at] ^= 0xFF

    assert picture[0, 0, 0] != before, "it looks at the very bytes"
    with pytest.raises(ValueError, match="read-only"):
        picture[0] = 1


def test_a_stride_is_copied_and_the_source_left_alone() -> None:
    source = np.arange(20).reshape(4, 5)

    np.testing.assert_array_equal(Array.of(source[::2, 1:3]).view(), source[::2, 1:3])
    assert source.flags.writeable


def test_bytes_and_memoryviews_need_no_numpy() -> None:
    program = (
        "import sys; from sparkd import Array; a = Array.of(b'abc'); b = Array.of(memoryview(b'12345678').cast('f'));"
        "print(a.dtype, a.shape, b.dtype, b.shape, 'numpy' in sys.modules)"
    )
    out = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True, text=True).stdout

    assert out.split("\n")[0] == "|u1 (3,) <f4 (2,) False"


@pytest.mark.parametrize(
    ("dtype", "shape", "size"),
    [
        ("|O8", (1,), 8),
        ("<M8[ns]", (1,), 8),
        ("<U3", (1,), 12),
        ("[('a', '<i4')]", (1,), 4),
        ("<f4", (2,), 4),
        ("<f4", (-1,), 4),
        ("|u1", (1 << 62, 1 << 62), 10),
        ("|u1", (1,) * 33, 1),
        ("<i3", (1,), 3),
        ("", (1,), 1),
    ],
)
def test_what_is_no_plain_array_is_refused(dtype: str, shape: tuple[int, ...], size: int) -> None:
    with pytest.raises(ValueError, match=r"dtype|shape|bytes of data"):
        Array(dtype, shape, memoryview(bytes(size)))
    with pytest.raises(RemoteMessageError):
        decode_body(Array, encode_body({"dtype": dtype, "shape": shape, "data": bytes(size)}))


@pytest.mark.parametrize("source", [np.array([object()]), np.array(["a"]), np.array([(1, 2)], dtype="i4,i4")])
def test_objects_are_never_sent(source: Any) -> None:
    with pytest.raises((ValueError, TypeError, LocalMessageError)):
        Array.of(source)
    with pytest.raises(TypeError):
        Array.of(3)


def test_only_classes_that_say_so_hold_arrays() -> None:
    assert holds_arrays(Frame)
    assert holds_arrays(Array)
    assert not holds_arrays(Plain)
    assert not holds_arrays(int)


def test_what_an_event_is_about_tells_the_lengths() -> None:
    said = msgspec.msgpack.decode(about(frame()) or b"")

    assert said["picture"] == {"dtype": "|u1", "shape": [48, 64, 3], "data": 9216}
    assert about(Frame(n=1, picture=frame().picture, more=[frame().picture] * 100)) is None


def test_an_array_is_three_plain_things_for_others() -> None:
    body = encode_body(Array.of(np.arange(3, dtype="<i2")))

    assert msgpack.unpackb(body) == {"dtype": "<i2", "shape": [3], "data": b"\x00\x00\x01\x00\x02\x00"}
    text = msgspec.json.encode(Array.of(np.arange(3, dtype="<i2")))
    assert msgspec.json.decode(text) == {"dtype": "<i2", "shape": [3], "data": "AAABAAIA"}
    np.testing.assert_array_equal(msgspec.json.decode(text, type=Array).view(), np.arange(3))


def test_people_are_not_shown_a_megabyte() -> None:
    value = {"a": b"x" * 20_000, "b": [b"short", {"c": b"y" * 17_000}], "e": msgspec.msgpack.Ext(3, b"zz")}

    assert shown(value) == {
        "a": "(20000 bytes, not shown)",
        "b": [b"short", {"c": "(17000 bytes, not shown)"}],
        "e": "(extension 3 of 2 bytes)",
    }
