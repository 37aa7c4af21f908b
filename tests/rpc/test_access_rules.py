from __future__ import annotations

import itertools
import os
import socket

import pytest

from sparkd.config import AccessRule, parse_pattern
from sparkd.rpc.access import Access, Rule, Wanted
from sparkd.rpc.peer import Peer, peer_of
from tests.rpc.strangers import being, needs_root

VOICE = Peer(1, 1001, 1001, frozenset({1001, 44}))
READ = Wanted("here", "core", "node", "status", reads=True)
CHANGE = Wanted("here", "core", "plugins", "stop", reads=False)


def rule(name: str = "voice-app", **keys: list[str]) -> Rule:
    return Rule.of(name, AccessRule(**{"users": ["1001"], **keys}))


def access(*rules: Rule, readers: str = "admins") -> Access:
    return Access(node="here", uid=4242, admin_gid=4711, readers=readers, rules=rules)


def wanted(name: str, *, node: str = "here", service: str = "core", topics: tuple[str, ...] = ()) -> Wanted:
    interface, _, method = name.partition(".")
    return Wanted(node, service, interface, method, reads=False, topics=topics)


@pytest.mark.parametrize(
    ("pattern", "call", "allowed"),
    [
        ("speech.say", wanted("speech.say"), True),
        ("speech.say", wanted("speech.record"), False),
        ("speech.*", wanted("speech.record"), True),
        ("speech.*", wanted("speech-lab.record"), False),
        ("*", wanted("speech.say"), True),
        ("*", wanted("speech.say", node="cloud"), False),
        ("cloud/*", wanted("speech.say", node="cloud"), True),
        ("*/speech.say", wanted("speech.say", node="cloud"), True),
        ("*/speech.say", wanted("speech.say"), True),
        ("here/speech.say", wanted("speech.say"), True),
        ("speaker:speech.say", wanted("speech.say", service="speaker"), True),
        ("speaker:speech.say", wanted("speech.say", service="other"), False),
        ("cloud/speaker:speech.say", wanted("speech.say", node="cloud", service=""), False),
        ("bus.subscribe:edge.ai", wanted("bus.subscribe", topics=("edge.ai",)), True),
        ("bus.subscribe:edge.ai", wanted("bus.subscribe", topics=("edge.ai.inference",)), True),
        ("bus.subscribe:edge.ai", wanted("bus.subscribe", topics=("edge.air",)), False),
        ("bus.subscribe:edge.ai", wanted("bus.subscribe", topics=("edge",)), False),
        ("bus.subscribe:edge.ai", wanted("bus.subscribe", topics=("edge.ai", "system")), False),
        ("bus.subscribe:edge.ai", wanted("bus.subscribe", topics=("",)), False),
        ("bus.subscribe:edge.ai", wanted("bus.subscribe"), False),
        ("bus.subscribe", wanted("bus.subscribe"), True),
    ],
)
def test_what_a_pattern_allows(pattern: str, call: Wanted, allowed: bool) -> None:  # noqa: FBT001
    assert access(rule(calls=[pattern])).judge(VOICE, call).allowed is allowed


@pytest.mark.parametrize(
    ("pattern", "call", "denied"),
    [
        ("speech.say", wanted("speech.say"), True),
        ("speech.say", wanted("speech.say", node="cloud"), True),
        ("here/speech.say", wanted("speech.say", node="cloud"), False),
        ("speaker:speech.say", wanted("speech.say", service="other"), False),
        ("speaker:speech.say", wanted("speech.say", service="speaker"), True),
        ("cloud/speaker:speech.say", wanted("speech.say", node="cloud", service=""), True),
        ("bus.subscribe:edge.ai", wanted("bus.subscribe", topics=("edge.sensors",)), False),
        ("bus.subscribe:edge.ai", wanted("bus.subscribe", topics=("edge",)), True),
        ("bus.subscribe:edge.ai", wanted("bus.subscribe", topics=("edge.ai.inference",)), True),
        ("bus.subscribe:edge.ai", wanted("bus.subscribe"), True),
        ("*", wanted("speech.say"), True),
    ],
)
def test_what_a_pattern_denies(pattern: str, call: Wanted, denied: bool) -> None:  # noqa: FBT001
    everything = rule("all", calls=["*/*"])
    for rules in itertools.permutations([everything, rule("less", deny=[pattern])]):
        verdict = access(*rules).judge(VOICE, call)
        assert verdict.allowed is not denied
        assert verdict.rule == (f"[access.rules.less] deny = {pattern!r}" if denied else "access.rules.all")


def test_topics_of_several_rules_add_up() -> None:
    rules = access(rule("one", calls=["bus.subscribe:edge.ai"]), rule("two", calls=["bus.subscribe:system.health"]))

    assert rules.judge(VOICE, wanted("bus.subscribe", topics=("edge.ai", "system.health"))).allowed
    assert not rules.judge(VOICE, wanted("bus.subscribe", topics=("edge.ai", "cloud"))).allowed


def test_the_built_in_rules() -> None:
    root, daemon = Peer(1, 0, 0, frozenset({0})), Peer(1, 4242, 1, frozenset({1}))
    admin = Peer(1, 1001, 1, frozenset({1, 4711}))
    nothing = access(rule("none", users=["*"], deny=["*/*"]))

    assert nothing.judge(root, CHANGE).allowed, "root could change the rules anyway"
    assert nothing.judge(daemon, CHANGE).allowed
    assert not nothing.judge(admin, CHANGE).allowed, "a deny is for members of the admin group too"
    assert access().judge(admin, CHANGE).rule == "admins"
    assert access(readers="anyone").judge(VOICE, READ).rule == "readers"
    assert not access(readers="anyone").judge(VOICE, CHANGE).allowed
    assert not access().judge(VOICE, READ).allowed
    trail = Wanted("here", "core", "audit", "tail", reads=True)
    assert not access(readers="anyone").judge(VOICE, trail).allowed, "what others did is not for every reader"
    assert access(rule(calls=["audit.tail"])).judge(VOICE, trail).allowed


def test_a_refusal_says_what_would_allow_it() -> None:
    verdict = access().judge(VOICE, wanted("bus.subscribe", node="cloud", topics=("edge.ai",)))

    assert "no rule allows it" in verdict.rule
    assert 'users = ["1001"]' in verdict.remedy
    assert 'calls = ["cloud/bus.subscribe:edge.ai"]' in verdict.remedy
    parse_pattern("cloud/bus.subscribe:edge.ai")


def test_what_says_only_who_one_is_is_always_allowed_here() -> None:
    own = Wanted("here", "core", "access", "me", reads=True)

    assert access(rule(deny=["*/*"])).judge(VOICE, own).rule == "own"
    assert not access().judge(VOICE, wanted("access.me", node="cloud")).allowed
    assert not access().judge(VOICE, wanted("access.me", service="evil")).allowed


@needs_root
@pytest.mark.parametrize("count", [0, 3, 2000])
def test_all_groups_of_a_process_are_known_at_the_time_it_connects(count: int) -> None:
    groups = set(range(5000, 5000 + count))
    with socket.socket(socket.AF_UNIX) as listener, socket.socket(socket.AF_UNIX) as client:
        listener.bind("")  # a name that Linux makes up, without a file
        listener.listen()
        with being(1234, 4321, sorted(groups)):
            client.connect(listener.getsockname())
        connection, _ = listener.accept()
        with connection:
            peer = peer_of(connection)

    assert (peer.uid, peer.gid, peer.pid) == (1234, 4321, os.getpid())
    assert peer.groups == groups | {4321}
