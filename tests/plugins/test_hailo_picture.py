"""Pictures as they come: every mode, turned, damaged, empty, huge, and bytes that are none."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sparkd_plugins.hailo_inference.demo import PICTURES
from sparkd_plugins.hailo_inference.picture import encode, open_picture, scale

LIMIT = 50_000_000
CHELSEA = (PICTURES / "chelsea.png").read_bytes()
JPEG = encode(np.asarray(PIL.Image.open(io.BytesIO(CHELSEA))), suffix=".jpg")


def saved(image: PIL.Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def pixels_of(encoded: bytes) -> np.ndarray:
    picture = open_picture(encoded, max_pixels=LIMIT)
    pixels = picture.pixels(picture.width, picture.height)
    assert pixels.shape == (picture.height, picture.width, 3)
    assert pixels.dtype == np.uint8
    return pixels


def png_header(width: int, height: int) -> bytes:
    """A PNG that claims a size, and has next to nothing behind it."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        check = zlib.crc32(kind + content)
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", check)

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(b"\0" * 100)) + chunk(b"IEND", b"")


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "LA", "P", "1", "CMYK", "I;16"])
def test_every_mode_becomes_upright_rgb(mode: str) -> None:
    value: Any = {"RGB": (200, 200, 200), "RGBA": (200, 200, 200, 255), "LA": (200, 255), "CMYK": (55, 55, 55, 0)}.get(
        mode, 200 * 257 if mode == "I;16" else 200
    )
    image = PIL.Image.new(mode, (9, 5), value)
    kind = "JPEG" if mode == "CMYK" else "PNG"

    pixels = pixels_of(saved(image, kind))

    assert pixels.shape == (5, 9, 3)
    if mode not in {"P", "1"}:
        assert np.abs(pixels.astype(int) - 200).max() <= 2


def test_what_is_transparent_is_black() -> None:
    image = PIL.Image.new("RGBA", (2, 1), (255, 0, 0, 0))
    image.putpixel((1, 0), (255, 0, 0, 255))

    assert pixels_of(saved(image)).tolist() == [[[0, 0, 0], [255, 0, 0]]]


def test_a_palette_with_a_transparent_colour_is_covered() -> None:
    image = PIL.Image.new("P", (2, 1), 0)
    image.putpalette([255, 0, 0, 0, 255, 0])
    image.putpixel((1, 0), 1)

    assert pixels_of(saved(image, transparency=0)).tolist() == [[[0, 0, 0], [0, 255, 0]]]


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_turned_photograph_is_set_upright(orientation: int) -> None:
    upright = PIL.Image.new("RGB", (64, 32), (0, 0, 0))
    upright.paste((255, 255, 255), (0, 0, 16, 16))  # the top left corner is white
    undo = {
        2: PIL.Image.Transpose.FLIP_LEFT_RIGHT,
        3: PIL.Image.Transpose.ROTATE_180,
        4: PIL.Image.Transpose.FLIP_TOP_BOTTOM,
        5: PIL.Image.Transpose.TRANSPOSE,
        6: PIL.Image.Transpose.ROTATE_90,
        7: PIL.Image.Transpose.TRANSVERSE,
        8: PIL.Image.Transpose.ROTATE_270,
    }
    stored = upright.transpose(undo[orientation]) if orientation in undo else upright
    exif = PIL.Image.Exif()
    exif[0x0112] = orientation

    pixels = pixels_of(saved(stored, "JPEG", exif=exif, quality=95))

    assert pixels.shape == (32, 64, 3)
    assert pixels[:14, :14].min() > 200
    assert pixels[18:, :].max() < 50
    assert pixels[:, 18:].max() < 50


@pytest.mark.parametrize("exif", [b"Exif\0\0garbage", b"Exif\0\0II*\0\xff\xff\xff\xff", b"\xff" * 40, b"Exif\0\0"])
@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
def test_broken_metadata_costs_nothing(exif: bytes) -> None:
    stored = saved(PIL.Image.new("RGB", (8, 4)), "JPEG")
    with_exif = stored[:2] + b"\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif + stored[2:]

    assert pixels_of(with_exif).shape == (4, 8, 3)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "BMP"])
def test_each_format_is_read(kind: str) -> None:
    image = PIL.Image.open(io.BytesIO(CHELSEA))

    pixels = pixels_of(saved(image, kind))

    assert np.abs(pixels.astype(int) - np.asarray(image).astype(int)).mean() < 8


