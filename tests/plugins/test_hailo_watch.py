"""Watching over the device while the service runs: heat, loss, coming back."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import cast

import anyio
import pytest

from sparkd import CallError, CallErrorKind, Context, DeviceError, Troubles
from sparkd.testing.hailo import Board
from sparkd_plugins.hailo_inference import device_watch
from sparkd_plugins.hailo_inference.config import HailoInferenceConfig
from sparkd_plugins.hailo_inference.device import Runtimes
from sparkd_plugins.hailo_inference.device_config import HailoConfig
from sparkd_plugins.hailo_inference.device_lost import DeviceLostError
from sparkd_plugins.hailo_inference.device_watch import Heat, watch_over
from sparkd_plugins.hailo_inference.folder import ATTEMPTS
from tests.plugins.hailo_board import bench, board, hef_bundle, mean_hef
from tests.plugins.test_hailo_service import CHELSEA, RecordingContext, running

__all__ = ["board"]  # a fixture
pytestmark = pytest.mark.anyio
QUICK = HailoConfig(temperature_interval_s=0.02)


@pytest.fixture
def double(board: Board, tmp_path: Path) -> Iterator[RecordingContext]:
    bundle = hef_bundle(tmp_path / "bundle")
    yield RecordingContext(HailoInferenceConfig(backend="hailo", bundles=[bundle], hailo=QUICK), tmp_path)
    board.heal()
    bench().reset()


async def sees(double: RecordingContext, state: str) -> None:
    with anyio.fail_after(10):
        while not any(state in one for one in double.states):
            await double.bus.changed.wait()


def test_hot_is_above_the_limit_and_cool_five_degrees_below_it() -> None:
    heat = Heat(HailoConfig(hot_c=80.0, hot_rate=0.25))
    told = [(celsius, heat.takes(celsius), heat.hot, heat.rate) for celsius in (80.0, 80.5, 79.0, 75.5, 75.0, 79.9)]
    assert told == [
        (80.0, False, False, 1.0),
        (80.5, True, True, 0.25),
        (79.0, False, True, 0.25),
        (75.5, False, True, 0.25),
        (75.0, True, False, 1.0),
        (79.9, False, False, 1.0),
    ]


async def test_it_says_what_it_runs_on(double: RecordingContext) -> None:
    async with running(double):
        assert double.handler is not None
        assert [model.backend for model in await double.handler.models()] == ["hailo"]
        with anyio.fail_after(5):
            while not double.told:
                await anyio.sleep(0.01)
    assert double.told[0][0] == "runs on a Hailo"
    assert double.told[0][1]["chip"] == "HAILO8L"


async def test_a_hot_device_degrades_the_service_until_it_is_cool(double: RecordingContext, board: Board) -> None:
    async with running(double):
        board.change(temperature_c=97.0)
        await sees(double, "the Hailo has 97 degrees, hot_c is 90")
        assert double.count("sparkd_hailo_temperature_celsius") == 97.0
        board.change(temperature_c=60.0)
        await sees(double, "recovered")
        await anyio.sleep(0.1)
        assert double.count("sparkd_hailo_temperature_celsius") == 60.0
        assert double.count("sparkd_hailo_hot") == 0
    assert double.states[-1] == "recovered"


async def test_power_is_a_metric_if_it_is_measured(board: Board, tmp_path: Path) -> None:
    board.change(power_w=2.25)
    settings = HailoConfig(measure_power=True)
    bundle = hef_bundle(tmp_path / "bundle", hef=mean_hef())
    double = RecordingContext(HailoInferenceConfig(backend="hailo", bundles=[bundle], hailo=settings), tmp_path)
    async with running(double):
        with anyio.fail_after(5):
            while double.count("sparkd_hailo_power_watts") != 2.25:
                await anyio.sleep(0.01)


async def test_a_device_lost_in_mid_run_ends_the_service_and_fails_the_call_clearly(
    double: RecordingContext, board: Board
) -> None:
    with pytest.raises(BaseExceptionGroup) as ended:  # noqa: PT012 - the service ends inside
        async with running(double):
            assert double.handler is not None
            assert (await double.handler.infer(image=CHELSEA)).detections[0].label == "cat"
            board.fail("complete", 36)
            with pytest.raises(CallError, match="its driver failed") as caught:
                await double.handler.infer(image=CHELSEA)
            assert caught.value.kind is CallErrorKind.UNAVAILABLE
            assert "call again in a few seconds" in caught.value.data["remedy"]
            with anyio.fail_after(5):
                await anyio.sleep_forever()
    lost, _ = ended.value.split(DeviceLostError)
    assert lost is not None


async def test_a_picture_is_not_blamed_for_the_device_however_often(board: Board, tmp_path: Path) -> None:
    watched = tmp_path / "watched"
    watched.mkdir()
    (watched / "cat.png").write_bytes(CHELSEA)
    bundle = hef_bundle(tmp_path / "bundle")
    double = RecordingContext(HailoInferenceConfig(backend="hailo", bundles=[bundle], watch=watched), tmp_path)
    board.fail("complete", 36)
    for _ in range(ATTEMPTS + 1):
        with pytest.raises(BaseExceptionGroup) as ended:  # noqa: PT012 - the service ends inside
            async with running(double):
                with anyio.fail_after(5):
                    await anyio.sleep_forever()
        assert ended.value.split(DeviceLostError)[0] is not None
        bench().reset()
    assert double.bus.sources == []
    board.heal()
    async with running(double):
        await double.until(["cat.png"])
    (event,) = [event for event, _ in double.bus.stored.values()]
    assert [one.label for one in event.detections] == ["cat"]


async def test_a_device_that_does_not_answer_for_its_heat_is_lost_even_when_idle(
    double: RecordingContext, board: Board
) -> None:
    with pytest.raises(BaseExceptionGroup) as ended:  # noqa: PT012 - likewise
        async with running(double):
            board.fail("temperature", 62)
            with anyio.fail_after(5):
                await anyio.sleep_forever()
    assert ended.value.split(DeviceLostError)[0] is not None
    assert [event for event, _ in double.warnings] == ["hailo-temperature-unread"] * 3


async def test_one_reading_that_fails_is_nothing(double: RecordingContext, board: Board) -> None:
    board.fail("temperature", 18, times=2)
    async with running(double):
        with anyio.fail_after(5):
            while double.count("sparkd_hailo_temperature_celsius") != 45.0:
                await anyio.sleep(0.01)
    assert len(double.warnings) == 2


async def test_versions_that_differ_are_told_though_it_works(double: RecordingContext, board: Board) -> None:
    board.change(firmware=[4, 20, 0])
    async with running(double):
        with anyio.fail_after(5):
            while not double.warnings:
                await anyio.sleep(0.01)
    assert double.warnings[0][0] == "the Hailo's versions differ"
    assert "firmware 4.20.0, library 4.23.0" in str(double.warnings[0][1]["versions"])


async def test_on_the_cpu_though_a_device_is_there_until_it_can_be_used(
    double: RecordingContext, board: Board, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(device_watch, "RETRY_S", 0.02)
    board.fail("create", 73, times=2)
    ctx = cast("Context[HailoInferenceConfig]", double)
    runtimes = Runtimes("auto", 1, None, DeviceError("another process has it", remedy="stop it"))
    with anyio.fail_after(10), pytest.raises(DeviceError, match="can be used now"):
        await watch_over(ctx, runtimes, Heat(QUICK), Troubles(double))
    assert double.states[0] == "on the CPU: another process has it (stop it)"
    assert len(double.states) == 2  # the same reason is not told again


async def test_a_library_that_hung_is_tried_again_by_a_new_process(
    double: RecordingContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(device_watch, "RETRY_S", 0.02)
    ctx = cast("Context[HailoInferenceConfig]", double)
    with anyio.fail_after(10), pytest.raises(DeviceLostError):
        await watch_over(ctx, Runtimes("auto", 1, None, DeviceLostError("hangs")), Heat(QUICK), Troubles(double))


async def test_without_a_device_it_says_that_it_is_on_the_cpu(double: RecordingContext) -> None:
    await watch_over(cast("Context[HailoInferenceConfig]", double), Runtimes(), Heat(QUICK), Troubles(double))
    assert double.told == [("runs on the CPU", {"why": "no Hailo is there"})]
