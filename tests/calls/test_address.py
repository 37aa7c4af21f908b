from __future__ import annotations

import pytest

from sparkd.calls.address import Address, parse_address
from sparkd.errors import CallError, CallErrorKind


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("vision.infer", Address("vision", "infer")),
        ("hailo-inference:vision.infer", Address("vision", "infer", "hailo-inference")),
        ("primecore/node.status", Address("node", "status", "", "primecore")),
        ("primecore/core:node.status", Address("node", "status", "core", "primecore")),
        ("command-runner.run_now", Address("command-runner", "run_now")),
    ],
)
def test_an_address_is_parsed_and_written_the_same(text: str, address: Address) -> None:
    assert parse_address(text) == address
    assert str(address) == text


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "no dot"),
        ("vision", "no dot"),
        ("Vision.infer", "interface 'Vision'"),
        ("vision.Infer", "method 'Infer'"),
        ("vision.", "method ''"),
        (".infer", "interface ''"),
        ("a.b.c", "method 'b.c'"),
        ("Node/a.b", "node 'Node'"),
        ("n/S_x:a.b", "service 'S_x'"),
        ("a/b/c.d", "'b/c'"),
        ("vision.infer\n", "method"),
        ("ü.x", "interface"),
    ],
)
def test_a_malformed_address_is_refused_with_the_part_that_is_wrong(text: str, says: str) -> None:
    with pytest.raises(CallError) as caught:
        parse_address(text)

    assert caught.value.kind is CallErrorKind.UNKNOWN_METHOD
    assert says in caught.value.message
    assert "primecore/core:node.status" in caught.value.message
