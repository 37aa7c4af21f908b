"""The inference service as a whole, with the real model, real files, and a bus that keeps what it is given."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import anyio
import numpy as np
import pytest
from prometheus_client import CollectorRegistry

from sparkd import (
    CallError,
    CallErrorKind,
    ConfigError,
    Context,
    DeviceError,
    Inference,
    Privacy,
    StorageError,
    Troubles,
    Vision,
)
from sparkd_plugins.hailo_inference import sparkd_services
from sparkd_plugins.hailo_inference.config import HailoInferenceConfig
from sparkd_plugins.hailo_inference.demo import PICTURES, frames
from sparkd_plugins.hailo_inference.engine import MAX_WAITING, Engine
from sparkd_plugins.hailo_inference.folder import ATTEMPTS, Folder
from sparkd_plugins.hailo_inference.picture import encode
from sparkd_plugins.hailo_inference.pipeline import Model, open_models
from sparkd_plugins.hailo_inference.processed import Processed
from sparkd_plugins.hailo_inference.roster import Roster
from sparkd_plugins.hailo_inference.service import run
from sparkd_plugins.hailo_inference.sources import key_of
from sparkd_plugins.hailo_inference.vision import Meters, VisionCalls

pytestmark = pytest.mark.anyio

CHELSEA = (PICTURES / "chelsea.png").read_bytes()
BLACK = encode(np.zeros((32, 32, 3), np.uint8), suffix=".png")


@dataclass
class OutboxBus:
    """Stores like the outbox does: a key that is there already stores nothing. Refuses the first `full` appends."""

    stored: dict[str, tuple[Inference, Privacy]] = field(default_factory=dict)
    appends: int = 0
    full: int = 0
    changed: anyio.Event = field(default_factory=anyio.Event)

    async def publish(self, event: Inference, *, privacy: Privacy, key: str) -> None:
        if self.full:
            self.full -= 1
            raise StorageError("no space left on device")
        self.appends += 1
        self.stored.setdefault(key, (event, privacy))
        self.tell()

    def tell(self) -> None:
        self.changed.set()
        self.changed = anyio.Event()

    @property
    def sources(self) -> list[str]:
        return [event.source for event, _ in self.stored.values()]


@dataclass
class RecordingContext:
    """The part of a Context that this service uses; it outlives a run, as disk and outbox do."""

    config: HailoInferenceConfig
    state_dir: Path
    bus: OutboxBus = field(default_factory=OutboxBus)
    metrics: CollectorRegistry = field(default_factory=CollectorRegistry)
    handler: VisionCalls | None = None
    warnings: list[tuple[str, dict[str, object]]] = field(default_factory=list)
    told: list[tuple[str, dict[str, object]]] = field(default_factory=list)
    states: list[str] = field(default_factory=list)

    @property
    def log(self) -> RecordingContext:
        return self

    def info(self, event: str, **fields: object) -> None:
        self.told.append((event, fields))

    def warning(self, event: str, **fields: object) -> None:
        self.warnings.append((event, fields))
        self.bus.tell()

    def degraded(self, reason: str, *, remedy: str = "") -> None:
        self.states.append(f"{reason} ({remedy})")
        self.bus.tell()

    def recovered(self) -> None:
        self.states.append("recovered")
        self.bus.tell()

    async def serve(self, interface: type[Any], handler: VisionCalls) -> None:
        assert interface is Vision
        self.handler = handler

    def count(self, name: str, **labels: str) -> float:
        return self.metrics.get_sample_value(name, labels) or 0.0

    async def until(self, sources: list[str], *, warnings: int = 0) -> None:
        with anyio.fail_after(20):
            while sorted(self.bus.sources) != sorted(sources) or len(self.warnings) < warnings:
                await self.bus.changed.wait()


@asynccontextmanager
async def running(double: RecordingContext) -> AsyncIterator[RecordingContext]:
    double.metrics = CollectorRegistry()
    async with anyio.create_task_group() as group:
        await group.start(run, cast("Context[HailoInferenceConfig]", double))
        yield double
        group.cancel_scope.cancel()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "watched"
    path.mkdir()
    return path


@pytest.fixture
def double(tmp_path: Path, folder: Path) -> RecordingContext:
    return RecordingContext(HailoInferenceConfig(watch=folder), tmp_path)


async def test_pictures_that_wait_and_pictures_that_come_are_published_in_order(
    double: RecordingContext, folder: Path
) -> None:
    made = dict(frames(count=4, seed=5))
    first, *others = made
    (folder / first).write_bytes(made[first])
    async with running(double):
        for name in others:
            (folder / name).write_bytes(made[name])
        await double.until(list(made))

    assert double.bus.sources == list(made)
    assert list(double.bus.stored) == [key_of(name, made[name]) for name in made]
    event, privacy = double.bus.stored[key_of(first, made[first])]
    assert privacy is Privacy.LOCAL
    assert event.source_ns == (folder / first).stat().st_mtime_ns


async def test_the_privacy_of_results_is_what_config_says(tmp_path: Path, folder: Path) -> None:
    double = RecordingContext(HailoInferenceConfig(watch=folder, privacy="shared"), tmp_path)
    (folder / "cat.png").write_bytes(CHELSEA)
    async with running(double):
        await double.until(["cat.png"])

    assert [privacy for _, privacy in double.bus.stored.values()] == [Privacy.SHARED]


async def test_a_restart_publishes_nothing_twice(double: RecordingContext, folder: Path) -> None:
    (folder / "a.png").write_bytes(BLACK)
    async with running(double):
        await double.until(["a.png"])
        (folder / "b.png").write_bytes(BLACK)
        await double.until(["a.png", "b.png"])
        (folder / "a.png").touch()
    os.utime(folder / "b.png", (5, 5))
    (folder / "c.png").write_bytes(BLACK)
    async with running(double):
        await double.until(["a.png", "b.png", "c.png"])
        (folder / "d.png").write_bytes(BLACK)
        await double.until(["a.png", "b.png", "c.png", "d.png"])

    assert double.bus.appends == 4


async def test_a_file_written_anew_is_a_new_picture(double: RecordingContext, folder: Path) -> None:
    (folder / "a.png").write_bytes(BLACK)
    async with running(double):
        await double.until(["a.png"])
        (folder / "a.png").write_bytes(CHELSEA)
        await double.until(["a.png", "a.png"])

    assert [len(event.detections) for event, _ in double.bus.stored.values()] == [0, 1]


async def test_bad_pictures_are_told_once_and_the_others_go_on(tmp_path: Path, folder: Path) -> None:
    double = RecordingContext(HailoInferenceConfig(watch=folder, max_pixels=200_000, max_bytes=600_000), tmp_path)
    (folder / "empty.png").touch()
    (folder / "cut.png").write_bytes(CHELSEA[:5000])
    (folder / "text.jpg").write_text("not a picture")
    (folder / "wide.png").write_bytes(encode(np.zeros((1000, 1000, 3), np.uint8), suffix=".png"))
    (folder / "heavy.bmp").write_bytes(b"BM" + bytes(700_000))
    (folder / "good.png").write_bytes(CHELSEA)
    async with running(double):
        await double.until(["good.png"], warnings=5)
        assert double.count("sparkd_inference_pictures_total", origin="folder", outcome="bad") == 5
        assert double.count("sparkd_inference_pictures_total", origin="folder", outcome="ok") == 1
    async with running(double):
        (folder / "later.png").write_bytes(BLACK)
        await double.until(["good.png", "later.png"])

    reasons = {fields["picture"]: str(fields["reason"]) for _, fields in double.warnings}
    assert len(double.warnings) == 5
    assert reasons["empty.png"] == "the picture is empty: 0 bytes"
    assert reasons["cut.png"].startswith("the picture is damaged or cut off")
    assert reasons["text.jpg"].startswith("not a picture")
    assert reasons["wide.png"] == "the picture has 1000 x 1000 pixels, more than max_pixels = 200000"
    assert reasons["heavy.bmp"] == "the file has 700002 bytes, more than max_bytes = 600000"
    assert double.states == []


async def test_pictures_dealt_with_are_moved_away(tmp_path: Path, folder: Path) -> None:
    double = RecordingContext(HailoInferenceConfig(watch=folder, after="move"), tmp_path)
    (folder / "good.png").write_bytes(BLACK)
    (folder / "bad.png").write_text("x")
    async with running(double):
        await double.until(["good.png"], warnings=1)
        (folder / "next.png").write_bytes(BLACK)
        await double.until(["good.png", "next.png"])

    assert (folder / "done" / "good.png").exists()
    assert (folder / "bad" / "bad.png").exists()


async def test_a_folder_that_forbids_moving_is_told_until_it_allows_it(tmp_path: Path, folder: Path) -> None:
    double = RecordingContext(HailoInferenceConfig(watch=folder, after="move"), tmp_path)
    (folder / "done").write_text("a file where the folder should be")  # root may write anywhere, so this must do
    (folder / "a.png").write_bytes(BLACK)
    async with running(double):
        await double.until(["a.png"])
        (folder / "b.png").write_bytes(BLACK)
        with anyio.fail_after(10):
            while not double.states:
                await double.bus.changed.wait()
        (folder / "done").unlink()
        (folder / "c.png").write_bytes(BLACK)
        with anyio.fail_after(10):
            while "recovered" not in double.states or not (folder / "done" / "c.png").exists():
                await anyio.sleep(0.02)

    assert "does not allow `after = 'move'`" in double.states[0]
    assert (folder / "done" / "c.png").exists()


async def test_a_file_that_cannot_be_opened_is_told_and_tried_again_later(
    double: RecordingContext, folder: Path
) -> None:
    meters = Meters(double.metrics)
    with Processed(double.state_dir / "processed.sqlite") as record:
        watched = Folder(
            cast("Context[HailoInferenceConfig]", double),
            folder,
            cast("Engine", None),
            meters,
            record,
            Troubles(double),
        )
        await watched.take("x" * 300 + ".png")

    assert [fields["reason"] for _, fields in double.warnings] == ["File name too long"]
    assert double.count("sparkd_inference_pictures_total", origin="folder", outcome="unreadable") == 1


async def test_a_file_name_that_is_no_text_does_no_harm(double: RecordingContext, folder: Path) -> None:
    Path(os.fsdecode(os.fsencode(folder) + b"/caf\xe9.png")).write_bytes(BLACK)
    async with running(double):
        await double.until(["caf\\udce9.png"])


async def test_while_the_disk_is_full_pictures_wait_and_calls_are_answered(
    double: RecordingContext, folder: Path
) -> None:
    double.bus.full = 1
    (folder / "a.png").write_bytes(BLACK)
    async with running(double):
        with anyio.fail_after(10):
            while not double.states:
                await double.bus.changed.wait()
            assert double.handler is not None
            assert (await double.handler.infer(image=CHELSEA)).detections[0].label == "cat"
        await double.until(["a.png"])

    assert "results cannot be stored, pictures wait: no space left" in double.states[0]
    assert double.states[1:] == ["recovered"]


async def test_a_picture_that_keeps_killing_the_service_is_refused(double: RecordingContext, folder: Path) -> None:
    (folder / "evil.png").write_bytes(BLACK)
    with Processed(double.state_dir / "processed.sqlite") as record:
        for _ in range(ATTEMPTS):
            record.begin(key_of("evil.png", BLACK))
    async with running(double):
        (folder / "good.png").write_bytes(CHELSEA)
        await double.until(["good.png"], warnings=1)

    assert double.warnings == [
        ("picture-refused", {"picture": "evil.png", "reason": "the service died 5 times while looking at it"})
    ]


async def test_a_damaged_record_is_told_and_replaced(double: RecordingContext, folder: Path) -> None:
    (double.state_dir / "processed.sqlite").write_bytes(b"junk" * 1000)
    (folder / "a.png").write_bytes(BLACK)
    async with running(double):
        await double.until(["a.png"], warnings=1)

    assert double.warnings[0][0] == "record-damaged"


async def test_a_call_returns_what_is_there_and_publishes_nothing(double: RecordingContext) -> None:
    async with running(double):
        assert double.handler is not None
        inference = await double.handler.infer(image=CHELSEA, source="camera")
        (model,) = await double.handler.models()
        named = await double.handler.infer(image=BLACK, model=model.name)

    assert (inference.source, [found.label for found in inference.detections]) == ("camera", ["cat"])
    assert named.detections == []
    assert double.bus.stored == {}
    assert double.count("sparkd_inference_pictures_total", origin="call", outcome="ok") == 2
    assert double.count("sparkd_inference_detections_total", model=model.name, label="cat") == 1
    assert double.count("sparkd_inference_stage_seconds_count", model=model.name, stage="infer") == 2


@pytest.mark.parametrize(
    ("params", "field_name", "message"),
    [
        ({"image": b""}, "image", "image: the picture is empty: 0 bytes"),
        ({"image": b"junk"}, "image", "image: not a picture: JPEG, PNG, WEBP, BMP expected, got bytes b'junk'"),
        ({"image": bytes(2000)}, "image", "image: the picture has 2000 bytes, more than max_bytes = 1000"),
        ({"image": BLACK, "model": "yolo"}, "model", "unknown model 'yolo'; choices: nanodet-coco-416"),
    ],
)
async def test_a_bad_call_is_told_which_parameter_is_wrong(
    tmp_path: Path, params: dict[str, Any], field_name: str, message: str
) -> None:
    double = RecordingContext(HailoInferenceConfig(max_bytes=1000), tmp_path)
    async with running(double):
        assert double.handler is not None
        with pytest.raises(CallError) as caught:
            await double.handler.infer(**params)

    assert (caught.value.kind, caught.value.data, caught.value.message) == (
        CallErrorKind.INVALID_PARAMS,
        {"field": field_name},
        message,
    )


async def test_a_runtime_that_fails_makes_a_call_unavailable() -> None:
    model = open_models(HailoInferenceConfig())[0]
    async with anyio.create_task_group() as tasks:
        roster = Roster([model], load=lambda _: model, roots=(), tasks=tasks)
        calls = VisionCalls(roster, Meters(CollectorRegistry()), max_bytes=1_000_000)
        model.backend.close()

        with pytest.raises(CallError, match="unavailable: model nanodet-coco-416 is closed"):
            await calls.infer(image=BLACK)


async def test_callers_and_the_folder_take_turns_and_the_queue_is_bounded() -> None:
    model = _Gated(open_models(HailoInferenceConfig())[0])
    engine = Engine(cast("Model", model))

    async def call() -> None:
        await engine.look_for_caller(BLACK, source="call")

    async def look_five_times() -> None:
        for _ in range(5):
            await engine.look(BLACK, source="folder")

    async with anyio.create_task_group() as group:
        for _ in range(1 + MAX_WAITING):
            group.start_soon(call)
        await anyio.wait_all_tasks_blocked()
        with pytest.raises(CallError, match="32 calls wait for this model") as caught:
            await call()
        group.start_soon(look_five_times)
        await anyio.wait_all_tasks_blocked()
        model.gate.set()

    assert caught.value.kind is CallErrorKind.UNAVAILABLE
    assert model.order[:11] == ["call", *(["folder", "call"] if model.order[1] == "folder" else ["call", "folder"]) * 5]
    assert model.order.count("call") == 1 + MAX_WAITING


@dataclass
class _Gated:
    """A model that writes down for whom it looks, and waits until it may."""

    model: Model
    order: list[str] = field(default_factory=list)
    gate: threading.Event = field(default_factory=threading.Event)

    def look(self, image: bytes, *, source: str, source_ns: int = 0) -> Inference:
        self.order.append(source)
        self.gate.wait(20)
        return self.model.look(image, source=source, source_ns=source_ns)


async def test_what_cannot_be_loaded_ends_the_service_before_it_is_ready(tmp_path: Path) -> None:
    for config, error in (
        (HailoInferenceConfig(bundles=[tmp_path]), ConfigError),
        (HailoInferenceConfig(backend="hailo"), DeviceError),
        (HailoInferenceConfig(watch=tmp_path / "missing"), DeviceError),
    ):
        with pytest.raises(BaseExceptionGroup) as caught:
            async with running(RecordingContext(config, tmp_path)):
                pytest.fail("it became ready")
        assert caught.group_contains(error)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"watch": Path("pictures")}, "watch: an absolute path expected, got 'pictures'"),
        ({"bundles": [Path("model")]}, "bundles: an absolute path expected, got 'model'"),
        ({"threads": 0}, "threads: must be 1 or more, got 0"),
        ({"max_pixels": -1}, "max_pixels: must be 1 or more, got -1"),
    ],
)
def test_config_that_makes_no_sense_is_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        HailoInferenceConfig(**values)


def test_the_manifest_says_what_is_served_and_published() -> None:
    (service,) = sparkd_services()

    assert (service.name, service.config, service.serves, service.publishes) == (
        "hailo-inference",
        HailoInferenceConfig,
        (Vision,),
        (Inference,),
    )


def test_importing_the_plugin_imports_no_sdk() -> None:
    script = (
        "import sys, sparkd_plugins.hailo_inference as p; p.sparkd_services();"
        "print([name for name in ('numpy', 'PIL', 'onnxruntime', 'asyncinotify') if name in sys.modules])"
    )

    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)

    assert done.stdout == "[]\n"


def test_without_its_packages_the_service_says_what_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "PIL", None)

    with pytest.raises(BaseExceptionGroup) as caught:
        anyio.run(_run_once, RecordingContext(HailoInferenceConfig(), tmp_path))

    error = caught.value.exceptions[0]
    assert isinstance(error, DeviceError)
    assert error.remedy == "pip install 'sparkd[inference]'"


async def _run_once(double: RecordingContext) -> None:
    async with running(double):
        pass


MORTAL = """
import json, sys
from pathlib import Path
import anyio
from prometheus_client import CollectorRegistry
from sparkd_plugins.hailo_inference.config import HailoInferenceConfig
from sparkd_plugins.hailo_inference.service import run

