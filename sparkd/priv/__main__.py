"""`python -m sparkd.priv`."""

from __future__ import annotations

import sys

from sparkd.priv.main import main

sys.exit(main())
