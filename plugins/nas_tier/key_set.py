"""A set of keys that stays small: beyond a bound it says "maybe" of every key, until it is begun anew. Pure."""

from __future__ import annotations

from collections.abc import Iterable

KEYS_MOST = 50_000
"""About 10 MB of keys."""
Key = tuple[str, str]


class KeySet:
    """Namespaces and keys."""

    def __init__(self, most: int = KEYS_MOST) -> None:
        """Hold *most* keys, and beyond that none."""
        self._most = most
        self._keys: set[Key] | None = set()

    def begin(self, keys: Iterable[Key] | None) -> None:
        """Hold just *keys*; None: there are too many."""
        self._keys = None if keys is None else set(keys)

    def may_have(self, namespace: str, key: str) -> bool:
        """Whether it may be in it."""
        return self._keys is None or (namespace, key) in self._keys

    def add(self, keys: Iterable[Key]) -> None:
        """Add keys."""
        if self._keys is not None:
            self._keys.update(keys)
            if len(self._keys) > self._most:
                self._keys = None

    def remove(self, keys: Iterable[Key]) -> bool:
        """Remove keys; False if it holds none as there were too many, and may be begun anew."""
        if self._keys is None:
            return False
        self._keys.difference_update(keys)
        return True

    def held(self) -> list[Key] | None:
        """Return what it holds; None if it holds none as there were too many."""
        return None if self._keys is None else list(self._keys)
