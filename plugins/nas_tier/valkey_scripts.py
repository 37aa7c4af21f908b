"""What runs inside Valkey, so that it is one step for all who use it, and how a record stands there. Pure.

A record is a string: its version (49 bytes), `D` for a tombstone or `V`, and the record in MessagePack. A version sorts
as text, so the server compares it without reading the rest.
"""

from __future__ import annotations

import msgspec

from sparkd import MemoryRecord

VERSION_BYTES = 49
PUT = """
local now = redis.call('GETRANGE', KEYS[1], 0, 48)
if now > ARGV[1] then return now end
if now == ARGV[1] then
  redis.call('PEXPIRE', KEYS[1], ARGV[3])
  return now
end
redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[3])
return '+'
"""
"""Keep ARGV[2] of version ARGV[1] for ARGV[3] ms if it is the newest; returns `+`, or the version that is there."""
CAS = """
local now = redis.call('GETRANGE', KEYS[1], 0, 49)
local version = string.sub(now, 1, 49)
if version == ARGV[1] then return version end
local there = version
if string.sub(now, 50, 50) == 'D' and ARGV[4] == '' then there = '' end
if there ~= ARGV[4] or version > ARGV[1] then return version end
redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[3])
return '+'
"""
"""Likewise, if the version there is ARGV[4]; nothing stands for no record, or a tombstone."""
KEPT = b"+"
_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(MemoryRecord).decode


def packed(record: MemoryRecord) -> bytes:
    """Return *record* as it stands there."""
    return record.version.encode() + (b"D" if record.deleted else b"V") + _encode(record)


def unpacked(stored: bytes) -> MemoryRecord | None:
    """Return the record that *stored* is; None for what is none."""
    try:
        record = _decode(stored[VERSION_BYTES + 1 :])
    except (msgspec.DecodeError, RecursionError):
        return None
    return record if record.version.encode() == stored[:VERSION_BYTES] else None


def escaped(text: str) -> str:
    """Return *text* as a pattern that matches just it."""
    return "".join(f"\\{letter}" if letter in "*?[]^\\" else letter for letter in text)
