"""The decisions of nas-tier: versions, breakers, flights, who may do what."""

from __future__ import annotations

import subprocess
import sys

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparkd import CallError, CallErrorKind, CallInfo, Privacy
from sparkd_plugins.nas_tier.breaker import Breaker
from sparkd_plugins.nas_tier.clock import DRIFT_MS, VersionClock, floor_of, just_after, ms_of, version_of
from sparkd_plugins.nas_tier.flights import Flights
from sparkd_plugins.nas_tier.given import check_etag, packed
from sparkd_plugins.nas_tier.key_set import KeySet
from sparkd_plugins.nas_tier.namespaces import NamespaceConfig, Namespaces, check_key, check_tags, expiry_ms
from sparkd_plugins.nas_tier.on_their_way import OnTheirWay

A, B = "a" * 32, "b" * 32
NOW = 1_800_000_000_000


class Wall:
    def __init__(self, ms: int = NOW) -> None:
        self.ms = ms

    def __call__(self) -> int:
        return self.ms


def caller(name: str = "voice", node: str = "home", privacy: Privacy = Privacy.LOCAL) -> CallInfo:
    return CallInfo("memory.get", name, node, privacy, None, 10.0)


# Versions


@given(st.lists(st.integers(-5000, 5000), max_size=50))
def test_versions_only_rise_however_the_wall_clock_jumps(jumps: list[int]) -> None:
    wall = Wall()
    clock = VersionClock(A, wall=wall)
    given_out = []
    for jump in jumps:
        wall.ms += jump
        given_out.append(clock.next())

    assert given_out == sorted(set(given_out))


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 3), st.booleans()), max_size=40))
def test_what_is_written_after_something_was_seen_is_newer(steps: list[tuple[bool, int, bool]]) -> None:
    walls = Wall(), Wall(NOW - 60_000)
    clocks = VersionClock(A, wall=walls[0]), VersionClock(B, wall=walls[1])
    last = ""
    for second, later, told in steps:
        walls[second].ms += later
        version = clocks[second].next(above=last)
        assert version > last
        last = version
        if told:
            assert clocks[not second].seen(version)


def test_a_clock_far_ahead_moves_no_other_but_for_the_key_it_wrote() -> None:
    clock = VersionClock(A, wall=Wall())
    wrong = version_of(NOW + DRIFT_MS + 1, 7, B)

    assert not clock.seen(wrong)
    assert clock.next(above=wrong) == just_after(wrong, A)
    assert ms_of(clock.next()) == NOW


def test_a_clock_goes_on_after_what_it_gave_out_before_it_was_restarted() -> None:
    ahead = version_of(NOW + 1000, 0xFFFF, A)

    assert VersionClock(A, after=ahead, wall=Wall()).next() > ahead


@pytest.mark.parametrize("text", ["", "0", "x" * 49, version_of(1, 1, A).upper(), version_of(1, 1, A) + "\n"])
def test_what_is_no_version_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="a version is"):
        ms_of(text)
    if text:
        with pytest.raises(CallError, match="etag"):
            check_etag(text)


def test_a_floor_stands_below_everything_of_its_time() -> None:
    assert floor_of(NOW - 1) < version_of(NOW - 1, 0, A) < floor_of(NOW) < version_of(NOW, 0, A)


# Breaker


def test_a_breaker_opens_after_three_failures_in_a_row_and_lets_one_try_through() -> None:
    breaker = Breaker(least_s=1.0, most_s=3.0)
    assert not breaker.failed(0.0, "gone")
    assert not breaker.failed(0.1, "gone")
    assert breaker.failed(0.2, "gone")

    assert not breaker.lets_through(1.1)
    assert breaker.lets_through(1.2)
    assert not breaker.lets_through(1.2)  # one at a time
    assert not breaker.failed(1.3, "gone")  # it was open already
    assert not breaker.lets_through(3.2)
    assert breaker.lets_through(3.4)
    breaker.given_up()
    assert breaker.lets_through(3.4)
    assert breaker.succeeded()
    assert breaker.lets_through(3.4)
    assert breaker.state(3.4) == "closed"


def test_an_answer_in_between_starts_the_count_anew() -> None:
    breaker = Breaker()
    for _ in range(10):
        breaker.failed(0.0, "gone")
        breaker.failed(0.0, "gone")
        assert not breaker.succeeded()


@given(st.lists(st.sampled_from(["fail", "ask", "answer"]), max_size=60))
def test_a_breaker_never_waits_for_longer_than_its_most(events: list[str]) -> None:
    breaker, now = Breaker(least_s=1.0, most_s=4.0), 0.0
    for event in events:
        now += 0.5
        if event == "fail":
            breaker.failed(now, "gone")
        elif event == "answer":
            breaker.succeeded()
        elif breaker.lets_through(now):
            breaker.given_up()
    assert breaker.opens_at(now) - now <= 4.0


