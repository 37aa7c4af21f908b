"""The stand-in for hailo_platform: its signatures are the documented ones, and so are its traps."""

from __future__ import annotations

import gc
import importlib
import inspect
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sparkd.testing.hailo import Board, make_hef
from tests.plugins.hailo_board import asked, board, forget

__all__ = ["board"]  # a fixture

TOP = ["VDevice", "Device", "HEF", "FormatType", "HailoSchedulingAlgorithm", "HailoRTException"]
TOP += ["HailoRTStreamAbortedByUser", "HailoCommunicationClosedException", "AsyncInferJob"]
SIGNATURES = {
    "VDevice.__init__": "(self, params=None, *, device_ids=None)",
    "VDevice.create_params": "()",
    "VDevice.create_infer_model": "(self, hef_source, name='')",
    "VDevice.get_physical_devices": "(self)",
    "VDevice.get_physical_devices_ids": "(self)",
    "VDevice.release": "(self)",
    "InferModel.set_batch_size": "(self, batch_size)",
    "InferModel.set_power_mode": "(self, power_mode)",
    "InferModel.configure": "(self)",
    "InferModel.input": "(self, name='')",
    "InferModel.output": "(self, name='')",
    "InferModel.InferStream.set_format_type": "(self, type)",
    "InferModel.InferStream.set_format_order": "(self, order)",
    "InferModel.InferStream.set_nms_score_threshold": "(self, threshold)",
    "InferModel.InferStream.set_nms_iou_threshold": "(self, threshold)",
    "InferModel.InferStream.set_nms_max_proposals_per_class": "(self, max_proposals)",
    "InferModel.InferStream.set_nms_max_accumulated_mask_size": "(self, max_accumulated_mask_size)",
    "ConfiguredInferModel.create_bindings": "(self, input_buffers=None, output_buffers=None)",
    "ConfiguredInferModel.run": "(self, bindings, timeout)",
    "ConfiguredInferModel.run_async": "(self, bindings, callback=None)",
    "ConfiguredInferModel.wait_for_async_ready": "(self, timeout_ms=1000, frames_count=1)",
    "ConfiguredInferModel.get_async_queue_size": "(self)",
    "ConfiguredInferModel.activate": "(self)",
    "ConfiguredInferModel.deactivate": "(self)",
    "ConfiguredInferModel.set_scheduler_timeout": "(self, timeout_ms)",
    "ConfiguredInferModel.set_scheduler_threshold": "(self, threshold)",
    "ConfiguredInferModel.set_scheduler_priority": "(self, priority)",
    "ConfiguredInferModel.Bindings.input": "(self, name='')",
    "ConfiguredInferModel.Bindings.output": "(self, name='')",
    "ConfiguredInferModel.Bindings.InferStream.set_buffer": "(self, buffer)",
    "ConfiguredInferModel.Bindings.InferStream.get_buffer": "(self, tf_format=False)",
    "AsyncInferJob.wait": "(self, timeout_ms)",
    "Device.__init__": "(self, device_id=None)",
    "Device.scan": "()",
    "Device.release": "(self)",
    "Control.identify": "(self)",
    "Control.get_chip_temperature": "(self)",
    "HEF.get_network_group_names": "(self)",
    "HEF.get_input_vstream_infos": "(self, name=None)",
    "HEF.get_output_vstream_infos": "(self, name=None)",
    "HEF.get_sorted_output_names": "(self)",
}
PROPERTIES = {
    "InferModel": {"hef", "input_names", "output_names", "inputs", "outputs"},
    "InferModel.InferStream": {"name", "shape", "format", "quant_infos", "is_nms"},
    "AsyncInferCompletionInfo": {"exception"},
    "Device": {"device_id", "control"},
}
EXCEPTIONS = {
    4: "HailoRTTimeout",
    2: "HailoRTInvalidArgumentException",
    6: "HailoRTInvalidOperationException",
    18: "HailoRTFirmwareControlFailedException",
    19: "HailoRTEthException",
    25: "HailoRTInvalidFrameException",
    26: "HailoRTInvalidHEFException",
    36: "HailoRTDriverOperationFailedException",
    48: "HailoRTUnsupportedOpcodeException",
    61: "HailoRTNotFoundException",
    62: "HailoCommunicationClosedException",
    63: "HailoRTStreamAborted",
    69: "HailoRTNetworkGroupNotActivatedException",
    93: "HailoRTHEFNotCompatibleWithDevice",
}
NUMBERS = {
    "FormatType": {"AUTO": 0, "UINT8": 1, "UINT16": 2, "FLOAT32": 3},
    "HailoSchedulingAlgorithm": {"NONE": 0, "ROUND_ROBIN": 1},
    "FormatOrder": {"NHWC": 1, "NC": 6, "HAILO_NMS": 9, "NCHW": 11, "HAILO_NMS_BY_CLASS": 22, "HAILO_NMS_BY_SCORE": 23},
}
MEAN_HEF = make_hef("mean", inputs=[{"name": "in", "shape": [2, 2, 3]}], outputs=[{"name": "out", "shape": [4]}])


