"""The doctor beside a real daemon, and a bundle that tells everything but secrets."""

from __future__ import annotations

import json
import os
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from sparkd.cli.main import main
from sparkd.cli.parser import NOT_WELL
from sparkd.link import KeyStore
from sparkd.redact import HIDDEN, Redactor
from sparkd.testing import Node
from tests.system.watching import plugin, runs

WRITTEN, IN_FILE, IN_ENV, IN_TABLE, IN_LOG = (f"{name}-{os.urandom(9).hex()}" for name in "abcde")
CONFIG = """\
[node]
name = "lone"
metrics_listen = ""
runtime_dir = "{0}/run"
state_dir = "{0}/state"
cache_dir = "{0}/cache"

[plugins.leaky]
password = {{ file = "{0}/password" }}
token = {{ env = "LEAKY_TOKEN" }}
url = "redis://user:{1}@127.0.0.1/0"
"""
LEAKY = """\
import os, sys
ctx.log.info("connected", password=ctx.config.password.reveal(), authorization="Bearer " + WORD)
print("token is", ctx.config.token.reveal(), file=sys.stderr)
print("url", ctx.config.url, file=sys.stderr)
task_status.started()
await anyio.sleep_forever()
"""
TABLE = """\
from sparkd import Secret
WORD = "{0}"
@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    password: Secret
    token: Secret
    url: str
"""


@pytest.fixture
def leaky(folder: Path) -> Iterator[Node]:
    (folder / "password").write_text(IN_FILE + "\n")
    (folder / "password").chmod(0o600)
    node = Node("lone", folder, CONFIG.format(folder, IN_TABLE), {"LEAKY_TOKEN": IN_ENV}).prepare()
    (node.plugins / "leaky.py").write_text(plugin(LEAKY, name="leaky", config="Table", more=TABLE.format(IN_LOG)))
    KeyStore(node.state / "keys").new()
    try:
        yield node.start()
    finally:
        node.stop()


def test_the_doctor_finds_what_a_broken_service_needs(lone: Node, capsys: pytest.CaptureFixture[str]) -> None:
    (lone.plugins / "bad.py").write_text("import no_such_module\n")
    lone.call("plugins.rescan")
    words = ["--config", str(lone.config_file), "--socket", str(lone.socket_path), "--json", "doctor"]
    os.environ["RUNTIME_DIRECTORY"], os.environ["STATE_DIRECTORY"] = str(lone.root / "run"), str(lone.state)
    try:
        assert main(words) == NOT_WELL
    finally:
        del os.environ["RUNTIME_DIRECTORY"], os.environ["STATE_DIRECTORY"]
    found = json.loads(capsys.readouterr().out)

    daemon = [row for row in found if row["check"] == "daemon"]
    assert any("no_such_module" in row["text"] for row in daemon)
    assert not any("the check itself failed" in row["text"] for row in found)


def test_a_config_with_errors_is_a_finding_too(lone: Node, capsys: pytest.CaptureFixture[str]) -> None:
    lone.config_file.write_text("[node]\nnme = 1\n")

    assert main(["--config", str(lone.config_file), "doctor"]) == NOT_WELL
    assert "● config" in capsys.readouterr().out


def test_a_support_bundle_holds_no_secret(
    leaky: Node, folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    runs(leaky, "leaky")
    monkeypatch.setenv("LEAKY_TOKEN", IN_ENV)
    own = (leaky.state / "keys" / "node.secret").read_text().strip()
    leaky.stop()  # what waits is written
    bundle = folder / "bundle.tar.gz"
    assert main(["--config", str(leaky.config_file), "support-bundle", str(bundle)]) == 0
    assert bundle.stat().st_mode & 0o077 == 0
    assert "secrets hidden" in capsys.readouterr().out

    with tarfile.open(bundle) as tar:
        held = {member.name: tar.extractfile(member).read().decode() for member in tar}  # type: ignore[union-attr] # all are files
    whole = "\n".join(held.values())
    assert "leaky" in held["sparkd-support/log.txt"], "what the service said is there"
    assert HIDDEN in held["sparkd-support/log.txt"]
    for secret in (IN_FILE, IN_ENV, IN_TABLE, IN_LOG, own):
        assert secret not in whole
        assert secret not in str(held.keys())
    assert '{ file = "' in held["sparkd-support/config/sparkd.toml"], "a secret's name is no secret"


@pytest.mark.parametrize(
    "line",
    [
        "password=XXXX1234 next",
        'api_key: "XXXX1234"',
        "Authorization: Bearer XXXX1234abcd",
        "postgres://joe:XXXX1234@db/x",
        "-----BEGIN PRIVATE KEY-----\nXXXX1234\n-----END PRIVATE KEY-----",
        "join spark1-XXXX1234XXXX1234XXXX1234XXXX1234",
        'refresh_token = "XXXX1234"',
        "key AKIAXXXX1234XXXX1234",
    ],
)
def test_what_looks_like_a_secret_is_hidden(line: str) -> None:
    redactor = Redactor(set())

    assert "XXXX1234" not in redactor.text(f"before {line} after")
    assert redactor.hidden == 1


@pytest.mark.parametrize("line", ['password = { credential = "db" }', "tokens/s: 12.5", "the keyboard", "passing 12"])
def test_what_is_none_is_left(line: str) -> None:
    assert Redactor(set()).text(line) == line
