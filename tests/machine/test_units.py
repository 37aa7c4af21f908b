"""Isolation `unit` under a real systemd: what such a service may do, what it may not, and how it ends."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest

from tests.machine import roots
from tests.machine.machine import Machine, machine

UNIT = "sparkd-plugin-probe"
MOST_EXPOSED = 0.5
"""What `systemd-analyze security` may say of a unit as it is by default; measured: 0.3, as README states."""
PRIV_MOST_EXPOSED = 2.0

PROBE = '''"""probe: look around and say what is seen."""

import os
import signal
import socket
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import anyio
from sparkd import Context, Durability, NoConfig, Record, Service, event, hookimpl, interface, reads


@event("edge.telemetry.probe", durability=Durability.DURABLE)
@dataclass(frozen=True, slots=True, kw_only=True)
class Looked:
    n: int


@interface("probe")
class Probe(Protocol):
    @reads
    async def look(self) -> dict[str, Any]: ...

    async def append(self, *, n: int) -> int: ...

    async def block(self) -> None: ...

    async def hog(self) -> None: ...


def can(deed) -> str:
    try:
        deed()
    except OSError as error:
        return type(error).__name__
    return "can"


def call_without_token() -> None:
    with socket.socket(socket.AF_UNIX) as knock:
        knock.connect("/run/sparkd/calls")
        knock.settimeout(3)
        knock.sendall(b"\\x01\\x00\\x00\\x00\\x00\\x00\\x00\\x00x")
        if knock.recv(1) == b"":
            raise ConnectionResetError


class Looks:
    def __init__(self, ctx):
        self.ctx = ctx

    async def look(self):
        ctx = self.ctx
        (ctx.state_dir / "kept").write_text("yes")
        credentials = Path(os.environ["CREDENTIALS_DIRECTORY"])
        names = sorted(file.name for file in credentials.iterdir())
        return {
            "uid": os.getuid(),
            "python": sys.executable,
            "prefix": sys.prefix,
            "state": str(ctx.state_dir),
            "secret": (credentials / "pin").read_text() if "pin" in names else "",
            "names": names,
            "runtime": sorted(os.listdir("/run/sparkd")),
            "state of the core": can(lambda: os.listdir("/var/lib/sparkd")),
            "write etc": can(lambda: open("/etc/sparkd/x", "w")),
            "priv": can(lambda: socket.socket(socket.AF_UNIX).connect("/run/sparkd-priv/priv.sock")),
            "internet": can(lambda: socket.socket(socket.AF_INET)),
            "without token": can(call_without_token),
            "kill the core": can(lambda: os.kill(int(open("/proc/self/stat").read().split()[3]), 0)),
            "apt_pkg": self.vendor(),
        }

    def vendor(self) -> str:
        try:
            import vendor_sdk
        except ImportError:
            return "missing"
        return vendor_sdk.NAME

    async def append(self, *, n):
        async with self.ctx.outbox.writer("found") as writer:
            (number,) = await writer.append([Record(topic="edge.telemetry.probe", body=b"x", key=f"key-{n}")])
        await self.ctx.bus.publish(Looked(n=n), key=f"event-{n}")
        return number

    async def block(self):
        time.sleep(60)

    async def hog(self):
        os.kill(os.getpid(), signal.SIGSEGV)


async def run(ctx: Context[NoConfig], *, task_status) -> None:
    await ctx.serve(Probe, Looks(ctx))
    ctx.log.info("looking around")
    print("plain words", flush=True)
    task_status.started()
    try:
        await anyio.sleep_forever()
    finally:
        (ctx.state_dir / "left").write_text("in order")


@hookimpl
def sparkd_services():
    return [Service(name="probe", config=NoConfig, run=run, serves=(Probe,), publishes=(Looked,))]
'''
CONFIG = """
[node]
name = "box"
metrics_listen = ""

[plugins.probe]
isolation = "unit"
watchdog_s = 3.0