def inner() -> Any:
    return importlib.import_module("hailo_platform.pyhailort.pyhailort")


def found(path: str) -> Any:
    value: Any = inner()
    for part in path.split("."):
        value = getattr(value, part, None) or getattr(importlib.import_module(value.__name__), part)
    return value


def plain(function: Any) -> str:
    """Return a signature without annotations."""
    signature = inspect.signature(function)
    bare = [one.replace(annotation=inspect.Parameter.empty) for one in signature.parameters.values()]
    return str(inspect.Signature(bare))


@pytest.mark.parametrize("path", SIGNATURES)
def test_a_signature_is_the_documented_one(board: Board, path: str) -> None:
    assert plain(found(path)) == SIGNATURES[path]


@pytest.mark.parametrize("path", PROPERTIES)
def test_properties_are_the_documented_ones(board: Board, path: str) -> None:
    kind = found(path)
    assert {name for name in dir(kind) if isinstance(getattr(kind, name), property)} == PROPERTIES[path]


def test_the_top_level_has_few_exceptions_and_the_inner_module_has_all(board: Board) -> None:
    top = importlib.import_module("hailo_platform")
    assert all(hasattr(top, name) for name in TOP)
    assert top.__version__ == "4.23.0"
    assert not hasattr(top, "HailoRTTimeout")
    for name in EXCEPTIONS.values():
        assert issubclass(getattr(inner(), name), top.HailoRTException)
    assert inner().HailoRTPCIeDriverException is inner().HailoRTDriverOperationFailedException


def test_statuses_become_the_documented_exceptions(board: Board) -> None:
    faults = importlib.import_module("hailo_platform.pyhailort.faults")
    statuses = importlib.import_module("hailo_platform.pyhailort._pyhailort").STATUS
    inner()
    for code, name in statuses.items():
        error = faults.exception_of(code)
        assert type(error).__name__ == EXCEPTIONS.get(code, "HailoRTException")
        if code not in EXCEPTIONS:
            assert str(error) == f"libhailort failed with error: {code} ({name})"


def test_numbers_of_enumerations_are_the_documented_ones(board: Board) -> None:
    for kind, names in NUMBERS.items():
        assert {name: int(getattr(getattr(inner(), kind), name)) for name in names} == names


def opened(*, scheduled: bool = True) -> tuple[Any, Any]:
    params = inner().VDevice.create_params()
    if scheduled:
        params.scheduling_algorithm = inner().HailoSchedulingAlgorithm.ROUND_ROBIN
    return inner().VDevice(params), params


def bindings(configured: Any, kind: type[np.generic] = np.float32) -> Any:
    return configured.create_bindings(
        input_buffers={"in": np.full((2, 2, 3), 6, np.uint8)}, output_buffers={"out": np.zeros(4, kind)}
    )


def test_it_computes_and_eight_bits_come_out_unless_floats_are_asked_for(board: Board) -> None:
    vdevice, _params = opened()
    coarse = vdevice.create_infer_model(MEAN_HEF)
    fine = vdevice.create_infer_model(MEAN_HEF)
    fine.output().set_format_type(inner().FormatType.FLOAT32)
    for model, kind, value in ((coarse, np.uint8, 192), (fine, np.float32, 6.0)):
        with model.configure() as configured:
            frame = bindings(configured, kind)
            configured.run([frame], 1000)
            assert frame.output().get_buffer(None).tolist() == [value] * 4
    with pytest.raises(inner().HailoRTInvalidArgumentException):
        bindings(coarse.configure(), np.float32)
    vdevice.release()


def test_without_a_scheduler_a_model_must_be_activated_and_only_one_can_be(board: Board) -> None:
    vdevice, params = opened(scheduled=False)
    assert params.scheduling_algorithm == inner().HailoSchedulingAlgorithm.NONE
    first, second = (vdevice.create_infer_model(MEAN_HEF).configure() for _ in range(2))
    with pytest.raises(inner().HailoRTNetworkGroupNotActivatedException):
        first.run_async([bindings(first, np.uint8)])
    first.activate()
    first.run([bindings(first, np.uint8)], 1000)
    with pytest.raises(inner().HailoRTInvalidOperationException):
        second.activate()
    with pytest.raises(inner().HailoRTInvalidOperationException):
        first.set_scheduler_priority(16)
    vdevice.release()


