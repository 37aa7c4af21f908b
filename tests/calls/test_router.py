"""Two nodes, joined by a link in memory; each with a core and services."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

import anyio
import pytest
from anyio.abc import TaskGroup

from sparkd import CallError, CallErrorKind, Privacy, interface
from sparkd.calls import (
    Call,
    CallRouter,
    Endpoint,
    Handlers,
    IncomingCall,
    Result,
    Rules,
    Terms,
    current_call,
    requester,
    stub,
)
from sparkd.core_interfaces import HostApi, SupervisorApi
from tests.calls.call_pair import Wire

pytestmark = pytest.mark.anyio


@interface("who")
class Who(Protocol):
    async def am_i(self) -> tuple[str, str]:
        """Return the caller and the node it calls from."""
        ...

    async def sleep(self) -> None: ...

    def count(self, *, upto: int) -> AsyncIterator[int]: ...

    async def total(self, *, numbers: AsyncIterator[int]) -> int: ...


@interface("core-who")
class CoreWho(Protocol):
    async def am_i(self) -> tuple[str, str]: ...


class Answers:
    def __init__(self) -> None:
        self.sleeping, self.woken, self.closed = anyio.Event(), anyio.Event(), anyio.Event()

    async def am_i(self) -> tuple[str, str]:
        info = current_call()
        return info.caller, info.node

    async def sleep(self) -> None:
        self.sleeping.set()
        try:
            await anyio.sleep_forever()
        finally:
            self.woken.set()

    async def count(self, *, upto: int) -> AsyncIterator[int]:
        try:
            for number in range(upto):
                yield number
        finally:
            self.closed.set()

    async def total(self, *, numbers: AsyncIterator[int]) -> int:
        return sum([number async for number in numbers])

    async def ping(self) -> bool:
        return True

    async def stop(self) -> None: ...

    async def set_log_level(self, *, level: str) -> None: ...

    async def snapshot(self) -> bytes:
        return b"snapshot"

    async def stats(self) -> dict[str, Any]:
        return {}

    async def stack(self) -> str:
        return ""


@dataclass
class Allowed:
    """What a node's rules say; tests change it."""

    providers: list[str] = field(default_factory=lambda: ["one", "two"])
    calls: set[str] = field(default_factory=lambda: {"one:who", "two:who", "core:core-who"})
    relays: bool = False
    site: set[str] = field(default_factory=set)
    via: dict[str, str] = field(default_factory=dict)
    bound: list[tuple[str, tuple[str, ...]]] = field(default_factory=list)

    def rules(self) -> Rules:
        return Rules(
            verify=lambda service, token: token == service,
            providers=lambda name: self.providers if name == "who" else [],
            refuse_call=lambda _peer, service, name, _method: None if f"{service}:{name}" in self.calls else "my list",
            refuse_relay=lambda _peer, _node: None if self.relays else "no relay",
            same_site=lambda node: node in self.site,
            via=lambda node: self.via.get(node),  # noqa: PLW0108 - tests change the table
            on_bound=lambda service, interfaces: self.bound.append((service, interfaces)),
        )


def join(tasks: TaskGroup, left: Any, right: Any) -> tuple[Endpoint, Endpoint]:
    """Join two makers of endpoints by a wire in memory."""
    to_right, to_left = Wire(tasks), Wire(tasks)
    ends = left(to_right), right(to_left)
    to_left.deliver, to_right.deliver = ends[0].feed, ends[1].feed
    return ends


class Node:
    def __init__(self, name: str, tasks: TaskGroup) -> None:
        self.tasks = tasks
        self.allowed = Allowed()
        core = Handlers(on_error=lambda _method, _error: None)
        core.bind(CoreWho, Answers())
        self.router = CallRouter(node=name, core=core, tasks=tasks, rules=self.allowed.rules())

    def host(self) -> tuple[Endpoint, Endpoint, Answers]:
        """Connect a host; return the core's end, its own, and its handler."""
        answers = Answers()
        handlers = Handlers(on_error=lambda _method, _error: None)
        handlers.bind(Who, answers)
        handlers.bind(HostApi, answers)
        core_end, own_end = join(
            self.tasks,
            lambda wire: self.router.attach("host", wire, kind="service"),
            lambda wire: Endpoint(
                wire,
                accept=lambda end, request, body: IncomingCall(end, request, body, dispatch=handlers.dispatch),
                tasks=self.tasks,
            ),
        )
        return core_end, own_end, answers

    async def service(self, name: str) -> tuple[Endpoint, Answers]:
        _, end, answers = self.host()
        await stub(SupervisorApi, requester(end), Terms()).hello(service=name, token=name)
        await stub(SupervisorApi, requester(end), Terms()).bind(interfaces=["who"])
        return end, answers

    def calls(self, **terms: Any) -> Who:
        return stub(Who, self.request, Terms(**terms))

    async def request(self, call: Call, body: bytes, items: Any) -> Any:
        return await self.router.call(call, body, items)


