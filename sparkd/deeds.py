"""What may be asked of sparkd-priv, the root daemon beside the core, and asking for it. Edge layer.

A fixed list of deeds, each a frozen struct whose fields are checked as they are decoded; there is no deed that runs
what it is given. One request a connection: a length of four bytes, little-endian, then MessagePack; so the reply.
"""

from __future__ import annotations

import ipaddress
import struct
from pathlib import Path
from typing import Annotated, Literal, TypeAlias

import anyio
import anyio.streams.buffered
import msgspec

from sparkd.errors import DeviceError, RemoteMessageError

LENGTH = struct.Struct("<I")
MAX_SPEC_BYTES = 768 << 10
"""Of what a unit is told; systemd takes 1 MiB of credentials for each unit."""
MAX_REQUEST_BYTES = MAX_SPEC_BYTES + 4096
MAX_REPLY_BYTES = 64 << 10
ASK_LIMIT_S = 40.0
"""Longer than the root daemon gives any of its programs."""

Name = Annotated[str, msgspec.Meta(pattern=r"^[a-z][a-z0-9]*(-[a-z0-9]+)*\Z", max_length=64)]
"""A plugin's or service's name, as `sparkd.service.NAME` has it."""
Interface = Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*\Z", max_length=15)]
"""A network interface's name: the kernel's limit is 15."""
Host = Annotated[str, msgspec.Meta(pattern=r"^[a-z0-9][a-z0-9-]*\Z", max_length=63)]
Rules = Annotated[str, msgspec.Meta(pattern=r"^[a-z0-9][a-z0-9_-]*\Z", max_length=64)]
WgKey = Annotated[str, msgspec.Meta(pattern=r"^([A-Za-z0-9+/]{42}[AEIMQUYcgkosw048]=)?\Z")]
"""A WireGuard public key in base64, or nothing."""
WgWhat = Literal[
    "peers",
    "latest-handshakes",
    "transfer",
    "endpoints",
    "allowed-ips",
    "persistent-keepalive",
    "listen-port",
    "fwmark",
    "public-key",
]
"""The sub-commands of `wg show` that tell no secret; there is no word for the others."""
Spec = Annotated[bytes, msgspec.Meta(max_length=MAX_SPEC_BYTES)]


class _Deed(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="verb"):
    """What every deed is."""


class UnitStart(_Deed, frozen=True, tag="unit-start"):
    """Start a service as its own unit, by what root's config says of its plugin; *spec* is handed to it unread."""

    plugin: Name
    service: Name
    spec: Spec


class UnitStop(_Deed, frozen=True, tag="unit-stop"):
    """End a service's unit; answered when nothing of it is left, with how it ended."""

    plugin: Name
    service: Name
    at_once: bool = False
    """By SIGKILL."""


class UnitStatus(_Deed, frozen=True, tag="unit-status"):
    """Say how a service's unit is."""

    plugin: Name
    service: Name


class UnitDump(_Deed, frozen=True, tag="unit-dump"):
    """Make a service's process write where each of its threads is."""

    plugin: Name
    service: Name


class InterfaceRestart(_Deed, frozen=True, tag="interface-restart"):
    """Take a network interface down and up again."""

    interface: Interface


class WgShow(_Deed, frozen=True, tag="wg-show"):
    """Say what WireGuard tells of an interface that root's config lists; never a secret."""

    interface: Interface
    what: Annotated[list[WgWhat], msgspec.Meta(min_length=1, max_length=9)]


class WgSet(_Deed, frozen=True, tag="wg-set"):
    """Change one thing of a WireGuard interface that root's config lists."""

    interface: Interface
    change: Literal["endpoint", "persistent-keepalive", "listen-port", "reset-peer"]
    """`reset-peer` takes the peer out and puts it back as it was, its preshared key too: its session begins anew."""
    peer: WgKey = ""
    endpoint: Annotated[str, msgspec.Meta(max_length=64)] = ""
    """Address and port; never a name: root asks no DNS server."""
    value: Annotated[int, msgspec.Meta(ge=0, le=65535)] = 0
    """Seconds of the keepalive, or the port; 0 for none, or for any."""

    def __post_init__(self) -> None:
        if (self.change == "listen-port") is bool(self.peer):
            raise ValueError(f"{self.change}: {'no peer' if self.peer else 'a peer'} expected")
        if (self.change == "endpoint") is not bool(self.endpoint):
            raise ValueError(f"{self.change}: {'no' if self.endpoint else 'an'} endpoint expected")
        if self.endpoint:
            _check_endpoint(self.endpoint)


def _check_endpoint(text: str) -> None:
    host, _, port = text.rpartition(":")
    bracketed = host.startswith("[") and host.endswith("]")
    try:
        address = ipaddress.ip_address(host.strip("[]"))
    except ValueError:
        raise ValueError("endpoint: an address and a port expected") from None
    if bracketed is not (address.version == 6) or "%" in host:  # noqa: PLR2004 - the version of IP
        raise ValueError("endpoint: 192.0.2.1:51820 or [2001:db8::1]:51820 expected")
    if not (port.isascii() and port.isdigit() and 0 < int(port[:6]) < 1 << 16):
        raise ValueError("endpoint: a port of 1 to 65535 expected")


