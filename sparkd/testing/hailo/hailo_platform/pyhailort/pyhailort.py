"""Devices, virtual devices and HEF files."""

from __future__ import annotations

import os
import weakref
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Self

from .. import bench  # noqa: TID252 - the package is found under a name that is not ours
from ._pyhailort import DeviceArchitecture, FormatOrder, FormatType, HailoRTStatusException, SchedulingAlgorithm
from .chip import Chip
from .engine import Network
from .faults import (
    HailoCommunicationClosedException,
    HailoRTDriverOperationFailedException,
    HailoRTEthException,
    HailoRTException,
    HailoRTFirmwareControlFailedException,
    HailoRTHEFNotCompatibleWithDevice,
    HailoRTInvalidArgumentException,
    HailoRTInvalidFrameException,
    HailoRTInvalidHEFException,
    HailoRTInvalidOperationException,
    HailoRTNetworkGroupNotActivatedException,
    HailoRTNotFoundException,
    HailoRTPCIeDriverException,
    HailoRTStreamAborted,
    HailoRTStreamAbortedByUser,
    HailoRTTimeout,
    HailoRTUnsupportedOpcodeException,
    wrapped,
)
from .infer import AsyncInferCompletionInfo, AsyncInferJob, ConfiguredInferModel, InferModel, native_type

HailoSchedulingAlgorithm = SchedulingAlgorithm
INVALID_ARGUMENT, INVALID_OPERATION, UNSUPPORTED_OPCODE = 2, 6, 48


class VDeviceParams:
    """What a VDevice is made by. The defaults are Python's: no scheduler."""

    def __init__(self) -> None:
        self.device_ids: list[str] = []
        self.device_count = 1
        self.scheduling_algorithm = SchedulingAlgorithm.NONE
        self.group_id = "UNIQUE"
        self.multi_process_service = False


class VDevice:
    """The device, shared by models."""

    def __init__(self, params: VDeviceParams | None = None, *, device_ids: list[str] | None = None) -> None:
        self._chip: Chip | None = None
        self._creation_pid = os.getpid()
        given = params or VDeviceParams()
        if device_ids is not None:
            if given.device_ids:
                with wrapped():
                    raise HailoRTStatusException(INVALID_OPERATION)
            given = VDeviceParams()  # every other parameter is dropped, and there is no scheduler
        self._group = given.group_id
        # Ids and group are pointers into the parameters. Here they must live as long as the device: harder than real.
        self._params = weakref.ref(given) if params is given else lambda: given
        with wrapped():
            bench.enter("create", {**vars(given)})
            bench.seize(self._group)
        self._chip = Chip(SchedulingAlgorithm(given.scheduling_algorithm))

    @staticmethod
    def create_params() -> VDeviceParams:
        """Return the default parameters."""
        return VDeviceParams()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *args: object) -> None:
        self.release()

    def __del__(self) -> None:
        self.release()

    def release(self) -> None:
        """Give the device back."""
        chip, self._chip = self._chip, None
        if chip is not None:
            bench.enter("release")
            chip.close()
            bench.let_go(self._group)

    def create_infer_model(self, hef_source: str | bytes, name: str = "") -> InferModel:  # noqa: ARG002 - the real one
        """Make a model of a file or of its content."""
        if os.getpid() != self._creation_pid:
            raise HailoRTException("InferModel can be created only from the process VDevice was created in.")
        with wrapped():
            bench.enter("create_infer_model", type(hef_source).__name__)
            if self._params() is None or self._chip is None:
                raise HailoRTStatusException(INVALID_ARGUMENT)
            network = Network.read(_content(hef_source))
        return InferModel(network, hef_source, vdevice=self, hef=HEF)

    def configure(self, hef: HEF, configure_params_by_name: Any = None) -> list[Any]:
        """Begin the old way of inference."""
        raise NotImplementedError("the stand-in has the InferModel API only")

    def take(self, _model: InferModel) -> Chip:
        """Return the chip for a model that is being configured."""
        if self._chip is None:
            raise HailoRTStatusException(INVALID_OPERATION)
        return self._chip

    def get_physical_devices(self) -> list[Device]:
        """Return the devices."""
        return [Device(one) for one in self.get_physical_devices_ids()]

    def get_physical_devices_ids(self) -> list[str]:
        """Return the devices' ids."""
        return list(bench.board()["devices"])

    @property
    def loaded_network_groups(self) -> list[Any]:
        """Return what was configured the old way."""
        return []


