"""The node: its config, keys, folders, daemon, streams and certificates."""

from __future__ import annotations

import grp
import os
import stat
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

from sparkd.config import node_id
from sparkd.doctor.scene import Finding, Scene, named, note, ok, problem, skipped, warning
from sparkd.errors import ConfigError, SparkdError, StorageError
from sparkd.link import KeyStore
from sparkd.outbox import inspect
from sparkd.rpc.client import Client

ASK_LIMIT_S = 5.0
NEAR_FULL = 0.9
EXPIRES_SOON_S = 30 * 86_400
_CERTIFICATES = (".pem", ".crt", ".cert")
_OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH


@named("config files")
def config_files(scene: Scene) -> Iterator[Finding]:
    """Whether only those who may can change what the daemon does."""
    found = [*scene.config.files, *(folder for folder in scene.places.plugins if folder.is_dir())]
    for path in found:
        held = path.stat()
        if held.st_mode & stat.S_IWOTH:
            yield problem(f"{path}: anybody may write it", f"chmod o-w {path}")
        elif path.is_dir() and held.st_mode & _OTHERS_WRITE:
            yield problem(f"{path}: others may write it, so nothing in it is loaded", f"chmod go-w {path}")
    if not scene.config.files:
        yield note("there is no config: everything has its default", "sparkctl init writes one")
    elif not any(path.stat().st_mode & _OTHERS_WRITE for path in found):
        yield ok(f"{len(scene.config.files)} files, closed to others")


@named("folders")
def folders(scene: Scene) -> Iterator[Finding]:
    """Whether the daemon's own folders are closed to others."""
    for name in ("state", "cache"):
        folder: Path = getattr(scene.places, name)
        if not folder.is_dir():
            yield skipped(f"{folder} is not there yet", "the daemon makes it at its first start")
        elif folder.stat().st_mode & stat.S_IRWXO:
            yield problem(f"{folder}: open to everybody", f"chmod o= {folder}")
        else:
            yield ok(f"{folder}: mode {stat.S_IMODE(folder.stat().st_mode):04o}")


@named("identity")
def identity(scene: Scene) -> Iterator[Finding]:
    """The number by which every record of this node is known."""
    file = scene.places.state / "node_id"
    try:
        if not file.exists():
            yield skipped("made at the first start")
        else:
            yield ok(f"{scene.config.node.name}, {node_id(scene.places.state)}")
    except (ConfigError, OSError) as error:
        yield problem(str(error), "restore it: sparkctl restore")


@named("keys")
def keys(scene: Scene) -> Iterator[Finding]:
    """This node's key, and those of the peers in the config."""
    link = scene.config.link
    if not link.listen and not link.peers:
        yield skipped("no links are configured")
        return
    store = KeyStore(scene.places.state / "keys")
    try:
        store.load()
    except ConfigError as error:
        yield problem(str(error), "sparkctl keys new")
        return
    allowed = store.allow_list()
    for text in allowed.problems:
        yield problem(text, "sparkctl keys trust")
    for name in sorted(set(link.peers) - set(allowed.keys)):
        yield problem(f"{name} is in the config, and its key is not trusted", "sparkctl invite and sparkctl join")
    for name in sorted(set(allowed.keys) - set(link.peers)):
        yield note(f"{name} is trusted, and has no table in the config", f"sparkctl keys revoke {name}")
    if not allowed.problems and set(link.peers) <= set(allowed.keys):
        yield ok(f"{len(allowed.keys)} peers are trusted")


@named("daemon")
def daemon(scene: Scene) -> Iterator[Finding]:
    """Whether it answers, and what it says of itself."""
    try:
        with Client(scene.places.socket, timeout_s=ASK_LIMIT_S) as client:
            yield from _of_status(client.call("node.status", {}))
    except FileNotFoundError:
        yield problem(f"none runs: there is no {scene.places.socket}", "systemctl start sparkd; journalctl -u sparkd")
    except PermissionError:
        yield skipped(f"{scene.places.socket} is closed to you", "be in group sparkd, or try: sudo")
    except (OSError, SparkdError) as error:
        yield problem(f"it does not answer on {scene.places.socket}: {error}", "systemctl restart sparkd")


