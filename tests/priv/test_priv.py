"""sparkd-priv: who may ask, for what, and what garbage costs. Real sockets, real users; only its programs stand in."""

from __future__ import annotations

import os
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sparkd.config import UnitTable
from sparkd.deeds import (
    MAX_REQUEST_BYTES,
    Done,
    InterfaceRestart,
    NftLoad,
    Refused,
    Shutdown,
    UnitStart,
    UnitStatus,
    UnitStop,
    WakeHost,
    decode_deed,
    encode,
)
from sparkd.errors import ConfigError, RemoteMessageError
from sparkd.priv import server as server_module
from sparkd.priv.audit import Audit
from sparkd.priv.perform import magic_packet
from sparkd.priv.settings import load_settings
from sparkd.priv.trust import require_roots
from sparkd.priv.units import unit_name
from sparkd.testing import short_folder
from tests.priv.priv_rig import NOBODY, Priv, priv_in, usable

pytestmark = pytest.mark.skipif(bool(usable()), reason=usable() or "it can")
SPEC = encode({"source": {"kind": "entry-point", "path": ""}})
START = UnitStart(plugin="probe", service="probe", spec=SPEC)
GRANT = '[plugins.probe]\nisolation = "unit"\n'


@pytest.fixture
def priv() -> Iterator[Priv]:
    with short_folder() as folder:
        folder.chmod(0o755)
        with priv_in(folder) as running:
            yield running


def allow(priv: Priv, more: str, verbs: str) -> None:
    priv.settings.write_text(f"verbs = [{verbs}]\n" + priv.settings.read_text() + more)


def refusal(reply: object) -> Refused:
    assert isinstance(reply, Refused), reply
    return reply


@pytest.mark.parametrize(
    "verb",
    [
        {"verb": "unit-start", "plugin": "../etc", "service": "a", "spec": b""},
        {"verb": "unit-start", "plugin": "a/b", "service": "a", "spec": b""},
        {"verb": "unit-start", "plugin": "a", "service": "a\n", "spec": b""},
        {"verb": "unit-start", "plugin": "a", "service": "a", "spec": b"", "user": "root"},
        {"verb": "unit-start", "plugin": "a", "service": "a", "spec": bytes(800 << 10)},
        {"verb": "unit-stop", "plugin": "a@b", "service": "a"},
        {"verb": "unit-stop", "plugin": "a" * 65, "service": "a"},
        {"verb": "unit-status", "plugin": "-h", "service": "a"},
        {"verb": "interface-restart", "interface": "../wg0"},
        {"verb": "interface-restart", "interface": "-wg0"},
        {"verb": "interface-restart", "interface": "wg0;reboot"},
        {"verb": "nft-load", "rules": "../passwd"},
        {"verb": "nft-load", "rules": "a.b"},
        {"verb": "wake-host", "host": "a b"},
        {"verb": "shutdown", "how": "halt"},
        {"verb": "shutdown", "how": "reboot", "delay_s": -1},
        {"verb": "run", "argv": ["sh"]},
        {"verb": "unit-start"},
        {},
    ],
    ids=str,
)
def test_what_is_no_deed_is_refused_by_its_form(verb: dict[str, object]) -> None:
    with pytest.raises(RemoteMessageError):
        decode_deed(msgspec.msgpack.encode(verb))


@given(st.binary(max_size=300))
@settings(max_examples=300, deadline=None)
def test_no_bytes_are_more_than_a_typed_error(content: bytes) -> None:
    try:
        decode_deed(content)
    except RemoteMessageError:
        return


def test_garbage_and_requests_that_are_too_large_are_answered_and_written_down(priv: Priv) -> None:
    for content in (struct.pack("<I", 5) + b"\xc1abcd", struct.pack("<I", MAX_REQUEST_BYTES + 1), struct.pack("<I", 0)):
        assert refusal(priv.ask(content)).kind == "invalid"

    assert [line["outcome"] for line in priv.audited()] == ["invalid"] * 3
    assert isinstance(priv.ask(UnitStatus(plugin="probe", service="probe")), Done)


