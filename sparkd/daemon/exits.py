"""How the daemon ends, for systemd and scripts."""

from __future__ import annotations

EX_FAILED, EX_TEMPFAIL, EX_CONFIG = 1, 75, 78
"""Exit codes, the latter two of sysexits.h: the zygote was lost and a restart helps; the config must be mended."""
