"""Key files: written whole, read with care, and no secret said anywhere."""

from __future__ import annotations

import stat
import traceback
from contextlib import suppress
from pathlib import Path

import pytest
import zmq
from hypothesis import given
from hypothesis import strategies as st

from sparkd.errors import ConfigError
from sparkd.link import KeyStore
from sparkd.link.keys import checked_key


@pytest.fixture
def store(tmp_path: Path) -> KeyStore:
    return KeyStore(tmp_path / "state" / "keys")


def a_key() -> str:
    return zmq.curve_keypair()[0].decode()


def problem(error: pytest.ExceptionInfo[ConfigError]) -> str:
    return str(error.value)


def test_new_keys_are_files_that_only_the_owner_reads(store: KeyStore) -> None:
    public = store.new()
    secret_file, public_file = store.folder / "node.secret", store.folder / "node.public"

    assert stat.S_IMODE(secret_file.stat().st_mode) == 0o600
    assert stat.S_IMODE(store.folder.stat().st_mode) == 0o700
    assert public_file.read_text() == public + "\n"
    assert store.load().public == public
    assert sorted(p.name for p in store.folder.iterdir()) == ["invites", "node.public", "node.secret", "trusted"]


def test_a_key_is_not_overwritten_unless_forced(store: KeyStore) -> None:
    public = store.new()
    with pytest.raises(ConfigError, match="has a key already"):
        store.new()
    assert store.load().public == public

    assert store.new(force=True) != public


def test_the_secret_is_in_no_repr_and_no_error(store: KeyStore) -> None:
    store.new()
    secret_file = store.folder / "node.secret"
    secret = secret_file.read_text().strip()
    assert secret not in repr(store.load())

    secret_file.write_text(secret[:-1])
    with pytest.raises(ConfigError, match="a Z85 key has 40 characters, got 39") as error:
        store.load()
    assert secret[:10] not in "".join(traceback.format_exception(error.value))


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660])
def test_a_secret_that_others_can_read_is_refused(store: KeyStore, mode: int) -> None:
    store.new()
    (store.folder / "node.secret").chmod(mode)
    with pytest.raises(ConfigError, match=rf"mode {mode:04o} lets others at the secret; try: chmod 600"):
        store.load()


def test_a_missing_secret_says_how_to_make_one(store: KeyStore) -> None:
    with pytest.raises(ConfigError, match="no such file; try: sparkctl keys new"):
        store.load()


def test_a_public_key_of_another_pair_is_found_out(store: KeyStore) -> None:
    store.new()
    (store.folder / "node.public").write_text(a_key())
    with pytest.raises(ConfigError, match="not the public half"):
        store.load()


def test_trusting_and_revoking(store: KeyStore) -> None:
    one, two = a_key(), a_key()
    store.trust("one", one)
    store.trust("two", f"  {two}\n")
    assert store.trusted() == {"one": one, "two": two}
    store.revoke("one")

    assert store.trusted() == {"two": two}
    with pytest.raises(ConfigError, match="'one' is not trusted; trusted: two"):
        store.revoke("one")


def test_a_peers_key_can_be_replaced(store: KeyStore) -> None:
    store.trust("one", a_key())
    newer = a_key()
    store.trust("one", newer)

    assert store.trusted() == {"one": newer}


@pytest.mark.parametrize("name", ["", "One", "../one", "one.two", "-one", "ein name"])
def test_a_malformed_name_is_refused(store: KeyStore, name: str) -> None:
    with pytest.raises(ConfigError, match="lower-case words joined by hyphens expected"):
        store.trust(name, a_key())
    with pytest.raises(ConfigError):
        store.revoke(name)


def test_a_key_belongs_to_one_name_and_not_to_this_node(store: KeyStore) -> None:
    own, key = store.new(), a_key()
    store.trust("one", key)
    with pytest.raises(ConfigError, match="trusted already as one"):
        store.trust("two", key)
    with pytest.raises(ConfigError, match="key of this node itself"):
        store.trust("me", own)


def test_each_bad_file_is_named_and_bars_only_its_peer(store: KeyStore) -> None:
    own, good, shared = store.new(), a_key(), a_key()
    store.trust("good", good)
    folder = store.trusted_folder
    files = {
        "short": "abc",
        "bad": "~" * 40,
        "high": "#" * 40,
        "me": own,
        "twin-a": shared,
        "twin-b": shared,
        "No": good,
    }
    for name, text in files.items():
        (folder / f"{name}.public").write_text(text)
    (folder / "loose.public").write_text(a_key())
    (folder / "loose.public").chmod(0o666)
    (folder / "note.txt").write_text("ignored")

    allowed = store.allow_list()
    assert allowed.keys == {"good": good}
    assert len(allowed.problems) == 7
    with pytest.raises(ConfigError) as error:
        store.trusted()
    assert error.value.problems == allowed.problems
    for part in ("short", "bad", "high", "me", "twin-a and twin-b", "No.public", "chmod 644"):
        assert part in problem(error)


def test_nobody_is_trusted_from_a_folder_that_others_may_write(store: KeyStore) -> None:
    store.trust("one", a_key())
    store.trusted_folder.chmod(0o777)

    assert store.allow_list().keys == {}
    with pytest.raises(ConfigError, match="others may write here"):
        store.trusted()


@given(st.one_of(st.text(max_size=60), st.text(min_size=40, max_size=40), st.text("#{}0", min_size=40, max_size=40)))
def test_no_text_whatever_passes_as_a_key_unless_it_is_one(text: str) -> None:
    with suppress(ConfigError):
        assert zmq.curve_public(checked_key(text, "here").encode())
