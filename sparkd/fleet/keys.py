"""Public keys of nodes: found by name, and told from private ones as far as that can be.

A WireGuard key is 32 bytes in base64, a key of the link 32 bytes in Z85; private keys look the same. But every public
key is a point in the subgroup of prime order of Curve25519, which bytes of chance are in one of 16 cases at the most:
one in 8 points of the curve is, and half of all bytes are on its twist. And WireGuard's private keys are clamped: five
bits of them are fixed. So what is not in the subgroup is surely no public key, and is refused. A clamped key that is in
it may be either: it is taken from a file named `.pub` only, that others may read.
"""

from __future__ import annotations

import base64
import binascii
import re
import stat
from pathlib import Path
from typing import Literal

from sparkd.errors import ConfigError
from sparkd.fleet.tables import KeyFile
from sparkd.link.keys import checked_key

Kind = Literal["wireguard", "link"]
_P = 2**255 - 19
_ORDER = 2**252 + 27742317777372353535851937790883648493
"""Of the base point: RFC 7748, section 4.1."""
_A24 = 121665
_KEY_BYTES = 32
_BASE64 = re.compile(r"[A-Za-z0-9+/]{43}=")
_Z85 = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ.-:+=^!/*?&<>()[]{}@%$#"
_OTHERS_READ = stat.S_IRGRP | stat.S_IROTH
_WORD = re.compile(r"[^\s\"',;]{40,}")
_MOST_SLASHES = 3
_ODD = frozenset("^!*<>()[]{}@$")
"""Characters of Z85 that words, paths and URLs seldom have three of."""


def is_public(key: bytes) -> bool:
    """Whether *key* can be a public key of X25519: in the subgroup of prime order, written in the usual way."""
    u = int.from_bytes(key, "little")
    return len(key) == _KEY_BYTES and u < _P and _times_order_is_zero(u)


def _times_order_is_zero(u: int) -> bool:
    """Whether the order times the point *u* is zero: the Montgomery ladder of RFC 7748, section 5."""
    x2, z2, x3, z3 = 1, 0, u, 1
    for bit in reversed(range(_ORDER.bit_length())):
        if _ORDER >> bit & 1:
            x3, z3, x2, z2 = _step(u, x3, z3, x2, z2)
        else:
            x2, z2, x3, z3 = _step(u, x2, z2, x3, z3)
    return z2 == 0


def _step(u: int, x2: int, z2: int, x3: int, z3: int) -> tuple[int, int, int, int]:
    a, b, c, d = x2 + z2, x2 - z2, x3 + z3, x3 - z3
    aa, bb, da, cb = a * a % _P, b * b % _P, d * a % _P, c * b % _P
    e = aa - bb
    return aa * bb % _P, e * (aa + _A24 * e) % _P, (da + cb) ** 2 % _P, u * (da - cb) ** 2 % _P


def is_clamped(key: bytes) -> bool:
    """Whether *key* has the bits that `wg genkey` sets and clears."""
    return key[0] & 7 == 0 and key[31] & 0xC0 == 0x40  # noqa: PLR2004 - RFC 7748, section 5


def looks_like_key(text: str) -> bool:
    """Whether a word of *text* may be a key: 40 or more characters, mixed as only chance mixes them."""
    return any(_is_mixed(word) or _BASE64.search(word) for word in _WORD.findall(text))


def _is_mixed(word: str) -> bool:
    upper, lower = sum(c.isupper() for c in word), sum(c.islower() for c in word)
    letters = min(upper, lower) >= 5 and any(c.isdigit() for c in word)  # noqa: PLR2004 - 12 of each are usual
    return (letters and word.count("/") <= _MOST_SLASHES) or len(_ODD & set(word)) > 2  # noqa: PLR2004 - see there


def public_wireguard_key(text: str) -> bool:
    """Whether *text* is surely a public key of WireGuard."""
    return bool(_BASE64.fullmatch(text)) and is_public(key := base64.b64decode(text)) and not is_clamped(key)


def find_key(kind: Kind, written: str | KeyFile, *, folder: Path, where: str, remedy: str) -> str:
    """Return the public key that *written* is, or names. Raises ConfigError that never holds what was found.

    *folder* is where file names begin, *remedy* what to try if the file is missing.
    """
    if isinstance(written, KeyFile):
        place = f"{where} = {{ file = {written.file!r} }}"
        return _checked(kind, _read(folder / written.file, place, remedy), place, in_file=True)
    return _checked(kind, written, where, in_file=False)


def _read(file: Path, place: str, remedy: str) -> str:
    if file.suffix not in {".pub", ".public"}:
        raise ConfigError(f"{place}: a file whose name ends with .pub or .public expected; never name a private key")
    try:
        if not file.stat().st_mode & _OTHERS_READ:
            raise ConfigError(
                f"{place}: {file} is closed to others, as private keys are; "
                "if it is the public one, try: chmod 644, else put the public one there"
            )
        with file.open("rb") as opened:
            return opened.read(256).decode("ascii", "replace").strip()
    except FileNotFoundError:
        raise ConfigError(f"{place}: no such file: {file}; try: {remedy}") from None
    except OSError as error:
        raise ConfigError(f"{place}: {file}: {error.strerror}") from None


def _checked(kind: Kind, text: str, place: str, *, in_file: bool) -> str:
    if kind == "link":
        key = checked_key(text, place)
        raw = _unz85(key)
    else:
        key, raw = text.strip(), _unbase64(text.strip(), place)
    if not is_public(raw):
        raise ConfigError(
            f"{place}: this is no public key; if it is the private one, make a new pair: it was shown here"
        )
    if kind == "wireguard" and is_clamped(raw) and not in_file:
        raise ConfigError(
            f"{place}: this may be a private key; if it is the public one (one in 16 looks so), "
            "put it into a file NAME.pub and write { file = ... }"
        )
    return key


def _unbase64(text: str, place: str) -> bytes:
    try:
        if _BASE64.fullmatch(text):
            return base64.b64decode(text, validate=True)
    except binascii.Error:
        pass
    raise ConfigError(f"{place}: a WireGuard key has 44 characters of base64, got {len(text)} that are none")


def _unz85(text: str) -> bytes:
    """Return the bytes of a key that `checked_key` has passed."""
    words = (text[start : start + 5] for start in range(0, len(text), 5))
    numbers = (sum(_Z85.index(char) * 85 ** (4 - place) for place, char in enumerate(word)) for word in words)
    return b"".join(number.to_bytes(4, "big") for number in numbers)
