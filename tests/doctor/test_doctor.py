"""The doctor: on a machine made of files, each sickness is found, named, and given a remedy."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from sparkd.config import Config, LinkConfig, NodeConfig, PeerConfig, Places, PluginTable
from sparkd.doctor import (
    CHECKS,
    Check,
    Finding,
    Scene,
    Verdict,
    disk,
    examine,
    hardware,
    machine,
    network,
    node,
    system,
)
from sparkd.link import KeyStore


class Machine:
    """A machine of files in a folder, and of commands that say what they are told to."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.commands: dict[str, str] = {}
        self.config = Config(node=NodeConfig(name="control-pc", metrics_listen=""))
        self.places = Places(
            root / "etc/sparkd", (root / "etc/sparkd/plugins",), root / "run", root / "state", root / "cache"
        )

    def has(self, files: dict[str, str | bytes]) -> Machine:
        for name, content in files.items():
            file = self.root / name.lstrip("/")
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(content if isinstance(content, bytes) else content.encode())
        return self

    def says(self, command: str, answer: str) -> Machine:
        self.commands[command] = answer
        return self

    def finds(self, check: Check) -> list[Finding]:
        return [finding for _, finding in examine(self.scene(), (check,))]

    def scene(self) -> Scene:
        return Scene(config=self.config, places=self.places, root=self.root, run=self._run, account="nobody-of-ours")

    def _run(self, command: Sequence[str]) -> str | None:
        line = " ".join(command)
        return next((answer for start, answer in self.commands.items() if line.startswith(start)), None)


@pytest.fixture
def pi(tmp_path: Path) -> Machine:
    return Machine(tmp_path).has({"/proc/device-tree/model": "Raspberry Pi 5 Model B Rev 1.0\0"})


def only(findings: list[Finding]) -> Finding:
    (finding,) = findings
    return finding


def test_there_are_about_thirty_checks_and_each_has_a_name_of_its_own() -> None:
    assert len(CHECKS) >= 30
    assert len({check.name for check in CHECKS}) == len(CHECKS)


