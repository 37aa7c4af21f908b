"""The two nodes of a chaos run, and whoever starts them again.

An edge node and a cloud node as in `sparkd.testing.pair`, without inference, with three additions: the link goes
through a proxy, each node's clock can be stepped, and the state folder is a small disk of its own that can be filled.
What the run itself notes down lies outside these disks.

The clock is stepped where Python reads it: a `sitecustomize` ahead of all other modules adds an offset to `time.time`
and `time.time_ns`, which are all that sparkd knows of the wall clock. (libfaketime works with uvloop and ZeroMQ, too,
but its hooks on timed waits keep every process busy for a tenth of a core, and the run shall measure the daemon.)
"""

from __future__ import annotations

import contextlib
import os
import shutil
import struct
import subprocess
import threading  # noqa: TID251 - drives daemons from outside, with no loop of its own
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sparkd.errors import CallError
from sparkd.testing.chaos import plugins
from sparkd.testing.node import Node, descendants
from sparkd.testing.pair import Pair, prepare
from sparkd.testing.proxy import Proxy

TAG = "SPARKD_CHAOS"
"""An environment variable that every process of a run inherits: so one that was left behind is found."""
WATCHDOG_S = 3.0
DISK_BYTES = {"edge": 96 << 20, "cloud": 384 << 20}
SERVICES = {
    "edge": ("node-telemetry", "cloud-uplink", "counter", "hand"),
    "cloud": ("edge-ingest", "stream-sink"),
}
LOOK_S = 0.05


CLOCK = """\
import mmap
import struct
import time

_file = open({file!r}, "rb")
_offset, _time, _time_ns = mmap.mmap(_file.fileno(), 8, prot=mmap.PROT_READ), time.time, time.time_ns
_file.close()
time.time = lambda: _time() + struct.unpack("<q", _offset[:])[0]
time.time_ns = lambda: _time_ns() + struct.unpack("<q", _offset[:])[0] * 10**9
"""
"""The `sitecustomize` of a node whose clock can be stepped: the file holds the offset in seconds, 64 bits."""


@dataclass
class Death:
    """A daemon that ended without having been told to."""

    node: str
    code: int
    seconds: float
    """Since the begin of the run."""
    last_words: str


@dataclass
class Kept:
    """One node that is kept running, as systemd would."""

    side: str
    node: Node
    clock: Path
    ordered: dict[int, int | None] = field(default_factory=dict)
    """Daemons that were told to end: by process id, the exit code that is expected; None for any."""
    starts: int = 0
    retired: bool = False
    """Whether it is to stay down when it ends."""

    @property
    def pid(self) -> int:
        """The daemon's process."""
        if self.node.process is None:
            raise RuntimeError(f"{self.side} is not started")
        return self.node.process.pid

    def status(self, *, timeout_s: float = 5.0) -> dict[str, Any]:
        """Return what the node says of itself; nothing if it does not answer."""
        try:
            found: dict[str, Any] = self.node.call("node.status", timeout_s=timeout_s)
        except (OSError, CallError):  # it is just being killed, or starting, or stopped
            return {}
        return found

    def services(self) -> dict[str, dict[str, Any]]:
        """Return the status of each service that belongs to the run."""
        found = {service["name"]: service for service in self.status().get("services", ())}
        return {name: found[name] for name in SERVICES[self.side] if name in found}

    def pid_of(self, name: str) -> int | None:
        """Return the process of the service *name*, if it runs one that is ready."""
        service = self.services().get(name, {})
        return service.get("pid") if service.get("state") in ("running", "degraded") else None

    def whole(self) -> bool:
        """Whether each of its services runs."""
        services = self.services()
        return len(services) == len(SERVICES[self.side]) and all(s["state"] == "running" for s in services.values())

    def up(self) -> bool:
        """Whether each of its services runs, be it with less than it wants."""
        services = self.services()
        states = {service["state"] for service in services.values()}
        return len(services) == len(SERVICES[self.side]) and states <= {"running", "degraded"}

    def zygote(self) -> int | None:
        """Return the process that forks the services."""
        parents = {pid: _parent(pid) for pid in descendants(self.pid)}
        below = [pid for pid, parent in parents.items() if parent == self.pid]
        return max(below, key=lambda pid: sum(parent == pid for parent in parents.values()), default=None)

    def set_clock(self, offset_s: int) -> None:
        """Let the node's clock be *offset_s* off from now on."""
        with self.clock.open("r+b") as out:
            out.write(struct.pack("<q", offset_s))


