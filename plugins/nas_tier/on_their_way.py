"""The keys of writes that some tier has not got yet, each with its newest write: other reads ask no disk. Pure."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable

KEYS_MOST = 50_000
"""About 10 MB of keys."""
Key = tuple[str, str]


class OnTheirWay:
    """Namespaces and keys. Beyond a bound it says "maybe" of every key, until it is begun anew."""

    def __init__(self, most: int = KEYS_MOST) -> None:
        """Hold *most* keys, and beyond that none."""
        self._most = most
        self._keys: OrderedDict[Key, int] | None = OrderedDict()
        """In the order of their numbers."""

    def begin(self, written: Iterable[tuple[str, str, int]] | None) -> None:
        """Hold just what was *written*, each with its number, in their order; None: that is too much."""
        if written is None:
            self._keys = None
        else:
            self._keys = OrderedDict(((namespace, key), seq) for namespace, key, seq in written)

    def may_have(self, namespace: str, key: str) -> bool:
        """Whether a write of that key may be on its way."""
        return self._keys is None or (namespace, key) in self._keys

    def add(self, written: Iterable[tuple[str, str, int]]) -> None:
        """Add writes, each with its number, which is higher than all before."""
        if self._keys is None:
            return
        for namespace, key, seq in written:
            self._keys[namespace, key] = seq
            self._keys.move_to_end((namespace, key))
        if len(self._keys) > self._most:
            self._keys = None

    def passed(self, seq: int) -> bool:
        """Forget what was written up to *seq*, but no key that was written again since.

        False if there was too much to hold, and it may be begun anew.
        """
        if self._keys is None:
            return False
        while self._keys and next(iter(self._keys.values())) <= seq:
            self._keys.popitem(last=False)
        return True
