"""What differs between what would be rendered and what is there, as a unified diff without secrets."""

from __future__ import annotations

import difflib
import re
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from sparkd.config.secret import looks_secret
from sparkd.fleet.keys import looks_like_key, public_wireguard_key
from sparkd.fleet.model import Fleet
from sparkd.fleet.render import MARK, TRUSTED, Files
from sparkd.redact import HIDDEN, Redactor

MAX_BYTES = 4 << 20
_WORD = re.compile(r"[^\s\"',;]{40,}")
_LINE = re.compile(
    r"(?im)^(?P<key>[ \t#;+-]*(?:option[ \t]+)?[\w.-]*"
    r"(?:private|preshared|pre_shared|shared_key|psk|passw|secret|token|credentials)[\w.-]*['\"]?[ \t]*[=: \t][ \t]*)"
    r"(?P<value>(?!/|\{|[a-z]+[ \t]*=)\S.*)$"
)
"""A line that sets a secret; not one that names a file, or a table which names one."""
_BLOCK = re.compile(
    r"(?is)((?:private|preshared|passw|secret|token)[\w.-]*[ \t]*=[ \t]*)(\"\"\".*?(?:\"\"\"|\Z)|'''.*?(?:'''|\Z))"
)


def difference(fleet: Fleet, files: Files, root: Path) -> str:
    """Return how *files*, as rendered, differ from those beneath *root*; empty if they do not.

    The first line, which says from which version of the fleet a file was rendered, does not count. A key that is
    trusted there, and by the fleet is not, is a difference too.
    """
    found = [*_of_files(fleet, files, root), *_trusted_still(files, root)]
    return "".join(found)


def _of_files(fleet: Fleet, files: Files, root: Path) -> Iterator[str]:
    for path, text in sorted(files.items()):
        yield from _of_file(fleet, root / path, text)


def _trusted_still(files: Files, root: Path) -> Iterator[str]:
    try:
        held = sorted((root / TRUSTED).glob("*.public"))
    except OSError:  # closed to who asks; so are the files in it, which are named above
        return
    for file in held:
        if f"{TRUSTED}/{file.name}" not in files:
            yield f"--- {file}\n+++ rendered\n"
            yield f"@@ trusted here, and not linked by the fleet: sparkctl keys revoke {file.stem} @@\n"


def _of_file(fleet: Fleet, file: Path, wanted: str) -> Iterator[str]:
    try:
        held = _read(file)
    except FileNotFoundError:
        held = ""
    except OSError as error:
        yield f"--- {file}\n+++ rendered\n@@ cannot be read: {error.strerror} @@\n"
        return
    wanted, held = _without_mark(wanted), _without_mark(held)
    if wanted == held:
        return
    shown = hide(fleet, held)
    lines = list(difflib.unified_diff(shown.splitlines(), wanted.splitlines(), str(file), "rendered", lineterm=""))
    if not lines:  # they differ in what is hidden, or in how the last line ends
        lines = [f"--- {file}", "+++ rendered", "@@ they differ in what is not shown @@"]
    yield from (f"{line}\n" for line in lines)


def _read(file: Path) -> str:
    with file.open("rb") as opened:
        return opened.read(MAX_BYTES).decode(errors="replace")


def _without_mark(text: str) -> str:
    return text.partition("\n")[2] if text.startswith(MARK) else text


def hide(fleet: Fleet, text: str) -> str:
    """Return *text* without what may be a secret: values of telling keys, and whatever looks like a key.

    Public keys of the fleet, and what can only be a public key, stay.
    """
    public = {*fleet.wireguard_keys.values(), *fleet.link_keys.values()}
    secrets = _secrets_of(text)
    text = _BLOCK.sub(rf"\1{HIDDEN}", text)
    text = _LINE.sub(rf"\g<key>{HIDDEN}", text)

    def shown(word: re.Match[str]) -> str:
        found = word[0]
        return found if found in public or not looks_like_key(found) or public_wireguard_key(found) else HIDDEN

    return Redactor(secrets).text(_WORD.sub(shown, text))


def _secrets_of(text: str) -> set[str]:
    """Return each line of what stands under a telling key, if *text* is TOML: it may go over several."""
    try:
        return {line.strip() for value in _told(tomllib.loads(text)) for line in value.splitlines()}
    except (tomllib.TOMLDecodeError, RecursionError):
        return set()


def _told(value: Any, *, secret: bool = False) -> Iterator[str]:
    if isinstance(value, Mapping):
        named = secret and value.keys() <= {"credential", "file", "env"}
        for key, inner in value.items():
            yield from _told(inner, secret=not named and (secret or looks_secret(key)))
    elif isinstance(value, list):
        for inner in value:
            yield from _told(inner, secret=secret)
    elif secret and isinstance(value, str):
        yield value
