"""What `sparkctl` does by itself, without a daemon: the check, the keys, a first plugin, completion."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from sparkd.cli import parser
from sparkd.cli.parser import BAD_CONFIG, USAGE
from sparkd.config import Config, Places, load_places
from sparkd.errors import ConfigError

if TYPE_CHECKING:
    from sparkd.link.keys import KeyStore


def check(options: argparse.Namespace) -> int:
    """Check config, keys, plugins and their tables, and start nothing. Print every problem."""
    try:
        config, places = load_places(options.config)
    except ConfigError as error:
        return _report(options, list(error.problems), [])
    from sparkd.cli.tables import check_plugins  # noqa: PLC0415 - forks, and so comes after all that may fail earlier

    problems = [*_link_problems(config, places), *check_plugins(config, places)]
    return _report(options, problems, [str(file) for file in config.files])


def _report(options: argparse.Namespace, problems: list[str], files: list[str]) -> int:
    if options.json:
        print(json.dumps({"ok": not problems, "files": files, "problems": problems}))
    else:
        for problem in problems:
            print(f"● {problem}")
        count = "no problems" if not problems else "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
        print(f"{count} in {', '.join(files)}" if files else count)
    return BAD_CONFIG if problems else 0


def _link_problems(config: Config, places: Places) -> list[str]:
    """Return what would keep the configured links from coming up: keys that are missing or unusable."""
    if not config.link.peers and not config.link.listen:
        return []
    from sparkd.link.keys import KeyStore  # noqa: PLC0415 - brings ZeroMQ

    store = KeyStore(places.state / "keys")
    problems: list[str] = []
    try:
        store.load()
    except ConfigError as error:
        problems += error.problems
    trusted = store.allow_list()
    problems += trusted.problems
    problems += [
        f"[link.peers.{name}]: its key is not trusted yet; try: sparkctl keys trust {name} KEY"
        for name in config.link.peers
        if name not in trusted.keys
    ]
    return problems


def keys(options: argparse.Namespace) -> int:
    """Make, show, trust and revoke keys. A running daemon notices by itself."""
    from sparkd.link.keys import KeyStore  # noqa: PLC0415 - brings ZeroMQ

    config, places = load_places(options.config)
    with as_owner_of(places.state):
        return _keys(options, config, KeyStore(places.state / "keys"))


@contextlib.contextmanager
def as_owner_of(state: Path) -> Iterator[None]:
    """Be the daemon's user meanwhile if root is asked: it must be able to read the keys, and may not lead root astray.

    A folder that is not there yet is made as root; systemd hands it over when it starts the unit.
    """
    owner = state.stat() if os.geteuid() == 0 and state.is_dir() else None
    if owner is None or owner.st_uid == 0:
        yield
        return
    groups, gid = os.getgroups(), os.getegid()
    os.setgroups([])
    os.setegid(owner.st_gid)
    os.seteuid(owner.st_uid)
    try:
        yield
    finally:
        os.seteuid(0)
        os.setegid(gid)
        os.setgroups(groups)


def _keys(options: argparse.Namespace, config: Config, store: KeyStore) -> int:
    if options.verb == "new":
        own = store.new(force=options.force)
        say(options, {"node": config.node.name, "public": own}, f"sparkctl keys trust {config.node.name} '{own}'")
    elif options.verb == "trust":
        store.trust(options.name, options.key)
        say(options, {"trusted": options.name}, f"{options.name} is trusted")
    elif options.verb == "revoke":
        store.revoke(options.name)
        say(options, {"revoked": options.name}, f"{options.name} is not trusted any more")
    else:
        own, allowed = store.load().public, store.allow_list()
        lines = [f"{config.node.name} (this node): {own}", *(f"{name}: {key}" for name, key in allowed.keys.items())]
        shown = {"node": config.node.name, "public": own, "trusted": allowed.keys, "problems": allowed.problems}
        say(options, shown, "\n".join([*lines, *(f"● {problem}" for problem in allowed.problems)]))
        return BAD_CONFIG if allowed.problems else 0
    return 0


def new_plugin(options: argparse.Namespace) -> int:
    """Write a working plugin into the first drop-in folder; never over a file that is there."""
    from sparkd.registry.sample import new_plugin as text_of  # noqa: PLC0415 - brings the registry

    try:
        text = text_of(options.name)
    except ValueError as error:
        return _refuse(options, str(error), USAGE)
    folder = load_places(options.config)[1].plugins[0]
    file = folder / f"{options.name.replace('-', '_')}.py"
    for taken in (file, folder / f"{options.name}.py", folder / file.stem):
        if taken.exists():
            raise FileExistsError(f"{taken} is there already; choose another name, or remove it first")
    folder.mkdir(mode=0o755, parents=True, exist_ok=True)
    with file.open("x", encoding="utf-8") as out:
        out.write(text)
    file.chmod(0o644)  # a file that others may write is not loaded, whatever the umask
    then = (
        f"{file} is written. A running daemon starts it within a second, and again after each change:\n"
        f"  sparkctl status\n"
        f"  sparkctl sub edge.sensors.{options.name}\n"
        f"Its settings go to a table [plugins.{options.name}] of the config. To be rid of it, remove the file."
    )
    say(options, {"file": str(file)}, then)
    return 0


def completion(options: argparse.Namespace) -> int:
    """Print a completion script."""
    import shtab  # noqa: PLC0415 - needed by this command only

    print(shtab.complete(parser.build(), shell=options.shell))
    return 0


def say(options: argparse.Namespace, answer: Mapping[str, object], text: str) -> None:
    """Print *answer* as JSON for scripts, or *text* for people."""
    print(json.dumps(answer) if options.json else text)


def _refuse(options: argparse.Namespace, message: str, code: int) -> int:
    print(json.dumps({"error": message}) if options.json else f"sparkctl: {message}", file=sys.stderr)
    return code
