"""Whatever is done in whatever order, what is stored equals a dictionary that never forgets."""

from __future__ import annotations

import datetime
import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from storage.backup import back_up
from storage.clock import system_now_us
from storage.flush import FlushLimits
from storage.journal_records import Append, IdempotencyConflict, IdempotencyKey
from storage.lake import Lake
from storage.maintenance.vacuum import vacuum
from storage.new_columns import add_columns
from storage.opening import read_store
from storage.paths import StorePaths
from storage.rejects import RejectsFilter
from storage.restoring import restore
from storage.schema import DEFAULT_ACTION_TYPES, ActionSchema, PromotedProperty
from storage.store import Store
from storage.submission import SubmissionLimits, SubmissionParser
from storage.verification import verify
from tests.faults.effort import repetitions
from tests.faults.scripted_run import compact
from tests.storage.building import (
    FIRST_DAY,
    PARSER,
    SCHEMA,
    Crash,
    action,
    body,
    data_files,
    flusher,
    full_table,
    opened,
)
from tests.storage.erasing import finish

_COLUMNS = ["user_id", "session_id", "utc_offset_minutes", "properties", "journal", "position", "time"]

_WIDER = ActionSchema(
    {**DEFAULT_ACTION_TYPES, "purchase": (PromotedProperty("amountCents", "amount_cents", "bigint"),)}
)
_WIDER_PARSER = SubmissionParser(_WIDER, SubmissionLimits())
_USERS = ("u1", "u2", "é😀")

_ACTIONS = st.lists(
    st.builds(
        action,
        at=st.integers(0, 4).map(lambda n: FIRST_DAY + datetime.timedelta(hours=9 * n)),
        kind=st.sampled_from(["click", "VIEW", "navigate", "purchase", "unknown"]),
        properties=st.dictionaries(
            st.sampled_from(["locationX", "viewedId", "amountCents"]), st.integers(0, 3), max_size=2
        ),
    ),
    max_size=4,
)
_SUBMISSIONS = st.tuples(st.sampled_from(_USERS), st.none() | st.just("s"), _ACTIONS)


