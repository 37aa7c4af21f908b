"""The daemon under the systemd of both Debians: every order it can be given there, and every way it can fail."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest

from tests.machine import roots
from tests.machine.machine import Machine, machine
from tests.system.watching import QUIET, plugin

CONFIG = '[node]\nname = "here"\nmetrics_listen = ""\n'
INSTALL = """\
cp /src/systemd/*.service /etc/systemd/system/
install -m 644 /src/systemd/sparkd.sysusers /etc/sysusers.d/sparkd.conf
install -m 644 /src/systemd/sparkd.tmpfiles /etc/tmpfiles.d/sparkd.conf
systemd-sysusers
systemd-tmpfiles --create
ln -s /opt/sparkd/bin/sparkctl /usr/local/bin/
useradd --groups sparkd friend
useradd stranger
systemctl daemon-reload
"""
CLEAN = """\
systemctl stop 'sparkd*.service'
systemctl reset-failed
rm -rf /etc/systemd/system/sparkd.service.d /etc/sparkd/sparkd.d/* /etc/sparkd/plugins/* /etc/sparkd/switches/*
systemctl daemon-reload
"""
STUBBORN = """\
task_status.started()
while True:
    try:
        await anyio.sleep(60)
    except BaseException:
        pass
"""
SECRET = "a-word-that-nobody-sees"
READS_SECRET = plugin(
    "import hashlib\n"
    "ctx.log.info('its digest is ' + hashlib.sha256(ctx.config.password.reveal().encode()).hexdigest())\n" + QUIET,
    config="Own",
    more="from sparkd import Secret\n\n@dataclass(frozen=True, kw_only=True)\nclass Own:\n    password: Secret\n",
)


@pytest.fixture(scope="module", params=roots.RELEASES)
def debian(request: pytest.FixtureRequest) -> Iterator[Machine]:
    """A machine with sparkd, its units and its account, and nothing started."""
    with machine(request.param) as it:
        it.checkout("/src")
        it.install("/src")
        it.sh("mkdir -p /etc/sysusers.d /etc/tmpfiles.d\n" + INSTALL)
        yield it


@pytest.fixture
def node(debian: Machine) -> Machine:
    """The machine with one node of an empty config, stopped; of earlier tests only the state is left."""
    debian.sh(CLEAN)
    debian.write("/etc/sparkd/sparkd.toml", CONFIG)
    return debian


def drop_in(node: Machine, text: str) -> None:
    """Change the unit."""
    node.write("/etc/systemd/system/sparkd.service.d/test.conf", text)
    node.sh("systemctl daemon-reload")


def shown(node: Machine, name: str, unit: str = "sparkd") -> str:
    return node.sh(f"systemctl show -P {name} {unit}").strip()


def wait(node: Machine, condition: str, *, limit_s: float = 20) -> None:
    """Wait until a shell condition is true; show the unit if it never is."""
    done = node.run(
        f"timeout {limit_s} bash -c 'until {condition}; do sleep 0.05; done' && exit\n"
        "systemctl status sparkd; journalctl -u sparkd -o cat -n 30; exit 1",
        limit_s=limit_s + 10,
    )
    assert done.code == 0, f"never: {condition}\n{done.output}"


def test_systemd_has_nothing_to_say_about_the_units(node: Machine) -> None:
    assert node.sh("systemd-analyze verify sparkd.service sparkd@lab.service 2>&1") == ""
    assert not re.search("sparkd.*(Unknown|ignoring|obsolete)", node.sh("journalctl -b -o cat _PID=1"))


@pytest.mark.parametrize("unit", ["sparkd.service", "sparkd@lab.service"])
def test_the_exposure_is_two_at_the_most(node: Machine, unit: str) -> None:
    node.sh(f"systemd-analyze security --threshold=20 {unit}")


def test_it_starts_and_says_how_it_is(node: Machine) -> None:
    node.write("/etc/sparkd/plugins/it.py", plugin(QUIET))
    node.write("/etc/sparkd/plugins/bad.py", "raise ValueError('no')\n")
    node.sh("systemctl start sparkd")

    assert shown(node, "ActiveState") == "active"
    assert shown(node, "StatusText") == "1 of 2 services run; bad broken"
    assert 'Status: "1 of 2 services run; bad broken"' in node.sh("systemctl status sparkd")
    assert shown(node, "User") == "sparkd"


def test_a_good_reload_is_taken_over_by_the_same_process(node: Machine) -> None:
    node.sh("systemctl start sparkd")
    pid = shown(node, "MainPID")
    node.write("/etc/sparkd/sparkd.d/a.toml", "[plugins.node-telemetry]\n")
    node.sh("systemctl reload sparkd")

    wait(node, '[ "$(systemctl show -P StatusText sparkd)" = "1 of 1 services run" ]')
    assert (shown(node, "ActiveState"), shown(node, "MainPID")) == ("active", pid)


def test_a_bad_reload_fails_and_says_so_and_the_daemon_goes_on(node: Machine) -> None:
    node.sh("systemctl start sparkd")
    pid = shown(node, "MainPID")
    node.write("/etc/sparkd/sparkd.d/a.toml", "[bus]\nhigh_water = 7\n")

    assert node.run("systemctl reload sparkd").code != 0
    assert (shown(node, "ActiveState"), shown(node, "MainPID")) == ("active", pid)
    assert "not taken over" in shown(node, "StatusText")
    assert "high_water: unknown key" in node.journal("sparkd")
    assert "0 of 0 services run" in node.run("sparkctl status").output, "it answers although the config is bad"

    node.sh("rm /etc/sparkd/sparkd.d/a.toml; systemctl reload sparkd")
    assert shown(node, "StatusText") == "0 of 0 services run"


def test_a_bad_config_ends_the_start_for_good_and_is_named(node: Machine) -> None:
    node.write("/etc/sparkd/sparkd.d/a.toml", "[bus]\nhigh_water = 7\n")
    assert node.run("systemctl start sparkd").code != 0

    assert (shown(node, "ActiveState"), shown(node, "ExecMainStatus")) == ("failed", "78")
    assert shown(node, "NRestarts") == "0"
    assert "a.toml: [bus] high_water: unknown key" in node.journal("sparkd")
    node.sh("rm /etc/sparkd/sparkd.d/a.toml; systemctl start sparkd")


def test_a_restart_is_a_new_process_of_the_same_node(node: Machine) -> None:
    node.sh("systemctl start sparkd")
    pid, identity = shown(node, "MainPID"), node.sh("cat /var/lib/sparkd/node_id")
    node.sh("systemctl restart sparkd")

    assert shown(node, "MainPID") != pid
    assert node.sh("cat /var/lib/sparkd/node_id") == identity


def test_a_stop_takes_five_seconds_at_the_most_and_leaves_nothing(node: Machine) -> None:
    node.write("/etc/sparkd/plugins/stubborn.py", plugin(STUBBORN))
    node.sh("systemctl start sparkd")
    node.sh("timeout 5 systemctl stop sparkd")

    assert (shown(node, "ActiveState"), shown(node, "Result")) == ("inactive", "success")
    assert node.run("pgrep -u sparkd").output == ""
    assert node.run("ls /run/sparkd/sparkd.sock").code != 0


def test_a_hung_core_is_found_and_started_again_and_said_where_it_stood(node: Machine) -> None:
    drop_in(node, "[Service]\nWatchdogSec=2\nRestartSec=100ms\n")
    node.sh("systemctl start sparkd")
    pid = shown(node, "MainPID")
    node.sh(f"kill -STOP {pid}")
    wait(node, '[ "$(systemctl show -P NRestarts sparkd)$(systemctl is-active sparkd)" = 1active ]')

    assert shown(node, "MainPID") != pid
    said = node.journal("sparkd")
    assert "Watchdog timeout" in said
    assert "Fatal Python error: Aborted" in said


def test_what_was_before_a_crash_is_read_after_it(node: Machine) -> None:
    drop_in(node, "[Service]\nRestartSec=100ms\n")
    node.sh("rm -rf /var/lib/sparkd/recorder; systemctl start sparkd")  # the minutes of other tests are there, too
    each = "sparkctl history core rss --step 1s --csv"  # without a step two samples may make one point
    wait(node, f'[ "$({each} | wc -l)" -gt 4 ]')
    node.sh("systemctl kill --signal=KILL --kill-whom=main sparkd")
    wait(node, '[ "$(systemctl show -P NRestarts sparkd)$(systemctl is-active sparkd)" = 1active ]')

    assert int(node.sh(f"{each} --last-crash | wc -l")) > 3
    assert "did not end by its own orders" in node.journal("sparkd")


def test_a_core_whose_socket_does_not_answer_is_started_again(node: Machine) -> None:
    drop_in(node, "[Service]\nWatchdogSec=2\nRestartSec=100ms\n")
    node.sh("systemctl start sparkd\nrm /run/sparkd/sparkd.sock")
    wait(node, '[ "$(systemctl show -P NRestarts sparkd)$(systemctl is-active sparkd)" = 1active ]')

    assert "not well: systemd is not told otherwise" in node.journal("sparkd")
    node.sh("sparkctl status")


def test_a_node_that_is_well_is_left_alone_by_the_watchdog(node: Machine) -> None:
    drop_in(node, "[Service]\nWatchdogSec=1\n")
    node.sh("systemctl start sparkd; sleep 4")

    assert (shown(node, "ActiveState"), shown(node, "NRestarts")) == ("active", "0")


def test_a_crash_loop_ends_at_the_limit(node: Machine) -> None:
    drop_in(node, "[Unit]\nStartLimitBurst=3\nStartLimitIntervalSec=300\n[Service]\nRestartSec=100ms\n")
    node.sh("systemctl start sparkd")
    for restarts in (1, 2):
        node.sh("systemctl kill --signal=KILL --kill-whom=main sparkd")
        wait(node, f'[ "$(systemctl show -P NRestarts sparkd)$(systemctl is-active sparkd)" = {restarts}active ]')
    node.sh("systemctl kill --signal=KILL --kill-whom=main sparkd")
    wait(node, "systemctl is-failed -q sparkd")

    assert "Start request repeated too quickly" in node.journal("sparkd")
    assert node.run("pgrep -u sparkd").output == "", "children die with the core"


def test_a_slow_first_start_gets_more_time_than_the_unit_gives(node: Machine) -> None:
    drop_in(node, "[Service]\nTimeoutStartSec=10\n")
    slow = plugin("await anyio.sleep(12)\n" + QUIET, offer="start_limit_s=30.0")
    node.write("/etc/sparkd/plugins/slow.py", slow)
    node.sh("systemctl start sparkd")

    assert shown(node, "StatusText") == "1 of 1 services run"


def test_a_credential_reaches_the_plugin_that_names_it_and_nobody_else(node: Machine) -> None:
    node.write("/etc/sparkd/credentials/database", SECRET, mode=0o600)
    drop_in(node, "[Service]\nLoadCredential=database:/etc/sparkd/credentials/database\n")
    node.write("/etc/sparkd/plugins/it.py", READS_SECRET)
    node.write("/etc/sparkd/sparkd.d/it.toml", '[plugins.it]\npassword = { credential = "database" }\n')
    node.sh("systemctl start sparkd")

    digest = node.sh(f"printf %s {SECRET} | sha256sum").split()[0]
    assert f"its digest is {digest}" in node.sh("sparkctl logs it")
    assert SECRET not in node.journal("sparkd")
    assert SECRET not in node.sh("sparkctl config show")
    assert node.run("cat /etc/sparkd/credentials/database", user="sparkd").code != 0


def test_members_of_the_group_may_steer_it_and_others_may_not(node: Machine) -> None:
    node.write("/etc/sparkd/plugins/it.py", plugin(QUIET))
    node.sh("systemctl start sparkd")

    assert "1 of 1 services run" in node.sh("sparkctl status", user="friend")
    node.sh("sparkctl plugin restart it", user="friend")
    refused = node.run("sparkctl status", user="stranger")
    assert refused.code != 0
    assert "Permission denied" in refused.output
    assert "Traceback" not in refused.output


def test_a_plugin_is_disabled_and_enabled_through_the_hardened_daemon(node: Machine) -> None:
    node.write("/etc/sparkd/plugins/it.py", plugin(QUIET))
    node.sh("systemctl start sparkd\nsparkctl plugin disable it\nsystemctl restart sparkd")
    assert shown(node, "StatusText") == "0 of 0 services run"

    node.sh("sparkctl plugin enable it")
    wait(node, '[ "$(systemctl show -P StatusText sparkd)" = "1 of 1 services run" ]')


def test_its_own_part_of_the_control_groups_is_its_to_divide_and_no_other(node: Machine) -> None:
    node.sh("systemctl start sparkd")
    inside = f"nsenter --mount --target {shown(node, 'MainPID')} runuser -u sparkd --"

    node.sh(f"{inside} mkdir /sys/fs/cgroup/system.slice/sparkd.service/a")
    node.sh(f"{inside} rmdir /sys/fs/cgroup/system.slice/sparkd.service/a")
    assert "Read-only" in node.run(f"{inside} mkdir /sys/fs/cgroup/system.slice/a").output
    assert "cpu" in shown(node, "DelegateControllers")
