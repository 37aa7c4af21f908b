"""`python -m sparkd.cli`: the same as `sparkctl`."""

from __future__ import annotations

import sys

from sparkd.cli.main import main

sys.exit(main())
