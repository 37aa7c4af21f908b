"""Which devices a machine has, from sysfs. Layer: values.

*root* stands for `/`, so that tests may bring a machine of files.
"""

from __future__ import annotations

from pathlib import Path

HAILO = "0x1e60"
"""The vendor's PCI id (hailort-drivers, linux/pcie/51-hailo-udev.rules)."""
RESPEAKER = "2886:0018"
"""The ReSpeaker 4 Mic Array on USB."""
RESPEAKERS = (RESPEAKER, "2886:001a")
"""That one, and the array with the XVF3800."""


def pci_devices(root: Path, vendor: str) -> list[Path]:
    """Return the folders of the PCI devices of *vendor*, such as `0x1e60`."""
    return [
        device for device in sorted((root / "sys/bus/pci/devices").glob("*")) if text_of(device / "vendor") == vendor
    ]


def usb_devices(root: Path, wanted: str) -> list[Path]:
    """Return the folders of the USB devices *wanted*, as `vendor:product` in four hex digits each."""
    found = sorted((root / "sys/bus/usb/devices").glob("*"))
    return [device for device in found if f"{text_of(device / 'idVendor')}:{text_of(device / 'idProduct')}" == wanted]


def text_of(file: Path) -> str:
    """Return what stands in a small file of the kernel's; nothing if it cannot be read."""
    try:
        return file.read_text(encoding="utf-8", errors="replace").strip("\0\n ")
    except OSError:
        return ""