[plugins.probe.unit]
credentials = ["pin:/etc/sparkd/pin"]
"""


@pytest.fixture(scope="module", params=roots.RELEASES)
def box(request: pytest.FixtureRequest) -> Iterator[Machine]:
    with machine(request.param) as it:
        it.checkout()
        it.install()
        it.write("/etc/sparkd/sparkd.toml", CONFIG)
        it.write("/etc/sparkd/plugins/probe.py", PROBE)
        it.write("/etc/sparkd/pin", "1234", mode=0o600)
        it.sh(
            "cp /src/systemd/sparkd.service /src/systemd/sparkd-priv.* /etc/systemd/system/\n"
            "systemd-sysusers /src/systemd/sparkd.sysusers\n"
            "systemctl daemon-reload; systemctl enable --now sparkd-priv.socket; systemctl start sparkd"
        )
        yield it


def status(box: Machine) -> dict[str, Any]:
    answer = json.loads(box.run("/opt/sparkd/bin/sparkctl --json status").output)  # its code says how the node is
    return next((one for one in answer["services"] if one["name"] == "probe"), {})


def until_state(box: Machine, state: str) -> dict[str, Any]:
    box.sh(
        f"timeout 30 sh -c 'until /opt/sparkd/bin/sparkctl status | grep -q \"probe .*{state}\"; do sleep 0.1; done'"
        " || { /opt/sparkd/bin/sparkctl status; journalctl -b -o cat | tail -60; false; }"
    )
    return status(box)


def call(box: Machine, method: str, **params: Any) -> Any:
    return json.loads(box.sh(f"/opt/sparkd/bin/sparkctl --json call {method} '{json.dumps(params)}'"))


def test_it_runs_as_a_unit_and_user_of_its_own(box: Machine) -> None:
    found = until_state(box, "running")
    seen = call(box, "probe.look")

    assert found["isolation"] == "unit"
    assert box.sh(f"systemctl show -P MainPID {UNIT}").strip() == str(found["pid"])
    assert seen["uid"] not in {0, int(box.sh("id -u sparkd"))}
    assert seen["state"].endswith(f"/{UNIT}")
    assert box.sh(f"cat /var/lib/private/{UNIT}/kept") == "yes"


def test_it_reaches_nothing_but_what_it_was_given(box: Machine) -> None:
    until_state(box, "running")
    seen = call(box, "probe.look")

    assert seen["runtime"] == ["bus.pub", "bus.sub", "calls", "output"]
    assert seen["state of the core"] in {"PermissionError", "FileNotFoundError"}
    assert seen["write etc"] in {"PermissionError", "OSError"}
    assert seen["priv"] in {"PermissionError", "FileNotFoundError"}
    assert seen["internet"] != "can"
    assert seen["without token"] in {"ConnectionResetError", "BrokenPipeError"}


def test_a_credential_is_readable_by_it_alone(box: Machine) -> None:
    until_state(box, "running")

    assert call(box, "probe.look")["secret"] == "1234"
    assert call(box, "probe.look")["names"] == ["pin", "sparkd-spec"]
    assert box.run(f"cat /run/credentials/{UNIT}.service/pin", user="sparkd").code != 0
    assert box.sh("ls -A /run/sparkd-priv/specs") == ""


def test_it_appends_to_its_outbox_once_and_its_words_are_in_the_log(box: Machine) -> None:
    until_state(box, "running")
    numbers = {call(box, "probe.append", n=1), call(box, "probe.append", n=1)}
    streams = json.loads(box.sh("/opt/sparkd/bin/sparkctl --json outbox"))

    assert len(numbers) == 1
    assert {(one["service"], one["stream"], one["last_seq"]) for one in streams} == {
        ("probe", "events", 1),
        ("probe", "found", 1),
    }
    assert "plain words" in box.sh("/opt/sparkd/bin/sparkctl logs probe")
    assert "plain words" in box.journal("sparkd")


@pytest.mark.parametrize("number", ["KILL", "SEGV"])
def test_it_is_started_again_after_a_kill(box: Machine, number: str) -> None:
    before = until_state(box, "running")
    box.sh(f"kill -{number} {before['pid']}")
    box.sh(
        f'timeout 20 sh -c \'until /opt/sparkd/bin/sparkctl --json status | grep -q "\\"restarts\\": '
        f"{before['restarts'] + 1}\"; do sleep 0.1; done'"
    )
    after = until_state(box, "running")

    assert after["pid"] != before["pid"]
    assert call(box, "probe.look")["state"].endswith(UNIT)


def test_one_that_is_stuck_is_found_with_its_line_and_started_again(box: Machine) -> None:
    before = until_state(box, "running")
    box.run("timeout 3 /opt/sparkd/bin/sparkctl call probe.block")
    box.sh(
        f'timeout 30 sh -c \'until /opt/sparkd/bin/sparkctl --json status | grep -q "\\"restarts\\": '
        f"{before['restarts'] + 1}\"; do sleep 0.1; done'"
    )
    failure = until_state(box, "running")["last_failure"]

    assert "did not answer" in failure["reason"]
    assert failure["file"].endswith("probe.py")
    assert PROBE.splitlines()[failure["line"] - 1].strip() == "time.sleep(60)"


def test_it_ends_in_order_with_the_daemon_and_comes_back_with_it(box: Machine) -> None:
    until_state(box, "running")
    box.sh(f"rm -f /var/lib/private/{UNIT}/left; systemctl stop sparkd")

    assert box.run(f"systemctl is-active {UNIT}").output.strip() == "inactive"
    assert box.sh(f"cat /var/lib/private/{UNIT}/left") == "in order"
    box.sh("systemctl start sparkd")
    until_state(box, "running")
    box.sh("systemctl restart sparkd")
    until_state(box, "running")
    box.sh("systemctl kill -s KILL --kill-whom=main sparkd")
    box.sh("timeout 20 sh -c 'until [ \"$(systemctl is-active sparkd)\" = active ]; do sleep 0.1; done'")
    until_state(box, "running")


def test_root_s_python_gives_it_a_vendor_s_package_and_the_core_its_own(box: Machine) -> None:
    box.write("/usr/lib/python3/dist-packages/vendor_sdk.py", "NAME = 'of the vendor'\n")
    box.write("/usr/lib/python3/dist-packages/anyio.py", "raise RuntimeError('the system has an old one')\n")
    box.write("/etc/sparkd/sparkd.toml", CONFIG.replace("credentials =", 'python = "/usr/bin/python3"\ncredentials ='))
    box.sh("systemctl restart sparkd")
    until_state(box, "running")
    seen = call(box, "probe.look")
    box.write("/etc/sparkd/sparkd.toml", CONFIG)
    box.sh("rm /usr/lib/python3/dist-packages/anyio.py; systemctl restart sparkd")

    assert (seen["python"], seen["prefix"], seen["apt_pkg"]) == ("/usr/bin/python3", "/usr", "of the vendor")


def test_what_others_could_have_written_starts_nothing(box: Machine) -> None:
    until_state(box, "running")
    box.sh("chmod g+w /etc/sparkd/sparkd.toml; kill -9 $(systemctl show -P MainPID sparkd-plugin-probe)")
    found = until_state(box, "waiting")
    box.sh("chmod g-w /etc/sparkd/sparkd.toml; /opt/sparkd/bin/sparkctl plugin restart probe || true")
    until_state(box, "running")

    assert "lets others than root write" in found["reason"]
    assert "lets others than root write" in box.sh("cat /var/log/sparkd-priv/audit.log")


def test_without_sparkd_priv_it_waits_and_says_what_to_do(box: Machine) -> None:
    until_state(box, "running")
    box.sh("systemctl stop sparkd; systemctl stop sparkd-priv.socket sparkd-priv.service; systemctl start sparkd")
    found = until_state(box, "waiting")
    box.sh("systemctl start sparkd-priv.socket; /opt/sparkd/bin/sparkctl plugin restart probe || true")
    until_state(box, "running")

    assert "sparkd-priv is not there" in found["reason"]
    assert found["remedy"] == "systemctl enable --now sparkd-priv.socket"


def test_the_figures_of_exposure_are_as_stated(box: Machine) -> None:
    until_state(box, "running")

    assert exposure(box, UNIT) <= MOST_EXPOSED
    assert exposure(box, "sparkd-priv") <= PRIV_MOST_EXPOSED
    box.sh("systemd-analyze verify /etc/systemd/system/sparkd-priv.service /etc/systemd/system/sparkd-priv.socket")


def exposure(box: Machine, unit: str) -> float:
    said = box.run(f"systemd-analyze security --no-pager {unit}.service").output
    found = re.search(r"Overall exposure level for \S+: ([0-9.]+)", said)
    assert found is not None, said
    return float(found[1])
