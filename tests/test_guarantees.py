"""The table of guarantees in README: every cell promises something and names a test that is there."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
CLASSES = ("transient", "durable", "state")
FAULTS = ("SIGKILL", "power cut", "full disk", "corrupt page", "clock step", "link cut")
_TEST = re.compile(r"^(\d+)\. `(tests/[\w/]+\.py)::(\w+)`", re.MULTILINE)


def section() -> str:
    return (ROOT / "README.md").read_text().partition("## What survives what")[2].partition("\n## ")[0]


def cells() -> dict[tuple[str, str], str]:
    """Return each cell of the first table, by durability class and fault."""
    rows = [line.strip("|").split("|") for line in section().splitlines() if line.startswith("|")]
    head = [name.strip() for name in rows[0]]
    found = {}
    for row in rows[2:]:
        for name, text in zip(head[1:], row[1:], strict=True):
            found[row[0].strip().strip("`"), name] = text.strip()
    return found


@cache
def names_in(file: str) -> frozenset[str]:
    tree = ast.parse((ROOT / file).read_text())
    functions = (ast.FunctionDef, ast.AsyncFunctionDef)
    return frozenset(node.name for node in ast.walk(tree) if isinstance(node, functions))


def test_the_table_has_every_class_and_every_fault() -> None:
    assert {name for name, _ in cells()} >= set(CLASSES)
    assert {name for _, name in cells()} == set(FAULTS)


def test_no_cell_is_without_a_test_unless_the_fault_is_no_concern() -> None:
    bare = {cell: text for cell, text in cells().items() if not re.search(r"\[\d+\]", text)}

    assert all(text.startswith("not concerned") for text in bare.values()), bare


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("durability", CLASSES)
def test_every_cell_promises_something_and_names_its_test(durability: str, fault: str) -> None:
    text = cells()[durability, fault]
    numbers = re.findall(r"\[(\d+)\]", text)
    named = {number: (file, test) for number, file, test in _TEST.findall(section())}

    assert numbers, f"{durability}, {fault}: no test is named"
    assert len(re.sub(r"\[\d+\]", "", text).strip()) > 5, "it promises nothing"
    for number in numbers:
        assert number in named, f"there is no test {number}"
        file, test = named[number]
        assert test in names_in(file), f"{file} has no {test}"


def test_no_listed_test_is_without_a_promise() -> None:
    used = set(re.findall(r"\[(\d+)\]", section()))

    assert {number for number, _, _ in _TEST.findall(section())} == used
