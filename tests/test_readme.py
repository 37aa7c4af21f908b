"""README is true: its code compiles, its table is the code's, its tests exist.

`python tests/test_readme.py` writes the generated parts again.
"""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

from sparkd import State
from sparkd.cli import parser
from sparkd.daemon.exits import EX_CONFIG, EX_FAILED, EX_TEMPFAIL
from sparkd.registry import new_plugin
from sparkd.states import TRANSITIONS

ROOT = Path(__file__).parent.parent
README = ROOT / "README.md"
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
DOCUMENTS = ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")


def between(marker: str, text: str) -> str:
    """Return what stands between the comment *marker* and the next `end`."""
    return text.partition(f"<!-- {marker} -->\n")[2].partition("<!-- end -->")[0]


def blocks(text: str, language: str) -> list[str]:
    return [body for found, body in BLOCK.findall(text) if found == language]


def states() -> str:
    """Return the table of states as README shows it."""
    rows = ["| from | cue → to |", "|---|---|"]
    for state, row in TRANSITIONS.items():
        changes = (f"{cue.value} → `{to.value}`" for cue, to in row.items() if to is not state)
        rows.append(f"| `{state.value}` | {', '.join(changes)} |")
    return "\n".join(rows) + "\n"


def first_plugin() -> str:
    return f"```python\n{new_plugin('counter')}```\n"


def generated(text: str) -> str:
    """Return README with its generated parts as they should be."""
    for marker, part in (("states", states()), ("first plugin", first_plugin())):
        text = text.replace(f"<!-- {marker} -->\n{between(marker, text)}", f"<!-- {marker} -->\n{part}")
    return text


def test_the_generated_parts_are_those_of_the_code() -> None:
    text = README.read_text()

    assert text == generated(text), "run: python tests/test_readme.py"


def test_the_first_plugin_is_the_one_that_sparkctl_writes() -> None:
    assert blocks(between("first plugin", README.read_text()), "python") == [new_plugin("counter")]


@pytest.mark.parametrize("document", DOCUMENTS)
def test_code_is_code(document: str) -> None:
    text = (ROOT / document).read_text()

    for body in blocks(text, "python"):
        compile(body, document, "exec")
    for body in blocks(text, "toml"):
        tomllib.loads(body)


def test_the_examples_are_as_short_as_they_should_be() -> None:
    text = README.read_text()

    for marker in ("bus", "socket"):
        (body,) = blocks(between(marker, text), "python")
        assert len([line for line in body.splitlines() if line.strip()]) <= 10


def test_every_state_is_explained() -> None:
    assert all(f"\n| `{state.value}` | " in README.read_text() for state in State)


def test_every_test_it_names_exists() -> None:
    named = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", README.read_text())

    assert named
    for file, test in named:
        assert f"def {test}(" in (ROOT / file).read_text(), f"{file}::{test}"


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_file_it_names_exists(document: str) -> None:
    named = re.findall(
        r"`((?:etc|sparkd|plugins|tests|benchmarks|systemd|\.ci)/[\w./-]*)`", (ROOT / document).read_text()
    )

    for path in [*named, *re.findall(r"`(\w+\.md)`", (ROOT / document).read_text())]:
        assert (ROOT / path).exists(), path


def test_exit_codes() -> None:
    section = README.read_text().partition("## Exit codes")[2].partition("\n## ")[0]
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in section.splitlines() if line.startswith("| ")]

    ours = {0, parser.FAILED, parser.USAGE, parser.NO_DAEMON, parser.BAD_CONFIG, parser.NOT_WELL}
    assert {int(row[0]) for row in rows if row[0]} == ours
    assert {int(row[2]) for row in rows if row[2]} == {0, EX_FAILED, parser.USAGE, EX_TEMPFAIL, EX_CONFIG}


def test_every_command_it_shows_is_understood() -> None:
    text = README.read_text()
    commands = re.findall(r"^sparkctl ([^#\n]+)", text, re.MULTILINE) + re.findall(r"`sparkctl ([^`]+)`", text)

    assert len(commands) > 10
    for command in commands:
        words = [word.strip("'") for word in command.split()]
        if "--help" not in words:
            parser.build().parse_args(words)


if __name__ == "__main__":
    README.write_text(generated(README.read_text()))
