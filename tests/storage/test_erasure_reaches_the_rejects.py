"""An erased user is in no dead letter and no file of the table `rejects`, and no move under way brings it back."""

from __future__ import annotations

import errno
from typing import Any

import pyarrow as pa
import pytest

from storage.batch_columns import decode_batch, encode_batch
from storage.clock import system_now_us
from storage.dead_letters import delete_letters, read_rejects_state
from storage.errors import CommitRefused, Overloaded, RewriteConflict
from storage.rejects import RejectsFilter
from storage.rejects_erasure import erase_from_rejects, erase_letters, names_user, remove_unreferenced_rejects
from storage.rejects_table import RejectsTable
from storage.rejects_vacuum import RejectsVacuum
from storage.store import Store
from storage.submission import Rejection
from tests.storage.building import execute, put
from tests.storage.rejecting import ids_everywhere, in_table, mover, reject, reject_line, table_files


def fill(store: Store) -> None:
    reject(store, "scroll", user="anna")
    reject(store, "scroll", user="bob")
    reject_line(store, b'{"userId": "anna", "actions": 5}')
    reject_line(store, b'{"userId": "bob", "actions": 5}')
    reject_line(store, rb'{"userId": "\u0061nna", "actions": "\n')


def erase(store: Store, user: str) -> tuple[int, int]:
    assert store.latch is not None
    return erase_letters(store.journal, user), erase_from_rejects(store.journal, store.paths.rejects, store.latch, user)


def test_letters_go_with_their_bytes_and_those_of_others_stay(store: Store) -> None:
    fill(store)
    assert erase(store, "anna") == (3, 0)
    assert ids_everywhere(store) == [2, 4]


def test_rows_of_the_table_go_and_so_do_old_files(store: Store) -> None:
    fill(store)
    mover(store).flush()
    assert erase(store, "anna") == (0, 3)
    assert ids_everywhere(store) == [2, 4]
    assert len(table_files(store.paths.data)) == 2, "the old file stays for readers until it is removed"
    assert remove_unreferenced_rejects(store.paths.rejects, older_than_s=-1)
    assert len(table_files(store.paths.data)) == 1
    assert ids_everywhere(store) == [2, 4]
    mover(store).flush()
    reject(store, "later")
    mover(store).flush()
    assert ids_everywhere(store) == [2, 4, 6]


