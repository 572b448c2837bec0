"""All that write to a journal queue for it, and what an append needs is one statement that counts for itself."""

from __future__ import annotations

import fcntl
import subprocess
import sys
from collections.abc import Sequence

import apsw
import pytest

from storage.journal import Journal
from storage.journal_records import Append, IdempotencyKey
from storage.journal_rows import INSERT_ROWS_MAX, ON_INSERT
from storage.latch import Latch
from storage.store import Store
from storage.submission import Rejection
from tests.storage.building import positions, put, request, through

HOLD = """
import sys
from pathlib import Path
from storage.leader_page import LeaderPage
with LeaderPage(Path(sys.argv[1])).queued(timeout_s=None):
    print("holds", flush=True)
    sys.stdin.read()
"""


def is_queued_for(store: Store) -> bool:
    with store.paths.leader_page.open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def test_a_writer_that_is_killed_leaves_the_queue(store: Store) -> None:
    command = [sys.executable, "-c", HOLD, str(store.paths.leader_page)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "holds\n"
        assert is_queued_for(store)
        holder.kill()
        put(store, 2)
    assert not is_queued_for(store)
    assert positions(store) == through(2)


@pytest.mark.parametrize("kind", ["append", "upkeep"])
def test_whoever_writes_has_queued_and_leaves_the_queue_also_after_an_error(
    store: Store, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    seen: list[bool] = []

    def look() -> Sequence[Append]:
        seen.append(is_queued_for(store))
        raise RuntimeError("no group")

    def upkeep() -> None:
        with store.journal.writing():
            look()

    with pytest.raises(RuntimeError, match="no group"):
        store.journal.append_next(look, now_us=1) if kind == "append" else upkeep()
    assert seen == [True]
    assert not is_queued_for(store)


def test_what_an_append_counts_is_what_the_journal_counts(store: Store) -> None:
    groups: list[list[Append]] = [
        [request(3, user="zoë")],
        [request(1), request(2, user="u2")],
        [request(1, user=f"u{n}") for n in range(INSERT_ROWS_MAX)],
        [request(1, user=f"u{n}") for n in range(INSERT_ROWS_MAX + 1)],
        [request(2), Append((), (Rejection(0, None, "bad_time", "", b"{}", None, None),), b"rejected")],
        [Append(request(1).submissions, (), b"first", IdempotencyKey.of("key", b"body"))],
        [request(1)],
    ]
    actions = 0
    for group in groups:
        outcomes = store.append(group)
        assert outcomes == [one.answer for one in group]
        actions += sum(submission.actions for one in group for submission in one.submissions)
        state = store.journal.state()
        assert (state.head, state.bytes) == (actions, store.journal.bytes_known)
    put(store, 1)
    assert positions(store) == through(actions + 1)
    store.flush_here()
    assert store.journal.state().bytes == 0


def test_rows_that_would_not_begin_at_the_next_position_are_refused_as_a_whole(store: Store) -> None:
    put(store, 2)
    connection = apsw.Connection(str(store.paths.journal))
    connection.execute(ON_INSERT)
    row = "(?, ?, 0, 'u', NULL, x'00', NULL)"
    before = store.journal.state()
    for places in ([(2, 2)], [(4, 4)], [(3, 3), (5, 5)]):
        bounds = [bound for place in places for bound in place]
        with pytest.raises(apsw.ConstraintError):
            connection.execute(f"INSERT INTO submissions VALUES {', '.join([row] * len(places))}", bounds)
        assert store.journal.state() == before
    connection.close()
    assert positions(store) == through(2)


def test_an_append_that_another_writer_came_before_takes_the_next_positions(store: Store) -> None:
    """The other one does not queue, as a program of another version might not."""
    other = Journal(store.paths.journal, Latch(store.paths.latch))
    insert = store.journal._insert_submissions
    between = [request(2, user="other")]

    def late(execute: object, *rest: object) -> int | None:
        def after_the_position_was_read(statement: str, *parameters: object) -> object:
            if statement.startswith("INSERT") and between:
                other.append([between.pop()], now_us=1)
            return execute(statement, *parameters)  # type: ignore[operator]

        return insert(after_the_position_was_read, *rest)  # type: ignore[arg-type]

    store.journal._insert_submissions = late  # type: ignore[method-assign,assignment]
    put(store, 3)
    assert not between
    assert positions(store) == through(5)
    assert [row.user_id for row in store.journal.read_tail(0)[1]] == ["other", "u1"]
    other.close()
