"""The key files of a node: its own CURVE key pair, and the public keys of the peers it trusts.

    keys/node.secret            0600, this node's secret key
    keys/node.public            to be given to peers
    keys/trusted/NAME.public    the allow-list: one file a peer
    keys/invites/NAME.invite    0600, an open invitation (`sparkd.link.invite`)

Each file holds one key in Z85 (https://rfc.zeromq.org/spec/32/), 40 characters. Files are written whole, synced and
renamed, so a crash leaves the old one or the new one. No secret is in any message, log line or repr.
"""

from __future__ import annotations

import re
import stat
import struct
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import zmq  # noqa: TID251 - keys are made by the library that uses them
from zmq.utils import z85  # noqa: TID251 - likewise

from sparkd.errors import ConfigError
from sparkd.lasting import make_lasting, sync_folder, write_whole
from sparkd.service import NAME

_Z85 = re.compile(r"[0-9A-Za-z.\-:+=^!/*?&<>()\[\]{}@%$#]{40}")
_OTHERS_READ = stat.S_IRWXG | stat.S_IRWXO
_OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH


@dataclass(frozen=True, slots=True)
class KeyPair:
    """A node's own keys. Only `public` shows."""

    public: str
    secret: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class AllowList:
    """The peers that are trusted, as one reading of the folder found them."""

    keys: dict[str, str] = field(default_factory=dict)
    """Public key of each peer, by name."""
    problems: tuple[str, ...] = ()
    """Files that could not be used, one sentence each; whoever they name is not trusted."""

    def name_of(self, key: str) -> str | None:
        """Return the peer that *key* belongs to."""
        return next((name for name, trusted in self.keys.items() if trusted == key), None)

    def identities(self) -> dict[str, str]:
        """Return the peer of each identity that a connection may have been given; see `identity`."""
        return {identity(name, key): name for name, key in self.keys.items()}


def identity(name: str, key: str) -> str:
    """Return the user id of a connection: name and key, so that a replaced key stops working like a revoked one."""
    return f"{name} {key}"


def checked_key(text: str, where: str) -> str:
    """Return the key in *text*. Raises ConfigError, naming *where* but never the text, if it is not one."""
    key = text.strip()
    if len(key) != 40:  # noqa: PLR2004 - 32 bytes in Z85
        raise ConfigError(f"{where}: a Z85 key has 40 characters, got {len(key)}")
    try:
        if _Z85.fullmatch(key) and len(z85.decode(key.encode())) == 32:  # noqa: PLR2004 - a CURVE key
            return key
    except (ValueError, KeyError, struct.error):  # five characters may say more than 32 bits
        pass
    raise ConfigError(f"{where}: not a Z85 key; copy it again, with all its punctuation")


