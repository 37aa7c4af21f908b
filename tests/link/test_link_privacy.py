"""One record of each privacy class by every way over the link: what may not leave does not, nor is it taken in."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import anyio
import pytest

from sparkd import Privacy, event
from sparkd.calls import frames as calls
from sparkd.codec import Header, Message, encode_body
from sparkd.errors import CallError, CallErrorKind
from sparkd.link import frames
from tests.link.link_rig import attacking_as, edge_and_cloud, welcomed

pytestmark = pytest.mark.anyio

MAY_PASS = [
    (Privacy.NODE, True, False),
    (Privacy.NODE, False, False),
    (Privacy.LOCAL, True, True),
    (Privacy.LOCAL, False, False),
    (Privacy.SHARED, True, True),
    (Privacy.SHARED, False, True),
]
each_class = pytest.mark.parametrize(("privacy", "same_site", "passes"), MAY_PASS)


@event("test.note")
@dataclass(frozen=True, slots=True, kw_only=True)
class Note:
    text: str


LAST = Note(text="last")


def note_of_edge(privacy: Privacy, text: str) -> Message:
    return Message("test.note", Header(1, "edge", "s", 1, 0, 1, 0, privacy), encode_body(Note(text=text)))


def request(privacy: Privacy) -> list[bytes]:
    return calls.encode(calls.Request(1, "ingest.append", 5.0, privacy), b"params")


@each_class
async def test_sending_an_event(root: Path, *, privacy: Privacy, same_site: bool, passes: bool) -> None:
    both = edge_and_cloud(root, same_site=same_site)
    async with both.linked(), both.cloud.bus.subscribe_messages("test") as there:
        await both.edge.bus.publish(Note(text="secret"), privacy=privacy)
        await both.edge.bus.publish(LAST, privacy=Privacy.SHARED)
        with anyio.fail_after(5):
            first = (await anext(there)).event.decode(Note)

        refused = both.edge.status("cloud").refused
        assert first == (Note(text="secret") if passes else LAST)
        assert refused == ({} if passes else {f"send test.note: privacy {privacy.label}": 1})


@each_class
async def test_receiving_an_event(root: Path, *, privacy: Privacy, same_site: bool, passes: bool) -> None:
    both = edge_and_cloud(root, same_site=same_site)
    async with both.cloud.running(), both.cloud.bus.subscribe_messages("test") as there:
        await both.cloud.listening()
        with attacking_as(both.edge, both.cloud.listen, both.cloud) as edge:
            await welcomed(edge, "edge")
            edge.send(*frames.event(note_of_edge(privacy, "secret")))
            edge.send(*frames.event(note_of_edge(Privacy.SHARED, "last")))
            with anyio.fail_after(5):
                first = (await anext(there)).event.decode(Note)

        refused = both.cloud.status("edge").refused
        assert first == (Note(text="secret") if passes else LAST)
        assert refused == ({} if passes else {f"receive test.note: privacy {privacy.label}": 1})


@each_class
async def test_making_a_call(root: Path, *, privacy: Privacy, same_site: bool, passes: bool) -> None:
    async with edge_and_cloud(root, same_site=same_site).linked() as both:
        channel = both.edge.channels["cloud"]
        if passes:
            channel.send(request(privacy))
            await both.cloud.until(lambda: both.cloud.calls)
            return
        with pytest.raises(CallError, match="denied") as refused:
            channel.send(request(privacy))

        assert refused.value.kind is CallErrorKind.DENIED
        assert refused.value.data["rule"].startswith(f"privacy {privacy.label}")
        assert both.cloud.calls == []


@each_class
async def test_answering_a_call(root: Path, *, privacy: Privacy, same_site: bool, passes: bool) -> None:
    both = edge_and_cloud(root, same_site=same_site)
    async with both.cloud.running():
        await both.cloud.listening()
        with attacking_as(both.edge, both.cloud.listen, both.cloud) as edge:
            await welcomed(edge, "edge")
            edge.send(*frames.call(request(privacy)))
            if passes:
                await both.cloud.until(lambda: both.cloud.calls)
                return
            head, _ = calls.decode((await edge.receive())[1:])

            assert isinstance(head, calls.Failure)
            assert head.kind == CallErrorKind.DENIED
            assert both.cloud.calls == []