MEMORY = "MemTotal:       16000000 kB\nMemAvailable:    {} kB\n"
THERMAL = {"/sys/class/thermal/thermal_zone0/type": "cpu-thermal\n"}
MOUNTS = "22 1 179:2 / / rw,relatime - ext4 /dev/mmcblk0p2 rw\n"
HAILO: dict[str, str | bytes] = {"/sys/bus/pci/devices/0001:01:00.0/vendor": "0x1e60\n"}
DRIVER: dict[str, str | bytes] = {"/sys/module/hailo_pci/version": "4.23.0\n"}
ARRAY: dict[str, str | bytes] = {
    "/sys/bus/usb/devices/1-1/idVendor": "2886\n",
    "/sys/bus/usb/devices/1-1/idProduct": "0018\n",
    "/sys/bus/usb/devices/1-1/busnum": "1\n",
    "/sys/bus/usb/devices/1-1/devnum": "4\n",
}
Sick = tuple[Check, dict[str, str | bytes], dict[str, str], str, str]
SICK: list[Sick] = [
    (machine.memory, {"/proc/meminfo": MEMORY.format(100_000)}, {}, "warning", "97 of 15625 MB"),
    (
        machine.memory,
        {"/proc/meminfo": MEMORY.format(9_000_000), "/proc/vmstat": "oom_kill 3\n"},
        {},
        "warning",
        "killed 3",
    ),
    (
        machine.memory_controller,
        {"/sys/fs/cgroup/cgroup.controllers": "cpu io pids\n"},
        {},
        "warning",
        "without memory limits",
    ),
    (
        machine.temperature,
        {**THERMAL, "/sys/class/thermal/thermal_zone0/temp": "81200\n"},
        {},
        "problem",
        "cpu-thermal: 81",
    ),
    (machine.temperature, {**THERMAL, "/sys/class/thermal/thermal_zone0/temp": "76000\n"}, {}, "warning", "76"),
    (machine.throttling, {}, {"vcgencmd get_throttled": "throttled=0x50005\n"}, "problem", "under-voltage, throttled"),
    (
        machine.throttling,
        {},
        {"vcgencmd get_throttled": "throttled=0x50000\n"},
        "warning",
        "since it started: under-voltage",
    ),
    (machine.throttling, {}, {"vcgencmd": 'error=1 error_msg="Command not registered"\n'}, "skipped", "does not say"),
    (machine.supply, {"/proc/device-tree/chosen/power/max_current": (3000).to_bytes(4)}, {}, "warning", "3000 mA"),
    (
        machine.inotify,
        {"/proc/sys/fs/inotify/max_user_watches": "100\n", "/proc/sys/fs/inotify/max_user_instances": "128\n"},
        {},
        "warning",
        "only 100 files",
    ),
    (machine.open_files, {"/proc/sys/fs/file-nr": "950\t0\t1000\n"}, {}, "problem", "950 of 1000"),
    (disk.wear, {"/sys/block/mmcblk0/device/life_time": "0x0a 0x01\n"}, {}, "problem", "100 %"),
    (
        disk.wear,
        {"/sys/block/mmcblk0/device/life_time": "0x02 0x01\n", "/sys/block/mmcblk0/device/pre_eol_info": "0x03\n"},
        {},
        "problem",
        "20 %",
    ),
    (disk.errors, {"/sys/fs/ext4/mmcblk0p2/errors_count": "7\n"}, {}, "problem", "7 errors"),
    (disk.lasting, {"/proc/self/mountinfo": "22 1 0:20 / / rw - tmpfs tmpfs rw\n"}, {}, "warning", "is on tmpfs"),
    (disk.lasting, {"/proc/self/mountinfo": MOUNTS.replace("rw,relatime", "ro,relatime")}, {}, "problem", "read-only"),
    (disk.lasting, {"/proc/self/mountinfo": MOUNTS.replace("ext4", "nfs4")}, {}, "warning", "gone when the network is"),
    (disk.encryption, {"/proc/self/mountinfo": MOUNTS}, {}, "note", "not on an encrypted disk"),
    (hardware.hailo, HAILO, {}, "problem", "driver is not loaded"),
    (hardware.hailo, {**HAILO, **DRIVER}, {}, "problem", "/dev/hailo0 is not there"),
    (
        hardware.hailo_versions,
        DRIVER,
        {
            "hailortcli fw-control": "Firmware Version: 4.20.0 (release)\n",
            "hailortcli --version": "HailoRT-CLI version 4.23.0\n",
        },
        "problem",
        "driver 4.23.0, firmware 4.20.0, library 4.23.0",
    ),
    (
        hardware.hailo_versions,
        DRIVER,
        {"dpkg-query": "hailort 4.21.0\npython3-hailort 4.23.0-2\n"},
        "problem",
        "hailort 4.21.0",
    ),
    (hardware.respeaker, ARRAY, {}, "problem", "/dev/bus/usb/001/004 is not"),
    (
        system.unit,
        {},
        {"systemctl": "LoadState=loaded\nActiveState=failed\nSubState=failed\nUnitFileState=enabled\n"},
        "problem",
        "failed",
    ),
    (
        system.unit,
        {},
        {"systemctl": "LoadState=loaded\nActiveState=active\nUnitFileState=enabled\nNeedDaemonReload=yes\n"},
        "warning",
        "has changed",
    ),
    (
        system.watchdog,
        {},
        {"systemctl": "LoadState=loaded\nWatchdogUSec=0\nNRestarts=0\n"},
        "warning",
        "would not notice",
    ),
    (
        system.watchdog,
        {},
        {"systemctl": "LoadState=loaded\nWatchdogUSec=30s\nNRestarts=9\n"},
        "warning",
        "again 9 times",
    ),
    (
        system.hardening,
        {},
        {"systemctl": "LoadState=loaded\nNoNewPrivileges=no\nProtectSystem=strict\nType=notify\n"},
        "warning",
        "NoNewPrivileges=no",
    ),
    (system.journal, {"/run/systemd/system/x": ""}, {}, "note", "gone after a restart"),
    (
        network.wireguard,
        {},
        {
            "wg show interfaces": "wg0\n",
            "wg --version": "wireguard-tools\n",
            "wg show wg0 latest": f"{'k' * 44}\t{int(time.time()) - 4000}\n",
            "wg show wg0 persistent": f"{'k' * 44}\t25\n",
        },
        "warning",
        "the last handshake was",
    ),
    (
        network.wireguard,
        {},
        {"wg show interfaces": "wg0\n", "wg --version": "x", "wg show wg0 latest": f"{'k' * 44}\t0\n"},
        "problem",
        "never a handshake",
    ),
]


