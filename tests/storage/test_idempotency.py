"""The same key and body again gives the same answer and stores nothing; with another body it conflicts, alone."""

from __future__ import annotations

from pathlib import Path

import pytest

from storage.journal_records import Append, IdempotencyConflict, IdempotencyKey
from storage.store import Store
from storage.submission import Rejection
from tests.storage.building import eventually, execute, parsed, positions, store_in, through

_HOUR_US = 3_600_000_000


def key(name: str = "key", body: bytes = b"body", *, scope: str = "") -> IdempotencyKey:
    return IdempotencyKey.of(name, body, scope=scope)


def keyed(count: int, answer: bytes, with_key: IdempotencyKey | None) -> Append:
    return Append(parsed(count).submissions, (), answer, with_key)


def keys_held(store: Store) -> int:
    held: int = execute(store.paths.journal, "SELECT count(*) FROM idempotency_keys")[0][0]
    return held


def test_a_repetition_gets_the_first_answer_and_stores_nothing(store: Store) -> None:
    assert store.append([keyed(2, b"first", key())]) == [b"first"]
    assert store.append([keyed(2, b"second", key())]) == [b"first"]
    assert store.append([keyed(2, b"third", None)]) == [b"third"]
    assert positions(store) == through(4)
    assert keys_held(store) == 1


def test_a_repetition_in_the_same_group_does_too(store: Store) -> None:
    group = [keyed(1, b"a", key("k")), keyed(2, b"b", None), keyed(3, b"c", key("k")), keyed(4, b"d", key("l"))]
    assert store.append(group) == [b"a", b"b", b"a", b"d"]
    assert positions(store) == through(1 + 2 + 4)


@pytest.mark.parametrize("together", [True, False])
def test_another_body_conflicts_and_touches_only_itself(store: Store, together: bool) -> None:
    group = [keyed(1, b"a", key()), keyed(1, b"b", None), keyed(5, b"c", key(body=b"other")), keyed(1, b"d", key())]
    outcomes = store.append(group) if together else [store.append([one])[0] for one in group]
    assert [outcomes[0], outcomes[1], outcomes[3]] == [b"a", b"b", b"a"]
    assert isinstance(outcomes[2], IdempotencyConflict)
    assert positions(store) == through(2)
    assert store.append([keyed(1, b"e", key())]) == [b"a"], "the conflict has not replaced what the key stands for"


def test_a_repetition_stores_no_dead_letters_either(store: Store) -> None:
    rejection = Rejection(0, None, "bad_time", "no", b"{}", "u", None)
    for _ in range(2):
        assert store.append([Append((), (rejection,), b"answer", key())]) == [b"answer"]
    assert store.journal.dead_letters() == 1


def test_keys_of_different_scopes_do_not_meet(store: Store) -> None:
    assert store.append([keyed(1, b"a", key(scope="alice")), keyed(1, b"b", key(body=b"other", scope="bob"))]) == [
        b"a",
        b"b",
    ]
    assert key("b", scope="a").key_hash != key("ab").key_hash
    assert key("key", scope="") != key("", scope="key")


def test_keys_outlive_a_restart(folder: Path) -> None:
    with store_in(folder) as store:
        store.append([keyed(1, b"first", key())])
    with store_in(folder) as store:
        assert store.append([keyed(1, b"second", key())]) == [b"first"]
        assert positions(store) == [1]


def test_neither_key_nor_body_is_stored(folder: Path) -> None:
    with store_in(folder) as store:
        store.append([keyed(1, b"answer-in-clear", key("key-in-clear", b"body-in-clear", scope="scope-in-clear"))])
        store.journal.checkpoint(truncate=True)
        held = b"".join(path.read_bytes() for path in folder.glob("journal.sqlite*"))
    assert b"answer-in-clear" in held
    assert b"-in-clear" not in held.replace(b"answer-in-clear", b"")


def test_a_key_is_kept_only_with_what_it_stands_for(store: Store) -> None:
    """The commit that fails takes the key with it, so that the client's next attempt is stored."""
    bad = Rejection(0, None, "bad_time", "", None, None, None)  # type: ignore[arg-type]  # refused by the database
    with pytest.raises(Exception, match="NOT NULL"):
        store.append([keyed(1, b"lost", key()), Append((), (bad,), b"")])
    assert keys_held(store) == 0
    assert store.append([keyed(1, b"kept", key())]) == [b"kept"]
    assert positions(store) == [1]


def test_keys_are_forgotten_by_age(store: Store) -> None:
    for hour in range(5):
        store.journal.append([keyed(1, b"%d" % hour, key(f"k{hour}"))], now_us=hour * _HOUR_US)
    forget = store.journal.forget_idempotency_keys
    assert forget(before_us=2 * _HOUR_US, bytes_max=1 << 30) == 2
    assert forget(before_us=2 * _HOUR_US, bytes_max=1 << 30) == 0
    assert store.append([keyed(1, b"new", key("k2"))]) == [b"2"]
    assert store.append([keyed(1, b"new", key("k1"))]) == [b"new"]


def test_keys_are_bounded_in_bytes_and_the_oldest_go_first(store: Store) -> None:
    for n in range(20):
        store.journal.append([keyed(1, bytes(1000), key(f"k{n}"))], now_us=n)
    room_for_five = 5 * (1000 + 128)
    assert store.journal.forget_idempotency_keys(before_us=0, bytes_max=room_for_five) == 15
    left = execute(store.paths.journal, "SELECT stored_at_us FROM idempotency_keys ORDER BY 1")
    assert [row[0] for row in left] == [15, 16, 17, 18, 19]


def test_many_keys_are_forgotten_in_steps(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("storage.journal._KEYS_PER_TRANSACTION", 3)
    store.journal.append([keyed(1, b"old", key(f"old{n}")) for n in range(9)], now_us=1)
    store.journal.append([keyed(1, b"new", key(f"new{n}")) for n in range(4)], now_us=2)
    assert store.journal.forget_idempotency_keys(before_us=2, bytes_max=1 << 30) == 9
    assert keys_held(store) == 4
    assert store.journal.forget_idempotency_keys(before_us=0, bytes_max=0) == 4
    assert keys_held(store) == 0


def test_the_leader_forgets_them_by_itself(folder: Path) -> None:
    clock = [100 * _HOUR_US]
    with store_in(folder, now_us=lambda: clock[0], idempotency_retention_hours=72) as store:
        store.append([keyed(1, b"old", key())])
        clock[0] += 72 * _HOUR_US + 1
        store.start_leading()
        eventually(lambda: keys_held(store) == 0)
