"""What a Hailo says of itself through its library: asked in a process of its own, by the Python that the plugin has."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping
from typing import Any

from sparkd.devices import HAILO, pci_devices
from sparkd.doctor.scene import Finding, Scene, named, ok, problem, skipped
from sparkd.service import Isolation

PLUGIN = "hailo-inference"
WARM_C = 90.0
_SAME = "bring driver, firmware and library to one version: apt full-upgrade, and restart"
# Only what leaves a running service alone: no VDevice. The library writes a log into the current folder unless told.
ASK = """\
import json, os
os.environ["HAILORT_LOGGER_PATH"] = "NONE"
said = {}
try:
    import hailo_platform
    said["library"] = hailo_platform.__version__
    said["devices"] = []
    for one in hailo_platform.Device.scan():
        device = hailo_platform.Device(one)
        told = device.control.identify()
        number = told.firmware_version
        kind = getattr(told.device_architecture, "name", told.device_architecture)
        heat = device.control.get_chip_temperature()
        device.release()
        said["devices"].append({
            "at": one,
            "kind": str(kind),
            "firmware": f"{number.major}.{number.minor}.{number.revision}",
            "celsius": max(heat.ts0_temperature, heat.ts1_temperature),
        })
except Exception as error:
    said["error"] = f"{type(error).__name__}: {error}"
print(json.dumps(said))
"""


@named("hailo library")
def library(scene: Scene) -> Iterator[Finding]:
    """What the device answers when the library asks it."""
    python = _python(scene)
    said = _last_object(scene.run([python, "-c", ASK]))
    if said is None:
        yield problem(f"{python} did not answer within 5 s when asked for the Hailo", "journalctl -k -g hailo; restart")
    elif "library" not in said:
        yield from _not_importable(scene, python, str(said.get("error", "")))
    elif "error" in said:
        remedy = "journalctl -k -g hailo; a bare number is a status of hailort.h: 64 no driver, 73 in use, 76 versions"
        yield problem(f"library {said['library']}, and the device fails: {said['error']}", remedy)
    elif not said["devices"]:
        yield problem(f"library {said['library']} finds no device", "is it in `lspci -d 1e60:`, and its driver loaded?")
    else:
        for device in said["devices"]:
            yield _judged(device, library=said["library"], driver=scene.read("/sys/module/hailo_pci/version"))


def _judged(device: Mapping[str, Any], *, library: str, driver: str | None) -> Finding:
    versions = {"driver": driver or "", "firmware": device["firmware"], "library": library}
    told = ", ".join(f"{name} {version}" for name, version in versions.items() if version)
    text = f"{device['at']}: {device['kind']}, {told}, {device['celsius']:.0f} degrees"
    if len({version for version in versions.values() if version}) > 1:
        return problem(f"versions differ. {text}", _SAME)
    if device["celsius"] > WARM_C:
        return problem(f"it is hot. {text}", "give it a cooler and air")
    return ok(text)


def _not_importable(scene: Scene, python: str, error: str) -> Iterator[Finding]:
    text = f"{python} cannot import hailo_platform: {error}"
    remedy = (
        "apt install hailo-all; it is for /usr/bin/python3: run the plugin with isolation = 'unit' and that python, "
        "or from a venv made with --system-site-packages"
    )
    yield problem(text, remedy) if pci_devices(scene.root, HAILO) else skipped(text, remedy)


def _python(scene: Scene) -> str:
    table = scene.config.plugins.get(PLUGIN)
    if table is not None and table.isolation is Isolation.UNIT and table.unit.python is not None:
        return str(table.unit.python)
    return sys.executable


def _last_object(output: str | None) -> dict[str, Any] | None:
    """Return what stands in the last line; libraries may print before it."""
    try:
        found = json.loads((output or "").strip().splitlines()[-1])
    except (IndexError, ValueError):
        return None
    return found if isinstance(found, dict) else None


CHECKS = (library,)