class Control:
    """What firmware answers."""

    def identify(self) -> SimpleNamespace:
        """Say what it is."""
        with wrapped():
            bench.enter("identify")
            board = bench.board()
            major, minor, revision = board["firmware"]
            return SimpleNamespace(
                protocol_version=2,
                firmware_version=SimpleNamespace(major=major, minor=minor, revision=revision),
                logger_version=0,
                board_name="Hailo-8",
                is_release=True,
                device_architecture=DeviceArchitecture[board["architecture"]],
                serial_number="<N/A>",
                part_number="<N/A>",
                product_name="<N/A>",
            )

    def get_chip_temperature(self) -> SimpleNamespace:
        """Read both sensors."""
        with wrapped():
            bench.enter("temperature")
            heat = bench.board()["temperature_c"]
            return SimpleNamespace(ts0_temperature=heat, ts1_temperature=heat - 0.5, sample_count=1)

    def power_measurement(self, dvm: Any = None, measurement_type: Any = None) -> float:  # noqa: ARG002 - the real one
        """Return watts; boards without the sensor do not know the command."""
        with wrapped():
            bench.enter("power")
            watts = bench.board()["power_w"]
            if watts is None:
                raise HailoRTStatusException(UNSUPPORTED_OPCODE)
            return float(watts)


class Device:
    """One physical device. Its constructor and `scan` raise the raw exception, as the real ones may."""

    def __init__(self, device_id: str | None = None) -> None:
        bench.enter("device", device_id)
        found = bench.board()["devices"]
        if not found:
            raise HailoRTException("HailoRT device not found in the system")
        self._device_id = device_id or found[0]
        self._control = Control()

    @staticmethod
    def scan() -> list[str]:
        """Return the ids of all devices."""
        bench.enter("scan")
        return list(bench.board()["devices"])

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *args: object) -> None:
        self.release()

    @property
    def device_id(self) -> str:
        """Its address on the bus."""
        return str(self._device_id)

    @property
    def control(self) -> Control:
        """What firmware answers."""
        return self._control

    def release(self) -> None:
        """Give it back."""
        bench.note("device release")


class HEF:
    """A compiled model. What reads it may raise the raw exception."""

    def __init__(self, hef_source: str | bytes) -> None:
        bench.enter("hef")
        self._network = Network.read(_content(hef_source))

    def get_network_group_names(self) -> list[str]:
        """Return the groups' names."""
        return [self._network.name]

    def get_input_vstream_infos(self, name: str | None = None) -> list[SimpleNamespace]:  # noqa: ARG002 - the real one
        """Return the inputs."""
        return [_info(edge, FormatType.UINT8) for edge in self._network.inputs]

    def get_output_vstream_infos(self, name: str | None = None) -> list[SimpleNamespace]:  # noqa: ARG002 - the real one
        """Return the outputs."""
        return [_info(edge, native_type(edge)) for edge in self._network.outputs]

    def get_sorted_output_names(self) -> list[str]:
        """Return the outputs' names."""
        return [edge.name for edge in self._network.outputs]


def _info(edge: Any, kind: FormatType) -> SimpleNamespace:
    nms = edge.nms and SimpleNamespace(number_of_classes=edge.nms[0], max_bboxes_per_class=edge.nms[1])
    return SimpleNamespace(
        name=edge.name, shape=edge.shape, nms_shape=nms, format=SimpleNamespace(type=kind, order=edge.order, flags=0)
    )


def _content(source: str | bytes) -> bytes:
    return source if isinstance(source, bytes) else Path(source).read_bytes()


__all__ = [
    "HEF",
    "AsyncInferCompletionInfo",
    "AsyncInferJob",
    "ConfiguredInferModel",
    "Device",
    "FormatOrder",
    "FormatType",
    "HailoCommunicationClosedException",
    "HailoRTDriverOperationFailedException",
    "HailoRTEthException",
    "HailoRTException",
    "HailoRTFirmwareControlFailedException",
    "HailoRTHEFNotCompatibleWithDevice",
    "HailoRTInvalidArgumentException",
    "HailoRTInvalidFrameException",
    "HailoRTInvalidHEFException",
    "HailoRTInvalidOperationException",
    "HailoRTNetworkGroupNotActivatedException",
    "HailoRTNotFoundException",
    "HailoRTPCIeDriverException",
    "HailoRTStreamAborted",
    "HailoRTStreamAbortedByUser",
    "HailoRTTimeout",
    "HailoRTUnsupportedOpcodeException",
    "HailoSchedulingAlgorithm",
    "InferModel",
    "VDevice",
]
