"""The privacy class: how far a piece of data may travel from the node it was made on.

It travels in event header, outbox row, call metadata and `X-Sparkd-Privacy`, from the source to every copy. The side
that sends refuses what may not leave, and the side that receives refuses it again.
"""

from __future__ import annotations

from enum import IntEnum


class Privacy(IntEnum):
    """Ordered from strict to free, so `min` of several classes is the class of what was derived from them."""

    NODE = 0  # stays on the machine
    LOCAL = 1  # stays on nodes of the same site
    SHARED = 2  # any trusted node

    @classmethod
    def parse(cls, name: str) -> Privacy:
        """Return the class called *name* (`node`, `local`, `shared`). Raises ValueError naming the choices."""
        try:
            return cls[name.upper()]
        except KeyError:
            raise ValueError(f"unknown privacy class {name!r}; choices: node, local, shared") from None

    @property
    def label(self) -> str:
        """The name people and config files use."""
        return self.name.lower()

    def may_reach(self, *, same_node: bool, same_site: bool) -> bool:
        """Whether data of this class may go to a node that is this one, or stands at the same site."""
        return same_node or self is Privacy.SHARED or (self is Privacy.LOCAL and same_site)


def strictest(*classes: Privacy) -> Privacy:
    """Return the class of data derived from inputs of *classes*; `LOCAL`, the default, for no inputs."""
    return min(classes, default=Privacy.LOCAL)
