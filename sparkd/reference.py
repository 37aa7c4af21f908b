"""What stands in a message in place of a body that went through shared memory: where it is, as bytes. No I/O here.

A reference is MessagePack's extension type 83 (`S`) around an array, append only:
`[version, folder, slot, generation, offset, length, about]`. The body is `length` bytes from `offset` of the file
`shm/<folder>/<slot>` beneath the daemon's runtime folder, if that file's generation (`sparkd.shm`) is this one. `about`
is the body with the number of bytes in place of each array's data, or nil. No body begins with an extension otherwise:
so one byte tells. It means nothing on another node and in a file, and never goes there.
"""

from __future__ import annotations

import re

import msgspec

from sparkd.codec import MALFORMED
from sparkd.errors import RemoteMessageError

CODE = 83
VERSION = 1
MARKS = b"\xc7\xc8\xc9"
"""The first byte of an extension of a length other than 1, 2, 4, 8 and 16, which a reference never has."""
_AT = {0xC7: 2, 0xC8: 3, 0xC9: 5}
_FOLDER = re.compile(r"[a-z][a-z0-9-]{0,63}\.[0-9a-f]{16}")
MAX_LENGTH = 1 << 40


class Reference(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """Where a body is. New fields are appended with a default; unknown ones are ignored."""

    version: int
    folder: str
    slot: int
    generation: int
    offset: int
    length: int
    about: bytes | None = None


_encode = msgspec.msgpack.Encoder().encode
_decode_ext = msgspec.msgpack.Decoder(msgspec.msgpack.Ext).decode
_decode = msgspec.msgpack.Decoder(Reference).decode


def encode_reference(reference: Reference) -> bytes:
    """Return *reference* as the body of a message."""
    return _encode(msgspec.msgpack.Ext(CODE, _encode(reference)))


def is_reference(body: bytes | memoryview) -> bool:
    """Whether *body* is a reference, well made or not, and not the thing itself."""
    at = _AT.get(body[0]) if body else None
    return at is not None and len(body) > at and body[at] == CODE


def decode_reference(body: bytes | memoryview) -> Reference:
    """Return the reference that *body* is. Raises RemoteMessageError if it is malformed."""
    try:
        reference = _decode(_decode_ext(body).data)
    except MALFORMED as error:
        raise RemoteMessageError(f"malformed reference: {error}") from None
    numbers = (reference.slot, reference.generation, reference.offset, reference.length)
    if reference.version != VERSION or not _FOLDER.fullmatch(reference.folder):
        raise RemoteMessageError(f"a reference of version {reference.version} to {reference.folder[:80]!r}")
    if not all(0 <= number <= MAX_LENGTH for number in numbers):
        raise RemoteMessageError(f"a reference with the numbers {numbers}")
    return reference
