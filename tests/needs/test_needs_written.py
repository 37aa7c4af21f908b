"""How needs are written, and what is said of one that is not there."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from sparkd.daemon.needs.looks import look
from sparkd.needs import FORMS, Need, NeedKind, parse_need


@pytest.mark.parametrize(
    ("text", "need"),
    [
        ("service:nas-tier", Need(NeedKind.SERVICE, "nas-tier")),
        ("interface:vision", Need(NeedKind.INTERFACE, "vision")),
        ("path:/srv/a b", Need(NeedKind.PATH, "/srv/a b")),
        ("device:/dev/hailo0", Need(NeedKind.DEVICE, "/dev/hailo0")),
        ("device:usb:2886:0018", Need(NeedKind.USB, "2886:0018")),
        ("device:usb:1D6B:0002", Need(NeedKind.USB, "1d6b:0002")),
        ("mount:/mnt/nas", Need(NeedKind.MOUNT, "/mnt/nas")),
        ("mount:/mnt/nas:rw", Need(NeedKind.MOUNT, "/mnt/nas", writable=True)),
        ("network", Need(NeedKind.NETWORK, "")),
        ("network:wg0", Need(NeedKind.NETWORK, "wg0")),
    ],
)
def test_each_form_is_understood(text: str, need: Need) -> None:
    assert parse_need(text) == need


@pytest.mark.parametrize(
    "text",
    ["", "service:", "service:A b", "path:relative", "path:", "device:/tmp/x", "device:usb:28:18", "device:/dev/",
     "mount:nas", "network:", "network:a b", "network:" + "x" * 16, "path:/a\0b", "disk:/x", 7, None],
)  # fmt: skip
def test_what_is_none_is_told_with_the_forms(text: object) -> None:
    if text == "network:":
        assert parse_need(text) == Need(NeedKind.NETWORK, "")
        return
    with pytest.raises(ValueError, match="expected") as told:
        parse_need(text)
    assert all(form in str(told.value) for form in FORMS)


def lack(text: str, root: Path = Path("/")) -> str:
    found = look(parse_need(text), root)
    assert found is None or found.remedy
    return found.reason if found else ""


def test_paths(tmp_path: Path) -> None:
    assert lack(f"path:{tmp_path}") == ""
    assert lack(f"path:{tmp_path / 'x'}") == f"needs {tmp_path / 'x'}, which is not there"
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    assert "cannot be looked at" in lack(f"path:{tmp_path / 'loop'}")
    assert "cannot be looked at" in lack("path:/" + "x" * 5000)


def test_devices(tmp_path: Path) -> None:
    assert lack("device:/dev/null") == ""
    assert lack("device:/dev/no-such-device") == "needs the device /dev/no-such-device, which is not there"
    shared = Path("/dev/shm/sparkd-test-no-device")
    shared.write_text("")
    try:
        assert "which is none, but a file" in lack(f"device:{shared}")
    finally:
        shared.unlink()


def test_usb_devices(tmp_path: Path) -> None:
    device = tmp_path / "sys/bus/usb/devices/1-1"
    device.mkdir(parents=True)
    assert "not plugged in" in lack("device:usb:2886:0018", tmp_path)
    (device / "idVendor").write_text("2886\n")
    (device / "idProduct").write_text("0018\n")
    assert lack("device:usb:2886:0018", tmp_path) == ""


MOUNTS = """\
22 1 179:2 / / rw,relatime - ext4 /dev/root rw
40 22 0:45 / /mnt/my\\040nas rw,relatime - nfs4 nas:/x rw,vers=4.2
41 22 0:46 / /mnt/old ro,relatime - nfs4 nas:/y rw
42 22 8:1 / /mnt/bad rw,relatime - ext4 /dev/sda1 ro
"""


def test_mounts(tmp_path: Path) -> None:
    table = tmp_path / "proc/self/mountinfo"
    table.parent.mkdir(parents=True)
    table.write_text(MOUNTS)

    assert lack("mount:/mnt/my nas:rw", tmp_path) == ""
    assert lack("mount:/mnt/old", tmp_path) == ""
    assert "read-only" in lack("mount:/mnt/old:rw", tmp_path)
    assert "read-only" in lack("mount:/mnt/bad:rw", tmp_path)
    assert lack("mount:/mnt/none", tmp_path) == "needs the mount /mnt/none, where nothing is mounted"


ROUTE = "Iface\tDestination\tGateway\tFlags\tRefCnt\tUse\tMetric\tMask\n{}"
OUT = "eth0\t00000000\t0102A8C0\t0003\t0\t0\t100\t00000000\n"
NEAR = "eth0\t0002A8C0\t00000000\t0001\t0\t0\t100\t00FFFFFF\n"
OUT_6 = "0" * 32 + " 00 " + "0" * 32 + " 00 " + "fe80" + "0" * 28 + " 00000400 00000001 00000000 {} {}\n"


@pytest.mark.parametrize(
    ("four", "six", "there"),
    [
        (OUT, "", True),
        (NEAR, "", False),
        ("", OUT_6.format("00000003", "eth0"), True),
        ("", OUT_6.format("00200200", "lo"), False),
        ("", OUT_6.format("00200203", "eth0"), False),
        ("", "", False),
    ],
)
def test_routes(tmp_path: Path, four: str, six: str, *, there: bool) -> None:
    net = tmp_path / "proc/net"
    net.mkdir(parents=True)
    (net / "route").write_text(ROUTE.format(four))
    (net / "ipv6_route").write_text(six)

    assert (lack("network", tmp_path) == "") is there


def test_an_interface_that_is_not_there() -> None:
    assert "which is not there" in lack("network:no-such-link")
    if any(name == "lo" for _, name in socket.if_nameindex()):
        assert lack("network:lo") in ("", "needs the network interface lo, which is not up")
