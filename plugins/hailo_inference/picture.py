"""Encoded pictures to pixels and back: the one file that knows Pillow.

A picture's size is read from its header and checked before anything is decoded. Only the formats named here are tried,
so a stranger's bytes reach few parsers. What comes out is upright (EXIF orientation applied), RGB, with transparency
over black. Every way in which bytes can fail to be a picture is a ValueError that says what is wrong.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .preprocess import Placement

Pixels = NDArray[np.uint8]

FORMATS = ("JPEG", "PNG", "WEBP", "BMP")

_ORIENTATION_TAG = 0x0112
_UPRIGHT = {
    2: "FLIP_LEFT_RIGHT",
    3: "ROTATE_180",
    4: "FLIP_TOP_BOTTOM",
    5: "TRANSPOSE",
    6: "ROTATE_270",
    7: "TRANSVERSE",
    8: "ROTATE_90",
}
"""What makes a picture upright, by the EXIF orientation (CIPA DC-008, table 6)."""
_ON_ITS_SIDE = {"TRANSPOSE", "ROTATE_270", "TRANSVERSE", "ROTATE_90"}


@dataclass(frozen=True, slots=True)
class Picture:
    """A picture whose header has been read. `width` and `height` are those of the upright picture."""

    width: int
    height: int
    _image: Any
    _turn: str

    def fitted(self, placement: Placement, *, sharp: bool = False) -> Pixels:
        """Return what *placement* wants of the picture, scaled. As `pixels` otherwise."""
        if placement.window is None:
            return self.pixels(placement.width, placement.height, sharp=sharp)
        whole = RawPicture(self.pixels(self.width, self.height))
        return whole.fitted(placement, sharp=sharp)

    def pixels(self, width: int, height: int, *, sharp: bool = False) -> Pixels:
        """Decode, scale to *width* x *height* and return the upright picture. May be called once.

        Raises ValueError if the picture turns out to be damaged.
        """
        import PIL.Image  # noqa: PLC0415 - as in `open_picture`

        size = (height, width) if self._turn in _ON_ITS_SIDE else (width, height)
        try:
            self._image.draft(None, size)  # lets a JPEG decode at 1/2, 1/4 or 1/8: less time, far less memory
            scaled = _rgb(self._image)
            if scaled.size != size:
                scaled = scaled.resize(size, _resampling(sharp=sharp), reducing_gap=2.0)
        except MemoryError as error:
            raise ValueError(f"not enough memory for {self.width} x {self.height} pixels") from error
        except Exception as error:  # Pillow's decoders raise whatever their parsers trip on
            raise ValueError(f"the picture is damaged or cut off: {error or type(error).__name__}") from error
        upright = scaled.transpose(PIL.Image.Transpose[self._turn]) if self._turn else scaled
        return np.asarray(upright)


@dataclass(frozen=True, slots=True)
class RawPicture:
    """A picture that is pixels already: (height, width, 3), RGB."""

    whole: Pixels

    @property
    def width(self) -> int:
        """Of the picture, in pixels."""
        return int(self.whole.shape[1])

    @property
    def height(self) -> int:
        """Of the picture, in pixels."""
        return int(self.whole.shape[0])

    def fitted(self, placement: Placement, *, sharp: bool = False) -> Pixels:
        """Return what *placement* wants of the picture, scaled."""
        import PIL.Image  # noqa: PLC0415 - as in `open_picture`

        size, resampling = (placement.width, placement.height), _resampling(sharp=sharp)
        image = PIL.Image.fromarray(self.whole)
        return np.asarray(image.resize(size, resampling, box=placement.window, reducing_gap=2.0))


def raw_picture(array: NDArray[Any], *, max_pixels: int) -> RawPicture:
    """Take *array* as a picture. Raises ValueError if it is none, or has more than *max_pixels*."""
    if array.dtype != np.uint8 or array.ndim != 3 or array.shape[2] != 3 or not array.size:  # noqa: PLR2004 - RGB
        got = f"{array.dtype.str} {array.shape}"
        raise ValueError(f"RGB pixels of the shape (height, width, 3) and dtype |u1 expected, got {got}")
    height, width = array.shape[:2]
    if width * height > max_pixels:
        raise ValueError(f"the picture has {width} x {height} pixels, more than max_pixels = {max_pixels}")
    return RawPicture(array)


def annotated(pixels: Pixels, marks: Sequence[tuple[str, tuple[float, float, float, float] | None]]) -> bytes:
    """Return RGB *pixels* as a JPEG with each mark's words and box drawn; words without a box stand at the top."""
    import PIL.Image  # noqa: PLC0415 - as in `open_picture`
    import PIL.ImageDraw  # noqa: PLC0415 - likewise

    image = PIL.Image.fromarray(pixels)
    pen, line = PIL.ImageDraw.Draw(image), 2
    for words, box in marks:
        x, y = (box[0] + 4, box[1] + 2) if box else (4, line)
        line += 0 if box else 14
        if box:
            pen.rectangle(box, outline=(255, 64, 0), width=2)
        pen.rectangle(pen.textbbox((x, y), words), fill=(0, 0, 0))
        pen.text((x, y), words, fill=(255, 255, 255))
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=85)
    return buffer.getvalue()