def link(left: Node, right: Node) -> tuple[Endpoint, Endpoint]:
    return join(
        left.tasks,
        lambda wire: left.router.attach(right.router.node, wire, kind="node"),
        lambda wire: right.router.attach(left.router.node, wire, kind="node"),
    )


@asynccontextmanager
async def nodes(*names: str) -> AsyncIterator[list[Node]]:
    async with anyio.create_task_group() as tasks:
        yield [Node(name, tasks) for name in names]
        tasks.cancel_scope.cancel()


async def refused(awaitable: Any) -> CallError:
    with pytest.raises(CallError) as caught:
        await awaitable
    return caught.value


async def test_a_host_must_say_who_it_is_first() -> None:
    async with nodes("home") as [home]:
        _, end, _ = home.host()
        supervisor = stub(SupervisorApi, requester(end), Terms())

        assert (await refused(stub(Who, requester(end), Terms()).am_i())).data["rule"] == "supervisor.hello comes first"
        assert (await refused(supervisor.bind(interfaces=["who"]))).kind is CallErrorKind.DENIED
        assert (await refused(supervisor.hello(service="one", token="forged"))).kind is CallErrorKind.DENIED
        assert (await refused(home.calls().am_i())).kind is CallErrorKind.UNAVAILABLE
        await supervisor.hello(service="one", token="one")
        assert (await refused(supervisor.hello(service="two", token="two"))).kind is CallErrorKind.DENIED
        assert (await refused(supervisor.bind(interfaces=["other"]))).data["rule"].endswith("manifest declares")
        assert (await refused(home.calls().am_i())).kind is CallErrorKind.UNAVAILABLE
        await supervisor.bind(interfaces=["who"])

        assert await home.calls(caller="core").am_i() == ("core", "home")
        assert home.allowed.bound == [("one", ("who",))]


async def test_config_order_decides_between_two_providers_and_the_answer_says_who() -> None:
    async with nodes("home") as [home]:
        await home.service("two")
        assert (await home.router.call(Call(method="who.am_i"), b"")).served_by == "home/two"  # type: ignore[union-attr]
        await home.service("one")
        assert (await home.router.call(Call(method="who.am_i"), b"")).served_by == "home/one"  # type: ignore[union-attr]
        assert (await home.router.call(Call(method="two:who.am_i"), b"")).served_by == "home/two"  # type: ignore[union-attr]
        home.router.drop("one")
        assert (await home.router.call(Call(method="who.am_i"), b"")).served_by == "home/two"  # type: ignore[union-attr]
        assert home.router.bound() == {"two": ("who",)}
        assert home.allowed.bound[-1] == ("one", ())


async def test_services_call_each_other_and_the_core_through_the_router() -> None:
    async with nodes("home") as [home]:
        one, _ = await home.service("one")
        await home.service("two")
        claim = Terms(service="two", caller="core")

        assert await stub(Who, requester(one), claim).am_i() == ("one", "home")
        assert await stub(CoreWho, requester(one), Terms()).am_i() == ("one", "home")
        assert await stub(Who, requester(one), Terms(service="one")).am_i() == ("one", "home")


async def test_streams_pass_through_in_both_directions() -> None:
    async def numbers() -> AsyncIterator[int]:
        for number in range(100):
            yield number

    async with nodes("home", "cloud") as [home, cloud]:
        link(home, cloud)
        await cloud.service("one")
        end, _ = await home.service("two")
        for who in (
            stub(Who, requester(end), Terms(node="cloud", privacy=Privacy.SHARED)),
            home.calls(node="cloud", privacy=Privacy.SHARED),
        ):
            assert [number async for number in who.count(upto=100)] == list(range(100))
            assert await who.total(numbers=numbers()) == 4950


