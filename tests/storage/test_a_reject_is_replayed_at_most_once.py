"""A reject that is right by now is stored once: over kills, retries, two replays at once, and a restored journal."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from storage.batch_columns import encode_batch
from storage.clock import system_now_us
from storage.columns import action_text, encode_columns
from storage.dead_letters import read_marks
from storage.erasure_records import insert_erasure
from storage.journal import Journal
from storage.journal_records import Append
from storage.lake import Lake
from storage.rejects import RejectsFilter, RejectsReader
from storage.rejects_erasure import erase_letters
from storage.rejects_flush import RejectsFlusher
from storage.rejects_table import RejectsTable
from storage.replay import Decisions, ReplayResult
from storage.schema import ActionSchema
from storage.store import Store
from storage.submission import Rejection, SubmissionLimits, SubmissionParser
from tests.storage.building import PARSER, Crash, data_files, execute, flusher, full_table, opened, put, store_in
from tests.storage.dying import Dying
from tests.storage.rejecting import in_table, mover, reject, reject_line

WIDER = ActionSchema({"click": (), "view": (), "navigate": (), "purchase": ()})
WIDER_PARSER = SubmissionParser(WIDER, SubmissionLimits())


def decisions(store: Store) -> Decisions:
    return Decisions(store.journal, RejectsReader(store.journal, store.paths.rejects), now_us=system_now_us)


def replay(store: Store, parser: SubmissionParser = WIDER_PARSER, **more: Any) -> ReplayResult:
    return decisions(store).replay(RejectsFilter(), parser, **({"limit": 1000} | more))


def types_stored(store: Store) -> list[str]:
    """The user and the text of every action that is stored, wherever; one that is there twice is in the list twice."""
    rows = full_table(store.read_view(), ["user_id", "properties", "journal", "position"]).to_pylist()
    return sorted(f"{row['user_id']} {row['properties']}" for row in rows)


def states(store: Store) -> list[tuple[int, str, str]]:
    page = RejectsReader(store.journal, store.paths.rejects).page(
        RejectsFilter(), descending=False, after=None, limit=100, bytes_max=10**9
    )
    return [(one.place.id, one.state, one.code) for one in page.rejects]


@pytest.fixture(params=["letters", "table"])
def moved(request: pytest.FixtureRequest) -> Callable[[Store], None]:
    """Whether rejects are in the journal's database or in the table by the time that something is decided."""
    return (lambda store: mover(store).flush()) if request.param == "table" else (lambda _: None)


def test_what_is_right_by_now_is_stored_once_and_the_rest_stays_with_its_reason(
    store: Store, moved: Callable[[Store], None]
) -> None:
    reject(store, "purchase", "scroll", user="u7")
    reject_line(store, b'{"userId": "u8", "actions": [{"time": "2024-01-01T00:00:00Z", "type": "purchase"}, 5]}\nx')
    moved(store)
    assert states(store)[0] == (1, "open", "unknown_type")
    done = replay(store)
    # The line's first action was rejected with its own line's submission; the line "x" is still no submission.
    assert (done.replayed, done.actions, done.next) == (2, 2, None)
    assert [one.code for one in done.still_rejected] == ["unknown_type", "bad_action", "bad_envelope"]
    assert types_stored(store) == ['u7 {"n": 0}', "u8 {}"]
    again = replay(store)
    assert (again.replayed, len(again.still_rejected)) == (0, 3)
    mover(store).flush()
    store.flush_here()
    assert replay(store).replayed == 0
    assert types_stored(store) == ['u7 {"n": 0}', "u8 {}"]
    assert [state for _, state, _ in states(store)] == ["replayed", "open", "replayed", "open", "open"]
    row = in_table(store.paths.data)[0]
    assert row["replayed_position"] == 1
    assert row["state_at"] is not None


def test_a_whole_line_that_is_right_by_now_leaves_what_is_wrong_in_it_as_rejects_of_their_own(
    store: Store, moved: Callable[[Store], None]
) -> None:
    narrow = SubmissionParser(WIDER, SubmissionLimits(actions_max=1))
    line = b'{"userId": "u", "actions": [{"time": "2024-01-01T00:00:00Z", "type": "purchase"}, 5]}'
    parsed = narrow.parse_ndjson(line, now_us=system_now_us())
    assert parsed.rejections[0].code == "too_large"
    store.append([Append((), parsed.rejections, b"")])
    moved(store)
    done = replay(store)
    assert (done.replayed, done.actions, done.still_rejected) == (1, 1, ())
    assert states(store) == [(1, "replayed", "too_large"), (2, "open", "bad_action")]
    assert types_stored(store) == ["u {}"]