def test_device_ids_drop_all_other_parameters(board: Board) -> None:
    vdevice = inner().VDevice(device_ids=["0001:01:00.0"])
    assert asked("create")[-1]["scheduling_algorithm"] == 0
    vdevice.release()
    params = inner().VDevice.create_params()
    params.device_ids = ["0001:01:00.0"]
    with pytest.raises(inner().HailoRTInvalidOperationException):
        inner().VDevice(params, device_ids=["0001:01:00.0"])


def test_parameters_that_are_gone_are_a_fault(board: Board) -> None:
    vdevice, params = opened()
    del params
    gc.collect()
    with pytest.raises(inner().HailoRTInvalidArgumentException):
        vdevice.create_infer_model(MEAN_HEF)
    vdevice.release()


def test_a_callback_that_raises_leaves_the_job_undone(board: Board) -> None:
    vdevice, _params = opened()
    configured = vdevice.create_infer_model(MEAN_HEF).configure()

    def bad(**_told: object) -> None:
        raise ZeroDivisionError

    job = configured.run_async([bindings(configured, np.uint8)], bad)
    with pytest.raises(inner().HailoRTTimeout):
        job.wait(100)
    assert asked("callback raised") == ["ZeroDivisionError()"]
    vdevice.release()


def test_after_an_error_in_its_work_a_model_is_dead(board: Board) -> None:
    vdevice, _params = opened()
    configured = vdevice.create_infer_model(MEAN_HEF).configure()
    board.fail("complete", 36, times=1)
    told: list[Any] = []

    def note(completion_info: Any) -> None:
        told.append(completion_info)

    job = configured.run_async([bindings(configured, np.uint8)], note)
    job.wait(1000)
    assert isinstance(told[0].exception, inner().HailoRTDriverOperationFailedException)
    board.heal()
    with pytest.raises(inner().HailoRTStreamAborted):
        configured.run_async([bindings(configured, np.uint8)])
    vdevice.release()


def test_more_frames_than_the_queue_holds_can_only_time_out(board: Board) -> None:
    vdevice, _params = opened()
    configured = vdevice.create_infer_model(MEAN_HEF).configure()
    configured.wait_for_async_ready(timeout_ms=50, frames_count=configured.get_async_queue_size())
    with pytest.raises(inner().HailoRTTimeout):
        configured.wait_for_async_ready(timeout_ms=50, frames_count=configured.get_async_queue_size() + 1)
    vdevice.release()


def test_a_group_shares_the_device_and_unique_ones_do_not(board: Board) -> None:
    vdevice, _params = opened()
    with pytest.raises(inner().HailoRTException, match="74"):
        opened()
    vdevice.release()
    shared = []
    for _ in range(2):
        params = inner().VDevice.create_params()
        params.group_id = "SHARED"
        shared.append((inner().VDevice(params), params))
    for one, _ in shared:
        one.release()
    opened()[0].release()


def test_scan_device_and_hef_raise_the_raw_exception(board: Board) -> None:
    raw = importlib.import_module("hailo_platform.pyhailort._pyhailort").HailoRTStatusException
    module = inner()
    assert not issubclass(raw, module.HailoRTException)
    for operation, act in {
        "scan": module.Device.scan,
        "device": module.Device,
        "hef": lambda: module.HEF(MEAN_HEF),
    }.items():
        board.fail(operation, 64)
        with pytest.raises(raw) as caught:
            act()
        assert caught.value.args == (64,)


def test_a_hang_lasts_until_it_is_taken_off(board: Board) -> None:
    module = inner()
    board.change(hangs=["scan"])
    done: list[Any] = []
    thread = threading.Thread(target=lambda: done.append(module.Device.scan()))
    thread.start()
    thread.join(0.1)
    assert thread.is_alive()
    board.heal()
    thread.join(5)
    assert done == [["0001:01:00.0"]]


def test_a_half_installed_package_raises_at_import(board: Board, tmp_path: Path) -> None:
    for how, kind in (("no library", "MissingPyHRTLib"), ("mismatch", "ImportError")):
        board.change(**{"import": how})
        forget()
        with pytest.raises(Exception) as caught:  # noqa: PT011 - by its name: the class comes with the module
            importlib.import_module("hailo_platform")
        assert type(caught.value).__name__ == kind
