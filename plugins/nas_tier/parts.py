"""What the service is made of, for those who answer calls with it."""

from __future__ import annotations

from dataclasses import dataclass

from .blobs import Blobs
from .catalogue import Catalogue
from .changes import Changes
from .clock import VersionClock
from .config import NasTierConfig
from .figures import Counts
from .hot import Hot
from .indexing import Indexing
from .meaning import Meaning
from .moving import Moving
from .namespaces import Namespaces
from .places import Places
from .pouring import Pouring
from .reading import Reading
from .searching import Searching
from .spool import Spool
from .writing import Writing


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """All parts."""

    node: str
    config: NasTierConfig
    namespaces: Namespaces
    places: Places
    catalogue: Catalogue
    clock: VersionClock
    spool: Spool
    blobs: Blobs
    hot: Hot
    reading: Reading
    pouring: Pouring
    writing: Writing
    searching: Searching
    indexing: Indexing
    meaning: Meaning
    moving: Moving
    changes: Changes
    counts: Counts
