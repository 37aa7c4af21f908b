"""Calls from node to node through both call routers, as the daemon wires them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, Protocol

import anyio
import pytest

from sparkd import Privacy, interface, reads
from sparkd.calls import CallRouter, Handlers, Result, Rules
from sparkd.calls.endpoint import Endpoint
from sparkd.calls.outgoing import Call
from sparkd.codec import pack, unpack
from sparkd.config import PeerConfig
from sparkd.errors import CallError, CallErrorKind
from sparkd.link import Channel, LinkHooks
from tests.link.link_rig import Both, LinkNode, edge_and_cloud

pytestmark = pytest.mark.anyio


@interface("near")
class Near(Protocol):
    @reads
    async def double(self, *, data: bytes) -> bytes:
        """Return twice what was given."""
        ...

    @reads
    async def for_ever(self) -> None:
        """Never answer."""
        ...


class NearHandler:
    async def double(self, *, data: bytes) -> bytes:
        return data * 2

    async def for_ever(self) -> None:
        await anyio.sleep_forever()


def wire(node: LinkNode, router: CallRouter) -> None:
    """Join a link and a call router by the link's hooks."""
    endpoints: dict[str, Endpoint] = {}

    def up(peer: str, channel: Channel) -> None:
        endpoints[peer] = router.attach(peer, channel, kind="node")
        node.note_up(peer, channel)

    def down(peer: str, reason: str) -> None:
        endpoints.pop(peer).close(reason)
        node.note_down(peer, reason)

    node.hooks = LinkHooks(on_peer_up=up, on_peer_down=down, on_frames=lambda peer, f: endpoints[peer].feed(f))


@asynccontextmanager
async def routed(root: Path) -> AsyncIterator[tuple[Both, CallRouter]]:
    """Run both nodes; hand out the router of `edge`, which may call `near.*` on `cloud`."""
    both = edge_and_cloud(root)
    both.cloud.peers["edge"] = PeerConfig(site="home", calls=["near.*"])
    rules = Rules(refuse_call=lambda *_who: None)
    async with AsyncExitStack() as stack:
        tasks = await stack.enter_async_context(anyio.create_task_group())
        stack.callback(tasks.cancel_scope.cancel)
        routers = {}
        for node in (both.cloud, both.edge):
            handlers = Handlers(on_error=lambda _method, _error: None)
            handlers.bind(Near, NearHandler())
            routers[node.name] = CallRouter(node=node.name, core=handlers, tasks=tasks, rules=rules)
            wire(node, routers[node.name])
            await stack.enter_async_context(node.running())
        await both.edge.up("cloud")
        await both.cloud.up("edge")
        yield both, routers["edge"]


async def ask(router: CallRouter, method: str, params: dict[str, Any], *, privacy: Privacy = Privacy.SHARED) -> Result:
    answer = await router.call(Call(method=method, deadline_s=5.0, privacy=privacy), pack(params))
    assert isinstance(answer, Result)
    return answer


async def test_a_call_is_answered_by_the_other_node_which_says_so(root: Path) -> None:
    async with routed(root) as (_, router):
        answer = await ask(router, "cloud/near.double", {"data": b"ab"})

    assert unpack(answer.body) == b"abab"
    assert answer.served_by == "cloud/core"


async def test_an_answer_that_is_too_large_is_an_error_at_the_caller_and_harms_nothing(root: Path) -> None:
    async with routed(root) as (_, router):
        with pytest.raises(CallError, match="too large"):
            await ask(router, "cloud/near.double", {"data": bytes(800_000)})
        assert unpack((await ask(router, "cloud/near.double", {"data": b"x"})).body) == b"xx"


async def test_privacy_forbids_a_call_before_it_leaves(root: Path) -> None:
    async with routed(root) as (_, router):
        with pytest.raises(CallError) as refused:
            await ask(router, "cloud/near.double", {"data": b""}, privacy=Privacy.LOCAL)

    assert refused.value.kind is CallErrorKind.DENIED


async def test_calls_under_way_fail_at_once_when_the_link_ends(root: Path) -> None:
    async with routed(root) as (both, router), anyio.create_task_group() as tasks:

        async def call() -> None:
            with pytest.raises(CallError) as lost:
                await ask(router, "cloud/near.for_ever", {})
            assert lost.value.kind is CallErrorKind.UNAVAILABLE

        tasks.start_soon(call)
        await anyio.wait_all_tasks_blocked()
        both.cloud.keys.revoke("edge")
