"""`python -m sparkd.daemon`: the same as `sparkd`."""

from __future__ import annotations

import sys

from sparkd.daemon.main import main

sys.exit(main())
