"""Tier 1 against a real Valkey, embedded as the plugin embeds it."""

from __future__ import annotations

import itertools
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sparkd import CallError, MemoryRecord, Secret, digest_of
from sparkd.testing import free_port, short_folder
from sparkd.testing.wires import Lines
from sparkd_plugins.nas_tier.clock import version_of, wall_ms
from sparkd_plugins.nas_tier.tier_valkey import ValkeyTier, open_valkey
from sparkd_plugins.nas_tier.valkey_config import ValkeyConfig
from tests.plugins.servers import certificates

NODE = "a" * 32
SMALL: dict[str, Any] = {"max_bytes": 16 << 20, "timeout_s": 5.0}


def version(number: int, node: str = NODE) -> str:
    return version_of(1_800_000_000_000 + number, 0, node)


def record(number: int, key: str = "k", *, namespace: str = "n", **more: Any) -> MemoryRecord:
    value = more.pop("value", b"value %d" % number)
    size = len(value or b"")
    return MemoryRecord(namespace=namespace, key=key, version=version(number), value=value, size=size, **more)


@asynccontextmanager
async def tier(**config: Any) -> AsyncIterator[ValkeyTier]:
    with short_folder() as folder:
        async with open_valkey(ValkeyConfig(**{**SMALL, **config}), state_dir=folder, log=Lines()) as opened:
            await up(opened)
            yield opened


async def up(opened: ValkeyTier, limit_s: float = 10.0) -> str:
    with anyio.fail_after(limit_s):
        while True:
            try:
                return (await opened.about()).ident
            except CallError:
                await anyio.sleep(0.02)


def run(test: Callable[[ValkeyTier], Awaitable[None]], **config: Any) -> None:
    async def main() -> None:
        async with tier(**config) as opened:
            await test(opened)

    anyio.run(main)


def test_the_newest_version_wins_in_every_order_they_come_in() -> None:
    async def test(hot: ValkeyTier) -> None:
        for number, order in enumerate(itertools.permutations(range(4))):
            outcomes = [(await hot.put(record=record(each, f"k{number}"))).outcome for each in order]
            got = await hot.get(namespace="n", key=f"k{number}")
            assert got == record(3, f"k{number}")
            assert outcomes == ["stored" if each == max(order[: at + 1]) else "older" for at, each in enumerate(order)]
        again = await hot.put(record=record(3, "k0"))
        assert (again.outcome, again.winner) == ("same", version(3))

    run(test)


def test_of_many_who_put_at_once_the_newest_stays() -> None:
    async def test(hot: ValkeyTier) -> None:
        numbers = list(range(200))
        random.Random(1).shuffle(numbers)

        async def put(number: int) -> None:
            await hot.put(record=record(number))

        async with anyio.create_task_group() as tasks:
            for number in numbers:
                tasks.start_soon(put, number)
        got = await hot.get(namespace="n", key="k")
        assert got is not None
        assert got.version == version(199)

    run(test)


def test_a_slow_backfill_buries_neither_a_newer_write_nor_a_deletion() -> None:
    async def test(hot: ValkeyTier) -> None:
        await hot.put(record=record(2, value=None, deleted=True))
        assert (await hot.put(record=record(1))).outcome == "older"
        got = await hot.get(namespace="n", key="k")
        assert got is not None
        assert got.deleted

    run(test)


def test_a_condition_is_met_by_one_of_fifty() -> None:
    async def test(hot: ValkeyTier) -> None:
        outcomes: list[str] = []

        async def cas(number: int, etag: str) -> None:
            outcomes.append((await hot.cas(record=record(number), etag=etag)).outcome)

        async with anyio.create_task_group() as tasks:
            for number in range(50):
                tasks.start_soon(cas, number, "")
        assert sorted(outcomes) == ["older"] * 49 + ["stored"]
        first = await hot.get(namespace="n", key="k")
        assert first is not None
        wrong = await hot.cas(record=record(100), etag=version(77))
        assert (wrong.outcome, wrong.winner) == ("older", first.version)
        assert (await hot.cas(record=record(100), etag=first.version)).outcome == "stored"
        assert (await hot.cas(record=record(100), etag=first.version)).outcome == "same"  # its answer was lost, say
        assert (await hot.cas(record=record(99), etag=version(100))).outcome == "older"

    run(test)