folder, state, wanted = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])

class Double:
    config = HailoInferenceConfig(watch=folder, after="delete")
    state_dir = state
    metrics = CollectorRegistry()
    bus = log = property(lambda self: self)
    def info(self, event, **fields): pass
    async def serve(self, interface, handler): pass
    async def publish(self, event, *, privacy, key):
        with (state / "outbox").open("a") as outbox:
            outbox.write(json.dumps([event.source, key]) + "\\n")

async def main():
    async with anyio.create_task_group() as group:
        await group.start(run, Double())
        while any(folder.iterdir()):
            await anyio.sleep(0.02)
        group.cancel_scope.cancel()

anyio.run(main)
"""


@pytest.mark.parametrize("step", ["inference.after-infer:2", "inference.after-append:2"])
def test_killed_at_a_step_every_picture_is_stored_under_one_key(folder: Path, tmp_path: Path, step: str) -> None:
    made = dict(frames(count=4, seed=6))
    for name, frame in made.items():
        (folder / name).write_bytes(frame)
    command = [sys.executable, "-c", MORTAL, str(folder), str(tmp_path), "4"]

    killed = subprocess.run(command, env=os.environ | {"SPARKD_CRASH_AT": step}, check=False, timeout=30)
    again = subprocess.run(command, check=False, timeout=30)

    assert (killed.returncode, again.returncode) == (-signal.SIGKILL, 0)
    appended = [json.loads(line) for line in (tmp_path / "outbox").read_text().splitlines()]
    assert len(appended) == (4 if "infer:" in step else 5)  # the outbox drops the fifth by its key
    assert {key: name for name, key in appended} == {key_of(name, frame): name for name, frame in made.items()}
