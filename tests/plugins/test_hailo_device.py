"""The Hailo backend on the stand-in: the shipped code, every failure, each with its sentence and remedy."""

from __future__ import annotations

import fcntl
import importlib
import sys
import threading
import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sparkd import ConfigError, DeviceError
from sparkd.testing.hailo import Board, make_hef
from sparkd_plugins.hailo_inference.backend import DeviceLostError
from sparkd_plugins.hailo_inference.bundle import read_bundle
from sparkd_plugins.hailo_inference.config import HailoInferenceConfig
from sparkd_plugins.hailo_inference.demo import PICTURES
from sparkd_plugins.hailo_inference.device import Runtimes, open_runtimes
from sparkd_plugins.hailo_inference.device_config import HailoConfig
from sparkd_plugins.hailo_inference.device_faults import FAULTS, Versions, code_of, explain
from sparkd_plugins.hailo_inference.device_guard import Guard
from sparkd_plugins.hailo_inference.device_hailo import HailoDevice
from sparkd_plugins.hailo_inference.device_hailo_model import _noting
from sparkd_plugins.hailo_inference.picture import encode
from sparkd_plugins.hailo_inference.pipeline import open_models
from tests.plugins.hailo_board import asked, bench, board, hef_bundle, mean_hef, on_a_machine

__all__ = ["board"]  # a fixture

QUICK = HailoConfig(timeout_s=0.3)


def loaded(bundle: Path, config: HailoConfig | None = None) -> tuple[Runtimes, Any]:
    settings = HailoInferenceConfig(backend="hailo", bundles=[bundle], hailo=config or HailoConfig())
    runtimes = open_runtimes(settings)
    try:
        return runtimes, open_models(settings, runtimes)[0]
    except BaseException:
        runtimes.close()
        raise


def frame(value: int) -> Any:
    return np.full((1, 416, 416, 3), value, np.float32)


def test_the_device_finds_what_the_cpu_finds(board: Board, tmp_path: Path) -> None:
    bundle = hef_bundle(tmp_path / "bundle")
    (on_cpu,) = open_models(HailoInferenceConfig(backend="onnxruntime", bundles=[bundle]))
    runtimes, on_device = loaded(bundle)
    for picture in ("chelsea.png", "astronaut.png"):
        content = (PICTURES / picture).read_bytes()
        here, there = (model.look(content, source="") for model in (on_cpu, on_device))
        assert [one.label for one in there.detections] == [one.label for one in here.detections]
        assert here.detections
        for ours, theirs in zip(here.detections, there.detections, strict=True):
            assert np.allclose(ours.box, theirs.box, atol=0.1)
        assert there.backend == "hailo"
    assert on_device.info.backend == "hailo"
    on_device.backend.close()
    runtimes.close()


def test_it_turns_the_scheduler_on_and_asks_for_floats(board: Board, tmp_path: Path) -> None:
    runtimes, model = loaded(hef_bundle(tmp_path / "bundle", hef=mean_hef()))
    (params,) = asked("create")
    assert params["scheduling_algorithm"] == 1
    assert params["device_ids"] == []
    types = dict(asked("set_format_type"))
    assert types.pop("images") == 1  # pixels as they are
    assert set(types.values()) == {3}
    assert len(types) == 6
    assert asked("set_batch_size") == [8]
    model.backend.close()
    runtimes.close()
    assert asked("release") == [None]


@pytest.mark.parametrize("set_by_operator", ["", "/var/log/hailort"])
def test_the_library_writes_no_log_into_the_current_folder(
    board: Board, monkeypatch: pytest.MonkeyPatch, set_by_operator: str
) -> None:
    monkeypatch.setenv("HAILORT_LOGGER_PATH", set_by_operator)  # so that it is put back
    if not set_by_operator:
        monkeypatch.delenv("HAILORT_LOGGER_PATH")
    HailoDevice.open(HailoConfig()).close()
    assert asked("import") == [set_by_operator or "NONE"]


def test_a_manifest_that_normalises_has_the_library_take_floats(board: Board, tmp_path: Path) -> None:
    changes = [("std = [1, 1, 1]", "std = [2, 2, 2]")]
    runtimes, model = loaded(hef_bundle(tmp_path / "bundle", hef=mean_hef(), changes=changes))
    assert dict(asked("set_format_type"))["images"] == 3
    (outputs,) = model.backend.infer([frame(1) / 3])
    assert np.allclose(outputs["cls_s32"], 1 / 3)
    runtimes.close()


