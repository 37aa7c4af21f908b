"""Blobs of tier 3: a folder, and a real S3 server, in the clear and by TLS."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anyio
import obstore
import pytest
from obstore.store import LocalStore

from sparkd import CHUNK_BYTES, CallError, MemoryRecord, Privacy, Secret, digest_of
from sparkd.testing import short_folder
from sparkd.testing.wires import Lines
from sparkd_plugins.nas_tier.clock import version_of
from sparkd_plugins.nas_tier.long_config import LongConfig
from sparkd_plugins.nas_tier.objects import S3Objects, open_objects
from sparkd_plugins.nas_tier.objects_checked import Objects, object_key
from sparkd_plugins.nas_tier.tier_long import LongTier, open_long
from tests.plugins.memory_world import MemoryNode, world
from tests.plugins.servers import Bucket, bucket, certificates, postgres, postgres_by_tls

pytestmark = pytest.mark.timeout(240)
NODE, NOW = "a" * 32, 1_800_000_000_000
LARGE = 12_000_000
"""More than two parts of an upload."""


@pytest.fixture(scope="module")
def s3() -> Iterator[Bucket]:
    """Run an S3 server without TLS for all tests."""
    with short_folder() as folder, bucket(folder) as server:
        yield server


@dataclass
class Held:
    """Where blobs are: what a long tier is told, and a client behind its back."""

    config: dict[str, Any]
    client: Any

    async def harm(self, digest: str, value: bytes | None) -> None:
        """Put other bytes under a digest, or nothing."""
        key = object_key(digest)
        await (obstore.delete_async(self.client, key) if value is None else obstore.put_async(self.client, key, value))


@pytest.fixture(params=["folder", "s3"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Held:
    """Return a folder, or a part of a bucket that is this test's own."""
    if request.param == "folder":
        folder = tmp_path / "objects"
        return Held({"objects": f"file://{folder}"}, LocalStore(folder, mkdir=True))
    server: Bucket = request.getfixturevalue("s3")
    return Held(server.config(objects=f"s3://home/{tmp_path.name}"), server.client(tmp_path.name))


def with_objects(config: dict[str, Any], test: Callable[[Objects], Awaitable[None]]) -> None:
    async def main() -> None:
        await test(await open_objects(LongConfig(**config), state_dir=Path("/nowhere")))

    anyio.run(main)


def with_tier(config: dict[str, Any], folder: Path, test: Callable[[LongTier], Awaitable[None]]) -> None:
    async def main() -> None:
        async with open_long(LongConfig(**config), state_dir=folder, node_id=NODE, log=Lines()) as tier:
            await test(tier)

    anyio.run(main)


async def parts(value: bytes, size: int = 100_000) -> AsyncIterator[bytes]:
    for begin in range(0, len(value), size):
        yield value[begin : begin + size]


async def held(objects: Objects, value: bytes) -> str:
    digest = digest_of(value)
    await objects.store(digest, size=len(value), chunks=parts(value))
    return digest


async def whole(stream: AsyncIterator[bytes]) -> bytes:
    return b"".join([chunk async for chunk in stream])