@dataclass
class Rig:
    """Both nodes, the link between them, and what the run notes down."""

    root: Path
    tag: str
    edge: Kept
    cloud: Kept
    pair: Pair
    proxy: Proxy
    disks: bool
    deaths: list[Death] = field(default_factory=list)
    begun: float = field(default_factory=time.monotonic)

    @property
    def nodes(self) -> tuple[Kept, Kept]:
        """Both nodes."""
        return self.edge, self.cloud

    @property
    def acknowledged(self) -> int:
        """The last number whose record was acknowledged; all below it were, too."""
        try:
            return int.from_bytes((self.root / "acknowledged").read_bytes()[:8], "big")
        except FileNotFoundError:
            return 0

    def done(self) -> list[str]:
        """Return what commands were carried out at the edge, in order."""
        file = self.root / "done"
        return file.read_text(encoding="ascii").splitlines() if file.exists() else []

    def revive(self) -> None:
        """Start again each daemon that has ended; note down those that were not told to."""
        for kept in self.nodes:
            process = kept.node.process
            if kept.retired or process is None or process.poll() is None:
                continue
            code, wanted = process.returncode, kept.ordered.get(process.pid, ...)
            if wanted is ... or (wanted is not None and code != wanted):
                self.deaths.append(
                    Death(kept.side, code, time.monotonic() - self.begun, kept.node.last_words()[-2000:])
                )
            kept.node.start(ready=False)
            kept.starts += 1


def until(look: Callable[[], bool], *, limit_s: float) -> float | None:
    """Look again and again; return after how many seconds it was true, or None if it was not within *limit_s*."""
    begun = time.monotonic()
    while not look():
        if time.monotonic() - begun > limit_s:
            return None
        time.sleep(LOOK_S)  # noqa: TID251 - watches other processes from outside
    return time.monotonic() - begun


@contextmanager
def rigged(root: Path, *, pause_s: float) -> Iterator[Rig]:
    """Prepare both nodes beneath *root* and run them; *pause_s* is between two records. Ends whatever is left."""
    tag = f"{os.getpid()}-{time.monotonic_ns()}"
    with _disks(root) as disks:
        pair = prepare(root)
        with Proxy(_link_port(pair)) as proxy:
            edge, cloud = (
                Kept(side, node, root / f"{side}-clock" / "offset")
                for side, node in (("edge", pair.edge), ("cloud", pair.cloud))
            )
            rig = Rig(root, tag, edge, cloud, pair, proxy, disks=disks)
            for kept in rig.nodes:
                _dress(kept, tag)
            _configure(rig, pause_s)
            try:
                with _kept_alive(rig):
                    yield rig
            finally:
                end_all(tag)


@contextmanager
def _kept_alive(rig: Rig) -> Iterator[None]:
    over = threading.Event()

    def keep() -> None:
        while not over.wait(LOOK_S):
            rig.revive()

    keeper = threading.Thread(target=keep)
    for kept in (rig.cloud, rig.edge):
        kept.node.start()
    keeper.start()
    try:
        yield
    finally:
        over.set()
        keeper.join()


def left_behind(tag: str) -> dict[int, str]:
    """Return the processes that carry *tag*, each with its command line."""
    found = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):  # gone since it was listed, or somebody else's
                if f"{TAG}={tag}".encode() in (entry / "environ").read_bytes().split(b"\0"):
                    found[int(entry.name)] = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode().strip()
    return found