def test_more_than_a_batch_is_taken_in_turns_and_comes_back_in_order(board: Board, tmp_path: Path) -> None:
    runtimes, model = loaded(hef_bundle(tmp_path / "bundle", hef=mean_hef()))
    found = model.backend.infer([frame(value) for value in range(20)])
    assert [int(outputs["cls_s8"][0, 0, 0]) for outputs in found] == list(range(20))
    assert found[0]["cls_s8"].shape == (1, 2704, 80)
    assert asked("run_async") == [8, 8, 4]
    runtimes.close()


def test_a_batch_is_never_more_than_the_devices_queue_holds(board: Board, tmp_path: Path) -> None:
    board.change(queue=2)
    runtimes, model = loaded(hef_bundle(tmp_path / "bundle", hef=mean_hef()))
    assert model.backend.max_batch == 2
    assert len(model.backend.infer([frame(1)] * 3)) == 3
    assert asked("run_async") == [2, 1]
    runtimes.close()


def test_several_models_run_at_once_on_one_device(board: Board, tmp_path: Path) -> None:
    device = HailoDevice.open(HailoConfig())
    runtimes = Runtimes("hailo", 1, device)
    folders = [hef_bundle(tmp_path / f"bundle{number}", hef=mean_hef(name=f"net{number}")) for number in range(3)]
    backends = [runtimes.load(read_bundle(folder, variants=device.variants)) for folder in folders]
    wrong: list[int] = []

    def work(number: int) -> None:
        for value in range(10):
            (outputs,) = backends[number].infer([frame(10 * number + value)])
            if outputs["reg_s8"][0, 0, 0] != 10 * number + value:
                wrong.append(value)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert not wrong
    assert len(asked("run_async")) == 30
    assert len(asked("create")) == 1
    for backend in backends:
        backend.close()
    with pytest.raises(DeviceError, match="is closed"):
        backends[0].infer([frame(1)])
    runtimes.close()


@pytest.mark.parametrize("by_score", [False, True])
def test_lists_of_boxes_come_raw(board: Board, tmp_path: Path, by_score: bool) -> None:  # noqa: FBT001 - a parameter
    output = {"name": "nms", "shape": [], "nms": [2, 3], "by_score": by_score}
    hef = make_hef("bright", inputs=[{"name": "images", "shape": [8, 8, 3]}], outputs=[output])
    changes = [("width = 416", "width = 8"), ("height = 416", "height = 8")]
    bundle = read_bundle(hef_bundle(tmp_path / "bundle", hef=hef, changes=changes), variants=("hailo8l",))
    device = HailoDevice.open(HailoConfig())
    backend = device.load(bundle, {"images": [1, 8, 8, 3]}, {"nms": [1, 32]})
    tensor = np.zeros((1, 8, 8, 3), np.uint8)
    tensor[0, 2:4, 4:8] = 255
    (outputs,) = backend.infer([tensor])
    found = outputs["nms"][0]
    if by_score:
        assert found.dtype == np.uint8
        assert found[:2].tobytes() == b"\1\0"
        assert np.allclose(found[2:22].view("<f4"), [0.25, 0.5, 0.5, 1.0, 0.9])
    else:
        assert np.allclose(found[:6], [1, 0.25, 0.5, 0.5, 1.0, 0.9])
    with pytest.raises(DeviceError, match=r"takes no tensor of shape \(1, 9, 8, 3\)"):
        backend.infer([np.zeros((1, 9, 8, 3), np.uint8)])
    backend.close()
    device.close()


NMS = """
[outputs]
decoder = "{decoder}"
output = "nms"
{more}

[thresholds]
"""


@pytest.mark.parametrize(("decoder", "more"), [("nms-by-class", "max_boxes = 3"), ("nms-by-score", "")])
def test_a_model_that_lists_its_boxes_finds_them_in_the_picture(
    board: Board, tmp_path: Path, decoder: str, more: str
) -> None:
    output = {"name": "nms", "shape": [], "nms": [80, 3], "by_score": decoder == "nms-by-score"}
    hef = make_hef("bright", inputs=[{"name": "images", "shape": [416, 416, 3]}], outputs=[output])
    folder = hef_bundle(tmp_path / "bundle", hef=hef)
    manifest = folder / "manifest.hailo8l.toml"
    head, _, rest = manifest.read_text().partition("[outputs]")
    manifest.write_text(head + NMS.format(decoder=decoder, more=more) + rest.partition("[thresholds]")[2])
    runtimes, model = loaded(folder)
    pixels = np.zeros((200, 400, 3), np.uint8)
    pixels[50:100, 100:300] = 255
    (found,) = model.look(encode(pixels, suffix=".png"), source="").detections
    assert found.label == "person"
    assert found.score == pytest.approx(0.9)
    assert np.allclose(found.box, [100, 50, 300, 100], atol=1.5)
    black = encode(np.zeros((200, 400, 3), np.uint8), suffix=".png")
    assert model.look(black, source="").detections == []
    model.backend.close()
    runtimes.close()