class NftLoad(_Deed, frozen=True, tag="nft-load"):
    """Load a file of nft rules out of root's folder, all or nothing."""

    rules: Rules


class WakeHost(_Deed, frozen=True, tag="wake-host"):
    """Send the magic packet to a machine that root's config lists."""

    host: Host


class Shutdown(_Deed, frozen=True, tag="shutdown"):
    """Switch this machine off, or start it anew."""

    how: Literal["poweroff", "reboot"]
    delay_s: Annotated[int, msgspec.Meta(ge=0, le=3600)] = 0
    dry_run: bool = False
    """Say what would stand in the way, and do nothing."""


Deed: TypeAlias = (
    UnitStart | UnitStop | UnitStatus | UnitDump | InterfaceRestart | WgShow | WgSet | NftLoad | WakeHost | Shutdown
)
READS = (WgShow,)
"""Deeds that change nothing, and are asked for all the time: the audit has a line of them now and then."""
UNIT_VERBS = ("unit-start", "unit-stop", "unit-status", "unit-dump")
VERBS = (*UNIT_VERBS, "interface-restart", "wg-show", "wg-set", "nft-load", "wake-host", "shutdown")


class UnitState(msgspec.Struct, frozen=True, kw_only=True):
    """A unit, as systemd tells of it."""

    unit: str
    active: str
    """`active`, `inactive`, `failed` and so on."""
    pid: int = 0
    result: str = "success"
    """systemd's `Result`: `success`, `exit-code`, `signal`, `core-dump`, `oom-kill`, `timeout` and so on."""
    status: int = 0
    """The exit code, or the number of the signal."""


class Done(msgspec.Struct, frozen=True, kw_only=True, tag="done"):
    """The deed is done."""

    said: str = ""
    unit: UnitState | None = None
    shown: dict[str, str] = {}
    """What each word of `WgShow.what` told."""


class Refused(msgspec.Struct, frozen=True, kw_only=True, tag="refused"):
    """The deed is not done."""

    kind: Literal["denied", "invalid", "failed", "busy"]
    """`denied`: by a rule; `invalid`: no request of ours; `failed`: it was tried; `busy`: try again."""
    message: str
    remedy: str = ""


Reply: TypeAlias = Done | Refused
encode = msgspec.msgpack.Encoder().encode
_decode_deed = msgspec.msgpack.Decoder(Deed).decode
_decode_reply = msgspec.msgpack.Decoder(Reply).decode


def verb_of(deed: Deed) -> str:
    """Return the word that names *deed*, in the config and in the audit."""
    return str(deed.__struct_config__.tag)


def decode_deed(content: bytes) -> Deed:
    """Return the deed asked for. Raises RemoteMessageError that says what is wrong, never what was in it."""
    try:
        deed: Deed = _decode_deed(content)
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as error:
        raise RemoteMessageError(str(error)[:300]) from None
    return deed


def complaint(deed: Deed) -> str:
    """Return what is wrong with the fields of *deed*, which are checked as it is decoded; nothing if all is well."""
    try:
        decode_deed(encode(deed))
    except RemoteMessageError as error:
        return str(error)
    return ""


def frame(message: Deed | Reply) -> bytes:
    """Return *message* as it goes through the socket."""
    content = encode(message)
    return LENGTH.pack(len(content)) + content


async def ask(path: Path, deed: Deed) -> Done:
    """Have the root daemon at *path* do *deed*. Raises DeviceError with a remedy if it is not there or does not."""
    verb = verb_of(deed)
    try:
        with anyio.fail_after(ASK_LIMIT_S):
            reply = await _exchange(path, deed)
    except TimeoutError:
        raise DeviceError(
            f"sparkd-priv has not done {verb} within {ASK_LIMIT_S:g} s", remedy="journalctl -u sparkd-priv"
        ) from None
    except (FileNotFoundError, ConnectionRefusedError):
        message = f"sparkd-priv is not there ({path}); it does {verb}"
        raise DeviceError(message, remedy="systemctl enable --now sparkd-priv.socket") from None
    except (OSError, anyio.EndOfStream, anyio.IncompleteRead, anyio.BrokenResourceError, msgspec.MsgspecError) as error:
        why = str(error) or type(error).__name__
        raise DeviceError(f"sparkd-priv did not answer {verb}: {why}", remedy="journalctl -u sparkd-priv") from None
    if isinstance(reply, Refused):
        raise DeviceError(f"sparkd-priv: {reply.message}", remedy=reply.remedy)
    return reply


async def _exchange(path: Path, deed: Deed) -> Reply:
    async with await anyio.connect_unix(path) as stream:
        await stream.send(frame(deed))
        got = anyio.streams.buffered.BufferedByteReceiveStream(stream)
        (size,) = LENGTH.unpack(await got.receive_exactly(LENGTH.size))
        if size > MAX_REPLY_BYTES:
            raise msgspec.ValidationError(f"a reply of {size} bytes")
        reply: Reply = _decode_reply(await got.receive_exactly(size))
        return reply
