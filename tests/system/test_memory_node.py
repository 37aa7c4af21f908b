"""nas-tier in a real daemon: embedded tiers, the socket, kill -9, and what is in no log."""

from __future__ import annotations

import base64
import random
from pathlib import Path

import pytest

from sparkd.errors import CallError
from sparkd.testing import Node, short_folder
from tests.system.test_budgets import node
from tests.system.test_sparkctl import Ctl
from tests.system.watching import runs, until

CONFIG = """
[plugins.nas-tier]
through_s = 5.0
[plugins.nas-tier.hot]
max_bytes = 16777216
[plugins.nas-tier.nas]
path = "{nas}"
free_least_bytes = 0
[plugins.nas-tier.namespaces.news]
privacy = "shared"
"""


def put(home: Node, key: str, value: bytes, namespace: str = "news") -> dict[str, object]:
    encoded = base64.b64encode(value).decode()
    written: dict[str, object] = home.call("memory.put", namespace=namespace, key=key, value=encoded)
    return written


def get(home: Node, key: str, namespace: str = "news") -> bytes | None:
    entry = home.call("memory.get", namespace=namespace, key=key)
    return None if entry is None else base64.b64decode(entry["value"])


@pytest.mark.timeout(120)
def test_a_memory_outlives_kills_and_restarts_and_tells_no_values() -> None:
    secret = b"Zanzibar-4711"
    with short_folder() as nas, node(CONFIG.format(nas=nas)) as home:
        home.start()
        runs(home, "nas-tier")
        written = [put(home, f"k{number}", b"%d" % number) for number in range(20)]
        assert all(one["won"] for one in written)
        assert put(home, "secret", secret, "plans")["tiers"] == ["nas"]
        large = bytes(range(256)) * 2000
        put(home, "large", large)
        home.kill()
        home.start()
        runs(home, "nas-tier")
        assert [get(home, f"k{number}") for number in range(20)] == [b"%d" % number for number in range(20)]
        assert get(home, "large") == large
        assert get(home, "secret", "plans") == secret
        assert [one["key"] for one in home.call("memory.list", namespace="plans")["heads"]] == ["secret"]
        home.call("memory.delete", namespace="plans", key="secret")
        assert get(home, "secret", "plans") is None
        until(lambda: home.call("memory.stats")["tiers"], lambda tiers: all(not one["behind"] for one in tiers))
        with pytest.raises(CallError, match="namespace"):
            get(home, "k", "NOT A NAME")
        home.stop()
        assert secret not in home.log.read_bytes()


@pytest.mark.timeout(120)
def test_sparkctl_memory_keeps_and_gives_and_tells(tmp_path: Path) -> None:
    with short_folder() as nas, node(CONFIG.format(nas=nas)) as home:
        home.start()
        runs(home, "nas-tier")
        ctl = Ctl(home)
        written = ctl.json("memory", "put", "plans", "boiler", "was serviced in May", "--tag", "house")
        assert written["won"]
        assert ctl("memory", "get", "plans", "boiler").stdout == "was serviced in May"
        again = ctl("memory", "put", "plans", "boiler", "x", "--if-etag", "0" * 16 + "-" + "0" * 32)
        assert again.returncode != 0
        assert "is not what it was" in again.stderr
        picture = tmp_path / "picture"
        picture.write_bytes(bytes(range(256)) * 1000)
        ctl.json("memory", "put", "plans", "picture", "--file", str(picture), "--type", "image/png", "--ttl", "2h")
        out = tmp_path / "out"
        assert ctl("memory", "get", "plans", "picture", "--out", str(out)).returncode == 0
        assert out.read_bytes() == picture.read_bytes()
        assert [one["key"] for one in ctl.json("memory", "list", "plans")] == ["boiler", "picture"]
        assert [one["key"] for one in ctl.json("memory", "list", "plans", "--tag", "house")] == ["boiler"]
        until(lambda: ctl.json("memory", "search", "serviced")["matches"], len)
        assert "boiler" in ctl("memory", "search", "serviced").stdout
        assert len(ctl.json("memory", "history", "plans", "boiler")) == 1
        assert "nas" in ctl("memory").stdout
        archive = tmp_path / "archive"
        assert ctl("memory", "export", str(archive)).returncode == 0
        assert archive.read_bytes().startswith(b"sparkd-memory-1\n")
        assert archive.stat().st_mode & 0o777 == 0o600
        ctl.json("memory", "delete", "plans", "boiler")
        gone = ctl("memory", "get", "plans", "boiler")
        assert (gone.returncode, gone.stdout) == (1, "")
        assert "nothing stands" in gone.stderr
        assert ctl("memory", "put", "plans", "k").returncode != 0
        assert ctl("memory", "get", "NO", "k").returncode != 0


@pytest.mark.timeout(120)
def test_sparkctl_memory_streams_what_is_large_and_takes_archives_back(tmp_path: Path) -> None:
    film, archive, out = tmp_path / "film", tmp_path / "archive", tmp_path / "out"
    film.write_bytes(random.Random(1).randbytes(20_000_000))
    with short_folder() as nas, node(CONFIG.format(nas=nas)) as home:
        home.start()
        runs(home, "nas-tier")
        ctl = Ctl(home)
        written = ctl.json("memory", "put", "plans", "film", "--file", str(film), "--type", "video/mp4")
        assert written["won"]
        ctl.json("memory", "put", "plans", "boiler", "serviced")
        assert ctl("memory", "export", str(archive)).returncode == 0
    with short_folder() as nas, node(CONFIG.format(nas=nas)) as home:
        home.start()
        runs(home, "nas-tier")
        ctl = Ctl(home)
        assert ctl.json("memory", "import", str(archive))["records"] == 2
        assert ctl("memory", "get", "plans", "film", "--out", str(out)).returncode == 0
        assert out.read_bytes() == film.read_bytes()
        head = ctl.json("memory", "list", "plans")[1]
        assert (head["key"], head["content_type"], head["etag"]) == ("film", "video/mp4", written["etag"])
        archive.write_bytes(archive.read_bytes()[:-100])
        cut = ctl("memory", "import", str(archive))
        assert cut.returncode != 0
        assert "archive" in cut.stderr


@pytest.mark.timeout(120)
def test_what_means_the_same_is_found_where_texts_are_embedded() -> None:
    with short_folder() as nas, node(CONFIG.format(nas=nas) + "\n[plugins.text-embedding]\n") as home:
        home.start()
        runs(home, "nas-tier")
        runs(home, "text-embedding")
        ctl = Ctl(home)
        for key, text in (("cat", "The kitten sleeps on the sofa"), ("money", "Share prices fell again today")):
            ctl.json("memory", "put", "plans", key, text)
        found = until(lambda: ctl.json("memory", "search", "a cat takes a nap"), lambda one: len(one["matches"]) == 2)
        assert found["by"] == ["vectors", "words"]
        assert found["matches"][0]["head"]["key"] == "cat"