def test_a_condition_that_nothing_stands_there_is_met_by_a_deleted_key_too() -> None:
    async def test(hot: ValkeyTier) -> None:
        await hot.put(record=record(1, value=None, deleted=True))
        assert (await hot.cas(record=record(2), etag="")).outcome == "stored"
        await hot.put(record=record(3, value=None, deleted=True))
        assert (await hot.cas(record=record(4), etag=version(3))).outcome == "stored"

    run(test)


def test_every_copy_has_an_end_within_its_bounds() -> None:
    async def test(hot: ValkeyTier) -> None:
        client = hot._client
        for number in range(50):
            await hot.put(record=record(number, f"k{number}"))
        lives = [await client.pttl(f"sparkd:r:n\0k{number}") for number in range(50)]
        assert all(90_000 * 0.9 - 1000 < life <= 99_000 for life in lives)
        assert len(set(lives)) > 10  # not all at once
        await hot.put(record=record(1, "soon", hard_ms=wall_ms() + 5000))
        assert 0 < await client.pttl("sparkd:r:n\0soon") <= 5000
        value = b"x" * 1000
        await hot.write(digest=digest_of(value), size=1000, chunks=chunks(value))
        assert 0 < await client.pttl(f"sparkd:b:{digest_of(value)}") <= 100_000

    run(test, ttl_s=90.0, ttl_most_s=100.0)


async def chunks(value: bytes, size: int = 300) -> AsyncIterator[bytes]:
    for begin in range(0, len(value), size):
        yield value[begin : begin + size]


def test_small_blobs_are_kept_and_read_and_damaged_ones_are_found_and_removed() -> None:
    async def test(hot: ValkeyTier) -> None:
        value = random.Random(1).randbytes(600_000)
        digest = digest_of(value)
        assert not await hot.has(digest=digest)
        await hot.write(digest=digest, size=len(value), chunks=chunks(value, 70_000))
        assert b"".join([part async for part in hot.read(digest=digest)]) == value
        assert b"".join([part async for part in hot.read(digest=digest, offset=10, length=20)]) == value[10:30]
        await hot._client.setrange(f"sparkd:b:{digest}", 5, b"!")
        with pytest.raises(CallError, match="damaged"):
            [part async for part in hot.read(digest=digest)]
        with pytest.raises(CallError) as caught:
            [part async for part in hot.read(digest=digest)]
        assert caught.value.data["error"] == "missing"

    run(test)


@pytest.mark.parametrize(("size", "digest"), [(900, ""), (1100, ""), (1000, "0" * 64), (2 << 20, "")])
def test_a_blob_that_is_not_what_it_should_be_or_too_large_is_refused(size: int, digest: str) -> None:
    async def test(hot: ValkeyTier) -> None:
        value = b"y" * 1000
        with pytest.raises(CallError, match="a blob of up to") as caught:
            await hot.write(digest=digest or digest_of(value), size=size, chunks=chunks(value))
        assert caught.value.data["error"] == "refused"
        assert not await hot.has(digest=digest or digest_of(value))

    run(test)


@pytest.mark.parametrize(
    "rubbish", [b"", b"x", b"\xff" * 100, version(1).encode() + b"V\xc1", version(2).encode() + b"Vx"]
)
def test_rubbish_is_no_copy_and_goes(rubbish: bytes) -> None:
    async def test(hot: ValkeyTier) -> None:
        await hot._client.set("sparkd:r:n\0k", rubbish)
        if rubbish:
            assert await hot.get(namespace="n", key="k") is None
        await hot._client.delete("sparkd:r:n\0k")
        assert (await hot.put(record=record(3))).outcome == "stored"
        assert await hot.get(namespace="n", key="k") == record(3)

    run(test)


def test_a_copy_under_another_keys_name_is_none() -> None:
    async def test(hot: ValkeyTier) -> None:
        await hot.put(record=record(1, "a"))
        await hot._client.rename("sparkd:r:n\0a", "sparkd:r:n\0b")
        assert await hot.get(namespace="n", key="b") is None

    run(test)