# Flights


def test_of_a_thousand_who_ask_one_goes() -> None:
    async def main() -> None:
        asked = 0
        gate = anyio.Event()
        got: list[int] = []

        async def deed() -> int:
            nonlocal asked
            asked += 1
            await gate.wait()
            return 42

        async def ask() -> None:
            got.append(await flights.of("key", deed))

        async with anyio.create_task_group() as tasks:
            flights: Flights[int] = Flights(tasks)
            async with anyio.create_task_group() as askers:
                for _ in range(1000):
                    askers.start_soon(ask)
                await anyio.wait_all_tasks_blocked()
                gate.set()
            assert got == [42] * 1000
            assert asked == 1
            assert await flights.of("key", deed) == 42
            assert asked == 2

    anyio.run(main)


def test_who_began_a_flight_may_go_and_the_others_get_their_answer_and_all_gone_ends_it() -> None:
    async def main() -> None:
        ended = anyio.Event()
        gate = anyio.Event()

        async def deed() -> str:
            try:
                await gate.wait()
            except anyio.get_cancelled_exc_class():
                ended.set()
                raise
            return "here"

        async def ask(scope: anyio.CancelScope, got: list[str]) -> None:
            with scope:
                got.append(await flights.of("key", deed))

        async with anyio.create_task_group() as tasks:
            flights: Flights[str] = Flights(tasks)
            scopes = [anyio.CancelScope() for _ in range(3)]
            got: list[str] = []
            async with anyio.create_task_group() as askers:
                for scope in scopes[:2]:
                    askers.start_soon(ask, scope, got)
                await anyio.wait_all_tasks_blocked()
                scopes[0].cancel()
                await anyio.wait_all_tasks_blocked()
                assert not ended.is_set()
                gate.set()
            assert got == ["here"]
            gate = anyio.Event()
            async with anyio.create_task_group() as askers:
                askers.start_soon(ask, scopes[2], got)
                await anyio.wait_all_tasks_blocked()
                scopes[2].cancel()
            with anyio.fail_after(1):
                await ended.wait()

    anyio.run(main)


def test_all_who_wait_get_the_failure() -> None:
    async def main() -> None:
        async def deed() -> None:
            await anyio.lowlevel.checkpoint()
            raise CallError(CallErrorKind.UNAVAILABLE, "gone")

        failed = 0

        async def ask() -> None:
            nonlocal failed
            with pytest.raises(CallError, match="gone"):
                await flights.of(1, deed)
            failed += 1

        async with anyio.create_task_group() as tasks:
            flights: Flights[None] = Flights(tasks)
            async with anyio.create_task_group() as askers:
                for _ in range(5):
                    askers.start_soon(ask)
            assert failed == 5

    anyio.run(main)


# Keys


def test_a_set_of_keys_says_maybe_when_there_are_too_many() -> None:
    keys = KeySet(most=2)
    keys.add([("n", "a"), ("n", "b")])
    assert keys.may_have("n", "a")
    assert not keys.may_have("n", "c")
    assert keys.remove([("n", "a")])
    assert not keys.may_have("n", "a")
    keys.add([("n", "c"), ("n", "d")])
    assert keys.may_have("n", "whatever")
    assert keys.held() is None
    assert not keys.remove([("n", "c")])
    keys.begin([("n", "d")])
    assert keys.held() == [("n", "d")]


@given(
    st.lists(st.one_of(st.tuples(st.just("write"), st.sampled_from("abcdef")), st.tuples(st.just("pass"), st.none())))
)
def test_a_key_is_on_its_way_until_its_last_write_is_everywhere(deeds: list[tuple[str, str | None]]) -> None:
    keys, last, seq, passed = OnTheirWay(most=4), dict[str, int](), 0, 0
    for deed, key in deeds:
        if deed == "write" and key is not None:
            seq += 1
            last[key] = seq
            keys.add([("n", key, seq)])
        else:
            passed = min(passed + 2, seq)
            if not keys.passed(passed):
                left = sorted((at, one) for one, at in last.items() if at > passed)
                keys.begin([("n", one, at) for at, one in left] if len(left) <= 4 else None)
        for one, at in last.items():
            assert keys.may_have("n", one) or at <= passed
        if len({one for one, at in last.items() if at > passed}) == 0 and deed == "pass":
            assert not keys.may_have("n", "a")


# Who may do what


