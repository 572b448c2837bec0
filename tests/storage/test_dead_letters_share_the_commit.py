"""Rejected actions are kept with their reason in the commit that keeps the accepted ones: both, or neither."""

from __future__ import annotations

from pathlib import Path

import pytest

from storage.errors import DiskFull
from storage.journal import Journal
from storage.journal_records import Append
from storage.store import Store
from tests.storage.building import PARSER, action, body, positions, put, store_in
from tests.storage.failing_disk import FailingDisk

NOW_US = 1_709_294_400_000_000


def mixed(*, user: str = "u1") -> Append:
    """Two good actions, two wrong ones."""
    actions = [action(), {"type": "CLICK"}, action(), action(kind="scroll", properties={"a": 1})]
    parsed = PARSER.parse_json(body(actions, user=user, session="s1"), now_us=NOW_US)
    return Append(parsed.submissions, parsed.rejections, b"answer")


def test_dead_letters_hold_what_was_sent_why_it_was_refused_and_by_whom(store: Store) -> None:
    store.journal.append([mixed()], now_us=NOW_US)
    newest, older = store.journal.read_dead_letters(limit=10)
    assert older["id"] < newest["id"]
    assert older | {"id": 0, "message": ""} == {
        "id": 0,
        "received_at_us": NOW_US,
        "user_id": "u1",
        "session_id": "s1",
        "action_index": 1,
        "line": None,
        "code": "bad_time",
        "message": "",
        "original": b'{"type": "CLICK"}',
        "position": None,
    }
    assert "missing" in older["message"]
    assert (newest["code"], newest["action_index"]) == ("unknown_type", 3)
    assert b'"properties": {"a": 1}' in newest["original"]
    assert positions(store) == [1, 2]


def test_lines_that_were_no_submission_are_kept_too(store: Store) -> None:
    parsed = PARSER.parse_ndjson(b"not json\n" + body([action()]), now_us=NOW_US)
    store.append([Append(parsed.submissions, parsed.rejections, b"")])
    (letter,) = store.journal.read_dead_letters(limit=10)
    assert (letter["line"], letter["action_index"], letter["user_id"]) == (1, None, None)
    assert (letter["code"], letter["original"]) == ("bad_envelope", b"not json")
    assert positions(store) == [1]


def test_the_newest_come_first_and_no_more_than_asked_for(store: Store) -> None:
    for user in ("a", "b", "c"):
        store.append([mixed(user=user)])
    assert store.journal.dead_letters() == 6
    assert [one["user_id"] for one in store.journal.read_dead_letters(limit=3)] == ["c", "c", "b"]
    assert store.journal.read_dead_letters(limit=0) == []


def test_without_any_the_list_is_empty(store: Store) -> None:
    assert store.journal.dead_letters() == 0
    assert store.journal.read_dead_letters(limit=10) == []
    assert store.status().dead_letters == 0


def test_they_outlive_flush_trim_and_restart(folder: Path) -> None:
    with store_in(folder) as store:
        store.append([mixed()])
        store.flush_here()
    with store_in(folder) as store:
        status = store.status()
        assert (store.journal.dead_letters(), status.dead_letters, status.rejects) == (0, 0, 2)


def test_when_the_commit_fails_neither_is_kept(folder: Path) -> None:
    """At every write of it, so that no order of statements could keep one of them."""
    with store_in(folder):
        pass
    writes = 0
    with FailingDisk() as disk:
        with store_in(folder) as store:
            before = disk.operations
            put(store, 1)
            store.append([mixed()])
            writes = disk.operations - before
            store.flush_here()
        for at in range(1, writes):
            with store_in(folder) as store:
                accepted, refused = store.journal.state().head, store.journal.dead_letters()
                disk.fill_up(at)
                try:
                    store.append([mixed()])
                except DiskFull:
                    kept = 0
                else:
                    kept = 2
                disk.heal()
                assert store.journal.state().head - accepted == kept
                assert store.journal.dead_letters() - refused == kept
        assert isinstance(store.journal, Journal)


@pytest.mark.parametrize("text", ["\0", "é😀", "'; DROP TABLE dead_letters; --", ""])
def test_any_text_can_be_a_user_of_a_dead_letter(store: Store, text: str) -> None:
    parsed = PARSER.parse_json(body([5], user=text or "u", session=text), now_us=NOW_US)
    store.append([Append(parsed.submissions, parsed.rejections, b"")])
    (letter,) = store.journal.read_dead_letters(limit=10)
    assert (letter["user_id"], letter["session_id"]) == (text or "u", text)
