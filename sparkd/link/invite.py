"""Invitations: how two nodes exchange keys by a code that is good once, for ten minutes.

Theory of operation. The code that `sparkctl invite NAME` prints holds the inviter's address and public key, and the
secret half of a key pair made for this one invitation. Only the public half is kept, in `keys/invites/NAME.invite`;
while it is there, the listener admits a connection that proves the secret half, and takes from it one message: the
guest's own public key. That key is then trusted as NAME, and the invitation is gone. CURVE keeps others from reading or
changing any of this; who has not seen the code can do nothing, and who uses it twice is refused.

How long an invitation is good is counted by the clock that never steps (CLOCK_BOOTTIME), so a node without a battery
clock does not keep one for years; a restart of the machine ends it.
"""

from __future__ import annotations

import base64
import binascii
import time
import zlib
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import zmq  # noqa: TID251 - keys are made by the library that uses them, and the guest speaks ZeroMQ
from zmq.utils import z85  # noqa: TID251 - CURVE keys are shown in it

from sparkd.errors import ConfigError, LocalMessageError, RemoteMessageError
from sparkd.lasting import write_whole
from sparkd.link import frames
from sparkd.link.frames import PROTOCOL, Greeting, Joining
from sparkd.link.keys import KeyStore, checked_key
from sparkd.link.options import Timing, configure
from sparkd.service import NAME

LIFE_S = 600.0
MAX_LIFE_S = 86_400.0
MARK = "invite/"
"""Begins the name that a connection with an invitation is known by; no node's name has a slash."""
PREFIX = "spark1-"
MAX_CODE_CHARS = 400
MAX_INVITES = 64
_KEY_BYTES = 32
_CHECK_BYTES = 4
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
_ANSWER_BYTES = 1 << 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Code:
    """What an invitation's code says."""

    inviter: str
    guest: str
    address: str
    """host:port where the inviter listens."""
    server_key: str
    """The inviter's public key, Z85."""
    secret: str = field(repr=False)
    """The secret half of the invitation's own key pair, Z85."""

    def text(self) -> str:
        """Return the code as it is given to the guest."""
        parts = _Parts(
            self.inviter,
            self.guest,
            self.address,
            z85.decode(self.server_key.encode()),
            z85.decode(self.secret.encode()),
        )
        content = msgspec.msgpack.encode(parts)
        check = zlib.crc32(content).to_bytes(_CHECK_BYTES)
        return PREFIX + base64.urlsafe_b64encode(content + check).decode().rstrip("=")


class _Parts(msgspec.Struct, array_like=True, frozen=True, forbid_unknown_fields=True):
    inviter: str
    guest: str
    address: str
    server_key: bytes
    secret: bytes