class StoreEqualsAModel(RuleBasedStateMachine):
    """The model: position → the row; idempotency key → its body; dead letters; and which types are configured."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(prefix="actionlake-model-"))
        self.model: dict[int, tuple[Any, ...]] = {}
        self.head = 0
        self.keys: dict[str, bytes] = {}
        # The user of each letter, and the row that a replay would make of it, None once it was replayed.
        self.letters: list[tuple[str, tuple[str, tuple[Any, ...]] | None]] = []
        self.schema = SCHEMA
        self.store = self._open()
        self.journal = self.store.journal_id

    def _open(self) -> Store:
        self.store, report = opened(self.folder / "data", schema=self.schema, erasure_grace_ms=0)
        assert report.removed_entries == ()
        assert not report.journal_rolled_back
        return self.store

    @property
    def parser(self) -> SubmissionParser:
        return PARSER if self.schema is SCHEMA else _WIDER_PARSER

    def _is_configured(self, kind: str) -> bool:
        return kind.lower() in self.schema.action_types

    @initialize()
    def begin(self) -> None:
        assert self.store.read_view().snapshot.version == 0

    def teardown(self) -> None:
        assert verify(self.store.paths, self.schema, deep=True).problems == ()
        self.store.close(flush=False)
        shutil.rmtree(self.folder)

    def _append(self, key: str | None, given: tuple[str, str | None, list[dict[str, Any]]]) -> tuple[Append, Any]:
        user, session, actions = given
        text = body(actions, user=user, session=session)
        parsed = self.parser.parse_json(text, now_us=system_now_us())
        idempotency = None if key is None else IdempotencyKey.of(key, text)
        if key is not None and key in self.keys:
            return Append(parsed.submissions, parsed.rejections, text, idempotency), self.keys[key]
        for one in actions:
            moment = datetime.datetime.fromisoformat(one["time"])
            row = (user, session, 0, one["properties"], self.journal, moment)
            if self._is_configured(one["type"]):
                self.head += 1
                self.model[self.head] = row
            else:
                self.letters.append((user, (one["type"], row)))
        if key is not None:
            self.keys[key] = text
        return Append(parsed.submissions, parsed.rejections, text, idempotency), text

    @rule(
        group=st.lists(st.tuples(st.none() | st.sampled_from(["k1", "k2", "k3"]), _SUBMISSIONS), min_size=1, max_size=3)
    )
    def submit(self, group: list[tuple[str | None, tuple[str, str | None, list[dict[str, Any]]]]]) -> None:
        requests, expected = zip(*(self._append(key, given) for key, given in group), strict=True)
        for one, outcome, answer in zip(requests, self.store.append(requests), expected, strict=True):
            if one.answer == answer:
                assert outcome == answer
            else:
                assert isinstance(outcome, IdempotencyConflict)

    @rule()
    def flush(self) -> None:
        self.store.flush_here()
        assert self.store.journal.state().depth == 0

    @rule(part=st.floats(0, 1), partitions=st.integers(1, 3), rows=st.integers(1, 5))
    def flush_a_part(self, part: float, partitions: int, rows: int) -> None:
        state = self.store.journal.state()
        upto = state.trimmed_position + int(part * state.depth)
        flusher(self.store, limits=FlushLimits(partitions_max=partitions, rows_max=rows)).flush(upto)
        assert self.store.journal.state().trimmed_position >= upto

    @precondition(lambda self: self.store.journal.state().depth)
    @rule(committed=st.booleans())
    def die_in_a_flush(self, committed: bool) -> None:
        original = Lake.append

        def die(lake: Lake, *args: Any, **kwargs: Any) -> int:
            if committed:
                original(lake, *args, **kwargs)
            raise Crash

        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(Lake, "append", die)
            try:
                flusher(self.store).flush(self.store.journal.state().head)
            except Crash:
                return
        # An earlier death had left nothing to commit, only to trim.
        assert self.store.journal.state().depth == 0

    @rule()
    def compact(self) -> None:
        before = self.store.read_view().snapshot.files
        compact(self.store)
        after = self.store.read_view().snapshot.files
        assert len({(one.date, one.type) for one in before}) == len(after)

    @rule()
    def vacuum(self) -> None:
        lake = Lake(self.store.paths.table, self.schema)
        vacuum(lake, self.store.journal, self.store.latch, now_ms=system_now_us() // 1000 + 3_600_000, grace_ms=1)
        named = {Path(one.path) for one in self.store.read_view().snapshot.files}
        assert named <= data_files(self.folder / "data"), "no file goes that the table names"

    @rule(user=st.sampled_from(_USERS))
    def erase(self, user: str) -> None:
        self.store.erase(user)
        self.model = {position: row for position, row in self.model.items() if row[0] != user}
        self.letters = [one for one in self.letters if one[0] != user]
        # That readers leave the rows out at once is tested door by door; here files are read as they are.
        finish(self.store)

    @precondition(lambda self: self.schema is SCHEMA)
    @rule()
    def configure_another_type(self) -> None:
        self.schema = _WIDER
        latch = self.store.latch
        assert latch is not None
        assert not self.store.use(_WIDER, self.store.options), "the table lacks a column"
        add_columns(Lake(self.store.paths.table, _WIDER), self.store.journal, latch)
        assert self.store.use(_WIDER, self.store.options)

    @rule()
    def replay(self) -> None:
        right_now = [one for _, one in self.letters if one is not None and self._is_configured(one[0])]
        done = self.store.decisions().replay(RejectsFilter(), self.parser, limit=1_000)
        assert done.replayed == done.actions == len(right_now)
        # In the order in which they were rejected, which is the order in which they are tried again.
        for _, row in right_now:
            self.head += 1
            self.model[self.head] = row
        self.letters = [
            (user, None if one is not None and self._is_configured(one[0]) else one) for user, one in self.letters
        ]

    @rule()
    def restore_a_backup(self) -> None:
        destination = self.folder / "backups"
        back_up(self.store.paths, destination, keep=1)
        copy = StorePaths.of(self.folder / "copy")
        restore(destination, copy, self.schema, with_keys=False)
        reader = read_store(copy, self.schema)
        rows = full_table(reader.read_view(), ["journal", "position"]).to_pylist()
        assert sorted(row["position"] for row in rows) == sorted(self.model)
        reader.close(flush=False)
        shutil.rmtree(copy.data)

    @rule()
    def restart(self) -> None:
        self.store.close(flush=False)
        self._open()
        assert self.store.journal_id == self.journal

    @rule(truncate=st.booleans())
    def checkpoint(self, truncate: bool) -> None:
        self.store.journal.checkpoint(truncate=truncate)
        self.store.journal.shrink(free_bytes_kept=0)

    @rule()
    def read_beside(self) -> None:
        reader = read_store(self.store.paths, self.schema)
        self._compare(reader)
        reader.close(flush=False)

    @invariant()
    def what_is_stored_equals_the_model(self) -> None:
        self._compare(self.store)
        status = self.store.status()
        assert status.dead_letters + status.rejects == len(self.letters)
        assert self.store.journal.state().head == self.head

    def _compare(self, store: Store) -> None:
        rows = full_table(store.read_view(), _COLUMNS).to_pylist()
        assert [row["position"] for row in rows] == sorted(self.model), "each once"
        found = {
            row["position"]: (
                row["user_id"],
                row["session_id"],
                row["utc_offset_minutes"],
                json.loads(row["properties"]),
                row["journal"],
                row["time"],
            )
            for row in rows
        }
        assert found == self.model


TestStoreEqualsAModel = StoreEqualsAModel.TestCase
TestStoreEqualsAModel.settings = settings(
    max_examples=repetitions(suite=12, long=200),
    stateful_step_count=repetitions(suite=15, long=40),
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
