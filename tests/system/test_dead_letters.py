"""What an operator can do about records that could not be delivered, and readers that are no more."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import anyio
import pytest

from sparkd import CallError, Record
from sparkd.outbox import open_outbox
from sparkd.testing import Node


async def bury(root: Path) -> None:
    box = open_outbox(root, node_id="n" * 32, service="tester")
    async with box.writer("events") as writer, box.reader("tester", "events", name="sink") as reader:
        await writer.append([Record(topic="t", body=b"a"), Record(topic="t", body=b"b")])
        first, second = await reader.read(max_records=2, max_bytes=10_000)
        await reader.reject(first, "too odd")
        await reader.reject(second, "too old")
        await reader.advance(2)


def test_dead_letters_are_listed_retried_and_dropped(lone: Node) -> None:
    anyio.run(bury, lone.state / "outbox")
    stream: dict[str, Any] = {"service": "tester", "stream": "events"}

    assert [(d["seq"], d["reason"]) for d in lone.call("outbox.dead", **stream)] == [(1, "too odd"), (2, "too old")]
    assert lone.call("outbox.retry", **stream, seqs=[1]) == 1
    assert lone.call("outbox.drop", **stream, seqs=[2]) == 1
    assert lone.call("outbox.dead", **stream) == []
    (status,) = lone.call("outbox.status")
    assert (status["last_seq"], status["readers"][0]["behind"]) == (3, 1)


def test_a_reader_that_is_no_more_is_forgotten(lone: Node) -> None:
    anyio.run(bury, lone.state / "outbox")
    lone.call("outbox.forget", service="tester", stream="events", reader="sink")

    assert lone.call("outbox.status")[0]["readers"] == []


@pytest.mark.parametrize("method", ["outbox.dead", "outbox.drop", "outbox.retry"])
def test_a_stream_that_is_not_there_is_said_to_be_missing(lone: Node, method: str) -> None:
    more: dict[str, Any] = {} if method == "outbox.dead" else {"seqs": [1]}

    with pytest.raises(CallError, match="no stream x/y"):
        lone.call(method, service="x", stream="y", **more)