def test_a_manifest_with_another_number_of_boxes_is_refused(board: Board, tmp_path: Path) -> None:
    output = {"name": "nms", "shape": [], "nms": [80, 3]}
    hef = make_hef("bright", inputs=[{"name": "images", "shape": [416, 416, 3]}], outputs=[output])
    folder = hef_bundle(tmp_path / "bundle", hef=hef)
    manifest = folder / "manifest.hailo8l.toml"
    head, _, rest = manifest.read_text().partition("[outputs]")
    wrong = NMS.format(decoder="nms-by-class", more="max_boxes = 100")
    manifest.write_text(head + wrong + rest.partition("[thresholds]")[2])
    with pytest.raises(ConfigError, match=r"'nms' should have shape \[1, 40080\] by this manifest"):
        loaded(folder)


OPENING = {
    16: "firmware's version",
    64: "driver is not installed",
    73: "another process has it",
    74: "no device is free",
    76: "driver's version",
    77: "hailort.service does not answer",
    78: "version of hailort.service",
    81: "contiguous memory",
    36: "its driver failed",
}


@pytest.mark.parametrize("code", OPENING)
@pytest.mark.parametrize("operation", ["create", "device", "identify"])
def test_what_can_go_wrong_at_opening_has_a_sentence_and_a_remedy(board: Board, code: int, operation: str) -> None:
    board.fail(operation, code)
    with pytest.raises(DeviceError, match=OPENING[code]) as caught:
        HailoDevice.open(HailoConfig())
    assert f"status {code}" in str(caught.value)
    assert caught.value.remedy == FAULTS[code][1]
    assert not isinstance(caught.value, DeviceLostError)
    board.heal()
    HailoDevice.open(HailoConfig()).close()  # and nothing was left open


def test_versions_that_disagree_are_named(board: Board, tmp_path: Path) -> None:
    root = on_a_machine(tmp_path / "machine", version="4.20.0")
    device = HailoDevice.open(HailoConfig(), root=root)
    assert device.versions == Versions("4.20.0", "4.23.0", "4.23.0")
    assert device.versions.differ
    device.close()
    board.fail("create", 76)
    with pytest.raises(DeviceError, match=r"driver 4.20.0, firmware unknown, library 4.23.0"):
        HailoDevice.open(HailoConfig(), root=root)


def test_another_process_that_has_the_device_is_told(board: Board) -> None:
    with Path(f"{board.path}.lock").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(DeviceError, match="another process has it") as caught:
            HailoDevice.open(HailoConfig())
    assert "lsof /dev/hailo0" in caught.value.remedy
    HailoDevice.open(HailoConfig()).close()


def test_every_status_is_recognised_in_each_of_its_forms(board: Board) -> None:
    faults = importlib.import_module("hailo_platform.pyhailort.faults")
    compiled = importlib.import_module("hailo_platform.pyhailort._pyhailort")
    for code in compiled.STATUS:
        raw = compiled.HailoRTStatusException(code)
        with pytest.raises(Exception) as caught, faults.wrapped():  # noqa: PT011 - its class is what is looked at
            raise raw
        assert [code_of(raw), code_of(caught.value), code_of(faults.exception_of(code))] == [code] * 3
    assert code_of(ValueError("3")) is None
    assert "ValueError: 3" in str(explain(ValueError("3"), doing="it"))


def test_with_auto_the_cpu_steps_in_for_a_model_that_the_device_refuses(board: Board, tmp_path: Path) -> None:
    folder = hef_bundle(tmp_path / "bundle", hef=mean_hef(architecture="HAILO8"))
    config = HailoInferenceConfig(bundles=[folder], threads=1)
    runtimes = open_runtimes(config, root=on_a_machine(tmp_path / "root"))
    try:
        (model,) = open_models(config, runtimes)
        assert model.backend.name == "onnxruntime"
        assert "compiled for a Hailo-8" in str(runtimes.on_cpu[model.bundle.name])
        model.backend.close()

        (folder / "manifest.toml").unlink()
        with pytest.raises(ConfigError, match="compiled for a Hailo-8"):
            open_models(config, runtimes)
    finally:
        runtimes.close()