def test_a_slow_peer_is_cut_off_and_the_ninth_at_once_is_told(priv: Priv, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_module, "RECEIVE_LIMIT_S", 1.0)
    slow = [socket.socket(socket.AF_UNIX) for _ in range(server_module.AT_ONCE)]
    for connection in slow:
        connection.connect(str(priv.path))
        connection.sendall(b"\x05")
    begun = time.monotonic()
    assert refusal(priv.ask(b"")).kind == "busy"
    for connection in slow:
        connection.settimeout(5)
        assert refusal(priv.reply(connection)).kind == "invalid"
        connection.close()

    assert time.monotonic() - begun < 4
    assert isinstance(priv.ask(UnitStatus(plugin="probe", service="probe")), Done)


def test_another_user_is_refused_whatever_they_say(priv: Priv) -> None:
    script = (
        "import socket, sys\n"
        f"s = socket.socket(socket.AF_UNIX); s.connect({str(priv.path)!r}); s.sendall({b'anything'!r})\n"
        "sys.stdout.buffer.write(s.recv(4096)[4:])"
    )
    done = subprocess.run(
        ["setpriv", "--reuid", str(NOBODY), "--clear-groups", "/usr/bin/python3", "-c", script],
        capture_output=True,
        check=True,
        cwd="/",
    )

    reply = msgspec.msgpack.decode(done.stdout, type=Done | Refused)
    assert refusal(reply).kind == "denied"
    assert priv.audited()[-1]["uid"] == NOBODY
    assert priv.ran() == []


def test_a_verb_that_root_does_not_list_is_not_done(priv: Priv) -> None:
    for deed in (Shutdown(how="reboot"), WakeHost(host="x"), InterfaceRestart(interface="wg0"), NftLoad(rules="a")):
        assert "is not among the verbs" in refusal(priv.ask(deed)).message

    assert priv.ran() == []


def test_a_unit_is_started_only_if_root_s_config_says_so(priv: Priv) -> None:
    for config in ("", "[plugins.probe]\n", GRANT + "enabled = false\n", '[plugins.other]\nisolation = "unit"\n'):
        priv.config.write_text(config)
        reply = refusal(priv.ask(START))
        assert reply.kind == "denied"
        assert "only root's config grants it" in reply.message

    assert not any("systemd-run" in words[0] for words in priv.ran())


@pytest.mark.parametrize("spoiled", ["file", "drop-in", "folder", "owner", "link"])
def test_a_config_that_others_can_write_grants_nothing(priv: Priv, spoiled: str) -> None:
    priv.config.write_text(GRANT)
    drop_in = priv.config.parent / "sparkd.d" / "a.toml"
    drop_in.write_text("")
    match spoiled:
        case "file":
            priv.config.chmod(0o664)
        case "drop-in":
            drop_in.chmod(0o666)
        case "folder":
            drop_in.parent.chmod(0o777)
        case "owner":
            os.chown(drop_in, NOBODY, NOBODY)
        case "link":
            moved = priv.folder / "of-nobody"
            moved.write_text("")
            os.chown(moved, NOBODY, NOBODY)
            drop_in.unlink()
            drop_in.symlink_to(moved)

    reply = refusal(priv.ask(START))

    assert reply.kind == "denied"
    assert "than root" in reply.message or "belongs to user" in reply.message


def test_code_that_others_can_write_is_not_run_as_a_unit(priv: Priv) -> None:
    priv.config.write_text(GRANT)
    code = priv.folder / "etc" / "probe.py"
    code.write_text("")
    code.chmod(0o666)
    spec = encode({"source": {"kind": "drop-in", "path": str(code)}})

    assert "lets others than root" in refusal(priv.ask(UnitStart(plugin="probe", service="probe", spec=spec))).message
    assert "none of ours" in refusal(priv.ask(UnitStart(plugin="probe", service="probe", spec=b"\xc1"))).message


