"""What `wg show INTERFACE WORD` prints, read. Pure; what cannot be understood is left out, and told."""

from __future__ import annotations

import base64
import binascii
import ipaddress
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

FAST = ("latest-handshakes", "transfer", "endpoints")
"""The words that are asked at every look ..."""
SLOW = ("persistent-keepalive", "allowed-ips", "listen-port")
"""... and those whose answers an operator changes, not the network."""
MAX_PEERS = 500
_KEY = re.compile(r"[A-Za-z0-9+/]{42}[AEIMQUYcgkosw048]=")
_NUMBER = re.compile(r"[0-9]{1,19}")
_NOBODY = "(none)"


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """A peer at one moment."""

    epoch: int = 0
    """Of its latest handshake, by the machine's wall clock, in seconds; 0 for never."""
    received: int = 0
    sent: int = 0
    endpoint: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """What was set for a peer."""

    keepalive_s: int = 0
    """0 for off."""
    allowed: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """An interface at one moment."""

    readings: dict[str, Reading] = field(default_factory=dict)
    """By public key."""
    settings: dict[str, Setting] = field(default_factory=dict)
    listen_port: int = 0
    garbage: tuple[str, ...] = ()
    """What could not be understood: the word, and the line's number."""


class _Garbage(list[str]):
    """Collects complaints."""

    def of(self, word: str, number: int) -> None:
        if len(self) < 10:  # noqa: PLR2004 - enough to see what is wrong
            self.append(f"{word}: line {number}")


def read(shown: Mapping[str, str]) -> Snapshot:
    """Return what the answers say; words that were not asked give what nobody set."""
    garbage = _Garbage()
    handshakes = {key: _number(words, 1) for key, words in _lines(shown, "latest-handshakes", 2, garbage)}
    transfer = {key: (_number(words, 1), _number(words, 2)) for key, words in _lines(shown, "transfer", 3, garbage)}
    endpoints = {key: _endpoint(words[1]) for key, words in _lines(shown, "endpoints", 2, garbage)}
    for word, found in (("latest-handshakes", handshakes), ("endpoints", endpoints)):
        for key in [key for key, value in found.items() if value is None]:
            garbage.append(f"{word}: the value of a peer")
            del found[key]
    readings = {
        key: Reading(epoch=epoch or 0, received=moved[0] or 0, sent=moved[1] or 0, endpoint=endpoints.get(key) or "")
        for key, epoch in list(handshakes.items())[:MAX_PEERS]
        if (moved := transfer.get(key, (None, None))) != (None, None)
    }
    return Snapshot(
        readings=readings,
        settings=_settings(shown, garbage),
        listen_port=_port(shown.get("listen-port", "")),
        garbage=tuple(garbage),
    )


def _settings(shown: Mapping[str, str], garbage: _Garbage) -> dict[str, Setting]:
    keepalives = {key: _number(words, 1) or 0 for key, words in _lines(shown, "persistent-keepalive", 2, garbage)}
    allowed = {key: _networks(words[1]) for key, words in _lines(shown, "allowed-ips", 2, garbage)}
    return {key: Setting(keepalive_s=keepalives.get(key, 0), allowed=allowed.get(key, ())) for key in keepalives}


def _lines(shown: Mapping[str, str], word: str, columns: int, garbage: _Garbage) -> Iterator[tuple[str, list[str]]]:
    for number, line in enumerate(shown.get(word, "").splitlines(), 1):
        words = line.split("\t")
        if len(words) == columns and _KEY.fullmatch(words[0]):
            yield words[0], words
        elif line.strip():
            garbage.of(word, number)


def _number(words: list[str], place: int) -> int | None:
    return int(words[place]) if _NUMBER.fullmatch(words[place]) else None


def _port(text: str) -> int:
    number = _number([text.strip()], 0) or 0
    return number if number < 1 << 16 else 0


def _endpoint(text: str) -> str | None:
    """Return `address:port`; nothing if there is none, None for garbage."""
    if text == _NOBODY:
        return ""
    host, _, port = text.rpartition(":")
    try:
        ipaddress.ip_address(host.removeprefix("[").removesuffix("]"))
    except ValueError:
        return None
    return text if _port(port) else None


def _networks(text: str) -> tuple[str, ...]:
    found = []
    for word in re.split(r"[ ,]+", text):
        try:
            found.append(str(ipaddress.ip_network(word, strict=False)))
        except ValueError:
            continue
    return tuple(found)


def split_endpoint(endpoint: str) -> tuple[str, int]:
    """Return address (or name) and port of `host:port`."""
    host, _, port = endpoint.rpartition(":")
    return host.removeprefix("[").removesuffix("]"), int(port)


def join_endpoint(address: str, port: int) -> str:
    """Return `address:port` as WireGuard writes it."""
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


def only_address(allowed: tuple[str, ...]) -> str:
    """Return the first single address among allowed IPs: the peer's own in the tunnel. Nothing if there is none."""
    for text in allowed:
        network = ipaddress.ip_network(text)
        if network.num_addresses == 1:
            return str(network.network_address)
    return ""


def name_of(key: str) -> str:
    """Return what a peer is called that the config does not name."""
    try:
        return f"peer-{base64.b64decode(key, validate=True)[:4].hex()}"
    except binascii.Error:  # not after the pattern, but a name must never fail
        return "peer-unknown"
