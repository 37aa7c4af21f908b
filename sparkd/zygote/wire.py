"""What the core and the zygote say to each other: one MessagePack datagram a message. No socket here."""

from __future__ import annotations

from typing import TypeAlias

import msgspec

MAX_MESSAGE_BYTES = 4096
"""Every message is a few numbers; what is large travels in a memfd."""


class Fork(msgspec.Struct, frozen=True, array_like=True, tag=1):
    """Core to zygote: fork a child. Comes with three descriptors: order, output, result."""

    request: int


class Kill(msgspec.Struct, frozen=True, array_like=True, tag=2):
    """Core to zygote: send *signal* to child *pid*, and to its process group if *group*; nothing if it has ended."""

    pid: int
    signal: int
    group: bool


class Born(msgspec.Struct, frozen=True, array_like=True, tag=3):
    """Zygote to core: the child of *request* is *pid*."""

    request: int
    pid: int


class Refused(msgspec.Struct, frozen=True, array_like=True, tag=4):
    """Zygote to core: the kernel refused the fork of *request*."""

    request: int
    errno: int
    reason: str


class Ended(msgspec.Struct, frozen=True, array_like=True, tag=5):
    """Zygote to core: child *pid* has been reaped; *code* is negative for a signal."""

    pid: int
    code: int
    max_rss_bytes: int
    cpu_s: float


class Order(msgspec.Struct, frozen=True, array_like=True):
    """What a child is to be; the content of the memfd."""

    kind: str
    name: str
    spec: bytes
    env: dict[str, str]
    memory_bytes: int
    """Limit of the address space; 0 for none."""
    open_files: int = 0
    """Limit of descriptors; 0 for that of the zygote."""
    cgroup: str = ""
    """The folder of the control group it joins before anything else; empty for the zygote's own."""


ToZygote: TypeAlias = Fork | Kill
FromZygote: TypeAlias = Born | Refused | Ended

encode = msgspec.msgpack.encode
decode_to_zygote = msgspec.msgpack.Decoder(ToZygote).decode
decode_from_zygote = msgspec.msgpack.Decoder(FromZygote).decode
decode_order = msgspec.msgpack.Decoder(Order).decode
