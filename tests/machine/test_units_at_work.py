"""Two nodes on one machine, `sparkd@edge` and `sparkd@cloud`: all sample plugins do their work within the hardening."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from sparkd.testing.pair import CLOUD, EDGE
from tests.machine import roots
from tests.machine.machine import Machine, machine
from tests.system.watching import until

INSTALL = """\
cp /src/systemd/*.service /etc/systemd/system/
mkdir -p /etc/sysusers.d
install -m 644 /src/systemd/sparkd.sysusers /etc/sysusers.d/sparkd.conf
systemd-sysusers
systemctl daemon-reload
for node in edge cloud; do install -d -o sparkd -g sparkd -m 700 /var/lib/sparkd-$node; done
"""
PREPARE = """\
/opt/sparkd/bin/python3 - <<'END'
from pathlib import Path
from sparkd.link.keys import KeyStore
edge, cloud = (KeyStore(Path(f"/var/lib/sparkd-{node}/keys")) for node in ("edge", "cloud"))
edge_key, cloud_key = edge.new(), cloud.new()
edge.trust("primecore", cloud_key)
cloud.trust("control-pc", edge_key)
Path("/var/lib/sparkd-edge/pictures").mkdir()
END
"""
DROP = """\
/opt/sparkd/bin/python3 - <<'END'
from pathlib import Path
from sparkd.testing.pair import drop, pictures
for name, picture in pictures(4, 1):
    drop(Path("/var/lib/sparkd-edge/pictures"), name, picture)
END
"""
STORED = """\
/opt/sparkd/bin/python3 - <<'END'
import time
from pathlib import Path
from sparkd.testing.pair import arrivals, count_rows
database = Path("/var/lib/sparkd-cloud/plugins/stream-sink/sparkd.db")
deadline = time.monotonic() + 40
while len(arrivals(database)) < 4 or not count_rows(database, "device_metrics"):
    if time.monotonic() > deadline:
        break
    time.sleep(0.1)
print(len(arrivals(database)), count_rows(database, "device_metrics") > 0)
END
"""


@pytest.fixture(scope="module", params=roots.RELEASES)
def nodes(request: pytest.FixtureRequest) -> Iterator[Machine]:
    """A machine that runs both nodes."""
    with machine(request.param) as it:
        it.checkout("/src")
        it.install("/src")
        it.sh(INSTALL)
        it.sh(PREPARE, user="sparkd")
        it.write(
            "/etc/sparkd-edge/sparkd.toml",
            EDGE.format(metrics=9464, link=7700, watch="/var/lib/sparkd-edge/pictures"),
        )
        it.write("/etc/sparkd-cloud/sparkd.toml", CLOUD.format(metrics=9465, link=7700))
        it.sh("systemctl start sparkd@cloud sparkd@edge")
        yield it


def services(it: Machine, node: str) -> dict[str, str]:
    answer = json.loads(
        it.run(f"/opt/sparkd/bin/sparkctl --socket /run/sparkd-{node}/sparkd.sock status --json").output
    )
    return {service["name"]: service["state"] for service in answer["services"]}


def test_both_nodes_run_all_their_services(nodes: Machine) -> None:
    edge, cloud = ("cloud-uplink", "hailo-inference", "node-telemetry"), ("edge-ingest", "stream-sink")
    # The uplink is degraded until its link is up, which no start waits for.
    until(lambda: services(nodes, "edge"), lambda found: found == dict.fromkeys(edge, "running"), limit_s=20)
    until(lambda: services(nodes, "cloud"), lambda found: found == dict.fromkeys(cloud, "running"), limit_s=20)


def test_what_the_edge_sees_is_stored_in_the_cloud(nodes: Machine) -> None:
    nodes.sh(DROP, user="sparkd")

    assert nodes.sh(STORED, user="sparkd") == "4 True\n"


def test_the_units_that_do_this_are_exposed_by_two_at_the_most(nodes: Machine) -> None:
    nodes.sh("systemd-analyze security --threshold=20 sparkd@edge sparkd@cloud")


def test_one_is_stopped_and_the_other_goes_on(nodes: Machine) -> None:
    nodes.sh("systemctl stop sparkd@edge")

    assert nodes.sh("systemctl is-active sparkd@cloud") == "active\n"
    assert services(nodes, "cloud") == dict.fromkeys(("edge-ingest", "stream-sink"), "running")
    nodes.sh("systemctl start sparkd@edge")
    assert "running" in services(nodes, "edge")["cloud-uplink"]