async def test_a_remote_call_says_where_it_came_from_and_who_answered() -> None:
    async with nodes("home", "cloud") as [home, cloud]:
        link(home, cloud)
        await cloud.service("one")
        end, _ = await home.service("two")
        terms = Terms(node="cloud", privacy=Privacy.SHARED, caller="forged/name")

        assert await stub(Who, requester(end), terms).am_i() == ("home/two", "home")
        assert await stub(CoreWho, requester(end), terms).am_i() == ("home/two", "home")
        answer = await home.router.call(Call(method="cloud/who.am_i", privacy=Privacy.SHARED, caller="core"), b"")
        assert isinstance(answer, Result)
        assert answer.served_by == "cloud/one"


async def test_a_cancelled_call_is_cancelled_on_the_other_node() -> None:
    async with nodes("home", "cloud") as [home, cloud]:
        link(home, cloud)
        _, answers = await cloud.service("one")
        end, _ = await home.service("two")
        who = stub(Who, requester(end), Terms(node="cloud", privacy=Privacy.SHARED))
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(who.sleep)
            await answers.sleeping.wait()
            tasks.cancel_scope.cancel()
        await answers.woken.wait()
        stream = who.count(upto=10**6)
        await anext(stream)
        await stream.aclose()  # type: ignore[attr-defined]
        await answers.closed.wait()


async def test_a_lost_link_fails_calls_here_and_cancels_them_there() -> None:
    async with nodes("home", "cloud") as [home, cloud]:
        here, there = link(home, cloud)
        _, answers = await cloud.service("one")
        end, _ = await home.service("two")
        errors: list[CallError] = []

        async def fails() -> None:
            terms = Terms(node="cloud", privacy=Privacy.SHARED)
            errors.append(await refused(stub(Who, requester(end), terms).sleep()))

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(fails)
            await answers.sleeping.wait()
            here.close("the link is down")
            there.close("the link is down")
        await answers.woken.wait()
        assert errors[0].kind is CallErrorKind.UNAVAILABLE
        assert "the link is down" in errors[0].message
        assert home.router.nodes() == []
        assert (await refused(home.calls(node="cloud").am_i())).data["remedy"]
        link(home, cloud)
        assert home.router.nodes() == ["cloud"]


async def test_a_host_that_dies_fails_the_calls_it_was_answering() -> None:
    async with nodes("home") as [home]:
        _, answers = await home.service("one")
        end, _ = await home.service("two")
        async with anyio.create_task_group() as tasks:

            async def fails() -> None:
                error = await refused(stub(Who, requester(end), Terms(service="one")).sleep())
                assert error.kind is CallErrorKind.UNAVAILABLE

            tasks.start_soon(fails)
            await answers.sleeping.wait()
            home.router.drop("one")


async def test_a_newer_process_of_a_service_replaces_the_older() -> None:
    async with nodes("home") as [home]:
        await home.service("one")
        _, answers = await home.service("one")

        assert home.router.bound() == {"one": ("who",)}
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(home.calls().sleep)
            await answers.sleeping.wait()
            tasks.cancel_scope.cancel()


async def test_a_remote_node_reaches_only_what_the_rules_allow() -> None:
    async with nodes("home", "cloud") as [home, cloud]:
        link(home, cloud)
        await cloud.service("one")
        cloud.allowed.calls = {"core:core-who"}

        error = await refused(home.calls(node="cloud", privacy=Privacy.SHARED).am_i())

        assert (error.kind, error.data["rule"]) == (CallErrorKind.DENIED, "my list")


@pytest.mark.parametrize("name", ["host.ping", "one:host.stop", "supervisor.ready", "core:supervisor.hello"])
@pytest.mark.parametrize("kind", ["service", "node", "rpc"])
async def test_what_is_between_core_and_host_is_nobody_elses(name: str, kind: str) -> None:
    async with nodes("home", "cloud") as [home, cloud]:
        link(home, cloud)
        await cloud.service("one")
        end, _ = await cloud.service("two")
        cloud.allowed.calls |= {"one:host", "core:supervisor"}

        async def call() -> Any:
            if kind == "service":
                return await requester(end)(Call(method=name), b"", None)
            if kind == "node":
                return await home.router.call(Call(method=f"cloud/{name}", privacy=Privacy.SHARED), b"")
            return await cloud.router.call(Call(method=name), b"", kind="rpc")

        if kind == "service" and "supervisor" in name:
            with pytest.raises(CallError):  # served to it, if the daemon binds it; not here
                await call()
            return
        assert (await refused(call())).kind is CallErrorKind.DENIED