def test_a_dry_run_changes_nothing(store: Store) -> None:
    reject(store, "purchase", "scroll")
    done = replay(store, dry_run=True)
    assert (done.replayed, done.actions, len(done.still_rejected)) == (1, 1, 1)
    assert types_stored(store) == []
    assert replay(store).replayed == 1


def test_a_new_reason_replaces_the_old_one(store: Store, moved: Callable[[Store], None]) -> None:
    parsed = PARSER.parse_json(
        b'{"userId": "u", "actions": [{"type": "purchase", "time": "2024-01-01"}]}', now_us=system_now_us()
    )
    store.append([Append((), parsed.rejections, b"")])
    moved(store)
    assert states(store) == [(1, "open", "unknown_type")]
    assert replay(store).replayed == 0
    assert states(store) == [(1, "open", "bad_time")]
    mover(store).flush()
    assert states(store) == [(1, "open", "bad_time")]
    with store.journal.reading() as reading:
        assert read_marks(reading) == []


def test_a_call_is_bounded_and_says_where_to_go_on(store: Store, moved: Callable[[Store], None]) -> None:
    reject(store, *(["purchase", "scroll"] * 5))
    moved(store)
    seen, after = [], None
    for _ in range(4):
        done = replay(store, limit=3, after=after)
        seen.append((done.replayed, len(done.still_rejected)))
        after = done.next
    assert seen == [(2, 1), (1, 2), (2, 1), (0, 1)]
    assert after is None
    assert len(types_stored(store)) == 5


def test_who_may_see_some_users_sees_no_other_and_no_line_without_one(
    store: Store, moved: Callable[[Store], None]
) -> None:
    reject(store, "a", user="team-1")
    reject(store, "a", user="other")
    reject_line(store, b'{"userId": "team-2"')
    moved(store)
    page = store.rejects.page(
        RejectsFilter(user_prefix="team-"), descending=True, after=None, limit=10, bytes_max=10**9
    )
    assert [one.user_id for one in page.rejects] == ["team-1"]


def test_a_dropped_reject_is_gone_and_is_not_replayed(store: Store, moved: Callable[[Store], None]) -> None:
    reject(store, "purchase", "purchase")
    moved(store)
    (source, first), *_ = [(store.journal_id, 1)]
    wanted = RejectsFilter(ids=frozenset({(source, first)}))
    assert decisions(store).drop(wanted, limit=10, dry_run=True).dropped == 1
    assert decisions(store).drop(wanted, limit=10).dropped == 1
    assert decisions(store).drop(wanted, limit=10).dropped == 0
    assert replay(store).replayed == 1
    mover(store).flush()
    assert [row["reject_id"] for row in in_table(store.paths.data)] == [2]