def test_what_a_unit_gets_comes_from_root_s_config(priv: Priv) -> None:
    priv.config.write_text(
        GRANT + '[plugins.probe.unit]\nuser = "nobody"\ngroups = ["audio"]\ndevices = ["/dev/hailo0"]\nnetwork = true\n'
        'credentials = ["pin"]\nmemory_max_bytes = 67108864\ncpu_max_percent = 50.0\nread_write_paths = ["/srv/x"]\n'
    )
    (priv.folder / "etc" / "credentials").mkdir()
    (priv.folder / "etc" / "credentials" / "pin").write_text("1")
    priv.settings.write_text(priv.settings.read_text() + f'credentials_dir = "{priv.folder}/etc/credentials"\n')
    priv.ask(START)
    (started,) = (words for words in priv.ran() if words[0] == "systemd-run")

    for wanted in (
        "User=nobody",
        "SupplementaryGroups=audio",
        "DeviceAllow=/dev/hailo0 rw",
        "MemoryMax=67108864",
        "CPUQuota=50%",
        "ReadWritePaths=/srv/x",
        f"LoadCredential=pin:{priv.folder}/etc/credentials/pin",
        "NoNewPrivileges=yes",
    ):
        assert f"--property={wanted}" in started
    assert "--property=DynamicUser=yes" not in started
    assert "--property=PrivateNetwork=yes" not in started
    assert list((priv.folder / "specs").iterdir()) == []


def test_a_unit_s_end_is_told_as_systemd_saw_it(priv: Priv) -> None:
    priv.config.write_text(GRANT)
    priv.ask(START)
    reply = priv.ask(UnitStop(plugin="probe", service="probe", at_once=True))

    assert isinstance(reply, Done)
    assert reply.unit is not None
    assert reply.unit.unit == "sparkd-plugin-probe"
    assert reply.unit.active in {"failed", "inactive"}
    assert isinstance(priv.ask(UnitStop(plugin="probe", service="probe")), Done)  # twice is no mistake


def test_an_interface_is_restarted_by_its_keeper_and_only_if_listed(priv: Priv) -> None:
    allow(priv, '[interfaces]\nwg0 = "wg-quick"\neth0 = "networkd"\nwlan0 = "networkmanager"\n', '"interface-restart"')
    for name in ("wg0", "eth0", "wlan0"):
        assert isinstance(priv.ask(InterfaceRestart(interface=name)), Done)

    assert "is not among the interfaces" in refusal(priv.ask(InterfaceRestart(interface="wg1"))).message
    assert [[words[0], *(word for word in words[1:] if word[:2] != "--")] for words in priv.ran()] == [
        ["systemctl", "restart", "wg-quick@wg0.service"],
        ["networkctl", "down", "eth0"],
        ["networkctl", "up", "eth0"],
        ["networkctl", "reconfigure", "eth0"],
        ["nmcli", "device", "disconnect", "wlan0"],
        ["nmcli", "device", "connect", "wlan0"],
    ]


def test_rules_are_checked_and_come_from_root_s_folder(priv: Priv) -> None:
    allow(priv, "", '"nft-load"')
    folder = priv.folder / "etc" / "nft"
    (folder / "good.nft").write_text("table inet a {}")
    (folder / "bad.nft").write_text("bad")
    (folder / "others.nft").write_text("")
    (folder / "others.nft").chmod(0o666)

    assert isinstance(priv.ask(NftLoad(rules="good")), Done)
    assert "syntax error" in refusal(priv.ask(NftLoad(rules="bad"))).message
    assert refusal(priv.ask(NftLoad(rules="others"))).kind == "denied"
    assert refusal(priv.ask(NftLoad(rules="missing"))).kind == "denied"
    loaded = [words for words in priv.ran() if words[0] == "nft" and "--check" not in words]
    assert loaded == [["nft", "--file", str(folder / "good.nft")]]


def test_a_listed_host_gets_the_magic_packet(priv: Priv) -> None:
    allow(priv, '[hosts]\nbigbox = "aa:bb:cc:dd:ee:0f"\n', '"wake-host"')

    assert isinstance(priv.ask(WakeHost(host="bigbox")), Done)
    assert priv.wake.recv(2000) == b"\xff" * 6 + bytes.fromhex("aabbccddee0f") * 16 == magic_packet("AA:bb:cc:dd:ee:0f")
    assert "is not among the hosts" in refusal(priv.ask(WakeHost(host="other"))).message