def _resampling(*, sharp: bool) -> Any:
    import PIL.Image  # noqa: PLC0415 - as in `open_picture`

    return PIL.Image.Resampling.BICUBIC if sharp else PIL.Image.Resampling.BILINEAR


def open_picture(encoded: bytes, *, max_pixels: int) -> Picture:
    """Read the header of *encoded*. Raises ValueError if it is no picture, or has more than *max_pixels*."""
    # Probing a plugin must not cost an imaging library.
    import PIL.Image  # noqa: PLC0415
    from PIL import WebPImagePlugin  # noqa: F401, PLC0415 - registers a format; the others register themselves

    PIL.Image.MAX_IMAGE_PIXELS = None  # ours is the limit, checked below; Pillow's would warn or refuse on its own
    if not encoded:
        raise ValueError("the picture is empty: 0 bytes")
    try:
        image = PIL.Image.open(io.BytesIO(encoded), formats=FORMATS)
        turn = _UPRIGHT.get(_orientation(image), "")
    except Exception as error:  # Pillow's parsers raise whatever they trip on
        raise ValueError(f"not a picture: {', '.join(FORMATS)} expected, got bytes {encoded[:8]!r}") from error
    width, height = image.size
    if width * height > max_pixels:
        raise ValueError(f"the picture has {width} x {height} pixels, more than max_pixels = {max_pixels}")
    if image.format == "PNG":
        _check_sums(encoded)
    if turn in _ON_ITS_SIDE:
        width, height = height, width
    return Picture(width, height, image, turn)


def encode(pixels: Pixels, *, suffix: str, quality: int = 90) -> bytes:
    """Return RGB *pixels* as a picture of the kind that *suffix* names; *quality* is for JPEG and WebP."""
    import PIL.Image  # noqa: PLC0415 - as in `open_picture`

    kind = {".jpg": "JPEG", ".png": "PNG", ".bmp": "BMP", ".webp": "WEBP"}[suffix]
    buffer = io.BytesIO()
    PIL.Image.fromarray(pixels).save(buffer, kind, quality=quality)
    return buffer.getvalue()


def scale(pixels: Pixels, *, width: int, height: int) -> Pixels:
    """Return RGB *pixels* scaled to *width* x *height*."""
    import PIL.Image  # noqa: PLC0415 - as in `open_picture`

    return np.asarray(PIL.Image.fromarray(pixels).resize((width, height), PIL.Image.Resampling.BILINEAR))


def _orientation(image: Any) -> int:
    try:
        return int(image.getexif().get(_ORIENTATION_TAG, 1))
    except Exception:  # noqa: BLE001 - broken metadata must not cost a good picture, and its parser raises anything
        return 1


def _check_sums(encoded: bytes) -> None:
    # A PNG carries a checksum for each part; Pillow looks at those of the pixels only when asked to.
    import PIL.Image  # noqa: PLC0415 - as in `open_picture`

    try:
        PIL.Image.open(io.BytesIO(encoded), formats=("PNG",)).verify()
    except Exception as error:  # Pillow's parsers raise whatever they trip on
        raise ValueError(f"the picture is damaged or cut off: {error}") from error


def _rgb(image: Any) -> Any:
    import PIL.Image  # noqa: PLC0415 - as in `open_picture`

    if image.mode.startswith("I"):  # 16 bits of grey: Pillow's own conversion clips instead of scaling
        image = PIL.Image.fromarray((np.asarray(image).astype(np.uint32) >> 8).astype(np.uint8))
    if image.has_transparency_data:
        cover = image.convert("RGBA")
        image = PIL.Image.new("RGBA", image.size, (0, 0, 0, 255))
        image.alpha_composite(cover)
    return image.convert("RGB")