@pytest.mark.parametrize("size", [0, 1, CHUNK_BYTES, CHUNK_BYTES + 1, LARGE])
def test_a_blob_comes_back_whole_and_in_parts(place: Held, size: int) -> None:
    value = random.Random(size).randbytes(size)

    async def test(objects: Objects) -> None:
        digest = digest_of(value)
        assert await objects.size(digest) is None
        assert await held(objects, value) == digest
        assert await objects.size(digest) == size
        chunks = [chunk async for chunk in objects.stream(digest, offset=0, length=None)]
        assert b"".join(chunks) == value
        assert all(0 < len(chunk) <= CHUNK_BYTES for chunk in chunks)
        for offset, length in (
            (0, 1),
            (size // 2, 7),
            (size // 2, None),
            (size, None),
            (size, 5),
            (0, 0),
            (size + 9, 1),
        ):
            end = None if length is None else offset + length
            assert await whole(objects.stream(digest, offset=offset, length=length)) == value[offset:end]
        await objects.delete(digest)
        await objects.delete(digest)
        assert await objects.size(digest) is None

    with_objects(place.config, test)


def test_blobs_are_listed_in_order_and_from_anywhere(place: Held) -> None:
    async def test(objects: Objects) -> None:
        digests = sorted([await held(objects, b"%d" % number) for number in range(30)])
        assert [seen.digest async for seen in objects.listed("")] == digests
        assert [seen.digest async for seen in objects.listed(digests[11])] == digests[12:]
        assert [seen.size async for seen in objects.listed(digests[28])] in ([1], [2])
        await objects.set_aside(digests[0])
        await objects.set_aside(digests[0])
        assert [seen.digest async for seen in objects.listed("")] == digests[1:]

    with_objects(place.config, test)


@pytest.mark.parametrize("size", [70_000, LARGE])
def test_a_writer_that_breaks_off_leaves_nothing_to_be_seen(place: Held, size: int) -> None:
    value = random.Random(size).randbytes(size)

    async def test(objects: Objects) -> None:
        async def broken() -> AsyncIterator[bytes]:
            async for chunk in parts(value[: size - 1]):
                yield chunk
            raise ValueError("the source is gone")

        with pytest.raises((ValueError, CallError)):
            await objects.store(digest_of(value), size=size, chunks=broken())
        assert await objects.size(digest_of(value)) is None
        assert [seen async for seen in objects.listed("")] == []
        with anyio.move_on_after(0.05):
            await objects.store(digest_of(value), size=size, chunks=slowly(value))
        assert await objects.size(digest_of(value)) is None
        assert await held(objects, value) == digest_of(value)

    with_objects(place.config, test)


async def slowly(value: bytes) -> AsyncIterator[bytes]:
    async for chunk in parts(value, 10_000):
        await asyncio.sleep(0.02)
        yield chunk


def test_a_reader_that_stops_in_the_midst_costs_no_more(place: Held) -> None:
    value = random.Random(9).randbytes(LARGE)

    async def test(objects: Objects) -> None:
        digest = await held(objects, value)
        for _ in range(20):
            async with aclosing(objects.stream(digest, offset=0, length=None)) as chunks:  # type: ignore[type-var] # a generator
                assert value.startswith(await anext(chunks))
        assert await whole(objects.stream(digest, offset=0, length=None)) == value

    with_objects(place.config, test)


def record(key: str, value: bytes, number: int = 1) -> MemoryRecord:
    return MemoryRecord(
        namespace="n",
        key=key,
        version=version_of(NOW + number, 0, NODE),
        value=None,
        size=len(value),
        digest=digest_of(value),
        privacy=int(Privacy.SHARED),
    )


def test_flipped_bits_are_found_by_reading_and_by_scrubbing_and_never_given(place: Held, tmp_path: Path) -> None:
    read, scrubbed, well = (random.Random(number).randbytes(300_000) for number in range(3))

    async def test(tier: LongTier) -> None:
        for number, value in enumerate((read, scrubbed, well)):
            await tier.write(digest=digest_of(value), size=len(value), chunks=parts(value))
            await tier.put(record=record(f"k{number}", value))
        for value in (read, scrubbed):
            await place.harm(digest_of(value), value[:-1] + bytes([value[-1] ^ 1]))
        with pytest.raises(CallError) as caught:
            await whole(tier.read(digest=digest_of(read)))
        assert caught.value.data["error"] == "damaged"
        await tier.write(digest=digest_of(read), size=len(read), chunks=parts(read))
        assert await whole(tier.read(digest=digest_of(read))) == read
        floor = version_of(0, 0, NODE)
        order: dict[str, Any] = {"tombstones_before": floor, "history_before": floor, "history_most": 9, "scrub": 100}
        swept = await tier.sweep(now_ms=NOW, **order)
        assert (swept.checked, swept.damaged, swept.blobs) == (3, [digest_of(scrubbed)], 0)
        assert not await tier.has(digest=digest_of(scrubbed))
        await tier.write(digest=digest_of(scrubbed), size=len(scrubbed), chunks=parts(scrubbed))
        assert await whole(tier.read(digest=digest_of(scrubbed))) == scrubbed
        assert await whole(tier.read(digest=digest_of(well))) == well

    with_tier(place.config, tmp_path, test)


@pytest.mark.parametrize(
    ("found_by", "harmed"), [("reading", "flipped"), ("reading", "lost"), ("scrubbing", "flipped")]
)
def test_what_is_damaged_in_the_cloud_is_healed_from_home(
    place: Held, tmp_path: Path, found_by: str, harmed: str
) -> None:
    value = random.Random(7).randbytes(300_000)
    digest = digest_of(value)

    async def test(node: MemoryNode) -> None:
        await node.do("write", namespace="news", key="film", chunks=parts(value))
        await node.settled()
        with anyio.fail_after(5):
            while list((node.state_dir / "spool").iterdir()):  # it goes right after
                await anyio.sleep(0.01)
        await place.harm(digest, b"x" + value[1:] if harmed == "flipped" else None)
        near, far = (node.memory.parts.places.named(name) for name in ("nas", "long"))
        assert near is not None
        assert far is not None
        if found_by == "scrubbing":
            await node.memory.keeping.sweep(far)
        else:
            known = await near.tier.get(namespace="news", key="film")
            assert known is not None
            node.cut.add("nas")
            with pytest.raises(CallError):
                await whole(node.memory.parts.blobs.read(known, first=far))
            node.cut.discard("nas")
        with anyio.fail_after(30):
            while node.memory.parts.counts.healed == 0:
                await anyio.sleep(0.02)
        assert await whole(far.tier.read(digest=digest)) == value
        assert not node.memory.parts.blobs.hurt

    async def main() -> None:
        async with world(tmp_path, "home", long=LongConfig(records=str(tmp_path / "long.db"), **place.config)) as (
            node,
        ):
            await test(node)

    anyio.run(main)


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"secret_key": Secret("sesame-wrong", "test")}, "refuses: SignatureDoesNotMatch"),
        ({"access_key": "AKNOBODY"}, "refuses: InvalidAccessKeyId"),
        ({"objects": "s3://nowhere"}, "no such bucket"),
        ({"endpoint": "http://127.0.0.1:9"}, "connection refused"),
    ],
)
def test_what_a_server_refuses_is_said_with_a_remedy_and_without_a_secret(
    s3: Bucket, wrong: dict[str, Any], words: str
) -> None:
    async def test(objects: Objects) -> None:
        for deed in (held(objects, b"value"), whole(objects.stream("0" * 64, offset=0, length=None))):
            with pytest.raises(CallError, match=words) as caught:
                await deed
            assert caught.value.kind == "unavailable"
            assert caught.value.data["remedy"]
            assert "sesame" not in f"{caught.value} {caught.value.data}"

    with_objects(s3.config(timeout_s=2.0, **wrong), test)