def test_a_model_for_the_8_is_refused_by_an_8l(board: Board, tmp_path: Path) -> None:
    folder = hef_bundle(tmp_path / "bundle", hef=mean_hef(architecture="HAILO8"))
    with pytest.raises(ConfigError, match=r"hailo8l\.hef: .*compiled for a Hailo-8, and this is a Hailo-8L"):
        loaded(folder)
    board.change(architecture="HAILO8")
    runtimes, _ = loaded(folder)
    runtimes.close()


def test_the_best_model_for_the_chip_is_taken(board: Board, tmp_path: Path) -> None:
    folder = hef_bundle(tmp_path / "bundle", hef=mean_hef())
    hef_bundle(folder, hef=mean_hef(architecture="HAILO8"), variant="hailo8")
    for chip, file in (("HAILO8L", "hailo8l.hef"), ("HAILO8", "hailo8.hef")):
        board.change(architecture=chip)
        runtimes, model = loaded(folder)
        assert model.bundle.model == file
        runtimes.close()


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (('name = "images"', 'name = "pictures"'), "[input]: 'pictures' is not the HEF's input: images"),
        (("width = 416", "width = 320"), "[input]: 'images' should have shape [1, 416, 320, 3]"),
        (("bins = 11", "bins = 12"), "'reg_s8' should have shape [1, 2704, 48] by this manifest"),
        (('scores = "cls_s', 'scores = "klass_s'), "[outputs]: the HEF has no 'klass_s8', only cls_s8"),
    ],
)
def test_a_manifest_that_does_not_fit_its_hef_is_refused(
    board: Board, tmp_path: Path, change: tuple[str, str], problem: str
) -> None:
    folder = hef_bundle(tmp_path / "bundle", hef=mean_hef(), changes=[change])
    with pytest.raises(ConfigError) as caught:
        loaded(folder)
    assert problem in str(caught.value)
    assert "manifest.hailo8l.toml" in str(caught.value)


def test_what_is_no_hef_is_refused(board: Board, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="not a HEF that this library can read"):
        loaded(hef_bundle(tmp_path / "bundle", hef=b"not a hef"))
    with pytest.raises(ConfigError, match=r"no model for this Hailo, and backend = 'hailo'"):
        loaded(Path(HailoInferenceConfig().bundle_folders[0]))


@pytest.mark.parametrize("code", [4, 36, 62, 63, 87, 18])
@pytest.mark.parametrize("operation", ["complete", "run_async", "ready"])
def test_an_error_in_its_work_loses_the_device_for_good(
    board: Board, tmp_path: Path, operation: str, code: int
) -> None:
    runtimes, model = loaded(hef_bundle(tmp_path / "bundle", hef=mean_hef()))
    assert runtimes.hailo is not None
    told: list[int] = []
    runtimes.hailo.when_lost = lambda: told.append(1)
    model.backend.infer([frame(1)])
    board.fail(operation, code, times=1)
    with pytest.raises(DeviceLostError, match=FAULTS[code][0]) as caught:
        model.backend.infer([frame(1)])
    assert caught.value.remedy
    board.heal()
    with pytest.raises(DeviceLostError):
        model.backend.infer([frame(1)])
    with pytest.raises(DeviceLostError):
        runtimes.hailo.read()
    assert told == [1]
    model.backend.close()
    runtimes.close()
    assert asked("release") == []  # tearing it down is what hangs
    bench().reset()


@pytest.mark.parametrize("operation", ["complete", "run_async", "ready"])
def test_work_that_never_ends_is_given_up_in_time(board: Board, tmp_path: Path, operation: str) -> None:
    runtimes, model = loaded(hef_bundle(tmp_path / "bundle", hef=mean_hef()))
    assert runtimes.hailo is not None
    runtimes.hailo.config = QUICK
    board.change(hangs=[operation])
    begun = time.monotonic()
    with pytest.raises(DeviceLostError, match=r"in time|has not returned within"):
        model.backend.infer([frame(1)])
    assert time.monotonic() - begun < 2.5
    board.heal()
    bench().reset()


@pytest.mark.parametrize("operation", ["create", "identify"])
def test_an_opening_that_hangs_is_left_behind(board: Board, operation: str) -> None:
    bench()  # imported: that takes its time on a machine at work
    board.change(hangs=[operation])
    with pytest.raises(DeviceLostError, match=r"opening it: the library has not returned within 0\.3 s"):
        HailoDevice.open(QUICK)
    board.heal()
    bench().reset()


@pytest.mark.parametrize("operation", ["configure", "temperature"])
def test_calls_that_hang_are_left_behind(board: Board, tmp_path: Path, operation: str) -> None:
    device = HailoDevice.open(HailoConfig())
    bundle = read_bundle(hef_bundle(tmp_path / "bundle", hef=mean_hef()), variants=device.variants)
    device.config = QUICK
    board.change(hangs=[operation])
    work = device.read if operation == "temperature" else partial(Runtimes("hailo", 1, device).load, bundle)
    with pytest.raises(DeviceLostError, match=r"has not returned within 0\.3 s"):
        work()
    assert device.lost is not None
    board.heal()
    bench().reset()