async def test_the_core_asks_its_hosts() -> None:
    async with nodes("home") as [home]:
        await home.service("one")

        assert await stub(HostApi, home.request, Terms(service="one")).snapshot() == b"snapshot"


@pytest.mark.parametrize(
    ("privacy", "same_site", "passes"),
    [
        (Privacy.NODE, True, False),
        (Privacy.LOCAL, True, True),
        (Privacy.LOCAL, False, False),
        (Privacy.SHARED, False, True),
    ],
)
async def test_privacy_is_refused_before_sending_and_again_at_arrival(
    privacy: Privacy,
    same_site: bool,  # noqa: FBT001 - a column of the table
    passes: bool,  # noqa: FBT001 - a column of the table
) -> None:
    async with nodes("home", "cloud") as [home, cloud]:
        here, there = link(home, cloud)
        await cloud.service("one")
        home.allowed.site = cloud.allowed.site = {"home", "cloud"} if same_site else set()
        who = home.calls(node="cloud", privacy=privacy)
        if passes:
            await who.am_i()
            return
        assert (await refused(who.am_i())).data["rule"].startswith("privacy")
        assert there.counts.answered == 0
        home.allowed.site = {"cloud"}
        if privacy is Privacy.LOCAL:  # the sender is deceived about the site: the receiver is not
            assert (await refused(who.am_i())).data["rule"].startswith("privacy")
            assert there.counts.answered == 1
        assert here.in_flight == (0, 0)


async def test_one_relay_through_a_peer_that_allows_it_and_no_more() -> None:
    async with nodes("a", "b", "c", "d") as [a, b, c, d]:
        link(a, b)
        link(b, c)
        link(c, d)
        await c.service("one")
        await d.service("one")
        a.allowed.via = {"c": "b", "d": "b"}
        b.allowed.via = {"d": "c"}
        to_c = a.calls(node="c", privacy=Privacy.SHARED, caller="core")

        assert (await refused(to_c.am_i())).data["rule"] == "no relay"
        b.allowed.relays = c.allowed.relays = True
        assert await to_c.am_i() == ("a/core", "b")
        assert (await refused(a.calls(node="d", privacy=Privacy.SHARED).am_i())).kind is CallErrorKind.UNAVAILABLE
        assert await b.calls(node="d", privacy=Privacy.SHARED, caller="core").am_i() == ("b/core", "c")


async def test_a_call_that_names_its_own_node_stays_here() -> None:
    async with nodes("home") as [home]:
        await home.service("one")

        assert await home.calls(node="home", privacy=Privacy.NODE, caller="core").am_i() == ("core", "home")


@pytest.mark.parametrize(
    ("method", "kind", "says"),
    [
        ("whom.am_i", CallErrorKind.UNKNOWN_METHOD, "Did you mean 'who'?"),
        ("one:whom.am_i", CallErrorKind.UNKNOWN_METHOD, "Did you mean 'who'?"),
        ("who.ami", CallErrorKind.UNKNOWN_METHOD, "Did you mean 'am_i'?"),
        ("three:who.am_i", CallErrorKind.UNAVAILABLE, "'three' is not running"),
        ("mars/who.am_i", CallErrorKind.UNAVAILABLE, "'mars' is not connected"),
    ],
)
async def test_an_address_that_leads_nowhere_says_why(method: str, kind: CallErrorKind, says: str) -> None:
    async with nodes("home") as [home]:
        await home.service("one")

        error = await refused(home.router.call(Call(method=method), b""))

        assert error.kind is kind
        assert says in error.message


async def test_a_node_cannot_be_connected_twice() -> None:
    async with nodes("home", "cloud") as [home, cloud]:
        link(home, cloud)

        with pytest.raises(ValueError, match="'cloud' is connected already"):
            home.router.attach("cloud", Wire(home.tasks), kind="node")
