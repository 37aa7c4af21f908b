from __future__ import annotations

import json
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import anyio
import pytest
from anyio import to_thread

from sparkd.config import AccessConfig, AccessRule, RpcConfig
from sparkd.rpc import Access
from tests.rpc.strangers import NOBODY, Stranger, needs_root

if TYPE_CHECKING:
    from tests.rpc.rpc_node import Node

pytest_plugins = ["tests.rpc.rpc_node"]
pytestmark = [pytest.mark.anyio, needs_root]

T = TypeVar("T")

FAR = ("far.change", "distant:far.change", "here/far.change", "here/distant:far.change")
NEAR = ("near.change", "core:near.change", "here/near.change", "here/core:near.change")


def rules(*, readers: Any = "admins", **tables: dict[str, list[str]]) -> Access:
    config = AccessConfig(rules={name: AccessRule(**table) for name, table in tables.items()})
    return Access.of(RpcConfig(readers=readers), config, node="here")


async def as_stranger(node: Node, deed: Callable[[Stranger], T]) -> T:
    node.socket.parent.chmod(0o711)

    def run() -> T:
        with Stranger(node.socket) as stranger:
            return deed(stranger)

    return await to_thread.run_sync(run)


async def test_no_spelling_gets_round_a_deny(make_node: Any) -> None:
    access = rules(it={"users": ["*"], "calls": ["*/*"], "deny": ["distant:far.change", "core:near.change"]})
    async with make_node(access=access) as node:
        seen = await as_stranger(node, lambda client: {method: client.may(method) for method in FAR + NEAR})
        assert seen == dict.fromkeys(FAR + NEAR, False)
        others = ("far.echo", "distant:far.echo", "here/core:near.echo", "there/other:far.change")
        assert all(await as_stranger(node, lambda client: [client.may(method) for method in others]))
        assert not await as_stranger(node, lambda client: client.may("there/far.change")), "it may choose `distant`"


async def test_every_spelling_of_what_is_allowed_is_allowed(make_node: Any) -> None:
    access = rules(it={"users": ["*"], "calls": ["distant:far.change", "here/near.change"]})
    async with make_node(access=access) as node:
        seen = await as_stranger(node, lambda client: {method: client.may(method) for method in FAR + NEAR})
        assert seen == dict.fromkeys(FAR + NEAR, True)
        elsewhere = ("there/far.change", "there/distant:far.change", "other:far.change", "there/near.change")
        refused = await as_stranger(node, lambda client: [client.may(method) for method in elsewhere])
        assert refused == [False] * len(elsewhere)


async def test_what_is_no_address_is_refused_as_that(make_node: Any) -> None:
    odd = [
        "",
        "FAR.change",
        " far.change",
        "far.change ",
        "far..change",
        "//far.change",
        "here//far.change",
        "far.Change",
    ]
    odd += ["here/here/far.change", "distant:distant:far.change", "far.change\x00", "far\u200b.change", "far:change"]
    async with make_node(access=rules(it={"users": ["*"], "calls": ["*/*"]})) as node:
        answers = await as_stranger(node, lambda client: [client.ask(method) for method in odd])
        assert [answer["error"]["data"]["kind"] for answer in answers] == ["unknown-method"] * len(odd)


async def test_each_message_of_a_batch_and_each_notification_is_judged(make_node: Any) -> None:
    access = rules(it={"users": ["*"], "calls": ["near.echo"]})
    async with make_node(access=access) as node:

        def deed(client: Stranger) -> Any:
            client.send('{"jsonrpc": "2.0", "method": "near.sleep"}')
            batch = [
                {"jsonrpc": "2.0", "id": number, "method": method}
                for number, method in enumerate(("near.echo", "near.change", "near.echo", "far.echo"))
            ]
            client.send(json.dumps([*batch, {"jsonrpc": "2.0", "method": "near.sleep"}]))
            return client.read()

        answers = await as_stranger(node, deed)
        assert [("result" in answer) for answer in answers] == [True, False, True, False]
        assert not node.near.sleeping.is_set(), "no notification got through"


async def test_a_refusal_names_its_rule(make_node: Any) -> None:
    async with make_node(access=rules(quiet={"users": [str(NOBODY)], "deny": ["near.*"]})) as node:
        node.socket.chmod(0o666)
        answer = await as_stranger(node, lambda client: client.ask("near.echo"))
        assert answer["error"]["code"] == -32003
        assert answer["error"]["data"]["rule"] == "[access.rules.quiet] deny = 'near.*'"
        assert "[access.rules.quiet] deny = 'near.*'" in answer["error"]["message"]
        answer = await as_stranger(node, lambda client: client.ask("far.echo"))
        assert "no rule allows it" in answer["error"]["message"]
        assert 'calls = ["far.echo"]' in answer["error"]["data"]["remedy"]


async def test_what_the_socket_itself_answers_is_judged_too(make_node: Any) -> None:
    async with make_node(access=rules()) as node:
        node.socket.chmod(0o666)
        assert not await as_stranger(node, lambda client: client.may("rpc.discover"))
        assert await as_stranger(node, lambda client: client.ask("stream.cancel", stream=1))
    async with make_node(access=rules(readers="anyone")) as node:
        assert await as_stranger(node, lambda client: client.may("rpc.discover"))


async def test_one_user_cannot_take_all_connections(make_node: Any) -> None:
    async with make_node(access=rules(readers="anyone"), max_connections=8) as node, node.client() as admin:
        node.socket.parent.chmod(0o711)

        def crowd() -> list[Any]:
            first, second = Stranger(node.socket), Stranger(node.socket)
            with first, second, Stranger(node.socket) as third, Stranger(node.socket, uid=1235) as other:
                return [first.ask("near.echo"), second.ask("near.echo"), third.read(), other.ask("near.echo")]

        answers = await to_thread.run_sync(crowd)
        assert ["error" in answer for answer in answers] == [False, False, True, False]
        assert "no admins" in answers[2]["error"]["message"]
        assert (await admin.ask("near.echo", {"value": 1}))["result"] == 1


async def test_the_socket_is_open_to_others_only_if_a_rule_is_for_them(make_node: Any) -> None:
    async with make_node(access=rules(it={"users": ["*"], "deny": ["near.*"]})) as node:
        node.socket.parent.chmod(0o711)
        with pytest.raises(PermissionError):
            await as_stranger(node, lambda client: client.ask("near.echo"))
    async with make_node(access=rules(it={"users": ["nobody"], "calls": ["near.*"]})) as node:
        assert node.socket.parent.stat().st_mode & 0o777 == 0o711
        assert await as_stranger(node, lambda client: client.may("near.echo"))


async def test_a_peer_that_has_gone_before_it_is_let_in_harms_nobody(make_node: Any) -> None:
    async with make_node(access=rules(readers="anyone")) as node:
        node.socket.parent.chmod(0o711)

        def come_and_go() -> None:
            for _ in range(50):
                with Stranger(node.socket):
                    pass

        with anyio.fail_after(10):
            await to_thread.run_sync(come_and_go)
        assert await as_stranger(node, lambda client: client.may("near.echo"))