def test_dropping_takes_just_what_was_named() -> None:
    async def test(hot: ValkeyTier) -> None:
        names = ["n", "n.x", "nn", "n-"]
        for namespace in names:
            for key in ("a", "b*", "[c]"):
                await hot.put(record=record(1, key, namespace=namespace))
        assert await hot.drop(namespace="n", keys=["b*", "gone"]) == 1
        assert await hot.get(namespace="n", key="a") is not None
        assert await hot.drop(namespace="n", keys=[]) == 2
        for namespace in names[1:]:
            assert await hot.get(namespace=namespace, key="[c]") is not None
        assert await hot.drop(namespace="", keys=[]) == 9
        assert (await hot.about()).records == 0

    run(test, prefix="s[p]*:")


@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 20), st.booleans()), max_size=30))
def test_a_copy_is_always_the_newest_that_was_put(puts: list[tuple[int, int, bool]]) -> None:
    async def test(hot: ValkeyTier) -> None:
        newest: dict[str, int] = {}
        for key, number, deleted in puts:
            name = f"k{key}"
            gone = deleted and number > newest.get(name, -1)
            await hot.put(record=record(number, name, deleted=gone, value=None if gone else b"x"))
            newest[name] = max(newest.get(name, -1), number)
        for name, number in newest.items():
            got = await hot.get(namespace="n", key=name)
            assert got is not None
            assert got.version == version(number)

    run(test)


def test_two_hundred_cancelled_reads_never_leave_an_answer_for_another() -> None:
    async def test(hot: ValkeyTier) -> None:
        for number in range(20):
            await hot.put(record=record(number, f"k{number}", value=b"%d" % number * 2000))
        choose = random.Random(7)

        async def read(number: int, limit_s: float) -> None:
            with anyio.move_on_after(limit_s):
                got = await hot.get(namespace="n", key=f"k{number}")
                assert got is not None
                assert got.key == f"k{number}"

        for _ in range(10):
            async with anyio.create_task_group() as tasks:
                for _ in range(20):
                    tasks.start_soon(read, choose.randrange(20), choose.random() * 0.003)
            async with anyio.create_task_group() as tasks:
                for number in range(20):
                    tasks.start_soon(read, number, 5.0)

    run(test)


def server_of(folder: Path) -> int:
    """Return the process of the server on the socket in *folder*; 0 if there is none."""
    found = subprocess.run(["pgrep", "-f", "--", f"-server .*{folder}"], capture_output=True, text=True, check=False)
    return max((int(pid) for pid in found.stdout.split() if int(pid) != os.getpid()), default=0)


def test_a_killed_server_is_said_at_once_and_comes_back_by_itself() -> None:
    async def main() -> None:
        with short_folder() as folder:
            async with open_valkey(ValkeyConfig(**SMALL), state_dir=folder, log=Lines()) as hot:
                first = await up(hot)
                await hot.put(record=record(1))
                server = server_of(folder)
                assert server > 1
                os.kill(server, signal.SIGKILL)
                begun = time.monotonic()
                said = ""
                while not said:
                    try:
                        await hot.get(namespace="n", key="k")
                    except CallError as error:
                        said = error.message
                assert "the embedded Valkey" in said
                assert time.monotonic() - begun < 1
                assert await up(hot) != first
                assert await hot.get(namespace="n", key="k") is None
                await hot.put(record=record(1))
            assert server_of(folder) == 0

    anyio.run(main)


def test_the_server_ends_when_its_parent_is_killed() -> None:
    code = """
import anyio, sys
from pathlib import Path
from sparkd.testing.wires import Lines
from sparkd_plugins.nas_tier.tier_valkey import open_valkey
from sparkd_plugins.nas_tier.valkey_config import ValkeyConfig
async def main():
    async with open_valkey(ValkeyConfig(max_bytes=16 << 20), state_dir=Path(sys.argv[1]), log=Lines()):
        print("open", flush=True)
        await anyio.sleep(60)
anyio.run(main)
"""
    with short_folder() as folder:
        parent = subprocess.Popen([sys.executable, "-c", code, str(folder)], stdout=subprocess.PIPE)
        assert parent.stdout is not None
        with parent.stdout:
            parent.stdout.readline()
            until(lambda: server_of(folder))
            parent.kill()
            parent.wait(10)
        until(lambda: not server_of(folder))


def until(look: Callable[[], object], limit_s: float = 10.0) -> None:
    deadline = time.monotonic() + limit_s
    while not look():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@asynccontextmanager