def _of_status(status: dict[str, Any]) -> Iterator[Finding]:
    from sparkd.daemon.version import VERSION  # noqa: PLC0415 - reads the package's metadata

    if status["version"] != VERSION:
        yield warning(f"version {status['version']} runs, {VERSION} is installed", "systemctl restart sparkd")
    for text in status["problems"]:
        yield problem(text, "sparkctl status")
    for service in status["services"]:
        if service["state"] not in ("running", "stopped", "disabled", "shed", "starting"):
            yield problem(f"{service['name']} is {service['state']}: {service['reason']}", service["remedy"])
    for link in status["links"]:
        if not link["connected"]:
            yield problem(f"no link to {link['peer']}: {link['reason']}", link["remedy"])
    yield ok(f"{status['summary']}, for {status['uptime_s'] / 3600:.1f} h")


@named("who may")
def access(scene: Scene) -> Iterator[Finding]:
    """Whether the group that may change things is there, and whether you are in it."""
    name = scene.config.rpc.admin_group
    try:
        group = grp.getgrnam(name)
    except KeyError:
        yield note(f"there is no group {name}: only root and the daemon's user change things", f"groupadd {name}")
        return
    if os.geteuid() == 0 or group.gr_gid in os.getgroups():
        yield ok(f"you may change things, as a member of {name} or as root")
    else:
        yield note(f"you are not in group {name}: you may look, not change", f"usermod -aG {name} $USER, log in again")


@named("streams")
def streams(scene: Scene) -> Iterator[Finding]:
    """Durable streams: damage, dead letters, and what comes near its bound."""
    root, most = scene.places.state / "outbox", scene.config.outbox.max_bytes
    if not root.is_dir():
        yield skipped("nothing durable yet")
        return
    try:
        found = inspect(root)
    except (StorageError, OSError) as error:
        yield problem(str(error), "sparkctl outbox")
        return
    for stream in found:
        name = f"{stream.service}/{stream.stream}"
        if stream.quarantined:
            yield warning(f"{name}: {len(stream.quarantined)} damaged segments are kept aside", "see the disk's health")
        if stream.dead:
            yield warning(f"{name}: {stream.dead} dead letters", f"sparkctl call outbox.dead for {name}")
        if stream.bytes > most * NEAR_FULL:
            yield warning(
                f"{name}: {stream.bytes >> 20} of {most >> 20} MB: the oldest go soon", "is its reader linked?"
            )
    yield ok(f"{len(found)} streams, {sum(stream.bytes for stream in found) >> 20} MB")


@named("certificates")
def certificates(scene: Scene) -> Iterator[Finding]:
    """When the certificates that the config names end."""
    files = sorted({path for table in scene.config.plugins.values() for path in _files_in(table.table)})
    for file in files:
        said = scene.run(["openssl", "x509", "-enddate", "-noout", "-in", str(file)])
        if said is None or not said.startswith("notAfter="):
            yield skipped(f"{file}: {(said or 'openssl is not installed').strip()[:100]}")
            continue
        ends = datetime.strptime(said.strip()[9:], "%b %d %H:%M:%S %Y %Z").timestamp() - time.timezone  # noqa: DTZ007 - openssl says GMT
        left_s = ends - time.time()
        if left_s < 0:
            yield problem(f"{file}: ended {-left_s / 86_400:.0f} days ago", "renew it")
        elif left_s < EXPIRES_SOON_S:
            yield warning(f"{file}: ends in {left_s / 86_400:.0f} days", "renew it")
        else:
            yield ok(f"{file}: good for {left_s / 86_400:.0f} days")
    if not files:
        yield skipped("the config names none")


def _files_in(value: Any) -> Iterator[Path]:
    if isinstance(value, dict):
        for inner in value.values():
            yield from _files_in(inner)
    elif isinstance(value, str) and value.startswith("/") and value.endswith(_CERTIFICATES):
        yield Path(value)


CHECKS = (config_files, folders, identity, keys, daemon, access, streams, certificates)
