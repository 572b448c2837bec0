"""Keys are kept as hashes, in a file that is whole at every moment, that one writer changes, and that damage closes."""

from __future__ import annotations

import concurrent.futures
import hashlib
import json
import stat
from pathlib import Path
from typing import Any

import pytest

from storage.access_keys import SCOPES, KeyFile, id_of
from storage.errors import CorruptData, InvalidInput, StoreLocked
from storage.locks import FileLock
from storage.paths import StorePaths


@pytest.fixture
def keys(tmp_path: Path) -> KeyFile:
    return KeyFile(StorePaths.of(tmp_path / "data", tmp_path / "state"))


def test_a_key_is_256_random_bits_and_only_its_hash_is_kept(keys: KeyFile) -> None:
    made = [keys.create("app", ["submit"], now_us=1) for _ in range(20)]
    assert len({one.key for one in made}) == 20
    state = keys.path.parent
    kept = b"".join(path.read_bytes() for path in state.iterdir())
    for one in made:
        prefix, key_id, secret = one.key.split("_", 2)
        assert (prefix, key_id) == ("alk", one.kept.id)
        assert len(secret) == 43
        assert secret.encode() not in kept
        assert hashlib.sha256(one.key.encode()).hexdigest().encode() in kept
        assert id_of(one.key.encode()) == one.kept.id


def test_only_the_very_key_is_the_key(keys: KeyFile) -> None:
    made = keys.create("app", ["submit"], now_us=1)
    right = made.key.encode()
    assert made.kept.is_key(right)
    for wrong in (right[:-1], right + b"x", right.swapcase(), b"", made.kept.sha256.encode(), b" " + right):
        assert not made.kept.is_key(wrong)


def test_the_files_are_their_owners_alone(keys: KeyFile) -> None:
    keys.create("app", ["submit"], now_us=1)
    for path in (keys.path, keys.path.with_name("keys.master")):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_each_change_is_seen_by_its_generation_even_within_one_tick(keys: KeyFile) -> None:
    assert keys.generation() is None
    seen = set()
    for _ in range(10):
        made = keys.create("app", ["submit"], now_us=1)
        seen.add(keys.generation())
        keys.revoke(made.kept.id)
        seen.add(keys.generation())
    assert len(seen) == 20
    read = keys.read()
    assert read is not None
    assert (read.generation, read.keys) == (keys.generation(), ())


def test_writers_do_not_lose_each_others_keys(keys: KeyFile) -> None:
    with concurrent.futures.ThreadPoolExecutor(4) as threads:
        made = list(threads.map(lambda n: keys.create(f"app {n}", ["submit"], now_us=n), range(12)))
    read = keys.read()
    assert read is not None
    assert {one.id for one in read.keys} == {one.kept.id for one in made}


def test_a_writer_that_waits_in_vain_says_for_whom(keys: KeyFile, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("storage.access_keys._LOCK_TIMEOUT_S", 0.05)
    keys.create("app", ["submit"], now_us=1)
    with FileLock(keys.path.with_name("keys.lock")) as lock:
        lock.acquire("pid 7, for ever")
        with pytest.raises(StoreLocked, match="pid 7, for ever"):
            keys.create("app", ["submit"], now_us=1)


def test_revoking_leaves_the_others_and_at_the_end_an_empty_file(keys: KeyFile) -> None:
    one, two = (keys.create(name, ["submit"], now_us=1) for name in ("one", "two"))
    assert keys.revoke("aaaaaaaaaaaaaaaa") is None
    assert keys.revoke(one.kept.id) == one.kept
    assert keys.revoke(one.kept.id) is None
    read = keys.read()
    assert read is not None
    assert read.keys == (two.kept,)
    keys.revoke(two.kept.id)
    assert keys.generation() is not None


def test_revoking_in_a_folder_without_keys_makes_nothing(keys: KeyFile) -> None:
    assert keys.revoke("aaaaaaaaaaaaaaaa") is None
    assert not keys.path.parent.exists()


@pytest.mark.parametrize("scope", ["sql", "admin"])
def test_a_restricted_key_has_no_scope_beyond_its_users(keys: KeyFile, scope: Any) -> None:
    with pytest.raises(InvalidInput, match=f"cannot have the scope {scope}"):
        keys.create("app", ["retrieve", scope], now_us=1, user_prefix="u-")
    assert keys.generation() is None


def test_what_no_key_may_be_is_refused(keys: KeyFile) -> None:
    with pytest.raises(InvalidInput, match="needs a scope"):
        keys.create("app", [], now_us=1)
    with pytest.raises(InvalidInput, match="empty user prefix"):
        keys.create("app", ["submit"], now_us=1, user_prefix="")
    for name in ("", "x" * 101, "a\nb", "\x1b[2J"):
        with pytest.raises(InvalidInput):
            keys.create(name, ["submit"], now_us=1)


def damaged(keys: KeyFile, change: Any) -> bytes:
    content = json.loads(keys.path.read_bytes())
    change(content)
    return json.dumps(content).encode()


@pytest.mark.parametrize(
    "change",
    [
        lambda c: c.update(format=2),
        lambda c: c.pop("keys"),
        lambda c: c.update(more=1),
        lambda c: c["keys"][0].update(sha256="0" * 63),
        lambda c: c["keys"][0].update(id="../x"),
        lambda c: c["keys"][0].update(scopes=["root"]),
        lambda c: c["keys"][0].update(scopes=[]),
        lambda c: c["keys"][0].update(scopes=["sql"], user_prefix="u-"),
        lambda c: c["keys"][0].update(user_prefix=""),
        lambda c: c["keys"][0].update(not_before_us=1),
        lambda c: c["keys"].append(c["keys"][0]),
    ],
)
def test_a_file_that_says_what_this_version_does_not_know_lets_nobody_in(keys: KeyFile, change: Any) -> None:
    keys.create("app", SCOPES, now_us=1)
    text = damaged(keys, change)
    keys.path.write_bytes(text)
    with pytest.raises(CorruptData, match=r"keys\.json"):
        keys.read()
    with pytest.raises(CorruptData):
        keys.create("app", ["submit"], now_us=1)
    assert keys.path.read_bytes() == text


def test_a_file_cut_anywhere_lets_nobody_in(keys: KeyFile) -> None:
    keys.create("app", SCOPES, now_us=1)
    whole = keys.path.read_bytes().rstrip()
    for length in range(len(whole)):
        keys.path.write_bytes(whole[:length])
        with pytest.raises(CorruptData):
            keys.read()


def test_a_new_master_key_is_not_made_while_keys_rest_on_the_old_one(keys: KeyFile) -> None:
    made = keys.create("app", ["sql"], now_us=1)
    master = keys.path.with_name("keys.master")
    before = keys.master_key()
    keys.create("other", ["sql"], now_us=1)
    assert keys.master_key() == before
    master.chmod(0o640)
    with pytest.raises(CorruptData, match="chmod"):
        keys.master_key()
    master.unlink()
    with pytest.raises(CorruptData, match="restore it, or revoke all keys"):
        keys.create("app", ["sql"], now_us=1)
    read = keys.read()
    assert read is not None
    for one in read.keys:
        keys.revoke(one.id)
    assert keys.create("app", ["sql"], now_us=1).kept.id != made.kept.id
    assert keys.master_key() != before