async def server(*arguments: str) -> AsyncIterator[int]:
    program = shutil.which("redis-server")
    if program is None:
        pytest.skip("redis-server, which speaks TLS, is not installed")
    port = free_port()
    process = await anyio.open_process(
        [program, "--bind", "127.0.0.1", "--save", "", *(one.format(port=port) for one in arguments)],
        stdout=subprocess.DEVNULL,
    )
    try:
        yield port
    finally:
        process.kill()
        await process.wait()
        await process.aclose()


def test_a_wrong_password_is_said_and_none_is_shown() -> None:
    async def main() -> None:
        async with server("--port", "{port}", "--requirepass", "sesame-1") as port:
            url = f"redis://127.0.0.1:{port}"
            for given_one, works in (
                (Secret("sesame-1", "env"), True),
                (Secret("sesame-2", "env"), False),
                (None, False),
            ):
                config = ValkeyConfig(url=url, password=given_one)
                assert "sesame" not in repr(config)
                async with open_valkey(config, state_dir=Path("/nowhere"), log=Lines()) as hot:
                    if works:
                        await up(hot)
                        continue
                    with pytest.raises(CallError) as caught:
                        await hot.get(namespace="n", key="k")
                    assert "sesame" not in str(caught.value)
                    assert "`password`" in caught.value.data["remedy"]

    anyio.run(main)


def test_a_server_is_reached_by_tls_and_trusted_only_by_its_authority(tmp_path: Path) -> None:
    certificates(tmp_path)
    files = [f"--tls-{name}-file" if name != "ca" else "--tls-ca-cert-file" for name in ("cert", "key", "ca")]
    given_files = [str(tmp_path / name) for name in ("it.pem", "it.key", "ca.pem")]
    pairs = [one for pair in zip(files, given_files, strict=True) for one in pair]

    async def main() -> None:
        async with server("--port", "0", "--tls-port", "{port}", "--tls-auth-clients", "no", *pairs) as port:
            url = f"rediss://127.0.0.1:{port}"
            config = ValkeyConfig(url=url, ca_file=tmp_path / "ca.pem", timeout_s=5.0)
            async with open_valkey(config, state_dir=tmp_path, log=Lines()) as hot:
                await up(hot)
                await hot.put(record=record(1))
                assert await hot.get(namespace="n", key="k") == record(1)
            async with open_valkey(ValkeyConfig(url=url), state_dir=tmp_path, log=Lines()) as hot:
                with pytest.raises(CallError, match="certificate"):
                    await hot.get(namespace="n", key="k")

    anyio.run(main)


def test_a_server_whose_policy_evicts_more_than_copies_is_named() -> None:
    async def main() -> None:
        async with server("--port", "{port}", "--maxmemory", "20mb", "--maxmemory-policy", "allkeys-lru") as port:
            config = ValkeyConfig(url=f"redis://127.0.0.1:{port}")
            await _names_the_policy(config)

    async def _names_the_policy(config: ValkeyConfig) -> None:
        async with open_valkey(config, state_dir=Path("/nowhere"), log=Lines()) as hot:
            await up(hot)
            assert "volatile-lru" in (await hot.about()).reason

    anyio.run(main)


def test_a_full_server_lets_the_oldest_copies_go() -> None:
    async def test(hot: ValkeyTier) -> None:
        value = os.urandom(60_000)
        for number in range(400):
            await hot.put(record=record(number, f"k{number}", value=value))
        about = await hot.about()
        assert about.records is not None
        assert 0 < about.records < 200
        assert about.bytes is not None
        assert about.bytes < 12 << 20
        assert await hot.get(namespace="n", key="k399") is not None

    run(test, max_bytes=8 << 20)


@pytest.mark.parametrize(
    ("config", "says"),
    [
        ({"url": "http://x"}, "redis://"),
        ({"url": "redis://:secret@host"}, "no user and password"),
        ({"url": "redis://"}, "a host"),
        ({"url": "unix://x"}, "unix:///"),
        ({"ttl_s": 4000.0}, "ttl_s"),
        ({"ttl_s": 400.0, "ttl_most_s": 300.0}, "ttl_most_s"),
        ({"max_bytes": 1}, "max_bytes"),
        ({"prefix": "é"}, "prefix"),
    ],
)
def test_a_config_that_cannot_be_is_refused_by_its_key(config: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says) as caught:
        ValkeyConfig(**config)
    assert "secret" not in str(caught.value)