def test_a_shutdown_can_be_inhibited_and_tried_without_doing_it(priv: Priv) -> None:
    allow(priv, "", '"shutdown"')
    reply = priv.ask(Shutdown(how="poweroff", dry_run=True))
    assert isinstance(reply, Done)
    assert reply.said == "nothing is in the way"
    (priv.folder / "programs" / "inhibitors").write_text("backup 0 root 77 rsync shutdown:sleep copying block\n")
    assert "copying" in refusal(priv.ask(Shutdown(how="poweroff"))).message
    (priv.folder / "programs" / "inhibitors").unlink()
    assert not any(set(words) & {"poweroff", "reboot"} for words in priv.ran())
    priv.ask(Shutdown(how="poweroff", delay_s=30))
    priv.ask(Shutdown(how="reboot"))

    timer, now = (words for words in priv.ran() if set(words) & {"poweroff", "reboot"})
    assert timer[0] == "systemd-run"
    assert "--on-active=30s" in timer
    assert now[0] == "systemctl"
    assert now[-1] == "reboot"


def test_each_deed_has_its_line_before_and_after(priv: Priv) -> None:
    priv.ask(START)
    asked, done = priv.audited()

    assert (asked["outcome"], asked["verb"], asked["uid"]) == ("asked", "unit-start", 0)
    assert asked["arguments"] == {"plugin": "probe", "service": "probe", "spec": f"{len(SPEC)} bytes"}
    assert (done["outcome"], "grants" in done["why"]) == ("denied", True)


def test_nothing_is_done_without_an_audit(priv: Priv) -> None:
    allow(priv, "", '"shutdown"')
    (priv.folder / "audit.log").mkdir()

    assert "the audit cannot be written" in refusal(priv.ask(Shutdown(how="reboot"))).message
    assert priv.ran() == []


def test_the_audit_is_bounded(tmp_path: Path) -> None:
    audit = Audit(tmp_path / "audit.log", max_bytes=2000)
    for number in range(500):
        audit.note(number=number)

    files = sorted(tmp_path.iterdir())
    assert [file.name for file in files] == ["audit.log", *(f"audit.log.{number}" for number in range(1, 5))]
    assert sum(file.stat().st_size for file in files) < 12_000
    assert '"number":499' in (tmp_path / "audit.log").read_text()


def test_settings_say_what_is_wrong(tmp_path: Path) -> None:
    with short_folder() as folder:
        file = folder / "priv.toml"
        for wrong in ('verbs = ["run"]', '[hosts]\na = "x"', '[interfaces]\n"a/b" = "wg-quick"', "vebs = []", "\x00"):
            file.write_text(wrong)
            with pytest.raises(ConfigError, match=str(file)):
                load_settings(file)
        file.chmod(0o666)
        with pytest.raises(ConfigError, match="lets others than root"):
            load_settings(file)
    with pytest.raises(ConfigError, match="absolute"):
        require_roots(Path("here"))


@pytest.mark.parametrize(
    "table",
    [
        {"user": "root"},
        {"user": "a b"},
        {"groups": ["x\nUser=root"]},
        {"devices": ["/dev/../etc/passwd"]},
        {"devices": ["/etc/passwd"]},
        {"credentials": ["a:/b c"]},
        {"credentials": ["sparkd-spec:/x"]},
        {"credentials": ["a:/x/../y"]},
        {"read_write_paths": [Path("/srv/a:b")]},
        {"read_write_paths": [Path("srv")]},
        {"python": Path("python3")},
        {"memory_max_bytes": 5},
        {"cpu_max_percent": -1.0},
    ],
    ids=str,
)
def test_a_unit_s_table_is_checked(table: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=next(iter(table))):
        UnitTable(**table)  # type: ignore[arg-type] # that is the point


def test_no_two_services_share_a_unit() -> None:
    assert unit_name("a", "a") == "sparkd-plugin-a"
    assert unit_name("a", "b-c") != unit_name("a-b", "c")


def test_started_by_hand_it_says_how_to_start_it() -> None:
    done = subprocess.run([sys.executable, "-m", "sparkd.priv"], capture_output=True, text=True, check=False)

    assert done.returncode == 64
    assert "systemctl start sparkd-priv.socket" in done.stderr