def test_a_move_that_had_read_the_letters_before_the_erasure_does_not_bring_them_back(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    reject(store, "first", user="bob")
    mover(store).flush()
    fill(store)
    commit = RejectsTable.commit
    calls: list[str] = []

    def erase_first(table: RejectsTable, *args: object, **kwargs: object) -> int:
        if not calls:
            calls.append("move")
            with monkeypatch.context() as patched:
                patched.setattr(RejectsTable, "commit", commit)
                erase(store, "anna")
        return commit(table, *args, **kwargs)  # type: ignore[arg-type]

    with monkeypatch.context() as patched:
        patched.setattr(RejectsTable, "commit", erase_first)
        mover(store).flush()
    assert calls == ["move"]
    assert {row["user_id"] for row in in_table(store.paths.data)} == {"bob", None}
    assert ids_everywhere(store) == [1, 3, 5]


def test_two_commits_from_one_snapshot_are_not_both_made(store: Store) -> None:
    reject(store, "a")
    mover(store).flush()
    table = RejectsTable(store.paths.rejects)
    snapshot = table.snapshot(store.journal_id)
    table.commit([], [], planned_from=snapshot, source=store.journal_id, watermark=1)
    with pytest.raises(RewriteConflict):
        table.commit([], [], planned_from=snapshot, source=store.journal_id, watermark=1)


@pytest.mark.parametrize(
    ("original", "user", "found"),
    [
        (b'{"userId": "anna"}', "anna", True),
        (b'{"userId": "annabel"}', "anna", False),
        (rb'{"userId": "\u0061nna"', "anna", True),
        (b'{"userId: "anna", "', "anna", True),
        ('{"userId": "é"}'.encode(), "é", True),
        (rb'{"userId": "\u00e9"}', "é", True),
        (rb'{"userId": "\u00E9"}', "é", True),
        (rb'{"userId": "\/a"}', "/a", True),
        (rb'{"x": "\"", "userId": "\u0061nna"}', "anna", True),
        (b'\xff"anna"', "anna", True),
        (b"anna", "anna", False),
        (b'{"userId": "a\\"b"}', 'a"b', True),
    ],
)
def test_a_user_is_found_in_a_text_as_a_json_string(original: bytes, user: str, found: bool) -> None:
    assert names_user(original, user) is found


def test_old_files_of_the_table_go_after_a_grace_and_no_others(store: Store) -> None:
    clock = [0.0]
    vacuum = RejectsVacuum(store.paths.rejects, grace_s=900, clock_s=lambda: clock[0])
    assert vacuum.run() is False
    for n in range(3):
        reject(store, f"kind{n}")
        mover(store).flush()
    assert len(table_files(store.paths.data)) == 3, "each move took the small file of its day in"
    vacuum.run()
    clock[0] = 899
    vacuum.run()
    assert len(table_files(store.paths.data)) == 3
    reject(store, "later")
    mover(store).flush()
    clock[0] = 900
    vacuum.run()
    assert len(table_files(store.paths.data)) == 2, "what was replaced a moment ago stays for its readers"
    assert ids_everywhere(store) == [1, 2, 3, 4]
    clock[0] = 1800
    vacuum.run()
    assert len(table_files(store.paths.data)) == 1
    assert ids_everywhere(store) == [1, 2, 3, 4]


def a_batch(*users: str) -> bytes:
    n = len(users)
    return encode_batch(
        pa.RecordBatch.from_pydict(
            {
                "time": pa.array([1_700_000_000_000_000] * n, pa.int64()),
                "utc_offset_minutes": pa.array([0] * n, pa.int16()),
                "type": pa.array(["click"] * n).dictionary_encode().cast(pa.dictionary(pa.int16(), pa.string())),
                "user_id": pa.array(users),
                "session_id": pa.nulls(n, pa.string()),
                "properties": pa.array(["{}"] * n),
            }
        )
    )


@pytest.mark.parametrize("in_table", [False, True])
def test_a_batch_that_could_not_be_flushed_keeps_the_rows_of_the_others(store: Store, in_table: bool) -> None:
    put(store, 3)
    letters = [(a_batch("anna", "bob", "anna"), 1), (a_batch("anna"), 2), (a_batch("bob"), 3)]
    store.journal.move_to_dead_letters(
        [(Rejection(None, None, "unflushable", "", payload, None, None), at) for payload, at in letters],
        watermark=0,
        now_us=system_now_us(),
    )
    execute(store.paths.journal, "UPDATE journal SET trimmed_position = 3")
    if in_table:
        mover(store).flush()
    assert sum(erase(store, "anna")) == 2
    page = store.rejects.page(RejectsFilter(), descending=False, after=None, limit=10, bytes_max=10**9)
    assert [one.place.id for one in page.rejects] == [1, 3]
    assert [decode_batch(one.original, rows=1).column("user_id").to_pylist() for one in page.rejects] == [["bob"]] * 2
    with store.journal.writing() as writing:
        delete_letters(writing, "TRUE", ())
        assert read_rejects_state(writing).bytes == 0


def test_a_flush_does_not_wait_for_letters_that_an_erasure_deletes_meanwhile(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    reject(store, "scroll", user="anna")
    with pytest.raises(Overloaded):
        store.flush(timeout_s=0)
    monkeypatch.setattr("storage.flush_requests.time.sleep", lambda _: erase_letters(store.journal, "anna"))
    store.flush(timeout_s=120)
    assert store.journal.dead_letters() == 0


def test_files_that_are_about_to_be_named_are_not_taken_for_old_ones(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However long the move of letters takes, and whatever the clock says meanwhile."""
    fill(store)
    commit = RejectsTable.commit
    removals: list[bool] = []

    def remove_then_commit(table: RejectsTable, *given: Any, **named: Any) -> int:
        removals.append(remove_unreferenced_rejects(store.paths.rejects, older_than_s=-1, timeout_s=0))
        return commit(table, *given, **named)

    monkeypatch.setattr(RejectsTable, "commit", remove_then_commit)
    mover(store).flush()
    assert removals == [False]
    assert ids_everywhere(store) == [1, 2, 3, 4, 5]
    assert erase(store, "anna") == (0, 3)
    assert removals == [False, False]
    assert ids_everywhere(store) == [2, 4]


def test_an_error_after_the_commit_leaves_what_it_named(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(store)
    mover(store).flush()
    commit = RejectsTable.commit

    def commit_then_fail(table: RejectsTable, *given: Any, **named: Any) -> int:
        monkeypatch.undo()
        commit(table, *given, **named)
        raise OSError(errno.EMFILE, "as when the table's log cannot be read again")

    monkeypatch.setattr(RejectsTable, "commit", commit_then_fail)
    with pytest.raises(CommitRefused, match="read again"):
        erase(store, "anna")
    assert ids_everywhere(store) == [2, 4]
    assert erase(store, "anna") == (0, 0)


def test_a_version_that_readers_must_use_is_on_disk_with_all_before_it(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A power cut would take the entry of a move that was just committed, and with it all that come after."""
    fill(store)
    sync = RejectsTable.sync
    synced: set[str] = set()
    monkeypatch.setattr("storage.rejects_table.fsync_path", lambda path: synced.add(path.name))

    def erase_then_sync(table: RejectsTable, *, after_version: int) -> None:
        if table.version > 0:
            monkeypatch.setattr(RejectsTable, "sync", sync)
            erase(store, "anna")
            with store.journal.reading() as execute_:
                required = read_rejects_state(execute_).version_min
            assert required == 2
            assert {f"{version:020d}.json" for version in range(required + 1)} <= synced
        sync(table, after_version=after_version)

    monkeypatch.setattr(RejectsTable, "sync", erase_then_sync)
    mover(store).flush()
    assert RejectsTable.sync is sync
    assert ids_everywhere(store) == [2, 4]
