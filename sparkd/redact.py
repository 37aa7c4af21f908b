"""Taking secrets out of text that leaves the machine. Layer: edges."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from sparkd.config import Config, Places
from sparkd.config.secret import MAX_SECRET_BYTES, looks_secret

HIDDEN = "[hidden]"
MIN_SECRET_CHARS = 4
"""What is shorter would blacken half of every text; nobody's secret should be."""
_PATTERNS = (
    re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(-----END [A-Z ]*PRIVATE KEY-----|\Z)", re.DOTALL),
    re.compile(r"(?<=://)[^\s/@:]*:[^\s/@]+(?=@)"),
    re.compile(r"(?i)(?<=bearer )[\w.~+/=-]{8,}"),
    re.compile(r"(?<=spark1-)[\w-]{20,}"),
    re.compile(r"\beyJ[\w-]{10,}\.[\w-]+\.[\w-]+"),
    re.compile(r"\b(?:sk|pk|ghp|gho|hf|xox[bp]|AKIA)[-_]?[A-Za-z0-9]{16,}"),
    re.compile(
        r"(?i)(?<![\w-])([\w.-]*(?:passw(?:or)?d|passphrase|secret|token|api[_-]?key|private[_-]?key|access[_-]?key)"
        r"[\w.-]*[\"']?\s*[=:]\s*)(\"[^\"\n]*\"|'[^'\n]*'|[^\s,;}\]]+)"
    ),
)
_NAMED = ("credential", "file", "env")


class Redactor:
    """Hides the secrets it knows of, and what looks like one."""

    def __init__(self, secrets: set[str]) -> None:
        longest_first = sorted((secret for secret in secrets if len(secret) >= MIN_SECRET_CHARS), key=len, reverse=True)
        self._known = re.compile("|".join(map(re.escape, longest_first))) if longest_first else None
        self.hidden = 0

    def text(self, text: str) -> str:
        """Return *text* without secrets."""
        if self._known is not None:
            text, count = self._known.subn(HIDDEN, text)
            self.hidden += count
        for pattern in _PATTERNS:
            text, count = pattern.subn(self._replace, text)
            self.hidden += count
        return text

    @staticmethod
    def _replace(match: re.Match[str]) -> str:
        if match.lastindex != 2:  # noqa: PLR2004 - only a key with its value has two groups
            return HIDDEN
        named = match[2].lstrip().startswith(("{", "[", HIDDEN))  # such as { credential = "x" }, which names it
        return match[0] if named else match[1] + HIDDEN


def secrets_of(config: Config, places: Places) -> set[str]:
    """Return every secret that the config names and that can be read, the node's own keys, and secret variables."""
    found: set[str] = set()
    for table in config.plugins.values():
        found |= set(_in_table(table.table))
    for pattern in ("keys/*.secret", "keys/invites/*"):
        for file in places.state.glob(pattern):
            found |= set(_lines(file))
    credentials = os.environ.get("CREDENTIALS_DIRECTORY")
    if credentials:
        for file in Path(credentials).glob("*"):
            found |= set(_lines(file))
    found |= {value for name, value in os.environ.items() if looks_secret(name)}
    return found


def _in_table(value: Any, key: str = "") -> Iterator[str]:
    if isinstance(value, Mapping):
        if len(value) == 1 and next(iter(value)) in _NAMED:
            yield from _named(*next(iter(value.items())))
        for name, inner in value.items():
            yield from _in_table(inner, str(name))
    elif isinstance(value, list):
        for inner in value:
            yield from _in_table(inner, key)
    elif isinstance(value, str) and key and looks_secret(key):
        yield value


def _named(way: str, name: Any) -> Iterator[str]:
    if not isinstance(name, str):
        return
    if way == "env":
        yield os.environ.get(name, "")
    elif way == "file":
        yield from _lines(Path(name))


def _lines(file: Path) -> Iterator[str]:
    """Yield what stands in a secret file: the whole, and each line, for a log would break it up."""
    try:
        with file.open("rb") as opened:
            text = opened.read(MAX_SECRET_BYTES).decode(errors="replace").strip()
    except OSError:
        return
    yield text
    yield from text.splitlines()
