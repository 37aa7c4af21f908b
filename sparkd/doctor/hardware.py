"""Devices that plugins need: Hailo, ReSpeaker, sound, video, the groups and rules that let the daemon at them."""

from __future__ import annotations

import grp
import os
import pwd
import re
from collections.abc import Iterator
from pathlib import Path

from sparkd.devices import HAILO, RESPEAKERS, pci_devices, text_of, usb_devices
from sparkd.doctor.scene import Finding, Scene, named, note, ok, problem, skipped, warning

_VERSION = re.compile(r"(\d+\.\d+\.\d+)")
_PACKAGES = ("hailort", "hailo-dkms", "hailort-pcie-driver", "python3-hailort")
RESPEAKER_RULE = "60-sparkd-respeaker.rules"
GROUPS = {"/dev/snd": "audio", "/dev/video0": "video", "/dev/i2c-1": "i2c", "/dev/gpiochip0": "gpio"}


@named("hailo")
def hailo(scene: Scene) -> Iterator[Finding]:
    """The accelerator: present, with its driver, and at hand."""
    found = pci_devices(scene.root, HAILO)
    wanted = scene.has_plugin("hailo-inference")
    if not found:
        absent = "no Hailo on the PCIe bus"
        remedy = "if there is one: dtparam=pciex1 in config.txt, and its ribbon cable"
        yield note(f"{absent}: the CPU infers", remedy) if wanted else skipped(absent)
        return
    if scene.read("/sys/module/hailo_pci/version") is None:
        yield problem(
            "a Hailo is there, and its driver is not loaded", "apt install dkms hailo-all; modprobe hailo_pci"
        )
    elif not scene.path("/dev/hailo0").exists():
        yield problem(
            "the driver is loaded, and /dev/hailo0 is not there", "journalctl -k -g hailo; is its firmware installed?"
        )
    else:
        yield ok(f"{len(found)} on the bus, driver {scene.read('/sys/module/hailo_pci/version')}")


@named("hailo versions")
def hailo_versions(scene: Scene) -> Iterator[Finding]:
    """Driver, firmware and library must agree: the most common reason for a Hailo that does not work."""
    driver = scene.read("/sys/module/hailo_pci/version")
    if driver is None:
        yield skipped("no Hailo driver is loaded")
        return
    versions = {"driver": driver}
    identified = scene.run(["hailortcli", "fw-control", "identify"]) or ""
    firmware = re.search(r"Firmware Version: (\d+\.\d+\.\d+)", identified)
    if firmware:
        versions["firmware"] = firmware[1]
    library = _VERSION.search(scene.run(["hailortcli", "--version"]) or "")
    if library:
        versions["library"] = library[1]
    for line in (scene.run(["dpkg-query", "-W", "-f", "${Package} ${Version}\\n", *_PACKAGES]) or "").splitlines():
        name, _, version = line.partition(" ")
        match = _VERSION.match(version)
        if name in _PACKAGES and match:
            versions[name] = match[1]
    said = ", ".join(f"{name} {version}" for name, version in versions.items())
    if len(versions) == 1:
        yield skipped(f"only the driver says its version ({driver})", "apt install hailo-all brings hailortcli")
    elif len(set(versions.values())) > 1:
        yield problem(f"they do not agree: {said}", "apt full-upgrade, and restart; or pin all to one version")
    else:
        yield ok(said)


@named("respeaker")
def respeaker(scene: Scene) -> Iterator[Finding]:
    """The microphone array, and the rule that lets the daemon steer it."""
    for device in _arrays(scene):
        yield from _steerable(scene, device)
        return
    absent = "no ReSpeaker on the USB"
    if scene.has_plugin("respeaker-voice"):
        yield problem(absent, f"plug it in; lsusb -d {RESPEAKERS[0]}")
    else:
        yield skipped(absent)


def _arrays(scene: Scene) -> list[Path]:
    return [device for one in RESPEAKERS for device in usb_devices(scene.root, one)]


def _steerable(scene: Scene, device: Path) -> Iterator[Finding]:
    number = [text_of(device / name) for name in ("busnum", "devnum")]
    node = scene.path(f"/dev/bus/usb/{int(number[0] or 0):03d}/{int(number[1] or 0):03d}")
    remedy = (
        f"the udev rule {RESPEAKER_RULE} lets the group plugdev; usermod -aG plugdev,audio {scene.account}, "
        'or groups = ["plugdev", "audio"] for a unit of its own'
    )
    if not node.exists():
        yield problem(f"it is there, and {node} is not", "is udev running?")
    elif not _may_write(scene, node):
        yield problem(f"{scene.account} may not write {node}", remedy)
    else:
        yield ok(f"at {node}")


@named("groups")
def groups(scene: Scene) -> Iterator[Finding]:
    """Whether the daemon's user is let at the devices that are there."""
    try:
        account = pwd.getpwnam(scene.account)
    except KeyError:
        yield skipped(f"there is no account {scene.account}: the daemon runs as you")
        return
    held = {grp.getgrgid(gid).gr_name for gid in os.getgrouplist(account.pw_name, account.pw_gid)}
    missing = sorted({group for path, group in GROUPS.items() if scene.path(path).exists()} - held)
    if missing:
        names = ", ".join(missing)
        remedy = (
            f"only if a plugin needs them: usermod -aG {','.join(missing)} {scene.account}; systemctl restart sparkd"
        )
        yield note(f"{scene.account} is not in {names}", remedy)
    else:
        yield ok(f"{scene.account} is let at every device that is there")


def _may_write(scene: Scene, node: Path) -> bool:
    """Whether the daemon's account may write *node*, by its mode."""
    found = node.stat()
    try:
        account = pwd.getpwnam(scene.account)
    except KeyError:
        return os.access(node, os.W_OK)
    gids = set(os.getgrouplist(account.pw_name, account.pw_gid))
    if found.st_uid == account.pw_uid:
        return bool(found.st_mode & 0o200)
    return bool(found.st_mode & (0o020 if found.st_gid in gids else 0o002))


_RULES = {
    "hailo": "apt install hailort-pcie-driver",
    "respeaker": f"make install, or copy etc/udev/{RESPEAKER_RULE} to /etc/udev/rules.d; udevadm control --reload",
}


@named("udev rules")
def udev_rules(scene: Scene) -> Iterator[Finding]:
    """Whether the rules of the devices that are there are installed."""
    wanted = {"hailo": bool(scene.path("/dev/hailo0").exists()), "respeaker": bool(_arrays(scene))}
    folders = ("/etc/udev/rules.d", "/lib/udev/rules.d", "/usr/lib/udev/rules.d", "/run/udev/rules.d")
    files = [file.name for folder in folders for file in scene.glob(f"{folder}/*.rules")]
    missing = [name for name, present in wanted.items() if present and not any(name in file for file in files)]
    if not any(wanted.values()):
        yield skipped("no device here needs one")
    elif missing:
        yield warning(f"no udev rule for {', '.join(missing)}", _RULES[missing[0]])
    else:
        yield ok("installed")


CHECKS = (hailo, hailo_versions, respeaker, groups, udev_rules)
