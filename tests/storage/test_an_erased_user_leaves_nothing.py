"""After an erasure no file of the store tells of the user: every one is decoded, and its raw bytes are searched."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from storage.clock import system_now_us
from storage.eraser import Eraser
from storage.erasure_records import Erasure, Phase
from storage.journal import Journal
from storage.journal_records import IdempotencyKey
from storage.lake import Lake
from storage.maintenance.compaction import CompactionRun, compact
from storage.maintenance.planning import CompactionLimits
from storage.maintenance.vacuum import vacuum
from storage.rejects import RejectsFilter
from storage.store import Store
from storage.user_filters import UserFilters, data_file_name
from tests.queries.histories import filter_chore, history_chore, small_runs, work
from tests.storage.building import PARSER, execute, flusher, put, request, store_in
from tests.storage.compacting import compact_all
from tests.storage.erasing import USER, erase, fill, finish, users, visible
from tests.storage.rejecting import in_table
from tests.storage.test_batches_are_rows_like_others import batch
from tests.storage.what_is_left import traces

USERS = [USER, "plain-user-8c1f", "é" * 128, "/a/b//c/", "%2F'; DROP TABLE actions;--"]


@pytest.mark.parametrize("user", USERS)
def test_nothing_is_left_of_a_user(folder: Path, user: str) -> None:
    with store_in(folder, erasure_grace_ms=0) as store:
        fill(store, user)
        Lake(store.paths.table, store.schema).checkpoint()
        assert len(traces(folder, user)) > 5
        done = erase(store, user)
        assert (done.rows, done.dead_letters, done.files_done) == (80, 6, 4)
        assert traces(folder, user) == []
        assert users(store) == ["someone-else"]
        # What is written afterwards is made from what is left.
        Lake(store.paths.table, store.schema).checkpoint()
        store.flush_here()
        assert traces(folder, user) == []
    assert traces(folder, user) == []


def _without_rewriting(patched: pytest.MonkeyPatch) -> None:
    def skip(eraser: Eraser, group: Sequence[Erasure]) -> bool:
        eraser._enter(group, Phase.WAITING)
        return True

    patched.setattr(Eraser, "_rewrite", skip)


def _without_removing_old_files(patched: pytest.MonkeyPatch) -> None:
    patched.setattr("storage.eraser._is_doomed", lambda *_: False)


def _without_scrubbing(patched: pytest.MonkeyPatch) -> None:
    patched.setattr(Journal, "scrub", lambda _: True)


def _without_secure_delete(patched: pytest.MonkeyPatch) -> None:
    connect = Journal._connect

    def insecurely(journal: Journal, **given: Any) -> Any:
        connection = connect(journal, **given)
        if not given["read_only"]:
            connection.execute("PRAGMA secure_delete = OFF")
        return connection

    patched.setattr(Journal, "_connect", insecurely)


@pytest.mark.parametrize(
    ("omit", "left_in"),
    [
        (_without_rewriting, "actions/date="),
        (_without_removing_old_files, "actions/date="),
        (_without_scrubbing, "journal.sqlite-wal"),
        (_without_secure_delete, "journal.sqlite:"),
    ],
)
def test_the_controls_that_leave_out_a_step_are_caught(
    folder: Path, monkeypatch: pytest.MonkeyPatch, omit: Any, left_in: str
) -> None:
    with monkeypatch.context() as patched:
        omit(patched)
        with store_in(folder, erasure_grace_ms=0) as store:
            fill(store)
            erase(store)
            assert any(trace.startswith(left_in) for trace in traces(folder, USER))


def test_a_user_who_comes_back_keeps_what_is_new(folder: Path) -> None:
    with store_in(folder, erasure_grace_ms=0) as store:
        fill(store)
        kept = [row for row in visible(store) if row[0] != USER]
        store.erase(USER)
        put(store, 5, user=USER)
        store.flush_here()
        put(store, 2, user=USER)
        new = [(USER, store.journal.state().head - place) for place in range(6, -1, -1)]
        assert visible(store) == kept + new
        finish(store)
        assert visible(store) == kept + new
        # And a second erasure takes these, too.
        erase(store)
        assert visible(store) == kept
        assert traces(folder, USER) == []


def test_a_flush_under_way_does_not_bring_the_user_back(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with store_in(folder, erasure_grace_ms=0) as store:
        put(store, 5, user=USER)
        put(store, 5, user="someone-else")
        append = Lake.append

        def erase_then_append(lake: Lake, *given: Any, **named: Any) -> int:
            monkeypatch.undo()
            store.erase(USER)
            return append(lake, *given, **named)

        monkeypatch.setattr(Lake, "append", erase_then_append)
        flusher(store).flush(10)
        assert traces(store.paths.table, USER), "the flush had the rows in its hands"
        assert users(store) == ["someone-else"]
        finish(store)
        assert traces(folder, USER) == []
        assert len(visible(store)) == 5


def test_a_compaction_under_way_does_not_bring_the_user_back(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with store_in(folder, erasure_grace_ms=3_600_000) as store:
        for _ in range(4):
            put(store, 5, user=USER)
            put(store, 5, user="someone-else")
            store.flush_here()
        rewrite = Lake.rewrite

        def erase_then_rewrite(lake: Lake, *given: Any, **named: Any) -> int:
            monkeypatch.undo()
            store.erase(USER)
            while store.make_eraser().run():
                pass
            assert store.erasures(limit=1)[0].phase is Phase.WAITING
            return rewrite(lake, *given, **named)

        monkeypatch.setattr(Lake, "rewrite", erase_then_rewrite)
        limits = CompactionLimits()
        lake = Lake(store.paths.table, store.schema)
        run = CompactionRun(
            store.paths,
            store.journal,
            lake,
            store.latch,
            limits,
            1 << 28,
            now_ms=lambda: store.options.now_us() // 1000,
        )
        assert compact(run, thorough=True).files_removed == 4, "it planned again, from what the erasure had left"
        finish(store, _impatient(store))
        assert traces(folder, USER) == []
        assert len(visible(store)) == 20


def _impatient(store: Store) -> Eraser:
    eraser = store.make_eraser()
    eraser._grace_us = lambda: 0
    return eraser


def test_readers_have_their_grace(folder: Path) -> None:
    with store_in(folder, erasure_grace_ms=3_600_000) as store:
        fill(store)
        before = store.read_view()
        store.erase(USER)
        store.flush_here()
        while store.make_eraser().run():
            pass
        assert store.erasures(limit=1)[0].phase is Phase.WAITING
        assert all(Path(one.path).exists() for one in before.files)
        assert store.read_view().snapshot.version > before.snapshot.version, "nobody begins on the older version"


def test_a_grace_that_is_changed_while_it_runs_counts(folder: Path) -> None:
    """As when queries may take longer from now on."""
    now_us = system_now_us()
    with store_in(folder, erasure_grace_ms=1_000, now_us=lambda: now_us) as store:
        fill(store)
        store.erase(USER)
        store.flush_here()
        eraser = store.make_eraser()
        while eraser.run():
            pass
        store.use(store.schema, replace(store.options, erasure_grace_ms=10_000))
        now_us += 9_000_000
        eraser.run()
        assert store.erasures(limit=1)[0].phase is Phase.WAITING
        now_us += 1_000_000
        eraser.run()
        assert store.erasures(limit=1)[0].phase is not Phase.WAITING


def test_a_request_that_is_slow_does_not_take_an_erasure_back(folder: Path) -> None:
    """The keeper finds it recorded, and is done with it before the process that recorded it goes on."""
    requests: list[str] = []

    def be_overtaken(user_id: str) -> None:
        requests.append(user_id)
        if len(requests) == 1:
            finish(store)

    with store_in(folder, erasure_grace_ms=0, forget_user=be_overtaken) as store:
        fill(store)
        made = store.erase(USER)
        found = store.erasure(made.id)
        assert found is not None
        assert (found.phase, found.user_id) == (Phase.DONE, None)
        assert traces(folder, USER) == []


def test_a_repeated_submission_with_its_key_stores_nothing(folder: Path) -> None:
    key = IdempotencyKey.of("k", b"body")
    with store_in(folder, erasure_grace_ms=0) as store:
        first = store.append([request(3, user=USER, key=key)])
        erase(store)
        assert store.append([request(3, user=USER, key=key)]) == first
        assert visible(store) == []
        assert traces(folder, USER) == []
        # Without a key nobody can tell it from a new submission.
        store.append([request(3, user=USER)])
        assert users(store) == [USER]


def test_an_erasure_goes_on_when_the_journal_has_another_id(store: Store) -> None:
    put(store, 4, user=USER)
    made = store.erase(USER)
    old = store.journal_id
    store.journal.take_new_id("b" * 32)
    found = store.erasure(made.id)
    assert found is not None
    assert found.kept_after == {old: 4, "b" * 32: 4}


def test_a_batch_of_many_users_loses_only_the_one(folder: Path) -> None:
    with store_in(folder, erasure_grace_ms=0) as store:
        several = pa.array([USER if n % 3 == 0 else f"other-{n}" for n in range(300)])
        store.append([batch(300, user_id=several)])
        store.flush_here()
        store.append([batch(300, user_id=several)])
        store.erase(USER)
        assert len(visible(store)) == 400
        finish(store)
        assert len(visible(store)) == 400
        assert traces(folder, USER) == []


def test_a_batch_that_turns_out_to_be_unflushable_during_the_erasure_is_gone_too(folder: Path) -> None:
    """The flush that the erasure waits for puts it with the dead letters, after the user's were removed from there."""
    with store_in(folder, erasure_grace_ms=0) as store:
        store.append([batch(3, user_id=pa.array([USER, "other", USER]))])
        ((payload,),) = execute(store.paths.journal, "SELECT payload FROM submissions")
        spoiled = payload[:-1] + bytes([payload[-1] ^ 1])
        execute(store.paths.journal, "UPDATE submissions SET payload = ?", [spoiled])
        erase(store)
        assert store.journal.read_dead_letters(limit=9) == []
        store.flush_here()
        assert in_table(folder) == []
        assert traces(folder, USER) == []


