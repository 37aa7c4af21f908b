"""The Hailo-8 and 8L, by hailo_platform 4.23: the one file that imports it.

Theory of operation. One VDevice, with the round-robin scheduler, is shared by all models of the process (Python's
default is no scheduler, and then only one model runs). Inference is asynchronous, with a limit on every wait; every
call into the library is made by a thread that can be left behind (`Guard`), because some hang inside it. After an
error in its work the library's pipeline is dead for good, and nothing in this process brings it back: the device is
`lost`. Whoever is told so ends the service, and a new process opens the device afresh. What a lost device may still
write to, and what would hang while it is torn down, is kept until the process ends.
"""

from __future__ import annotations

import contextlib
import importlib
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from sparkd import ConfigError, DeviceError

from .backend import Backend
from .bundle import Bundle
from .device_config import HailoConfig
from .device_faults import UNSUPPORTED_OPCODE, Versions, code_of, explain
from .device_guard import Guard
from .device_hailo_model import Loading
from .device_lost import DeviceLostError, abandoned

T = TypeVar("T")
RELEASE_LIMIT_S = 2.0
VARIANTS = {"HAILO8": ("hailo8", "hailo8l"), "HAILO8L": ("hailo8l",)}
"""Which models a chip runs, best first. One for the 8L runs on the 8, more slowly; not the other way round."""


def is_there(root: Path = Path("/")) -> bool:
    """Whether this machine has a Hailo with its driver loaded. Looks at names only: importing the library wakes it."""
    return any(root.glob("dev/hailo[0-9]*")) or any(root.glob("sys/class/hailo_chardev/*"))


@dataclass(frozen=True, slots=True)
class Reading:
    """What the chip says of itself."""

    celsius: float
    watts: float | None = None


@dataclass
class HailoDevice:
    """The device, open. Blocking; for any thread."""

    config: HailoConfig
    sdk: Any
    vdevice: Any
    params: Any
    """Kept: the library holds pointers into them."""
    board: Any
    architecture: str
    address: str
    versions: Versions
    guard: Guard
    lost: DeviceLostError | None = None
    when_lost: Callable[[], None] = lambda: None
    """Called once, from some thread, when it is lost."""
    _powerless: bool = field(default=False, init=False)

    @classmethod
    def open(cls, config: HailoConfig, *, root: Path = Path("/")) -> HailoDevice:
        """Open the device. Raises DeviceError with a remedy, DeviceLostError if the library hangs."""
        guard = Guard("hailo-device")
        try:
            return guard.call(lambda: _open(config, root, guard), limit_s=config.timeout_s, doing="opening it")
        except DeviceError:
            if guard.stuck:
                abandoned.append(guard)
            else:
                guard.end()
            raise

    @property
    def variants(self) -> tuple[str, ...]:
        """Names of the kinds of models it runs, best first."""
        return VARIANTS.get(self.architecture, ())

    def load(
        self, bundle: Bundle, inputs: Mapping[str, Sequence[int]], outputs: Mapping[str, Sequence[int]]
    ) -> Backend:
        """Load the HEF of *bundle*, whose manifest implies those shapes.

        Raises ConfigError if it does not fit the manifest or the device, DeviceError if the device fails.
        """
        content = bundle.model_bytes()
        guard = Guard(f"hailo-{bundle.name}")
        try:
            loading = Loading(self, bundle, inputs, outputs, guard)
            return guard.call(lambda: loading.load(content), limit_s=self.config.timeout_s, doing="loading a model")
        except (ConfigError, DeviceError) as error:
            guard.end()
            if isinstance(error, DeviceLostError):
                raise self.lose(error) from error
            raise

    def read(self) -> Reading:
        """Read temperature, and power if config says so. Raises DeviceError, DeviceLostError if it hangs."""
        self.check()
        try:
            return self.guard.call(self._read, limit_s=self.config.timeout_s, doing="reading its temperature")
        except DeviceLostError as error:
            raise self.lose(error) from error
        except Exception as error:  # the library's errors have no other base
            raise explain(error, doing="reading its temperature") from error

    def _read(self) -> Reading:
        heat = self.board.control.get_chip_temperature()
        watts = None
        if self.config.measure_power and not self._powerless:
            try:
                watts = float(self.board.control.power_measurement())
            except Exception as error:
                if code_of(error) != UNSUPPORTED_OPCODE:
                    raise
                self._powerless = True  # this board has no sensor for it
        return Reading(max(float(heat.ts0_temperature), float(heat.ts1_temperature)), watts)

    def check(self) -> None:
        """Raise DeviceLostError if the device is lost."""
        if self.lost is not None:
            raise DeviceLostError(str(self.lost), remedy=self.lost.remedy)

    def lose(self, error: DeviceLostError, *kept: object) -> DeviceLostError:
        """Take it for lost because of *error*, and never free *kept*. Returns *error*."""
        abandoned.append((self, kept))
        if self.lost is None:
            self.lost = error
            self.when_lost()
        return error

    def close(self) -> None:
        """Give it back. One that is lost is left to the end of the process."""
        if self.lost is not None:
            return
        try:
            self.guard.call(self._release, limit_s=RELEASE_LIMIT_S, doing="giving it back")
        except DeviceLostError as error:
            self.lose(error)
        except Exception:  # noqa: BLE001 - it is not used any more, and the process's end gives it back too
            abandoned.append(self)
        self.guard.end()

    def _release(self) -> None:
        self.board.release()
        self.vdevice.release()


def _open(config: HailoConfig, root: Path, guard: Guard) -> HailoDevice:
    driver = _text(root / "sys/module/hailo_pci/version")
    sdk = _import()
    versions = Versions(driver=driver, library=str(getattr(sdk, "__version__", "")))
    try:
        params = sdk.VDevice.create_params()
        params.scheduling_algorithm = sdk.HailoSchedulingAlgorithm.ROUND_ROBIN
        vdevice = sdk.VDevice(params)
    except Exception as error:  # the library's errors have no other base
        raise explain(error, doing="opening it", versions=versions) from error
    try:
        address = vdevice.get_physical_devices_ids()[0]
        board = sdk.Device(address)
        said = board.control.identify()
    except Exception as error:  # likewise
        with contextlib.suppress(Exception):  # the first error is the one to tell
            vdevice.release()
        raise explain(error, doing="asking what it is", versions=versions) from error
    number = said.firmware_version
    firmware = f"{number.major}.{number.minor}.{number.revision}"
    return HailoDevice(
        config=config,
        sdk=sdk,
        vdevice=vdevice,
        params=params,
        board=board,
        architecture=str(getattr(said.device_architecture, "name", said.device_architecture)),
        address=str(address),
        versions=Versions(driver=driver, firmware=firmware, library=versions.library),
        guard=guard,
    )


def _import() -> Any:
    # Its default is a file `hailort.log` in whatever folder the daemon was started in, growing for ever.
    os.environ.setdefault("HAILORT_LOGGER_PATH", "NONE")
    try:
        return importlib.import_module("hailo_platform")  # wakes the driver: only when a device is wanted
    except Exception as error:  # without its compiled half it raises an exception of its own
        raise DeviceError(
            f"hailo_platform cannot be imported: {type(error).__name__}: {error}",
            remedy="apt install hailo-all; it is for the system's Python: isolation = 'unit' with "
            "python = '/usr/bin/python3', or a venv with --system-site-packages",
        ) from error


def _text(path: Path) -> str:
    try:
        return path.read_text("utf-8", "replace").strip()
    except OSError:
        return ""