def test_of_two_replays_of_the_same_page_only_one_stores(
    store: Store, moved: Callable[[Store], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    reject(store, "purchase")
    moved(store)
    page = RejectsReader.page
    nested: list[int] = []

    def read_then_let_another_replay(reader: RejectsReader, *args: Any, **kwargs: Any) -> Any:
        found = page(reader, *args, **kwargs)
        if not nested:
            nested.append(0)
            nested[0] = replay(store).replayed
            mover(store).flush()
        return found

    with monkeypatch.context() as patched:
        patched.setattr(RejectsReader, "page", read_then_let_another_replay)
        assert replay(store).replayed == 0
    assert nested == [1]
    assert types_stored(store) == ['u1 {"n": 0}']


@contextmanager
def without_looking_again(patched: pytest.MonkeyPatch) -> Iterator[None]:
    patched.setattr("storage.replay._still_open", lambda _execute, attempts, _page: list(attempts))
    yield


def test_the_control_without_looking_again_in_the_transaction_stores_it_twice(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched, without_looking_again(patched):
        reject(store, "purchase")
        reader = RejectsReader(store.journal, store.paths.rejects)
        page = reader.page(RejectsFilter(state="open"), descending=False, after=None, limit=10, bytes_max=10**9)
        patched.setattr(RejectsReader, "page", lambda *_, **__: page)
        replay(store)
        replay(store)
    assert types_stored(store) == ['u1 {"n": 0}'] * 2


STEPS = (
    (os, "fsync"),
    (RejectsTable, "commit"),
    (RejectsTable, "sync"),
    (Journal, "writing"),
    (Journal, "append_decided"),
    (Journal, "trim"),
    (Journal, "_insert_submissions"),
)


def test_a_crash_at_any_step_of_replay_and_flush_leaves_each_action_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    at, died = 0, True
    while died:
        at += 1
        folder = tmp_path / str(at)
        with store_in(folder, schema=WIDER) as store:
            reject(store, "purchase")
            mover(store).flush()
            reject(store, "purchase")
            with monkeypatch.context() as patched:
                dying = Dying(patched, STEPS, at=at)
                try:
                    replay(store)
                    store.flush_here()
                except Crash:
                    pass
                died = dying.died
        with store_in(folder, schema=WIDER) as store:
            replay(store)
            assert types_stored(store) == ['u1 {"n": 0}'] * 2, f"died at step {at}"
            store.flush_here()
            assert replay(store).replayed == 0
            assert types_stored(store) == ['u1 {"n": 0}'] * 2, f"died at step {at}"
            assert [row["state"] for row in in_table(folder)] == ["replayed"] * 2, f"died at step {at}"
    assert at > 20


def roll_back_and_replay_again(folder: Path, copy: Path, *, in_table_first: bool) -> list[str]:
    with store_in(folder, schema=WIDER) as store:
        put(store, 1)
        reject(store, "purchase")
        if in_table_first:
            mover(store).flush()
        journal = store.paths.journal
    shutil.copy(journal, copy)
    with store_in(folder, schema=WIDER) as store:
        assert replay(store).replayed == 1
        store.flush_here()
    shutil.copy(copy, journal)
    store, report = opened(folder, schema=WIDER)
    assert report.journal_rolled_back
    replay(store)
    store.flush_here()
    found = types_stored(store)
    store.close(flush=False)
    return found


def test_a_reject_that_was_dropped_after_its_replay_does_not_come_back(folder: Path) -> None:
    """The drop takes the place of what said that it was replayed, and it is what must be in the table in time."""
    with store_in(folder, schema=WIDER) as store:
        reject(store, "purchase")
        mover(store).flush()
        assert replay(store).replayed == 1
        assert store.decisions().drop(RejectsFilter(), limit=9).dropped == 1
        flusher(store).flush(store.journal.state().head)
        for suffix in ("", "-wal", "-shm"):
            store.paths.journal.with_name(store.paths.journal.name + suffix).unlink(missing_ok=True)
    with store_in(folder, schema=WIDER) as store:
        assert replay(store).replayed == 0
        assert types_stored(store) == ['u1 {"n": 0}']


@pytest.mark.parametrize("in_table_first", [False, True])
def test_a_journal_from_before_the_replay_does_not_bring_it_twice(
    folder: Path, tmp_path: Path, in_table_first: bool
) -> None:
    assert roll_back_and_replay_again(folder, tmp_path / "copy", in_table_first=in_table_first) == [
        'u1 {"locationX": 0}',
        'u1 {"n": 0}',
    ]


def test_the_control_that_does_not_settle_replays_before_the_flush_stores_it_twice(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(RejectsFlusher, "settle_replays", lambda _: None)
        flush = RejectsFlusher.flush
        patched.setattr(
            RejectsFlusher, "flush", lambda one: None if Path(str(tmp_path / "copy")).exists() else flush(one)
        )
        found = roll_back_and_replay_again(folder, tmp_path / "copy", in_table_first=True)
    assert found.count('u1 {"n": 0}') == 2


def test_a_lost_journal_does_not_bring_a_replay_twice(folder: Path) -> None:
    with store_in(folder, schema=WIDER) as store:
        reject(store, "purchase")
        replay(store)
        store.flush_here()
        for suffix in ("", "-wal", "-shm"):
            store.paths.journal.with_name(store.paths.journal.name + suffix).unlink(missing_ok=True)
    with store_in(folder, schema=WIDER) as store:
        assert replay(store).replayed == 0
        assert types_stored(store) == ['u1 {"n": 0}']


def test_an_erased_letter_is_not_replayed_by_who_had_read_it(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    reject(store, "purchase", user="anna")
    reader = RejectsReader(store.journal, store.paths.rejects)
    page = reader.page(RejectsFilter(state="open"), descending=False, after=None, limit=10, bytes_max=10**9)
    assert erase_letters(store.journal, "anna") == 1
    reject(store, "scroll", user="bob")
    mover(store).flush()
    pages = iter([page])
    original = RejectsReader.page
    monkeypatch.setattr(
        RejectsReader, "page", lambda self, *args, **kwargs: next(pages, None) or original(self, *args, **kwargs)
    )
    assert replay(store).replayed == 0
    assert types_stored(store) == []
    mover(store).flush()
    with store.journal.reading() as reading:
        assert read_marks(reading) == []


# Rows that could not be flushed


def spoiled_by_its_type(user: str) -> bytes:
    """A payload that decodes, of a type whose name no folder can have."""
    del user
    return encode_columns(
        times_us=[1_700_000_000_123_000, 1_700_000_000_000_000],
        utc_offsets_minutes=[-330, 0],
        type_names=("cl\0ick", "purchase"),
        type_codes=[0, 1],
        properties_lengths=[7, 2],
        properties=b'{"a":1}{}',
        promoted={0: {}, 1: {}},
    )


def test_a_row_that_could_not_be_flushed_is_replayed_in_its_right_parts(folder: Path) -> None:
    with store_in(folder, schema=WIDER) as store:
        put(store, 2)
        execute(store.paths.journal, "UPDATE submissions SET payload = ?", [spoiled_by_its_type("u1")])
        store.flush_here()
        rejects = in_table(folder)
        assert {row["code"] for row in rejects} == {"unflushable"}
        done = replay(store)
        store.flush_here()
        assert done.replayed + len(done.still_rejected) == len(rejects)
        assert len(types_stored(store)) + sum(row["state"] == "open" for row in in_table(folder)) == 2
        assert replay(store).replayed == 0


def test_a_payload_that_does_not_decode_stays_with_its_reason(store: Store) -> None:
    put(store, 1)
    execute(store.paths.journal, "UPDATE submissions SET payload = ?", [b"\xc1 spoiled"])
    store.flush_here()
    (still,) = replay(store).still_rejected
    assert still.code == "unflushable"
    assert "decode" in still.message


def test_a_single_row_that_no_file_took_is_replayed_as_it_was_sent(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(store, 1)

    def refuse(*_: Any, **__: Any) -> Any:
        raise pa.ArrowInvalid("no")

    with monkeypatch.context() as patched:
        patched.setattr("storage.flush.write_partitions", refuse)
        store.flush_here()
    assert data_files(store.paths.data) == set()
    assert [one["state"] for one in in_table(store.paths.data)] == ["open"]
    assert replay(store).replayed == 1
    store.flush_here()
    assert types_stored(store) == ['u1 {"locationX": 0}']


def test_a_row_put_aside_by_an_attempt_that_failed_is_no_reject_when_the_next_one_takes_it(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(store, 1)

    def refuse(*_: Any, **__: Any) -> Any:
        raise pa.ArrowInvalid("no")

    def die(*_: Any, **__: Any) -> int:
        raise Crash

    with monkeypatch.context() as patched:
        patched.setattr("storage.flush.write_partitions", refuse)
        patched.setattr(Lake, "append", die)
        with pytest.raises(Crash):
            store.flush_here()
    assert store.journal.dead_letters() == 1
    assert states(store) == [], "provisional until the watermark has passed it"
    assert replay(store).replayed == 0
    mover(store).flush()
    store.flush_here()
    assert store.journal.dead_letters() == 0
    assert in_table(store.paths.data) == []
    assert types_stored(store) == ['u1 {"locationX": 0}']


def test_an_action_text_has_the_time_and_the_offset_it_was_sent_with(store: Store) -> None:
    text = b'{"time": "2018-10-20T21:37:28.250000-06:00", "type": "CLICK", "properties": {"a":1.10}}'
    parsed = PARSER.parse_json(b'{"userId": "u", "actions": [%b]}' % text, now_us=system_now_us())
    store.append([Append(parsed.submissions, (), b"")])
    (row,) = store.read_view().hot.to_pylist()
    assert action_text(row) == b'{"time":"2018-10-20T21:37:28.250000-06:00","type":"click","properties":{"a":1.10}}'


def test_a_batch_of_many_users_that_could_not_be_flushed_is_replayed_user_by_user(store: Store) -> None:
    batch = pa.RecordBatch.from_pydict(
        {
            "time": pa.array([1_700_000_000_000_000] * 3, pa.int64()),
            "utc_offset_minutes": pa.array([0, 60, 0], pa.int16()),
            "type": pa.array(["purchase", "scroll", "purchase"])
            .dictionary_encode()
            .cast(pa.dictionary(pa.int16(), pa.string())),
            "user_id": pa.array(["a", "b", "c"]),
            "session_id": pa.array([None, "s", None], pa.string()),
            "properties": pa.array(["{}", "{}", '{"n": 1}']),
        }
    )
    letter = Rejection(None, None, "unflushable", "no file took it", encode_batch(batch), None, None)
    put(store, 1)
    store.journal.move_to_dead_letters([(letter, 1)], watermark=0, now_us=system_now_us())
    execute(store.paths.journal, "UPDATE journal SET trimmed_position = 1")
    done = replay(store)
    assert (done.replayed, done.actions) == (1, 2)
    assert states(store) == [(1, "replayed", "unflushable"), (2, "open", "unknown_type")]
    rows = [(one.user_id, one.actions) for one in store.journal.read_tail(1)[1]]
    assert rows == [("a", 1), ("c", 1)]


def test_a_replay_does_not_bring_back_a_user_whose_erasure_is_under_way(
    store: Store, moved: Callable[[Store], None]
) -> None:
    reject(store, "purchase", user="anna")
    reject_line(store, b'{"userId": "anna", "actions": {}}')
    reject(store, "purchase", user="bob")
    moved(store)
    with store.journal.writing() as writing:
        insert_erasure(writing, "anna", system_now_us())
    assert replay(store).replayed == 1
    assert types_stored(store) == ['bob {"n": 0}']
