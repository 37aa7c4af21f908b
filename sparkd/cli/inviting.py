"""`sparkctl invite` and `sparkctl join`: two nodes learn each other's keys by a code that is good once."""

from __future__ import annotations

import argparse
import getpass
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sparkd.cli.parser import Subparsers
    from sparkd.config import Config, Places
    from sparkd.link import KeyStore

ANYWHERE = ("0.0.0.0", "[::]", "*")  # noqa: S104 - what we do not bind, but cannot be dialed
MINUTES = 10.0


def words(commands: Subparsers) -> None:
    """Add the two commands."""
    invite = commands.add_parser("invite", help="make a code by which another node joins this one's link")
    invite.add_argument("name", metavar="NAME", help="the other node's name, as its own config has it")
    invite.add_argument(
        "--address", default="", metavar="HOST:PORT", help="where it reaches this node, if not [link] listen"
    )
    invite.add_argument("--minutes", type=float, default=MINUTES, metavar="N", help="how long it is good (default: 10)")
    invite.add_argument("--cancel", action="store_true", help="close an invitation that is open")
    _rights(invite)
    join = commands.add_parser("join", help="join another node's link by the code it made")
    join.add_argument(
        "code", nargs="?", default="", metavar="CODE", help="without it, it is asked for, or read from stdin"
    )
    _rights(join)


def _rights(command: argparse.ArgumentParser) -> None:
    group = command.add_argument_group(
        "what the other node may do (written to sparkd.d/ if the config has no table for it)"
    )
    group.add_argument(
        "--site", default="", metavar="SITE", help="where it stands; of one site, they share private data"
    )
    group.add_argument("--send", action="append", metavar="TOPIC", help="a topic to send it (default: system.health)")
    group.add_argument(
        "--receive", action="append", metavar="TOPIC", help="one to take from it (default: system.health)"
    )
    group.add_argument("--calls", action="append", metavar="METHOD", help="a method it may call (default: node.status)")


def invite(options: argparse.Namespace) -> int:
    """Print a code for another node, and make this one ready for it."""
    from sparkd.cli.offline import as_owner_of, say  # noqa: PLC0415 - brings the config
    from sparkd.config import load_places  # noqa: PLC0415 - likewise
    from sparkd.errors import ConfigError  # noqa: PLC0415 - likewise
    from sparkd.link import Invites, KeyStore  # noqa: PLC0415 - brings ZeroMQ

    config, places = load_places(options.config)
    store = KeyStore(places.state / "keys")
    if options.cancel:
        with as_owner_of(places.state):
            closed = Invites(store).withdraw(options.name)
        say(options, {"closed": closed}, f"{'closed' if closed else 'none was open'}: the invitation of {options.name}")
        return 0
    if not config.link.listen:
        remedy = 'set listen = "HOST:PORT" there and restart the daemon, or invite from the node that listens'
        raise ConfigError(f"[link]: this node does not listen, so nobody can join it; {remedy}")
    with as_owner_of(places.state):
        _own_key(store)
        code = Invites(store).issue(
            guest=options.name,
            inviter=config.node.name,
            address=options.address or _address(config),
            life_s=options.minutes * 60,
        )
    written = _know(options, config, places, options.name, "")
    text = code.text()
    lines = [
        *written,
        f"On {options.name}, within {options.minutes:g} minutes, run `sparkctl join` and give it this code:",
        "",
        f"  {text}",
        "",
        f"It is good once, for a node that calls itself {options.name} and reaches this one at {code.address}.",
    ]
    say(options, {"code": text, "address": code.address, "guest": options.name}, "\n".join(lines))
    return 0


def join(options: argparse.Namespace) -> int:
    """Give this node's key to the one that made the code, and trust its key."""
    from sparkd.cli.offline import as_owner_of, say  # noqa: PLC0415 - brings the config
    from sparkd.config import load_places  # noqa: PLC0415 - likewise
    from sparkd.errors import ConfigError  # noqa: PLC0415 - likewise
    from sparkd.link import KeyStore, join, read_code  # noqa: PLC0415 - brings ZeroMQ

    code = read_code(options.code or _asked())
    config, places = load_places(options.config)
    if config.node.name != code.guest:
        raise ConfigError(
            f"[node] name: the invitation is for {code.guest!r}, and this node is {config.node.name!r}; "
            f"set the name, or ask {code.inviter} for: sparkctl invite {config.node.name}"
        )
    if code.inviter not in config.link.peers and places.config.is_dir() and not os.access(places.config, os.W_OK):
        raise ConfigError(f"{places.config}: cannot be written, and the link to {code.inviter} goes there; try: sudo")
    store = KeyStore(places.state / "keys")
    with as_owner_of(places.state):
        public = _own_key(store)
        greeting = join(code, node=config.node.name, public=public, limit_s=options.timeout)
        store.trust(code.inviter, code.server_key)
    written = _know(options, config, places, code.inviter, code.address)
    text = "\n".join([*written, f"{code.inviter} and this node trust each other now; see: sparkctl status"])
    say(options, {"joined": code.inviter, "address": code.address, "site": greeting.site}, text)
    return 0


def _own_key(store: KeyStore) -> str:
    from sparkd.errors import ConfigError  # noqa: PLC0415 - with the store

    try:
        return store.load().public
    except ConfigError:
        if (store.folder / "node.secret").exists():  # there, and unusable: the operator must see to it
            raise
        return store.new()


def _address(config: Config) -> str:
    from sparkd.errors import ConfigError  # noqa: PLC0415 - with the config

    host, _, port = config.link.listen.rpartition(":")
    if host in ANYWHERE:
        raise ConfigError(f"[link] listens on every address; say which the other node reaches: --address HOST:{port}")
    return config.link.listen


def _asked() -> str:
    """Return the code from stdin, without showing it on a terminal."""
    return getpass.getpass("code: ") if sys.stdin.isatty() else sys.stdin.readline()


def _know(options: argparse.Namespace, config: Config, places: Places, name: str, address: str) -> list[str]:
    """Give the peer *name* a table in the config if it has none, have a running daemon read it, say what was done."""
    from sparkd.config import table_text, write_drop_in  # noqa: PLC0415 - with the config

    if name in config.link.peers:
        held = config.link.peers[name].address
        if address and held != address:
            return [f"● [link.peers.{name}] has the address {held!r}, the invitation {address!r}: see which is right"]
        return []
    rights = {
        **({"address": address} if address else {}),
        **({"site": options.site} if options.site else {}),
        "send": options.send or ["system.health"],
        "receive": options.receive or ["system.health"],
        "calls": options.calls or ["node.status"],
    }
    head = f"## Written by `sparkctl {options.command}`. It is yours to change: it is not written again.\n"
    file = write_drop_in(places.config, f"60-peer-{name}.toml", head + table_text(f"link.peers.{name}", rights))
    return [f"{file} is written: {name} may do what stands there.", *_reload(options, places.socket)]


def _reload(options: argparse.Namespace, socket: Path) -> list[str]:
    from sparkd.errors import SparkdError  # noqa: PLC0415 - with the config
    from sparkd.rpc.client import Client  # noqa: PLC0415 - only if there is something to say

    try:
        with Client(options.socket or socket, timeout_s=options.timeout) as client:
            client.call("config.reload", {})
    except OSError:  # no daemon: it reads the file when it starts
        return []
    except SparkdError as error:
        return [f"● the running daemon did not take it over: {error}; try: systemctl reload sparkd"]
    return []
