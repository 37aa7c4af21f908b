"""`sparkctl init`: the first config of a node, from what the machine is and has."""

from __future__ import annotations

import argparse
import sys
import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from sparkd.devices import HAILO, RESPEAKER, pci_devices, text_of, usb_devices

if TYPE_CHECKING:
    from sparkd.cli.parser import Subparsers

_VIRTUAL = ("KVM", "QEMU", "VMware", "VirtualBox", "Xen", "Google", "Amazon EC2", "OpenStack", "Bochs", "Hetzner")
"""What the firmware of virtual machines calls itself, beside Hyper-V."""


def words(commands: Subparsers) -> None:
    """Add the command."""
    init = commands.add_parser("init", help="write the first config of this node, from what the machine is and has")
    init.add_argument("--name", default="", help="the node's name (default: the host's)")
    init.add_argument("--role", choices=("edge", "cloud"), help="default: cloud on a virtual machine, else edge")
    init.add_argument("--site", default="", help="the place it stands at (default: home, or cloud)")
    init.add_argument("--listen", default="", metavar="HOST:PORT", help="where other nodes may connect")
    init.add_argument("-y", "--yes", action="store_true", help="do not ask before writing")


@dataclass(slots=True)
class Machine:
    """What was found."""

    model: str = ""
    virtual: bool = False
    devices: dict[str, str] = field(default_factory=dict)
    """What is there, and where."""

    @property
    def role(self) -> str:
        """The role that fits."""
        return "cloud" if self.virtual else "edge"


def look(root: Path = Path("/")) -> Machine:
    """Return what the machine beneath *root* is and has. Reads /proc, /sys and /dev only."""
    model = text_of(root / "proc/device-tree/model") or _dmi(root)
    found = Machine(model=model, virtual=_is_virtual(root))
    for device in pci_devices(root, HAILO):
        found.devices["hailo"] = f"PCIe {device.name}"
    for device in usb_devices(root, RESPEAKER):
        found.devices["respeaker"] = f"USB {device.name}"
    cameras = sorted((root / "dev").glob("video[0-9]"))
    if cameras:
        found.devices["camera"] = f"/dev/{cameras[0].name}"
    supplies = [entry.name for entry in sorted((root / "sys/class/power_supply").glob("*"))]
    if supplies:
        found.devices["battery"] = ", ".join(supplies)
    if (root / "dev/i2c-1").exists():
        found.devices["i2c"] = "/dev/i2c-1"
    return found


def _dmi(root: Path) -> str:
    parts = [text_of(root / "sys/class/dmi/id" / name) for name in ("sys_vendor", "product_name")]
    return " ".join(part for part in parts if part)


def _is_virtual(root: Path) -> bool:
    flags = text_of(root / "proc/cpuinfo")
    return "hypervisor" in flags or any(name in _dmi(root) for name in _VIRTUAL)


def files_for(options: argparse.Namespace, machine: Machine, installed: set[str]) -> dict[str, str]:
    """Return what to write, by the file's name; only plugins that are *installed* get a table."""
    from sparkd.config import table_text  # noqa: PLC0415 - not needed for the words
    from sparkd.config.tables import host_name  # noqa: PLC0415 - likewise

    role = options.role or machine.role
    node = {
        "name": options.name or host_name(),
        "role": role,
        "site": options.site or ("home" if role == "edge" else "cloud"),
    }
    head = f"## Written by `sparkctl init` for {machine.model or 'this machine'}. It is yours to change.\n"
    link = table_text("link", {"listen": options.listen}) if options.listen else ""
    found = {"sparkd.toml": head + table_text("node", node) + ("\n" + link if link else "")}
    tables: dict[str, tuple[str, dict[str, str]]] = {"node-telemetry": ("what this machine feels like", {})}
    if role == "edge":
        where = machine.devices.get("hailo")
        why = f"a Hailo is there ({where})" if where else "no Hailo is there: the CPU infers"
        tables["hailo-inference"] = (f"{why}. Pictures that are put into `watch` are looked at", {})
        if "respeaker" in machine.devices:
            tables["respeaker-voice"] = (f"a ReSpeaker is there ({machine.devices['respeaker']})", {})
        if "battery" in machine.devices or "i2c" in machine.devices:
            tables["power-monitor"] = ("there is something that measures power", {})
    else:
        tables["edge-ingest"] = ("takes what edge nodes send", {})
        tables["stream-sink"] = ("stores it in a database", {})
    for name, (why, values) in tables.items():
        if name in installed:
            found[f"sparkd.d/20-{name}.toml"] = f"## {why}. Every key: `sparkctl schema {name}`.\n" + table_text(
                f"plugins.{name}", values
            )
    return found


def init(options: argparse.Namespace) -> int:
    """Write the first config; never over one that is there."""
    from sparkd.cli.offline import say  # noqa: PLC0415 - brings the config
    from sparkd.config import NodeConfig, load_config, places  # noqa: PLC0415 - likewise
    from sparkd.errors import ConfigError  # noqa: PLC0415 - likewise

    folder = places(NodeConfig(), options.config).config
    main = options.config or folder / "sparkd.toml"
    machine = look()
    files = files_for(options, machine, _installed())
    for name in files:
        target = main if name == "sparkd.toml" else folder / name
        if target.exists() and not (target == main and _says_nothing(target)):
            raise ConfigError(f"{target}: is there already; change it, or move it away first")
    if not options.json:
        print(f"{machine.model or 'this machine'}: role {options.role or machine.role}")
        for what, where in machine.devices.items():
            print(f"  {what}: {where}")
    if not options.yes and not options.json and not _agreed(folder, files):
        return 1
    if main.exists():
        main.replace(main.with_name(f"{main.name}.sample"))  # what installing left: every key, with its default
    for name, text in files.items():
        _write(main if name == "sparkd.toml" else folder / name, text)
    load_config(main)  # what was written by options may still be wrong: it is said now
    done = "\n".join([*(f"{folder / name} is written" for name in files), "Next: sparkctl check; then start sparkd."])
    say(options, {"files": sorted(files), "devices": machine.devices, "role": options.role or machine.role}, done)
    return 0


def _says_nothing(file: Path) -> bool:
    """Whether a config sets no key: only comments, or empty tables."""
    try:
        tables = tomllib.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):  # it is somebody's, and damaged
        return False
    return not any(tables.values())


def _installed() -> set[str]:
    from importlib.metadata import entry_points  # noqa: PLC0415 - slow

    return {point.name for point in entry_points(group="sparkd")}


def _agreed(folder: Path, files: dict[str, str]) -> bool:
    for name, text in files.items():
        print(f"\n{folder / name}:\n" + "".join(f"  {line}\n" for line in text.splitlines()), end="")
    if not sys.stdin.isatty():
        print("\nnothing is written: say --yes", file=sys.stderr)
        return False
    return input("\nwrite these files? [y/N] ").strip().lower() in ("y", "yes")


def _write(file: Path, text: str) -> None:
    from sparkd.errors import ConfigError  # noqa: PLC0415 - with the config
    from sparkd.lasting import make_lasting, write_whole  # noqa: PLC0415 - likewise

    try:
        make_lasting(file.parent, 0o755)
        write_whole(file, text, mode=0o644, replace=False)
    except OSError as error:
        raise ConfigError(f"{file}: cannot be written: {error.strerror}; try: sudo") from None