class KeyStore:
    """The folder of key files. Everything here blocks; the files are tiny."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.trusted_folder = folder / "trusted"
        self.invites_folder = folder / "invites"
        self._secret = folder / "node.secret"
        self._public = folder / "node.public"

    def new(self, *, force: bool = False) -> str:
        """Make this node's key pair and return the public key.

        Raises ConfigError if there is one already, unless *force*: every peer must then be told the new key.
        """
        self.prepare()
        public, secret = zmq.curve_keypair()
        if force:  # a power cut between the two files must not leave the public half of another secret
            self._public.unlink(missing_ok=True)
            sync_folder(self.folder)
        try:
            write_whole(self._secret, f"{secret.decode()}\n", mode=0o600, replace=force)
        except FileExistsError:
            raise ConfigError(
                f"{self._secret}: this node has a key already; peers that trust it would refuse a new one "
                "(force makes one all the same)"
            ) from None
        write_whole(self._public, f"{public.decode()}\n", mode=0o644)
        return public.decode()

    def load(self) -> KeyPair:
        """Return this node's keys. Raises ConfigError that says what is wrong with the files and what to do."""
        try:
            mode = self._secret.stat().st_mode
            if mode & _OTHERS_READ:
                raise ConfigError(
                    f"{self._secret}: mode {stat.S_IMODE(mode):04o} lets others at the secret; "
                    f"try: chmod 600 {self._secret}"
                )
            secret = checked_key(_read(self._secret), str(self._secret))
        except FileNotFoundError:
            raise ConfigError(f"{self._secret}: no such file; try: sparkctl keys new") from None
        except OSError as error:
            raise ConfigError(f"{self._secret}: {error.strerror}") from None
        public = zmq.curve_public(secret.encode()).decode()
        if self._public.exists() and checked_key(_read(self._public), str(self._public)) != public:
            raise ConfigError(f"{self._public}: not the public half of {self._secret.name}; the right one is {public}")
        return KeyPair(public, secret)

    def trust(self, name: str, key: str) -> None:
        """Put *key* on the allow-list as that of peer *name*, in place of an older one.

        Raises ConfigError for a malformed name or key, a key trusted under another name, or this node's own.
        """
        if not NAME.fullmatch(name):
            raise ConfigError(f"peer name {name!r}: lower-case words joined by hyphens expected, such as 'control-pc'")
        key = checked_key(key, f"key of {name}")
        other = self.allow_list().name_of(key)
        if other not in {None, name}:
            raise ConfigError(f"key of {name}: trusted already as {other}; revoke that first")
        if key == self._own_public():
            raise ConfigError(f"key of {name}: this is the key of this node itself; the peer's own is needed")
        self.prepare()
        write_whole(self._file_of(name), f"{key}\n", mode=0o644)

    def revoke(self, name: str) -> None:
        """Take *name* off the allow-list. Raises ConfigError if it is not on it."""
        try:
            self._file_of(name).unlink()
        except FileNotFoundError:
            known = ", ".join(sorted(self.allow_list().keys)) or "none"
            raise ConfigError(f"peer {name!r} is not trusted; trusted: {known}") from None
        sync_folder(self.trusted_folder)

    def trusted(self) -> dict[str, str]:
        """Return the public key of each trusted peer, by name. Raises ConfigError naming every unusable file."""
        found = self.allow_list()
        if found.problems:
            raise ConfigError(*found.problems)
        return found.keys

    def allow_list(self) -> AllowList:
        """Return the peers that are trusted, with what is wrong with the other files: one bad file bars one peer."""
        keys: dict[str, str] = {}
        problems: list[str] = []
        if self.trusted_folder.is_dir() and self.trusted_folder.stat().st_mode & _OTHERS_WRITE:
            folder = self.trusted_folder
            return AllowList({}, (f"{folder}: others may write here, so nobody is trusted; try: chmod 755 {folder}",))
        for file in sorted(self.trusted_folder.glob("*.public")):
            try:
                keys[file.stem] = self._trusted_key(file)
            except FileNotFoundError:
                continue  # revoked while we looked
            except ConfigError as error:
                problems += error.problems
        shared = {key for key, count in Counter(keys.values()).items() if count > 1}
        for key in sorted(shared):
            names = sorted(name for name in keys if keys[name] == key)
            problems.append(f"{self.trusted_folder}: {' and '.join(names)} have the same key; neither is trusted")
        return AllowList({name: key for name, key in keys.items() if key not in shared}, tuple(problems))

    def prepare(self) -> None:
        """Make the folders if they are missing."""
        for folder, mode in ((self.folder, 0o700), (self.trusted_folder, 0o755), (self.invites_folder, 0o700)):
            make_lasting(folder, mode)

    def _trusted_key(self, file: Path) -> str:
        if not NAME.fullmatch(file.stem):
            raise ConfigError(f"{file}: the file's name must be that of a peer: lower-case words joined by hyphens")
        try:
            if file.stat().st_mode & _OTHERS_WRITE:
                raise ConfigError(f"{file}: others may write it, so it is not trusted; try: chmod 644 {file}")
            key = checked_key(_read(file), str(file))
        except FileNotFoundError:
            raise
        except OSError as error:
            raise ConfigError(f"{file}: {error.strerror}") from None
        if key == self._own_public():
            raise ConfigError(f"{file}: this is the key of this node itself; the peer's own is needed")
        return key

    def _own_public(self) -> str | None:
        try:
            return zmq.curve_public(checked_key(_read(self._secret), "own key").encode()).decode()
        except (OSError, ConfigError):
            return None  # no key yet, or one that `load` will complain about

    def _file_of(self, name: str) -> Path:
        return self.trusted_folder / f"{name}.public"


def _read(file: Path) -> str:
    with file.open("rb") as opened:
        return opened.read(256).decode("ascii", "replace")  # whatever else is in there, it is not a key