def test_a_server_is_reached_by_tls_and_trusted_only_by_its_authority(tmp_path: Path) -> None:
    certificates(tmp_path)
    with short_folder() as folder, bucket(folder, certificates=tmp_path) as server:

        async def trusted(objects: Objects) -> None:
            digest = await held(objects, b"value")
            assert await whole(objects.stream(digest, offset=0, length=None)) == b"value"

        async def untrusted(objects: Objects) -> None:
            with pytest.raises(CallError, match="certificate is not trusted"):
                await held(objects, b"value")

        with_objects(server.config(), trusted)
        with_objects(server.config(ca_file=None, timeout_s=3.0), untrusted)


def test_a_killed_server_is_named_and_used_again_when_it_is_back_with_all_it_had(tmp_path: Path) -> None:
    with short_folder() as folder, bucket(folder) as server:

        async def test(objects: Objects) -> None:
            digest = await held(objects, b"value")
            server.kill()
            with pytest.raises(CallError, match="does not answer") as caught:
                await objects.size(digest)
            assert caught.value.kind == "unavailable"
            await anyio.to_thread.run_sync(server.start)
            with anyio.fail_after(60):  # it starts its parts one after the other
                while True:
                    try:
                        assert await whole(objects.stream(digest, offset=0, length=None)) == b"value"
                        break
                    except CallError:
                        await anyio.sleep(0.2)

        with_objects(server.config(timeout_s=2.0), test)


