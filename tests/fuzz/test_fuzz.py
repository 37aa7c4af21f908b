"""What takes bytes from others, fuzzed for a moment, and against everything that broke it once.

`make fuzz` runs the same targets for an hour. What it finds is added to the corpus, made small, with its regression.
"""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.fuzz.fuzz_targets import TARGETS

HERE = Path(__file__).parent
SECONDS = 1
"""Of fuzzing for each target."""
INPUT_LIMIT_S = 1.0


@pytest.mark.parametrize("name", TARGETS)
def test_the_corpus_is_taken_or_refused_as_promised(name: str) -> None:
    inputs = sorted((HERE / "corpus" / name).iterdir())
    assert inputs, "a target has a corpus"

    for file in inputs:
        begun = time.monotonic()
        TARGETS[name](file.read_bytes())
        assert time.monotonic() - begun < INPUT_LIMIT_S, file


@pytest.mark.slow
@pytest.mark.timeout(150)
@pytest.mark.skipif(importlib.util.find_spec("atheris") is None, reason="atheris has wheels for x86-64 only")
def test_nothing_breaks_in_a_moment_of_fuzzing(tmp_path: Path) -> None:
    options = ["--seconds", str(SECONDS), "--work", str(tmp_path)]
    command = [sys.executable, "-m", "tests.fuzz.fuzz_run", *TARGETS, *options]
    done = subprocess.run(command, capture_output=True, text=True, timeout=140, check=False, cwd=HERE.parent.parent)

    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-6000:]
    runs = re.findall(r"number_of_executed_units: (\d+)", done.stderr)
    assert len(runs) == len(TARGETS)
    assert min(map(int, runs)) > 20, done.stderr[-3000:]


def test_every_corpus_belongs_to_a_target() -> None:
    assert {folder.name for folder in (HERE / "corpus").iterdir()} == set(TARGETS)
