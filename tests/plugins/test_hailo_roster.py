"""Loading, letting go and replacing models while they are in use, with the real ones."""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import anyio
import numpy as np
import pytest
from prometheus_client import CollectorRegistry

from sparkd import Array, CallError, CallErrorKind, ConfigError
from sparkd_plugins.hailo_inference.bundle import MANIFEST
from sparkd_plugins.hailo_inference.config import DEFAULT_BUNDLE, HailoInferenceConfig
from sparkd_plugins.hailo_inference.device import open_runtimes
from sparkd_plugins.hailo_inference.pipeline import Model, open_model, open_models
from sparkd_plugins.hailo_inference.roster import Roster, bundle_folder
from sparkd_plugins.hailo_inference.vision import Meters, VisionCalls

pytestmark = pytest.mark.anyio

SMALL, CLASSIFIER = "nanodet-coco-416-int8", "efficientnet-lite0-224"
BLACK = Array.of(np.zeros((48, 64, 3), np.uint8))


@dataclass
class Rig:
    calls: VisionCalls
    models: list[Model]

    async def alone(self, *names: str) -> None:
        """Wait until only models called *names* are open."""
        with anyio.fail_after(10):
            while sorted(model.bundle.name for model in self.models) != sorted(names):
                await anyio.sleep(0.01)


@asynccontextmanager
async def rig(*, first: str = CLASSIFIER, roots: tuple[Path, ...] = ()) -> AsyncIterator[Rig]:
    config = HailoInferenceConfig(bundles=[DEFAULT_BUNDLE.parent / first], threads=1)
    runtimes = open_runtimes(config)
    models = open_models(config, runtimes)
    load = partial(open_model, config=config, runtimes=runtimes)
    async with anyio.create_task_group() as tasks:
        roster = Roster(models, load=load, roots=(*roots, DEFAULT_BUNDLE.parent), tasks=tasks)
        yield Rig(VisionCalls(roster, Meters(CollectorRegistry()), max_bytes=1 << 20), models)
        tasks.cancel_scope.cancel()


async def test_calls_at_full_rate_lose_nothing_by_twenty_switches(tmp_path: Path) -> None:
    new = shutil.copytree(DEFAULT_BUNDLE.parent / CLASSIFIER, tmp_path / "new")
    (new / MANIFEST).write_text((new / MANIFEST).read_text().replace('version = "1.0.0"', 'version = "2.0.0"'))
    answers: list[str] = []
    async with rig(roots=(tmp_path,)) as made:
        done = anyio.Event()

        async def call(name: str | None) -> None:
            while not done.is_set():
                answers.append((await made.calls.infer(picture=BLACK, model=name)).model_version)

        async with anyio.create_task_group() as callers:
            for name in (None, CLASSIFIER, None, CLASSIFIER):
                callers.start_soon(call, name)
            for round_ in range(20):
                folder = "new" if round_ % 2 == 0 else str(DEFAULT_BUNDLE.parent / CLASSIFIER)
                before = len(answers)
                info = await made.calls.switch(folder=folder)
                assert info.version == ("2.0.0" if round_ % 2 == 0 else "1.0.0")
                with anyio.fail_after(10):
                    while len(answers) < before + 4:
                        await anyio.sleep(0)
            done.set()
        await made.alone(CLASSIFIER)

    assert len(answers) > 80
    assert set(answers) == {"1.0.0", "2.0.0"}


async def test_a_request_in_flight_is_answered_by_the_old_model() -> None:
    async with rig() as made:
        old = made.models[0]
        answered: list[str] = []

        async def call() -> None:
            answered.append((await made.calls.infer(picture=BLACK)).model)

        async with anyio.create_task_group() as callers:
            for _ in range(8):
                callers.start_soon(call)
            await anyio.wait_all_tasks_blocked()
            await made.calls.switch(folder=SMALL)
        assert answered.count(CLASSIFIER) == 8 - answered.count(SMALL) > 0
        assert (await made.calls.infer(picture=BLACK, model=CLASSIFIER)).model == SMALL
        await made.alone(SMALL)
        (info,) = await made.calls.models()
        with pytest.raises(Exception, match="closed"):
            old.look(BLACK, source="")

    assert (info.name, info.default, info.answers_to) == (SMALL, True, [CLASSIFIER])


async def test_models_are_loaded_beside_and_unloaded() -> None:
    async with rig() as made:
        loaded = await made.calls.load(folder=SMALL)
        assert (loaded.name, loaded.default) == (SMALL, False)
        assert (await made.calls.infer(picture=BLACK, model=SMALL)).task == "detect"
        assert (await made.calls.infer(picture=BLACK)).task == "classify"
        for again, words in ((made.calls.load(folder=SMALL), "is loaded"), (made.calls.unload(name="x"), "unknown")):
            with pytest.raises(CallError, match=words):
                await again
        with pytest.raises(CallError, match="another model called"):
            await made.calls.switch(folder=SMALL, model=CLASSIFIER)
        with pytest.raises(CallError, match="answers callers who name no model"):
            await made.calls.unload(name=CLASSIFIER)

        await made.calls.unload(name=SMALL)

        await made.alone(CLASSIFIER)
        with pytest.raises(CallError, match="unknown model"):
            await made.calls.infer(picture=BLACK, model=SMALL)


async def test_a_bad_bundle_changes_nothing(tmp_path: Path) -> None:
    bad = shutil.copytree(DEFAULT_BUNDLE.parent / SMALL, tmp_path / "bad")
    (bad / f"{SMALL}.onnx").write_bytes(b"another model")
    wrong = shutil.copytree(DEFAULT_BUNDLE.parent / CLASSIFIER, tmp_path / "wrong")
    (wrong / MANIFEST).write_text((wrong / MANIFEST).read_text().replace('"probs"', '"nothing"'))
    async with rig(roots=(tmp_path,)) as made:
        for folder, words in (
            ("bad", "does not match"),
            ("wrong", "the model has no 'nothing'"),
            ("none", "no bundle there"),
        ):
            with pytest.raises(CallError, match=words) as caught:
                await made.calls.switch(folder=folder)
            assert (caught.value.kind, caught.value.data["field"]) == (CallErrorKind.INVALID_PARAMS, "folder")
        assert (await made.calls.infer(picture=BLACK)).model == CLASSIFIER
        await made.alone(CLASSIFIER)


async def test_a_picture_comes_once() -> None:
    async with rig() as made:
        with pytest.raises(CallError, match="either image or picture expected"):
            await made.calls.infer(image=b"x", picture=BLACK)
        with pytest.raises(CallError, match="picture: RGB pixels") as caught:
            await made.calls.infer(picture=Array.of(np.zeros((2, 2), np.uint8)))

    assert caught.value.data == {"field": "picture"}


def test_bundles_come_only_from_where_they_may(tmp_path: Path) -> None:
    inside, outside = tmp_path / "models", tmp_path / "elsewhere"
    (inside / "good").mkdir(parents=True)
    outside.mkdir()
    (inside / "leak").symlink_to(outside)

    assert bundle_folder("good", (inside,)) == inside / "good"
    assert bundle_folder(str(inside / "good"), (inside,)) == inside / "good"
    for bad in (str(outside), "../elsewhere", "leak", ".", "", str(inside), "/etc", "none"):
        with pytest.raises(ConfigError, match="no bundle there that may be loaded"):
            bundle_folder(bad, (inside,))
