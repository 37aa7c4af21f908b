"""A secret as a plugin gets it: named in the config, never written in it, and never shown."""

from __future__ import annotations

from typing import Any


class Secret:
    """A value that shows itself only when asked by `reveal`."""

    __slots__ = ("_value", "source")

    def __init__(self, value: str, source: str) -> None:
        """Hold *value*, which came from *source* (a name, safe to show)."""
        self._value = value
        self.source = source

    def reveal(self) -> str:
        """Return the secret itself."""
        return self._value

    def __repr__(self) -> str:
        return f"<secret from {self.source}>"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and other._value == self._value

    __hash__ = None  # type: ignore[assignment] # a hash would be a way to recognise it

    def __reduce__(self) -> Any:
        raise TypeError("a secret is not copied out of the process")
