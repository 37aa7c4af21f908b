"""Long events at the link: bytes cross it, references to memory of one node never do."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import anyio
import pytest

from sparkd import Array, Privacy, event
from sparkd.codec import Header, Message, encode_body
from sparkd.link import frames
from sparkd.reference import Reference, encode_reference
from tests.link.link_rig import attacking_as, edge_and_cloud, welcomed

pytestmark = pytest.mark.anyio


@event("test.picture", privacy=Privacy.SHARED)
@dataclass(frozen=True, slots=True, kw_only=True)
class Picture:
    n: int
    pixels: Array


async def test_a_long_event_crosses_as_bytes_and_one_that_is_too_long_is_counted(root: Path) -> None:
    both = edge_and_cloud(root)
    async with both.linked(), both.cloud.bus.subscribe(Picture) as there:
        await both.edge.bus.publish(Picture(n=1, pixels=Array.of(b"x" * (2 << 20))))
        await both.edge.bus.publish(Picture(n=2, pixels=Array.of(b"y" * 500_000)))
        with anyio.fail_after(5):
            first = (await anext(there)).event

        assert first.n == 2
        assert bytes(first.pixels.data) == b"y" * 500_000
        assert both.edge.status("cloud").refused == {"send test.picture: too large": 1}


async def test_a_reference_that_a_peer_sends_is_refused(root: Path) -> None:
    both = edge_and_cloud(root)
    header = Header(1, "edge", "s", 1, 0, 1, 0, Privacy.SHARED)
    reference = encode_reference(Reference(1, "core.0123456789abcdef", 1, 1, 64, 100))
    last = encode_body(Picture(n=9, pixels=Array.of(b"z")))
    async with both.cloud.running(), both.cloud.bus.subscribe_messages("test") as there:
        await both.cloud.listening()
        with attacking_as(both.edge, both.cloud.listen, both.cloud) as edge:
            await welcomed(edge, "edge")
            edge.send(*frames.event(Message("test.picture", header, reference)))
            edge.send(*frames.event(Message("test.picture", header, last)))
            with anyio.fail_after(5):
                first = (await anext(there)).event.decode(Picture)

        assert first.n == 9
        assert both.cloud.status("edge").refused == {"receive: reference": 1}
