"""A node saved into one file while it works, and brought back onto an empty machine."""

from __future__ import annotations

import io
import json
import os
import shutil
import sqlite3
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from sparkd.cli.main import main
from sparkd.link import KeyStore
from sparkd.outbox.restored import LEAP
from sparkd.testing import Node
from tests.system.watching import plugin, runs, until

CONFIG = """\
[node]
name = "lone"
metrics_listen = ""
runtime_dir = "{0}/run"
state_dir = "{0}/state"
cache_dir = "{0}/cache"
"""

PRODUCER = """\
writer = await stack.enter_async_context(ctx.outbox.writer("numbers"))
(ctx.state_dir / "note").write_text("mine")
task_status.started()
while True:
    seqs = await writer.append([Record(topic="t", body=b"x" * 500) for _ in range(20)])
    await anyio.sleep(0.01)
"""
BODY = "from contextlib import AsyncExitStack\nfrom sparkd import Record\n"


def produce(body: str) -> str:
    inner = "".join(f"    {line}\n" for line in body.splitlines())
    return f"async with AsyncExitStack() as stack:\n{inner}"


@pytest.fixture
def producing(folder: Path) -> Iterator[Node]:
    node = Node("lone", folder / "one", CONFIG.format(folder / "one")).prepare()
    (node.plugins / "counter.py").write_text(plugin(produce(PRODUCER), name="counter", more=BODY))
    KeyStore(node.state / "keys").new()
    try:
        yield node.start()
    finally:
        node.stop()


def ctl(node: Node, *words: str) -> int:
    return main(["--config", str(node.config_file), *words])


def last_seq(node: Node) -> int:
    (stream,) = node.call("outbox.status")
    return int(stream["last_seq"])


def rows(folder: Path) -> list[int]:
    found = []
    for file in sorted(folder.glob("*.seg")):
        with closing(sqlite3.connect(file)) as db:
            found += [row[0] for row in db.execute("SELECT seq FROM records ORDER BY seq")]
    return found


def keep_what_has_a_common_name(node: Node, folder: Path) -> None:
    """Let a service, a plugin and the config have files with names that the daemon gives to its own."""
    (node.state / "plugins" / "counter" / "logs").mkdir()
    (node.state / "plugins" / "counter" / "logs" / "lock").write_text("mine too")
    (node.plugins / "logs").mkdir()
    (node.plugins / "logs" / "__init__.py").write_text("")
    (folder / "elsewhere.toml").write_text("## elsewhere\n")
    (node.config_file.parent / "sparkd.d").mkdir()
    (node.config_file.parent / "sparkd.d" / "linked.toml").symlink_to(folder / "elsewhere.toml")