def test_a_node_keeps_its_shared_memory_on_real_servers_and_is_whole_again_from_them(tmp_path: Path) -> None:
    """A restore drill: PostgreSQL and S3 hold all that is shared; the node and the NAS are deleted."""
    small, large = b"small", random.Random(5).randbytes(2_000_000)

    async def first(node: MemoryNode) -> None:
        await node.put("small", small, "news", content_type="text/plain", tags=["t"])
        await node.do("write", namespace="news", key="large", chunks=parts(large))
        await node.settled(limit_s=60)

    async def second(node: MemoryNode) -> None:
        await node.synced("long", limit_s=60)
        assert await node.get("small", "news") == small
        head = (await node.do("list_", namespace="news")).heads[-1]
        assert (head.key, head.tags) == ("small", ["t"])
        with_it = await node.do("get", namespace="news", key="large")
        assert with_it.head.size == len(large)

    with (
        short_folder() as folder,
        short_folder() as bucket_folder,
        bucket(bucket_folder) as s3,
        postgres(folder) as sql,
    ):
        given: dict[str, Any] = {"long": LongConfig(records=sql.uri, **s3.config()), "through_s": 10.0}

        async def main() -> None:
            async with world(tmp_path / "before", "home", **given) as (node,):
                await first(node)
            async with world(tmp_path / "after", "home", **given) as (node,):
                await second(node)

        anyio.run(main)


def small() -> MemoryRecord:
    return MemoryRecord(
        namespace="n", key="k", version=version_of(NOW, 0, NODE), value=b"v", size=1, privacy=int(Privacy.SHARED)
    )


def test_postgresql_is_reached_by_tls_and_trusted_only_by_its_authority(tmp_path: Path) -> None:
    certificates(tmp_path)

    async def main(folder: Path, database: str) -> None:
        async with postgres_by_tls(folder, tmp_path / "it.pem", tmp_path / "it.key") as port:
            url = f"postgresql://postgres@127.0.0.1:{port}/{database}?sslmode=verify-full"
            given = LongConfig(records=url, ca_file=tmp_path / "ca.pem")
            async with open_long(given, state_dir=tmp_path, node_id=NODE, log=Lines()) as tier:
                one = small()
                assert (await tier.put(record=one)).outcome == "stored"
                assert await tier.get(namespace="n", key="k") == one
            given = LongConfig(records=url, timeout_s=3.0)
            async with open_long(given, state_dir=tmp_path, node_id=NODE, log=Lines()) as tier:
                with pytest.raises(CallError, match="certificate"):
                    await tier.get(namespace="n", key="k")

    with short_folder() as folder, postgres(folder) as server:
        database = server.uri.partition("?")[0].rpartition("/")[2]
        anyio.run(main, folder, database)


def test_a_killed_postgresql_is_named_and_used_again_when_it_is_back(tmp_path: Path) -> None:
    async def main(server: Any) -> None:
        given = LongConfig(records=server.uri, timeout_s=3.0)
        async with open_long(given, state_dir=tmp_path, node_id=NODE, log=Lines()) as tier:
            one = small()
            await tier.put(record=one)
            server.kill()
            with pytest.raises(CallError) as caught:
                await tier.get(namespace="n", key="k")
            assert caught.value.kind == "unavailable"
            await anyio.to_thread.run_sync(server.start)
            with anyio.fail_after(30):
                while True:
                    try:
                        assert await tier.get(namespace="n", key="k") == one
                        break
                    except CallError:
                        await anyio.sleep(0.1)

    with short_folder() as folder, postgres(folder) as server:
        anyio.run(main, server)


def test_a_bucket_that_nobody_may_write_to_is_said_before_anything_is_sent(s3: Bucket) -> None:
    async def main() -> None:
        objects = S3Objects(LongConfig(objects="s3://home", endpoint=s3.endpoint, allow_http=True, timeout_s=2.0))
        with pytest.raises(CallError, match="refuses"):
            await held(objects, b"value")

    anyio.run(main)