def test_a_guard_that_is_stuck_calls_nothing_more() -> None:
    guard, gate, called = Guard("test"), threading.Event(), []
    with pytest.raises(DeviceLostError):
        guard.call(gate.wait, limit_s=0.05, doing="waiting")
    with pytest.raises(DeviceLostError, match="the library hangs: waiting"):
        guard.call(lambda: called.append(1), limit_s=5, doing="more")
    gate.set()
    assert not called


def test_a_callback_takes_anything_and_raises_nothing() -> None:
    outcome: list[BaseException | None] = []
    note = _noting(outcome)
    note(completion_info=None)
    note()
    note(1, 2, completion_info=object())
    assert len(outcome) == 3
    assert all(isinstance(one, Exception) for one in outcome)


def test_heat_is_read_and_power_only_if_config_says_so(board: Board) -> None:
    device = HailoDevice.open(HailoConfig())
    assert device.read().celsius == 45.0
    assert device.read().watts is None
    assert asked("power") == []
    device.close()
    board.change(power_w=2.5)
    device = HailoDevice.open(HailoConfig(measure_power=True))
    assert device.read().watts == 2.5
    device.close()
    board.change(power_w=None)
    device = HailoDevice.open(HailoConfig(measure_power=True))
    readings = [device.read() for _ in range(3)]
    assert [(one.celsius, one.watts) for one in readings] == [(45.0, None)] * 3
    assert len(asked("power")) == 2  # one of this device: a board without the sensor is asked once
    device.close()


def test_auto_takes_the_cpu_where_no_device_is_and_imports_nothing(board: Board, tmp_path: Path) -> None:
    runtimes = open_runtimes(HailoInferenceConfig(bundles=[hef_bundle(tmp_path / "b")]), root=tmp_path / "bare")
    assert runtimes.hailo is None
    assert runtimes.unused is None
    assert "hailo_platform" not in sys.modules


def test_auto_takes_the_device_that_is_there(board: Board, tmp_path: Path) -> None:
    config = HailoInferenceConfig(bundles=[hef_bundle(tmp_path / "b", hef=mean_hef())])
    runtimes = open_runtimes(config, root=on_a_machine(tmp_path / "machine"))
    (model,) = open_models(config, runtimes)
    assert model.backend.name == "hailo"
    runtimes.close()


def test_auto_says_why_a_device_that_is_there_is_not_used(board: Board, tmp_path: Path) -> None:
    root = on_a_machine(tmp_path / "machine")
    config = HailoInferenceConfig(bundles=[hef_bundle(tmp_path / "b", hef=mean_hef())])
    board.fail("create", 76)
    runtimes = open_runtimes(config, root=root)
    assert runtimes.unused is not None
    assert "driver 4.23.0" in str(runtimes.unused)
    assert open_models(config, runtimes)[0].backend.name == "onnxruntime"
    bare = open_runtimes(HailoInferenceConfig(), root=root)
    assert "no bundle has a model for it" in str(bare.unused)


@pytest.mark.parametrize("how", ["no library", "mismatch", "absent"])
def test_a_library_that_cannot_be_imported_has_a_remedy(
    board: Board, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    if how == "absent":
        monkeypatch.setitem(sys.modules, "hailo_platform", None)
    board.change(**{"import": how})
    with pytest.raises(DeviceError, match="hailo_platform cannot be imported") as caught:
        open_runtimes(HailoInferenceConfig(backend="hailo"))
    assert "apt install hailo-all" in caught.value.remedy


def test_a_model_for_the_device_alone_says_that_there_is_none(tmp_path: Path) -> None:
    folder = hef_bundle(tmp_path / "b", hef=mean_hef())
    (folder / "manifest.hailo8l.toml").replace(folder / "manifest.toml")
    with pytest.raises(DeviceError, match="is for a Hailo, and there is none here"):
        Runtimes().load(read_bundle(folder))


@pytest.mark.parametrize(
    "values", [{"batch": 0}, {"batch": 65}, {"timeout_s": 0.0}, {"hot_rate": 1.5}, {"temperature_interval_s": -1.0}]
)
def test_settings_that_cannot_be_are_refused(values: dict[str, Any]) -> None:
    (key,) = values
    with pytest.raises(ValueError, match=f"^{key}: "):
        HailoConfig(**values)
