"""Live sources with the real model and real video: files made here, and a server of MJPEG that misbehaves."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

import anyio
import av
import numpy as np
import pytest
from prometheus_client import CollectorRegistry

from sparkd import ConfigError, Context, Inference, PowerMode, Privacy, Secret, SourceInfo, StorageError, Troubles
from sparkd.config import decode_table
from sparkd_plugins.hailo_inference.board import Board
from sparkd_plugins.hailo_inference.config import DEFAULT_BUNDLE, HailoInferenceConfig
from sparkd_plugins.hailo_inference.demo import PICTURES
from sparkd_plugins.hailo_inference.live import Live
from sparkd_plugins.hailo_inference.picture import encode, open_picture, scale
from sparkd_plugins.hailo_inference.pipeline import Model, open_models
from sparkd_plugins.hailo_inference.roster import Roster
from sparkd_plugins.hailo_inference.source_config import ModeRule, SourceConfig
from sparkd_plugins.hailo_inference.vision import Meters

pytestmark = pytest.mark.anyio

CLASSIFIER = DEFAULT_BUNDLE.parent / "efficientnet-lite0-224"


def photograph(name: str, width: int, height: int) -> np.ndarray:
    picture = open_picture((PICTURES / f"{name}.png").read_bytes(), max_pixels=10_000_000)
    return picture.pixels(width, height)


COFFEE = photograph("coffee", 320, 240)


def make_video(path: Path, *, frames: int, rate: int) -> str:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=rate)
        stream.width, stream.height, stream.pix_fmt = 320, 240, "yuv420p"
        for _ in range(frames):
            for packet in stream.encode(av.VideoFrame.from_ndarray(COFFEE, format="rgb24")):
                container.mux(packet)
        for packet in stream.encode():
            container.mux(packet)
    return str(path)


@dataclass
class Recording:
    """The part of a Context that live sources use."""

    config: HailoInferenceConfig
    state_dir: Path
    metrics: CollectorRegistry = field(default_factory=CollectorRegistry)
    events: list[tuple[Inference, Privacy]] = field(default_factory=list)
    states: list[str] = field(default_factory=list)
    modes: Any = field(default_factory=lambda: anyio.create_memory_object_stream[Any](10))
    full: int = 0
    node: str = "here"
    site: str = "home"

    log = bus = property(lambda self: self)

    def info(self, event: str, **fields: object) -> None: ...

    def warning(self, event: str, **fields: object) -> None: ...

    def degraded(self, reason: str, *, remedy: str = "") -> None:
        assert remedy
        self.states.append(reason)

    def recovered(self) -> None:
        self.states.append("recovered")

    async def publish(self, event: Inference, *, privacy: Privacy, key: str = "") -> None:
        if self.full:
            self.full -= 1
            raise StorageError("no space left on device")
        self.events.append((event, privacy))

    @asynccontextmanager
    async def subscribe(self, kind: type[Any]) -> AsyncIterator[Any]:
        assert kind is PowerMode
        yield self.modes[1]

    async def retained(self, kind: type[Any]) -> list[Any]:
        return []

    async def power(self, mode: str, *, name: str = "here") -> None:
        received = type("Received", (), {"event": PowerMode(mode=mode, name=name)})
        await self.modes[0].send(received)


@dataclass
class Batching:
    """The real backend, slower, or taking batches."""

    real: Any
    max_batch: int = 1
    pause_s: float = 0.0
    sizes: list[int] = field(default_factory=list)
    name: str = "onnxruntime"

    def infer(self, tensors: Any) -> Any:
        self.sizes.append(len(tensors))
        time.sleep(self.pause_s)
        return self.real.infer(tensors)

    def close(self) -> None:
        self.real.close()


@dataclass
class Rig:
    live: Live
    ctx: Recording

    def info(self, name: str = "cam") -> SourceInfo:
        return next(info for info in self.live.infos() if info.name == name)

    async def until(self, true: Callable[[], object], *, seconds: float = 20) -> None:
        with anyio.fail_after(seconds):
            while not true():
                await anyio.sleep(0.02)

    async def until_state(self, state: str, name: str = "cam") -> SourceInfo:
        await self.until(lambda: self.info(name).state == state)
        return self.info(name)

    async def until_live(self) -> None:
        """Wait for a frame that is looked at from now on."""
        looked = self.info().looked
        await self.until(lambda: self.info().state == "live" and self.info().looked > looked)


@asynccontextmanager
async def rig(
    tmp_path: Path,
    *sources: SourceConfig,
    backend: Callable[[Any], Any] = lambda real: real,
    heat: Sequence[float] = (1.0,),
    **config: Any,
) -> AsyncIterator[Rig]:
    made = HailoInferenceConfig(sources=list(sources), threads=1, **config)
    ctx = Recording(made, tmp_path)
    models: list[Model] = open_models(replace(made, bundles=[CLASSIFIER]))
    models = [replace(model, backend=backend(model.backend)) for model in models]
    async with anyio.create_task_group() as tasks:
        roster = Roster(models, load=lambda _: models[0], roots=(), tasks=tasks)
        context = cast("Context[HailoInferenceConfig]", ctx)
        live = Live(context, roster, Meters(ctx.metrics), troubles=Troubles(ctx), heat_rate=lambda: heat[0])
        tasks.start_soon(live.run)
        with ctx.modes[0], ctx.modes[1]:
            yield Rig(live, ctx)
            tasks.cancel_scope.cancel()


def source(kind: Any, location: str, **more: Any) -> SourceConfig:
    return SourceConfig(**{"name": "cam", "kind": kind, "location": location, "fps": 100.0, "publish": "all"} | more)


async def test_every_frame_of_a_recorded_video_is_looked_at(tmp_path: Path) -> None:
    path = make_video(tmp_path / "film.mp4", frames=30, rate=10)
    async with rig(tmp_path, source("video", path, realtime=False, privacy="shared")) as made:
        await made.until_state("ended")
        await made.until(lambda: len(made.ctx.events) == 30)
        info = made.info()

    assert (info.looked, info.dropped, info.skipped, info.damaged, info.connects) == (30, 0, 0, 0, 1)
    event, privacy = made.ctx.events[0]
    assert (event.source, event.width, event.height, privacy) == ("cam", 320, 240, Privacy.SHARED)
    assert event.labels[0].label == "espresso"
    assert list(event.stages_ms) == ["wait", "decode", "preprocess", "infer", "postprocess"]
    assert event.source_ns > 0
    count = made.ctx.metrics.get_sample_value
    assert count("sparkd_inference_frames_total", {"source": "cam", "outcome": "looked"}) == 30


async def test_the_frame_rate_is_bounded(tmp_path: Path) -> None:
    path = make_video(tmp_path / "film.mp4", frames=40, rate=20)
    async with rig(tmp_path, source("video", path, realtime=False, fps=5.0)) as made:
        await made.until_state("ended")
        await made.until(lambda: made.info().looked + made.info().skipped == 40)

    assert 9 <= made.info().looked <= 11


async def test_a_slow_model_drops_frames_and_looks_at_the_newest(tmp_path: Path) -> None:
    path = make_video(tmp_path / "film.mp4", frames=30, rate=20)
    async with rig(tmp_path, source("video", path), backend=lambda real: Batching(real, pause_s=0.2)) as made:
        await made.until_state("ended")
        await made.until(lambda: made.info().looked + made.info().dropped == 30)
        info = made.info()

    assert info.dropped >= 15
    assert 4 <= info.looked <= 12
    assert max(event.stages_ms["wait"] for event, _ in made.ctx.events) < 1000


async def test_four_sources_share_batches_and_none_is_left_out(tmp_path: Path) -> None:
    path = make_video(tmp_path / "film.mp4", frames=40, rate=20)
    batching: list[Batching] = []

    def backend(real: Any) -> Any:
        batching.append(Batching(real, max_batch=4, pause_s=0.1))
        return batching[0]

    sources = [source("video", path, name=f"cam{n}") for n in range(4)]
    async with rig(tmp_path, *sources, backend=backend) as made:
        for n in range(4):
            await made.until_state("ended", f"cam{n}")
        looked = [made.info(f"cam{n}").looked for n in range(4)]

    assert max(batching[0].sizes) > 1
    assert max(looked) - min(looked) <= 3
    assert min(looked) >= 4


@dataclass
class Mjpeg:
    """A camera on the network: does what `behave` says, and notices a change at once."""

    port: int
    behave: str = "well"
    size: tuple[int, int] = (320, 240)
    connections: int = 0

    def serve(self, connection: socket.socket) -> None:
        self.connections += 1
        with connection:
            connection.recv(4096)
            head = b"HTTP/1.0 200 OK\r\nContent-Type: multipart/x-mixed-replace; boundary=frame\r\n\r\n"
            connection.sendall(head)
            while True:
                if self.behave == "hang up":
                    return
                if self.behave == "garbage":
                    connection.sendall(b"\xff\x00garbage" * 500)
                elif self.behave == "well":
                    jpeg = encode(scale(COFFEE, width=self.size[0], height=self.size[1]), suffix=".jpg")
                    part = b"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: %d\r\n\r\n" % len(jpeg)
                    connection.sendall(part + jpeg + b"\r\n")
                time.sleep(0.04)


@contextmanager
def mjpeg_server() -> Iterator[Mjpeg]:
    listener = socket.create_server(("127.0.0.1", 0))
    camera = Mjpeg(listener.getsockname()[1])

    def one(connection: socket.socket) -> None:
        try:
            camera.serve(connection)
        except OSError:
            connection.close()

    def accept() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=one, args=(connection,), daemon=True).start()

    thread = threading.Thread(target=accept, daemon=True)
    thread.start()
    try:
        yield camera
    finally:
        camera.behave = "hang up"
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join(5)


async def test_a_network_camera_that_misbehaves_comes_back_by_itself(tmp_path: Path) -> None:
    with mjpeg_server() as camera:
        url = f"http://127.0.0.1:{camera.port}/video?token=geheim"
        login = Secret("user:geheim", "test")
        async with rig(tmp_path, source("stream", url, login=login, stall_s=1.0, retry_max_s=1.0)) as made:
            await made.until_live()
            camera.size = (640, 480)
            await made.until(lambda: made.info().width == 640)

            camera.behave = "stall"
            await made.until(lambda: made.info().state in {"stalled", "lost"})
            camera.behave = "well"
            await made.until_live()

            camera.behave = "garbage"
            await made.until(lambda: made.info().state in {"stalled", "lost"})
            camera.behave = "well"
            await made.until_live()

            camera.behave = "hang up"
            await made.until(lambda: made.info().state == "lost")
            camera.behave = "well"
            await made.until_live()
            await made.until(lambda: made.ctx.states[-1] == "recovered")

    assert made.info().connects >= 4
    assert made.ctx.events[-1][0].labels[0].label == "espresso"
    assert made.ctx.states[0].startswith(f"source cam: http://127.0.0.1:{camera.port}/…: ")
    assert "geheim" not in str(made.ctx.states) + repr(made.ctx.config) + str(made.live.infos())


def test_the_login_of_a_stream_is_a_secret_put_into_the_url_only_when_it_is_opened() -> None:
    spec = source("stream", "rtsp://cam:554/main?x=1", login=Secret("yard:p@ss/:word\n", "credential yard"))
    assert spec.url == "rtsp://yard:p%40ss%2F%3Aword@cam:554/main?x=1"
    assert "p@ss" not in repr(spec) + spec.shown
    with pytest.raises(ValueError, match="put USER:PASSWORD into a secret") as caught:
        source("stream", "rtsp://yard:geheim@cam/main")
    assert "geheim" not in str(caught.value)
    with pytest.raises(ValueError, match="USER:PASSWORD expected"):
        source("stream", "rtsp://cam/main", login=Secret("", "credential yard"))


def test_a_login_is_named_in_the_config_not_written(tmp_path: Path) -> None:
    (tmp_path / "yard").write_text("yard:geheim")
    (tmp_path / "yard").chmod(0o600)
    table = {"name": "yard", "kind": "stream", "location": "rtsp://cam/main", "login": {"file": str(tmp_path / "yard")}}
    made = decode_table(HailoInferenceConfig, {"sources": [table]}, where="plugins.hailo-inference")
    assert made.sources[0].url == "rtsp://yard:geheim@cam/main"
    with pytest.raises(ConfigError, match="login"):
        decode_table(HailoInferenceConfig, {"sources": [{**table, "login": "yard:geheim"}]}, where="x")


@pytest.mark.parametrize(
    ("kind", "location"),
    [
        ("camera", "/dev/video-that-is-not-there"),
        ("video", "/nowhere/film.mp4"),
        ("video", str(PICTURES / "CREDITS.txt")),
        ("stream", "http://127.0.0.1:9/"),
        ("stream", "rtsp://127.0.0.1:9/main"),
    ],
)
async def test_what_cannot_be_opened_is_told_and_tried_again(tmp_path: Path, kind: str, location: str) -> None:
    async with rig(tmp_path, source(kind, location, retry_max_s=0.1)) as made:
        info = await made.until_state("lost")
        await made.until(lambda: made.info().connects >= 2)

    assert info.reason
    assert made.ctx.states[0].startswith("source cam: ")
    assert len(set(made.ctx.states)) == len(made.ctx.states)  # said once, not at each attempt


async def test_without_pyav_it_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "av", None)
    async with rig(tmp_path, source("camera", "/dev/video0")) as made:
        info = await made.until_state("lost")

    assert "video needs a package" in info.reason


async def test_power_modes_lower_the_rate_change_the_model_and_close_the_source(tmp_path: Path) -> None:
    rules = {"off-grid": ModeRule(rate=0.1), "low": ModeRule(model="missing"), "critical": ModeRule(rate=0.0)}
    path = make_video(tmp_path / "film.mp4", frames=20, rate=20)
    async with rig(tmp_path, source("video", path, loop=True), modes=rules) as made:
        await made.until_live()
        await made.ctx.power("critical", name="elsewhere")
        await made.ctx.power("off-grid")
        await made.until(lambda: made.info().fps == pytest.approx(10))
        await made.ctx.power("critical")
        info = await made.until_state("paused")
        looked = made.info().looked
        await made.ctx.power("low")
        await made.until(lambda: any("unknown model 'missing'" in state for state in made.ctx.states))
        assert made.info().looked - looked <= 1
        await made.ctx.power("on-grid")
        await made.until_live()

    assert info.reason == "by the power mode critical"


async def test_snapshots_stay_within_their_bounds(tmp_path: Path) -> None:
    path = make_video(tmp_path / "film.mp4", frames=20, rate=10)
    kept = tmp_path / "kept"
    kept.mkdir()
    (kept / "cam-notes.jpg").write_bytes(b"another's")
    spec = source("video", path, realtime=False, snapshots=kept, snapshot_files=3, snapshot_every_s=0.001)
    async with rig(tmp_path, spec) as made:
        await made.until(lambda: len(made.ctx.events) == 20)

    names = sorted(one.name for one in kept.iterdir())
    assert len(names) == 4
    assert "cam-notes.jpg" in names
    taken = [event.snapshot for event, _ in made.ctx.events if event.snapshot]
    assert taken[-1] in names
    picture = open_picture((kept / taken[-1]).read_bytes(), max_pixels=1_000_000)
    assert (picture.width, picture.height) == (320, 240)


async def test_where_snapshots_cannot_be_kept_the_events_go_on(tmp_path: Path) -> None:
    path = make_video(tmp_path / "film.mp4", frames=10, rate=10)
    (tmp_path / "file").write_bytes(b"")
    spec = source("video", path, realtime=False, snapshots=tmp_path / "file" / "in", snapshot_every_s=0.001)
    async with rig(tmp_path, spec) as made:
        await made.until(lambda: len(made.ctx.events) == 10)
        info = made.info()

    assert info.snapshots_missed >= 1
    assert "no snapshots: Not a directory" in made.ctx.states[0]
    assert all(event.snapshot == "" for event, _ in made.ctx.events)


async def test_events_that_cannot_be_stored_are_let_go_of(tmp_path: Path) -> None:
    path = make_video(tmp_path / "film.mp4", frames=10, rate=10)
    async with rig(tmp_path, source("video", path, realtime=False)) as made:
        made.ctx.full = 2
        await made.until(lambda: len(made.ctx.events) == 8)

    assert made.ctx.states[0] == "results cannot be stored: no space left on device"
    assert made.ctx.states[-1] == "recovered"


async def test_a_folder_that_comes_later_is_watched_then(tmp_path: Path) -> None:
    folder = tmp_path / "inbox"
    spec = source("folder", str(folder), after="delete", privacy="node")
    async with rig(tmp_path, spec) as made:
        await made.until_state("lost")
        folder.mkdir()
        await made.until_state("live")
        (folder / "coffee.jpg").write_bytes(encode(COFFEE, suffix=".jpg"))
        await made.until(lambda: made.ctx.events)
        await made.until(lambda: not list(folder.iterdir()))

    event, privacy = made.ctx.events[0]
    assert (event.source, event.labels[0].label, privacy) == ("coffee.jpg", "espresso", Privacy.NODE)
    assert made.ctx.states[-1] == "recovered"


async def test_the_board_keeps_the_newest_and_takes_turns() -> None:
    board: Board[int] = Board(lambda name: "big" if name == "c" else "")
    assert [board.put(name, 1) for name in ("a", "b", "c")] == [False] * 3
    assert board.put("a", 2)

    first = await board.take("", lambda: 1)
    board.put(first[0].source, 3)
    others = await board.take("", lambda: 1)
    (big,) = await board.take("big", lambda: 8)

    assert {first[0].source, others[0].source} == {"a", "b"}
    assert big.frame == 1
    with anyio.move_on_after(0.05) as scope:
        await board.take("big", lambda: 1)
    assert scope.cancelled_caught


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"name": "Yard"}, "name: lower-case"),
        ({"kind": "stream"}, "location: a URL of rtsp://"),
        ({"kind": "stream", "location": "file:///etc/passwd"}, "location: a URL of"),
        ({"location": "film.mp4"}, "location: an absolute path expected"),
        ({"fps": 0.0}, "fps: must be positive"),
        ({"size": "big"}, "size: WIDTHxHEIGHT expected"),
        ({"snapshots": Path("here")}, "snapshots: an absolute path"),
    ],
)
def test_a_source_that_makes_no_sense_is_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        source(**{"kind": "video", "location": "/film.mp4"} | values)


def test_names_and_modes_are_checked() -> None:
    twins = [source("video", "/a"), source("video", "/b")]
    with pytest.raises(ValueError, match="'cam' has 2"):
        HailoInferenceConfig(sources=twins)
    with pytest.raises(ValueError, match="modes: one of on-grid"):
        HailoInferenceConfig(modes={"sunny": ModeRule()})
    with pytest.raises(ValueError, match="rate: from 0 to 1"):
        ModeRule(rate=2)


async def test_heat_lowers_the_rate_of_the_sources_and_cooling_raises_it(tmp_path: Path) -> None:
    heat = [1.0]
    looping = source("video", make_video(tmp_path / "film.mp4", frames=40, rate=20), fps=20.0, loop=True)
    async with rig(tmp_path, looping, heat=heat) as made:

        async def looked_in(seconds: float) -> int:
            before = made.info().looked
            await anyio.sleep(seconds)
            return made.info().looked - before

        await made.until_live()
        quick = await looked_in(1.5)
        heat[0] = 0.1
        await anyio.sleep(0.3)
        slow = await looked_in(1.5)
        heat[0] = 1.0
        await made.until_live()
        assert slow < quick / 2
        assert await looked_in(1.5) > 2 * slow


async def test_a_full_disk_costs_the_snapshots_and_nothing_else(tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root to mount a small tmpfs")
    folder = tmp_path / "disk"
    folder.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "none", folder], check=False).returncode:
        pytest.skip("mounting a tmpfs is not permitted here")
    try:
        filler = folder / "filler"
        filler.write_bytes(bytes(256 << 10))
        looping = source(
            "video",
            make_video(tmp_path / "film.mp4", frames=40, rate=20),
            loop=True,
            snapshots=folder,
            snapshot_every_s=0.1,
            snapshot_files=2,
        )
        async with rig(tmp_path, looping) as made:
            await made.until(lambda: made.info().snapshots_missed >= 2)
            before = len(made.ctx.events)
            await made.until(lambda: len(made.ctx.events) > before)
            assert made.ctx.states == ["source cam: no snapshots: No space left on device"]
            assert list(folder.iterdir()) == [filler]
            filler.unlink()
            await made.until(lambda: made.ctx.states[-1] == "recovered")
            await made.until(lambda: list(folder.glob("cam-*.jpg")))
    finally:
        subprocess.run(["umount", "-l", folder], check=True)
