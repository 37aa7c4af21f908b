"""The flight recorder's files and figures: what is recorded, how it lies in memory and on disk, how it is read.

Layer: edges. Nothing here knows the core; `sparkd.daemon.recording` looks, once a second, and `sparkctl history` reads,
with a daemon or without.
"""

from sparkd.recorder.api import NodeUsage, Now, RecorderApi, ServiceNow, ServiceUsage, Usage
from sparkd.recorder.fold import Fold, Minute, Totals
from sparkd.recorder.history import METRICS, History, Point, Recorded
from sparkd.recorder.ring import Ring, RingWriter, read_ring
from sparkd.recorder.sample import COLUMNS, Row, Sample, row
from sparkd.recorder.store import FoldStore, Left, read_folds

__all__ = [
    "COLUMNS",
    "METRICS",
    "Fold",
    "FoldStore",
    "History",
    "Left",
    "Minute",
    "NodeUsage",
    "Now",
    "Point",
    "Recorded",
    "RecorderApi",
    "Ring",
    "RingWriter",
    "Row",
    "Sample",
    "ServiceNow",
    "ServiceUsage",
    "Totals",
    "Usage",
    "read_folds",
    "read_ring",
    "row",
]
