"""Running a daemon whose drop-in `asker` measures from a service's place, and writes down what it found."""

from __future__ import annotations

import json
import time
from pathlib import Path

from sparkd.testing import Node


def print_what_it_wrote(node: Node, out: Path, *, limit_s: float) -> None:
    """Run *node* until its drop-in has written *out*; print that, as JSON."""
    node.start()
    try:
        deadline = time.monotonic() + limit_s
        while not out.exists():
            assert time.monotonic() < deadline, node.last_words()
            time.sleep(0.2)
        print(json.dumps(json.loads(out.read_text()), indent=2))
    finally:
        node.stop()