class _Invite(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The file of one invitation."""

    key: str
    """The public half of the invitation's key pair."""
    until_s: float
    """CLOCK_BOOTTIME at which it ends."""
    boot: str


def read_code(text: str) -> Code:
    """Return what a code says. Raises ConfigError, which never repeats the code."""
    words = "".join(text.split())  # a terminal may have wrapped it
    if not words.startswith(PREFIX) or len(words) > MAX_CODE_CHARS:
        raise ConfigError(f"not an invitation: a code that begins with {PREFIX} expected; see `sparkctl invite`")
    body = words.removeprefix(PREFIX)
    try:
        content = base64.b64decode(body + "=" * (-len(body) % 4), altchars=b"-_", validate=True)
        if zlib.crc32(content[:-_CHECK_BYTES]).to_bytes(_CHECK_BYTES) != content[-_CHECK_BYTES:]:
            raise ValueError("check")  # noqa: TRY301 - told as any other damage
        parts = msgspec.msgpack.decode(content[:-_CHECK_BYTES], type=_Parts)
    except (binascii.Error, ValueError, msgspec.MsgspecError):
        raise ConfigError("the invitation's code is damaged; copy it again, whole") from None
    if len(parts.server_key) != _KEY_BYTES or len(parts.secret) != _KEY_BYTES:
        raise ConfigError("the invitation's code is damaged; copy it again, whole")
    for name in (parts.inviter, parts.guest):
        if not NAME.fullmatch(name):
            raise ConfigError("the invitation's code names a node by a name that no node can have")
    server_key, secret = z85.encode(parts.server_key).decode(), z85.encode(parts.secret).decode()
    return Code(inviter=parts.inviter, guest=parts.guest, address=parts.address, server_key=server_key, secret=secret)


class Invites:
    """The invitations of a node that are open, in its folder of keys. Everything here blocks; the files are tiny."""

    def __init__(self, store: KeyStore) -> None:
        self._store = store
        self.folder = store.invites_folder

    def issue(self, *, guest: str, inviter: str, address: str, life_s: float = LIFE_S) -> Code:
        """Open an invitation for the node *guest*, in place of an older one. Raises ConfigError."""
        if not NAME.fullmatch(guest):
            raise ConfigError(f"node name {guest!r}: lower-case words joined by hyphens expected, such as 'control-pc'")
        if guest == inviter:
            raise ConfigError(f"{guest!r} is this node itself; invite another by the name it has in its own config")
        if not 0 < life_s <= MAX_LIFE_S:
            raise ConfigError(f"an invitation lasts up to {MAX_LIFE_S / 3600:g} hours, got {life_s:g} s")
        self._drop_old()
        if len(list(self.folder.glob("*.invite"))) >= MAX_INVITES:
            raise ConfigError(f"{self.folder}: {MAX_INVITES} invitations are open; use some, or wait")
        public, secret = zmq.curve_keypair()
        invite = _Invite(key=public.decode(), until_s=_now_s() + life_s, boot=_boot())
        self._store.prepare()
        write_whole(self._file(guest), msgspec.json.encode(invite), mode=0o600)
        own = self._store.load().public
        return Code(inviter=inviter, guest=guest, address=address, server_key=own, secret=secret.decode())

    def guests(self) -> dict[str, str]:
        """Return who is invited to come with which public key, by key."""
        return {invite.key: guest for guest, invite in self._open().items()}

    def claim(self, guest: str, key: str, guest_key: str) -> str:
        """Use up the invitation of *guest* with the key *key*, and trust *guest_key*; return why not, or nothing."""
        invite = self._open().get(guest)
        if invite is None or invite.key != key:
            return "this invitation is used up, or its time is over; ask for another"
        try:
            checked = checked_key(guest_key, f"key of {guest}")
            self._file(guest).unlink()
            self._store.trust(guest, checked)
        except FileNotFoundError:
            return "this invitation is used up"
        except ConfigError as error:
            return str(error)
        except OSError as error:
            return f"the key cannot be stored: {error.strerror}"
        return ""

    def withdraw(self, guest: str) -> bool:
        """Close the invitation of *guest*; return whether there was one."""
        try:
            self._file(guest).unlink()
        except FileNotFoundError:
            return False
        return True

    def _file(self, guest: str) -> Path:
        return self.folder / f"{guest}.invite"

    def _open(self) -> dict[str, _Invite]:
        """Return the invitations that are good now, by guest."""
        now, boot = _now_s(), _boot()
        found = {file.stem: invite for file in self.folder.glob("*.invite") if (invite := _read(file)) is not None}
        return {name: invite for name, invite in found.items() if invite.boot == boot and now < invite.until_s}

    def _drop_old(self) -> None:
        good = self._open()
        for file in self.folder.glob("*.invite"):
            if file.stem not in good:
                file.unlink(missing_ok=True)


def _read(file: Path) -> _Invite | None:
    try:
        return msgspec.json.decode(file.read_bytes(), type=_Invite)
    except (OSError, msgspec.MsgspecError):  # claimed meanwhile, or not one of ours: it invites nobody
        return None


def _now_s() -> float:
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def _boot() -> str:
    try:
        return _BOOT_ID.read_text(encoding="ascii").strip()
    except OSError:  # a container that hides it: then its own life is the boot
        return ""


def join(code: Code, *, node: str, public: str, limit_s: float = 10.0) -> Greeting:
    """Give this node's *public* key to the inviter; return its greeting once it trusts us. Blocks.

    Raises ConfigError if the inviter refuses, LocalMessageError if nobody answers within *limit_s* seconds.
    """
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    try:
        with context.socket(zmq.DEALER) as socket:
            configure(socket, Timing(handshake_s=limit_s), max_message_bytes=_ANSWER_BYTES)
            socket.curve_secretkey = code.secret.encode()
            socket.curve_publickey = zmq.curve_public(code.secret.encode())
            socket.curve_serverkey = code.server_key.encode()
            socket.ipv6 = "[" in code.address
            socket.connect(f"tcp://{code.address}")
            socket.send_multipart(frames.joining(Joining(PROTOCOL, node, public)))
            if not socket.poll(int(limit_s * 1000)):
                raise LocalMessageError(
                    f"{code.inviter} does not answer at {code.address} within {limit_s:g} s: is the address right and "
                    "reachable from here, does sparkd run there, and is the invitation still open?"
                )
            return _answered(socket.recv_multipart(), code)
    except zmq.ZMQError as error:
        raise ConfigError(f"{code.address}: {zmq.strerror(error.errno or 0)}") from None
    finally:
        context.destroy(linger=0)


def _answered(message: list[bytes], code: Code) -> Greeting:
    try:
        said = frames.decode(message)
    except RemoteMessageError as error:
        raise ConfigError(
            f"{code.inviter} answered nonsense: {error}; is it a newer sparkd? update the older"
        ) from None
    if isinstance(said, frames.Welcome):
        return said.greeting
    reason = said.reason if isinstance(said, frames.Refused | frames.Bye) else "no reason given"
    raise ConfigError(f"{code.inviter} refused: {reason}")