@pytest.mark.parametrize("case", SICK, ids=lambda case: case[4])
def test_each_sickness_is_found_and_has_a_remedy(pi: Machine, case: Sick) -> None:
    check, files, commands, verdict, text = case
    pi.has(files)
    for command, answer in commands.items():
        pi.says(command, answer)

    findings = [finding for finding in pi.finds(check) if text in finding.text]
    assert [finding.verdict for finding in findings] == [Verdict(verdict)], pi.finds(check)
    assert findings[0].remedy or verdict in ("skipped", "note")


WELL: list[tuple[Check, dict[str, str | bytes], dict[str, str]]] = [
    (machine.python, {}, {}),
    (machine.memory, {"/proc/meminfo": MEMORY.format(9_000_000), "/proc/vmstat": "oom_kill 0\n"}, {}),
    (machine.memory_controller, {"/sys/fs/cgroup/cgroup.controllers": "cpu memory pids\n"}, {}),
    (machine.temperature, {**THERMAL, "/sys/class/thermal/thermal_zone0/temp": "45000\n"}, {}),
    (machine.throttling, {}, {"vcgencmd get_throttled": "throttled=0x0\n"}),
    (machine.supply, {"/proc/device-tree/chosen/power/max_current": (5000).to_bytes(4)}, {}),
    (machine.open_files, {"/proc/sys/fs/file-nr": "1000\t0\t9223372036854775807\n"}, {}),
    (disk.wear, {"/sys/block/mmcblk0/device/life_time": "0x01 0x01\n"}, {}),
    (disk.errors, {"/sys/fs/ext4/mmcblk0p2/errors_count": "0\n"}, {}),
    (disk.lasting, {"/proc/self/mountinfo": MOUNTS}, {}),
    (disk.encryption, {"/proc/self/mountinfo": MOUNTS, "/sys/dev/block/179:2/slaves/sda/dm/uuid": "CRYPT-LUKS2-x"}, {}),
    (hardware.hailo, {**HAILO, **DRIVER, "/dev/hailo0": ""}, {}),
    (hardware.hailo_versions, DRIVER, {"hailortcli --version": "HailoRT-CLI version 4.23.0\n"}),
    (hardware.udev_rules, {"/dev/hailo0": "", "/lib/udev/rules.d/51-hailo-udev.rules": ""}, {}),
    (system.unit, {}, {"systemctl": "LoadState=loaded\nActiveState=active\nUnitFileState=enabled\n"}),
    (system.watchdog, {}, {"systemctl": "LoadState=loaded\nWatchdogUSec=30s\nNRestarts=0\n"}),
    (system.hardening, {}, {"systemctl": "LoadState=loaded\nNoNewPrivileges=yes\nProtectSystem=strict\nType=notify\n"}),
    (system.journal, {"/run/systemd/system/x": "", "/var/log/journal/0/system.journal": ""}, {}),
]


@pytest.mark.parametrize(("check", "files", "commands"), WELL)
def test_what_is_well_is_called_so(
    pi: Machine, check: Check, files: dict[str, str | bytes], commands: dict[str, str]
) -> None:
    pi.has(files)
    for command, answer in commands.items():
        pi.says(command, answer)

    assert {finding.verdict for finding in pi.finds(check)} == {Verdict.OK}


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.name)
def test_a_machine_of_nothing_at_all_breaks_no_check(tmp_path: Path, check: Check) -> None:
    findings = Machine(tmp_path).finds(check)

    assert findings
    assert not any("the check itself failed" in finding.text for finding in findings)


def test_a_check_that_fails_is_a_finding_and_stops_no_other(tmp_path: Path) -> None:
    def fails(_scene: Scene) -> Iterator[Finding]:
        raise ZeroDivisionError("by nothing")
        yield

    found = examine(Machine(tmp_path).scene(), (Check("bad", fails), machine.python))

    assert "ZeroDivisionError" in found[0][1].text
    assert found[1][1].verdict is Verdict.OK


def test_a_port_that_another_program_has(pi: Machine) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        pi.config = Config(node=NodeConfig(name="a", metrics_listen=f"127.0.0.1:{port}"))
        assert only(pi.finds(network.ports)).verdict is Verdict.PROBLEM
    assert only(pi.finds(network.ports)).verdict is Verdict.OK