@pytest.mark.parametrize("kind", ["GIF", "TIFF", "PPM", "ICO"])
def test_other_formats_are_not_tried(kind: str) -> None:
    with pytest.raises(ValueError, match="not a picture: JPEG, PNG, WEBP, BMP expected"):
        open_picture(saved(PIL.Image.new("RGB", (16, 16)), kind), max_pixels=LIMIT)


@pytest.mark.parametrize(
    ("encoded", "reason"),
    [
        (b"", "the picture is empty: 0 bytes"),
        (b"hello", "not a picture"),
        (b"\xff\xd8\xff", "not a picture"),
        (b"\x89PNG\r\n\x1a\n", "not a picture"),
        (b"\0" * 5000, "not a picture"),
        (png_header(10_000, 10_000), r"10000 x 10000 pixels, more than max_pixels = 50000000"),
        (png_header(2_000_000_000, 2_000_000_000), "more than max_pixels"),
        (png_header(0, 10), "not a picture|damaged"),
        (png_header(300, 300), "damaged or cut off"),
        (CHELSEA[:100_000], "damaged or cut off"),
        (JPEG[: len(JPEG) // 2], "damaged or cut off"),
        (CHELSEA[:50_000] + b"\xff" * 100 + CHELSEA[50_100:], "damaged or cut off"),
    ],
)
def test_what_is_no_whole_picture_is_a_clear_error(encoded: bytes, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        pixels_of(encoded)


def test_a_hundred_megapixels_are_refused_before_anything_is_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    real = saved(PIL.Image.new("L", (10_000, 10_000)))
    monkeypatch.setattr(PIL.Image.Image, "convert", lambda *_: pytest.fail("decoded"))

    with pytest.raises(ValueError, match="10000 x 10000 pixels, more than max_pixels"):
        open_picture(real, max_pixels=LIMIT)


@given(st.binary(max_size=200), st.sampled_from([b"", b"\xff\xd8\xff\xe0", b"\x89PNG\r\n\x1a\n", b"BM", b"RIFF"]))
@settings(max_examples=200, deadline=None)
def test_random_bytes_are_a_value_error_and_nothing_else(junk: bytes, magic: bytes) -> None:
    with pytest.raises(ValueError, match=r"picture"):
        pixels_of(magic + junk)


SMALL = {
    kind: saved(PIL.Image.open(io.BytesIO(CHELSEA)).resize((24, 16)), kind) for kind in ("JPEG", "PNG", "WEBP", "BMP")
}


@given(
    kind=st.sampled_from(sorted(SMALL)),
    cut=st.floats(0, 1),
    flips=st.lists(st.tuples(st.floats(0, 1), st.integers(1, 255))),
)
@settings(max_examples=300, deadline=None)
def test_damage_gives_pixels_or_a_value_error_and_nothing_else(
    kind: str, cut: float, flips: list[tuple[float, int]]
) -> None:
    encoded = bytearray(SMALL[kind][: int(len(SMALL[kind]) * cut) + 1])
    for place, mask in flips:
        encoded[int(place * (len(encoded) - 1))] ^= mask

    try:
        picture = open_picture(bytes(encoded), max_pixels=10_000)
        pixels = picture.pixels(20, 20)
    except ValueError:
        return
    assert pixels.shape == (20, 20, 3)


def test_a_large_photograph_is_decoded_small() -> None:
    photograph = PIL.Image.open(io.BytesIO(CHELSEA)).resize((3608, 2400))
    picture = open_picture(saved(photograph, "JPEG"), max_pixels=LIMIT)

    pixels = picture.pixels(416, 277)

    assert (picture.width, picture.height) == (3608, 2400)
    expected = np.asarray(PIL.Image.open(io.BytesIO(CHELSEA)).resize((416, 277), PIL.Image.Resampling.BILINEAR))
    assert np.abs(pixels.astype(int) - expected.astype(int)).mean() < 4


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".bmp", ".webp"])
def test_what_is_encoded_can_be_read_again(suffix: str) -> None:
    pixels = scale(np.full((10, 20, 3), 77, np.uint8), width=30, height=15)

    again = pixels_of(encode(pixels, suffix=suffix))

    assert np.abs(again.astype(int) - 77).max() <= 2
    assert again.shape == (15, 30, 3)


def test_the_photographs_are_there_with_their_credits() -> None:
    credit = (PICTURES / "CREDITS.txt").read_text()

    assert sorted(path.name for path in Path(PICTURES).glob("*.png")) == [
        "astronaut.png",
        "chelsea.png",
        "coffee.png",
        "rocket.png",
    ]
    assert all(path.name in credit for path in PICTURES.glob("*.png"))