def end_all(tag: str) -> None:
    """Kill every process that carries *tag*."""
    for pid in left_behind(tag):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, 9)


@contextmanager
def _disks(root: Path) -> Iterator[bool]:
    """Mount a small disk for the state of each node, if that is permitted; say whether."""
    places = {side: root / folder / "state" for side, folder in (("edge", "e"), ("cloud", "c"))}
    mounted = []
    try:
        for side, place in places.items():
            place.mkdir(parents=True)
            words = ("/bin/mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES[side]},mode=0700", "tmpfs", str(place))
            if os.geteuid() == 0 and not subprocess.run(words, check=False, capture_output=True).returncode:  # noqa: S603 - our own words
                mounted.append(place)
        yield len(mounted) == len(places)
    finally:
        for place in mounted:
            subprocess.run(("/bin/umount", "-l", str(place)), check=False)  # noqa: S603 - our own words


def _link_port(pair: Pair) -> int:
    line = next(line for line in pair.cloud.config.splitlines() if line.startswith("listen"))
    return int(line.rpartition(":")[2].strip('"'))


def _dress(kept: Kept, tag: str) -> None:
    """Give the node's processes their tag and a clock that can be stepped."""
    kept.clock.parent.mkdir()
    kept.clock.write_bytes(bytes(8))
    (kept.clock.parent / "sitecustomize.py").write_text(CLOCK.format(file=str(kept.clock)), encoding="utf-8")
    path = os.pathsep.join([str(kept.clock.parent), *filter(None, [os.environ.get("PYTHONPATH")])])
    kept.node.environment = {TAG: tag, "PYTHONPATH": path}


def _configure(rig: Rig, pause_s: float) -> None:
    """Write both configs anew: no inference, short watchdogs, the link through the proxy, quick retries."""
    pair, watchdog = rig.pair, f"watchdog_s = {WATCHDOG_S}\n"
    head, _, rest = pair.edge.config.partition("[plugins.hailo-inference]")
    edge = head + "[plugins.cloud-uplink]" + rest.partition("[plugins.cloud-uplink]")[2]
    edge = edge.replace(f"127.0.0.1:{_link_port(pair)}", f"127.0.0.1:{rig.proxy.port}")
    edge = edge.replace("[plugins.node-telemetry]", f"[plugins.node-telemetry]\n{watchdog}")
    edge = edge.replace(
        'commands_allow = ["node.status"]', f'commands_allow = ["hand.*"]\n{watchdog}retry_most_s = 3.0'
    )
    edge += "".join(f"\n[plugins.{name}]\n{watchdog}" for name in ("counter", "hand"))
    cloud = pair.cloud.config.replace("[plugins.edge-ingest]", f"[plugins.edge-ingest]\n{watchdog}retry_most_s = 3.0")
    cloud = cloud.replace("[plugins.stream-sink]", f"[plugins.stream-sink]\n{watchdog}retry_most_s = 3.0")
    for node, config in ((pair.edge, edge), (pair.cloud, cloud)):
        node.config = config
        node.prepare()
        (node.config_file.parent / "sparkd.d").mkdir(exist_ok=True)
    drop_in(pair.edge, "counter", plugins.COUNTER.format(acknowledged=str(rig.root / "acknowledged"), pause_s=pause_s))
    drop_in(pair.edge, "hand", plugins.HAND.format(done=str(rig.root / "done")))


def drop_in(node: Node, name: str, text: str) -> Path:
    """Put a plugin into the drop-in folder of *node*, whole or not at all; return the file."""
    file = node.plugins / f"{name}.py"
    draft = node.plugins.parent / f"{name}.part"
    draft.write_text(text, encoding="utf-8")
    shutil.move(draft, file)
    return file


def _parent(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()[1])
    except OSError:  # gone since it was listed
        return 0