def test_a_peer_that_does_not_listen_and_one_that_has_no_address(pi: Machine) -> None:
    with socket.socket() as gone:
        gone.bind(("127.0.0.1", 0))
        peer = PeerConfig(address=f"127.0.0.1:{gone.getsockname()[1]}")
        pi.config = Config(node=NodeConfig(metrics_listen=""), link=LinkConfig(peers={"hub": peer}))
        assert "refused" in only(pi.finds(network.peers)).text
    pi.config = Config(link=LinkConfig(peers={"hub": PeerConfig(address="no-such-host.invalid:7700")}))
    assert only(pi.finds(network.peers)).verdict is Verdict.PROBLEM


def test_keys_that_are_missing_untrusted_or_of_nobody(pi: Machine) -> None:
    pi.config = Config(link=LinkConfig(peers={"hub": PeerConfig(address="127.0.0.1:7700")}))
    assert only(pi.finds(node.keys)).verdict is Verdict.PROBLEM
    store, other = KeyStore(pi.places.state / "keys"), KeyStore(pi.root / "other")
    store.new()
    store.trust("stranger", other.new())

    texts = [finding.text for finding in pi.finds(node.keys)]
    assert texts == [
        "hub is in the config, and its key is not trusted",
        "stranger is trusted, and has no table in the config",
    ]


def test_a_config_that_anybody_may_write(pi: Machine) -> None:
    pi.has({"/etc/sparkd/sparkd.toml": "", "/etc/sparkd/plugins/x.py": ""})
    file = pi.places.config / "sparkd.toml"
    file.chmod(0o666)
    pi.config = Config(files=(file,))
    (pi.places.config / "plugins").chmod(0o775)

    assert [finding.verdict for finding in pi.finds(node.config_files)] == [Verdict.PROBLEM, Verdict.PROBLEM]


@pytest.mark.parametrize(("days", "verdict"), [(-2, Verdict.PROBLEM), (5, Verdict.WARNING), (300, Verdict.OK)])
def test_when_a_certificate_ends(pi: Machine, days: int, verdict: Verdict) -> None:
    ends = time.strftime("%b %d %H:%M:%S %Y GMT", time.gmtime(time.time() + days * 86_400))
    pi.config = Config(plugins={"sink": PluginTable(table={"tls": {"ca": "/etc/ca.pem"}})})
    pi.says("openssl x509", f"notAfter={ends}\n")

    assert only(pi.finds(node.certificates)).verdict is verdict


def test_a_real_certificate(pi: Machine) -> None:
    from sparkd.doctor.scene import run  # noqa: PLC0415 - only here

    file = pi.root / "own.pem"
    made = run(
        [
            "openssl",
            "req",
            "-x509",
            "-newkey",
            "ed25519",
            "-nodes",
            "-keyout",
            "/dev/null",
            "-out",
            str(file),
            "-days",
            "3",
            "-subj",
            "/CN=x",
        ]
    )
    if made is None or not file.exists():
        pytest.skip("openssl is not installed")
    config = Config(plugins={"sink": PluginTable(table={"ca": str(file)})})
    scene = Scene(config=config, places=pi.places)

    assert (
        "ends in 3 days" in next(node.certificates.look(scene)).text
        or "ends in 2 days" in next(node.certificates.look(scene)).text
    )


def test_a_mount_that_does_not_answer_holds_nobody_up(pi: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(disk, "LOOK_LIMIT_S", 0.1)
    dead = threading_dead(pi.root / "mnt" / "nas")
    monkeypatch.setattr(Path, "exists", dead)
    try:
        assert disk.answers(pi.root / "mnt" / "nas") is False
        assert disk.answers(pi.root) is True
    finally:
        dead.release()


class threading_dead:  # noqa: N801 - stands for a method
    """A `Path.exists` that never returns for one path, as on a hard NFS mount whose server is gone."""

    def __init__(self, path: Path) -> None:
        self._path, self._pipe = path, os.pipe()

    def __get__(self, instance: Path, _owner: object) -> Callable[[], bool]:
        def exists() -> bool:
            if instance == self._path:
                os.read(self._pipe[0], 1)
            return os.access(instance, os.F_OK)

        return exists

    def release(self) -> None:
        os.close(self._pipe[1])