def test_a_working_node_is_saved_and_restored_onto_an_empty_machine(
    producing: Node, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runs(producing, "counter")
    until(lambda: last_seq(producing), lambda last: last > 200)
    keep_what_has_a_common_name(producing, folder)
    saved = folder / "saved.tar.gz"
    assert ctl(producing, "backup", str(saved)) == 0
    assert saved.stat().st_mode & 0o077 == 0
    secret = (producing.state / "keys" / "node.secret").read_text()
    identity = (producing.state / "node_id").read_text()
    producing.stop()
    moved = folder / "gone"
    shutil.move(producing.root, moved)

    capsys.readouterr()
    assert ctl(producing, "--json", "restore", str(saved)) == 0
    assert json.loads(capsys.readouterr().out)["streams"] == ["counter/numbers"]
    assert (producing.state / "keys" / "node.secret").read_text() == secret
    assert (producing.state / "node_id").read_text() == identity
    assert (producing.state / "plugins" / "counter" / "note").read_text() == "mine"
    stream = producing.state / "outbox" / "counter" / "numbers"
    kept = rows(stream)
    assert kept == list(range(1, len(kept) + 1))
    assert len(kept) >= 200

    assert (producing.state / "plugins" / "counter" / "logs" / "lock").read_text() == "mine too"
    assert (producing.plugins / "logs" / "__init__.py").exists()
    assert (producing.config_file.parent / "sparkd.d" / "linked.toml").read_text() == "## elsewhere\n"
    assert not (producing.state / "logs").exists(), "the log of one machine says nothing on another"

    for name in ("run", "cache"):
        (producing.root / name).mkdir(exist_ok=True)
    producing.start()
    runs(producing, "counter")
    until(lambda: rows(stream), lambda found: found[-1] > LEAP)
    assert min(seq for seq in rows(stream) if seq > len(kept)) == len(kept) + LEAP, "no number is given twice"


def test_a_node_that_is_there_is_kept_aside_only_if_asked(
    producing: Node, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    saved = folder / "saved.tar.gz"
    assert ctl(producing, "backup", str(saved)) == 0
    assert ctl(producing, "backup", str(saved)) != 0
    assert ctl(producing, "restore", "--force", str(saved)) != 0
    assert "a daemon runs here" in capsys.readouterr().err

    producing.stop()
    assert ctl(producing, "restore", str(saved)) != 0
    assert "there is a node here already" in capsys.readouterr().err
    assert ctl(producing, "restore", "--force", str(saved)) == 0
    (aside,) = producing.state.glob(".before-restore-*")
    assert (aside / "node_id").exists()


def rewritten(
    saved: Path, target: Path, *, skip: str = "", spoil: str = "", add: tarfile.TarInfo | None = None
) -> Path:
    with tarfile.open(saved) as source, tarfile.open(target, "w:gz") as out:
        for entry in source:
            held = source.extractfile(entry)
            assert held is not None
            content = held.read()
            if entry.name == skip:
                continue
            if entry.name == spoil:
                content = bytes(len(content))
            if add is not None and entry.name == "sums.json":
                out.addfile(add, io.BytesIO(b"x" * add.size))
            out.addfile(entry, io.BytesIO(content))
    return target


def link(name: str) -> tarfile.TarInfo:
    entry = tarfile.TarInfo(name)
    entry.type, entry.linkname = tarfile.SYMTYPE, "/etc/passwd"
    return entry


@pytest.mark.parametrize(
    ("deed", "told"),
    [
        ({"skip": "sums.json"}, "cut off"),
        ({"skip": "state/node_id"}, "damaged: state/node_id"),
        ({"spoil": "state/keys/node.secret"}, "damaged: state/keys/node.secret"),
        ({"skip": "about.json"}, "has no place"),
        ({"add": tarfile.TarInfo("../evil")}, "has no place"),
        ({"add": tarfile.TarInfo("/etc/evil")}, "has no place"),
        ({"add": link("config/evil")}, "not a plain file"),
    ],
)
def test_a_backup_that_is_not_whole_or_not_ours_changes_nothing(
    producing: Node, folder: Path, capsys: pytest.CaptureFixture[str], deed: dict[str, object], told: str
) -> None:
    saved = folder / "saved.tar.gz"
    assert ctl(producing, "backup", str(saved)) == 0
    producing.stop()
    bad = rewritten(saved, folder / "bad.tar.gz", **deed)  # type: ignore[arg-type] # the table above
    empty = folder / "empty"
    empty.mkdir()

    assert main(["--config", str(empty / "sparkd.toml"), "restore", str(bad)]) != 0
    assert told in capsys.readouterr().err
    assert list(empty.iterdir()) == []


def test_a_file_that_is_cut_or_no_archive_is_told(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for content in (b"", b"nonsense", os.urandom(5000)):
        (folder / "bad").write_bytes(content)
        assert main(["--config", str(folder / "new" / "sparkd.toml"), "restore", str(folder / "bad")]) != 0
        assert "not a whole backup" in capsys.readouterr().err


def test_a_backup_goes_through_a_pipe(producing: Node, folder: Path) -> None:
    (folder / "new").mkdir()
    words = [sys.executable, "-m", "sparkd.cli", "--config"]
    with subprocess.Popen([*words, producing.config_file, "backup", "-"], stdout=subprocess.PIPE) as saving:
        content = saving.communicate()[0]
    producing.stop()
    shutil.rmtree(producing.root)
    done = subprocess.run([*words, producing.config_file, "restore", "-"], input=content, check=False)
    assert done.returncode == 0
    assert (producing.state / "node_id").exists()