def test_what_is_local_is_not_given_to_a_call_that_came_from_another_site() -> None:
    spaces = Namespaces(
        {"plans": NamespaceConfig(), "news": NamespaceConfig(privacy="shared"), "pin": NamespaceConfig(privacy="node")}
    )
    away, beside, here = caller(node="cloud", privacy=Privacy.SHARED), caller(node="voice"), caller()

    assert [spaces.may_read(name, away, node="home") for name in ("plans", "news", "pin")] == [False, True, False]
    assert [spaces.may_read(name, beside, node="home") for name in ("plans", "news", "pin")] == [True, True, False]
    assert [spaces.may_read(name, here, node="home") for name in ("plans", "news", "pin")] == [True, True, True]
    with pytest.raises(CallError, match="do not travel that far"):
        spaces.check_write("plans", away, node="home")


def test_what_is_of_class_node_is_kept_in_a_namespace_of_that_class_only() -> None:
    spaces = Namespaces({"pin": NamespaceConfig(privacy="node")})
    strict = caller(privacy=Privacy.NODE)

    spaces.check_write("pin", strict, node="home")
    with pytest.raises(CallError, match="denied") as caught:
        spaces.check_write("plans", strict, node="home")
    assert "class node" in caught.value.data["rule"]


def test_a_namespace_with_an_owner_is_read_and_written_by_whom_it_names() -> None:
    config = NamespaceConfig(owner="llm-router", readers=["voice*", "rpc:uid=1000"], writers=["pi/agent"])
    spaces = Namespaces({"it": config})

    def may(who: CallInfo) -> tuple[bool, bool]:
        try:
            spaces.check_write("it", who, node="home")
        except CallError:
            return spaces.may_read("it", who, node="home"), False
        return spaces.may_read("it", who, node="home"), True

    assert may(caller("llm-router")) == (True, True)
    assert may(caller("voice-services")) == (True, False)
    assert may(caller("agent", node="pi")) == (True, True)
    assert may(caller("agent")) == (False, False)
    assert may(caller("rpc:uid=1000")) == (True, False)
    assert may(caller("rpc:uid=0")) == (True, True)
    assert may(caller("rpc:uid=01")) == (False, False)


@pytest.mark.parametrize("name", ["", "A", "a b", "../x", "a/b", "x" * 64, "-a", "é"])
def test_what_is_no_namespace_is_refused(name: str) -> None:
    with pytest.raises(CallError, match="namespace: up to 63"):
        Namespaces({}).of(name)


@pytest.mark.parametrize("key", ["", "x" * 513, "é" * 257, "\ud800"])
def test_what_is_no_key_is_refused(key: str) -> None:
    with pytest.raises(CallError, match="key: 1 to 512 bytes"):
        check_key(key)


@given(st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=128))
def test_any_other_text_is_a_key(key: str) -> None:
    check_key(key)


def test_tags_are_sorted_and_each_once_and_bounded() -> None:
    assert check_tags(["b", "a", "b"]) == ["a", "b"]
    for tags in ([""], ["a b"], ["a,b"], ["x" * 65], [str(n) for n in range(33)]):
        with pytest.raises(CallError, match="tags"):
            check_tags(tags)


def test_a_time_to_live_is_counted_from_now_and_zero_is_for_ever() -> None:
    assert expiry_ms("ttl_s", None, 5.0, NOW) == NOW + 5000
    assert expiry_ms("ttl_s", 0.0, 5.0, NOW) == 0
    assert expiry_ms("ttl_s", 1e-9, 5.0, NOW) == NOW + 1
    for wrong in (-1.0, float("nan"), float("inf"), 1e12):
        with pytest.raises(CallError, match="ttl_s"):
            expiry_ms("ttl_s", wrong, 0.0, NOW)


def test_a_vector_is_made_of_length_one_and_what_is_none_is_refused() -> None:
    assert packed([3.0, 4.0]) == packed([6.0, 8.0])
    for wrong in ([0.0, 0.0], [float("nan")], [float("inf")], [1e308, 1e308], [1.0] * 5000):
        with pytest.raises(CallError, match="vector"):
            packed(wrong)


def test_a_node_without_the_extra_is_told_what_to_install() -> None:
    code = """
import sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "redis":
            raise ModuleNotFoundError(name="redis")
sys.meta_path.insert(0, Absent())
import subprocess
import sys

import anyio
from sparkd import DeviceError
from sparkd_plugins.nas_tier import sparkd_services
(service,) = sparkd_services()
async def main():
    try:
        await service.run(None, task_status=None)
    except DeviceError as error:
        print(error, "|", error.remedy)
anyio.run(main)
"""
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=30)
    assert ended.stdout == "redis is not installed | pip install 'sparkd[memory]'\n"