def test_copies_of_files_that_are_long_gone_are_gone_too(folder: Path) -> None:
    """A run goes on for its other days when one day was compacted, and has that day's old rows still."""
    with small_runs(), store_in(folder, erasure_grace_ms=0) as store:
        put(store, 6, user="someone-else", days=6)
        put(store, 2, user=USER)
        store.flush_here()
        work(history_chore(store))
        assert filter_chore(store).run()
        put(store, 2, user=USER)
        store.flush_here()
        compact_all(store)
        lake = Lake(store.paths.table, store.schema)
        for _ in range(2):
            vacuum(lake, store.journal, store.latch, now_ms=system_now_us() // 1000 + 1_000, grace_ms=0)
        view = store.read_view()
        (use,) = view.shortcuts.history.coverage(view.snapshot, frozenset()).uses
        assert use.excluded, "the run has rows that do not count"
        assert any(trace.startswith("cache/history/") for trace in traces(folder, USER))
        erase(store)
        assert traces(folder, USER) == []
        known = UserFilters(store.paths.user_filters, bytes_max=1 << 30)
        known.refresh()
        assert known.names <= {data_file_name(one) for one in store.read_view().files}


def test_a_batch_that_the_erasures_flush_puts_aside_is_not_replayed_meanwhile(folder: Path) -> None:
    """Its actions would count as sent after the erasure."""
    with store_in(folder, erasure_grace_ms=0) as store:
        store.append([batch(3, user_id=pa.array([USER, "other", USER]))])
        # Damage beside the payload, which can be read as before.
        execute(store.paths.journal, "UPDATE submissions SET received_at_us = received_at_us + 1")
        made = store.erase(USER)
        eraser = store.make_eraser()
        while eraser.run():
            pass
        flusher(store).flush(3)
        (found,) = store.rejects.page(RejectsFilter(), descending=False, after=None, limit=9, bytes_max=9).rejects
        assert found.code == "unflushable"
        pending = store.erasure(made.id)
        assert pending is not None
        assert pending.phase is Phase.FLUSHING
        assert store.decisions().replay(RejectsFilter(), PARSER, limit=9).replayed == 0
        finish(store, eraser)
        assert traces(folder, USER) == []
        assert store.decisions().replay(RejectsFilter(), PARSER, limit=9).actions == 1
        assert users(store) == ["other"]
