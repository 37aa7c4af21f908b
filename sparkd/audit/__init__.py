"""The audit trail: who changed what on this node, in files that show where they were cut or edited. Layer: edges."""

from __future__ import annotations

from sparkd.audit.deed import Deed, Entry, plain_params
from sparkd.audit.denials import Denials
from sparkd.audit.reading import Report, read_tail, verify
from sparkd.audit.trail import Trail

__all__ = ["Deed", "Denials", "Entry", "Report", "Trail", "plain_params", "read_tail", "verify"]
