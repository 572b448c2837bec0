"""Stores and submissions for the tests of the storage core, and what is stored in a form that can be compared."""

from __future__ import annotations

import datetime
import json
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import apsw
import pyarrow as pa
import pyarrow.parquet as pq

from storage.clock import system_now_us
from storage.flush import Flusher, FlushLimits, FlushResult
from storage.journal_records import Append, IdempotencyKey
from storage.lake import Lake
from storage.opening import open_store
from storage.paths import StorePaths
from storage.read_view import ReadView
from storage.recovery import RecoveryReport
from storage.rejects_flush import RejectsFlusher
from storage.schema import ActionSchema
from storage.store import Store
from storage.store_options import StoreOptions
from storage.submission import ParsedBody, SubmissionLimits, SubmissionParser

SCHEMA: Final = ActionSchema()
PARSER: Final = SubmissionParser(SCHEMA, SubmissionLimits())
DAY_US: Final = 86_400_000_000
FIRST_DAY: Final = datetime.datetime(2024, 3, 1, 12, tzinfo=datetime.UTC)

Origin = tuple[str, int]


class Crash(BaseException):
    """The process dies here: nothing that handles errors may run after it."""


def action(*, at: datetime.datetime = FIRST_DAY, kind: str = "CLICK", properties: Any = None) -> dict[str, Any]:
    """One action as a client sends it."""
    return {"time": at.isoformat(), "type": kind, "properties": {} if properties is None else properties}


def body(actions: Sequence[Any], *, user: str = "u1", session: str | None = None) -> bytes:
    """One submission as a client sends it."""
    return json.dumps({"userId": user, "sessionId": session, "actions": list(actions)}).encode()


def parsed(count: int = 1, *, user: str = "u1", days: int = 1, kind: str = "CLICK") -> ParsedBody:
    """A submission of *count* good actions, in order of time, spread evenly over *days* dates, none in the future."""
    begin = FIRST_DAY - datetime.timedelta(days=max(0, days - 365))
    made = [
        action(at=begin + datetime.timedelta(days=n * days // count, seconds=n), kind=kind, properties={"locationX": n})
        for n in range(count)
    ]
    return PARSER.parse_json(body(made, user=user), now_us=system_now_us())


def request(
    count: int = 1, *, user: str = "u1", days: int = 1, kind: str = "CLICK", key: IdempotencyKey | None = None
) -> Append:
    """A request with one submission of *count* good actions."""
    made = parsed(count, user=user, days=days, kind=kind)
    return Append(made.submissions, made.rejections, b'{"accepted": %d}' % count, key)


def put(store: Store, *counts: int, user: str = "u1", days: int = 1) -> None:
    """Append submissions of so many actions each, in one group commit."""
    store.append([request(count, user=user, days=days) for count in counts])


def opened(folder: Path, *, schema: ActionSchema = SCHEMA, **options: Any) -> tuple[Store, RecoveryReport]:
    """Open the store in *folder* as a service does; make it if there is none."""
    return open_store(StorePaths.of(folder), schema, StoreOptions(**options), holder="a test")


@contextmanager
def store_in(folder: Path, *, schema: ActionSchema = SCHEMA, **options: Any) -> Any:
    """Open the store in *folder* and close it without flushing, as a process that ends does."""
    store, _ = opened(folder, schema=schema, **options)
    try:
        yield store
    finally:
        store.close(flush=False)


def flusher(
    store: Store, *, limits: FlushLimits | None = None, lake: Lake | None = None, done: list[FlushResult] | None = None
) -> Flusher:
    """A flusher of *store* with a table handle of its own."""
    if store.latch is None:
        raise ValueError("the store is open for reading only")
    return Flusher(
        store.journal,
        lake or Lake(store.paths.table, store.schema),
        store.latch,
        rejects=RejectsFlusher(store.journal, store.paths.rejects, store.latch, now_us=system_now_us),
        limits=lambda: limits or FlushLimits(),
        now_us=system_now_us,
        on_commit=(done if done is not None else []).append,
    )


def flush(store: Store) -> None:
    """Flush all that is in the journal, by a flusher of its own."""
    flusher(store).flush(store.journal.state().head)


def read_files(paths: Iterable[str | Path], columns: Sequence[str]) -> list[tuple[Any, ...]]:
    """Read columns of data files, row by row, without the partition columns."""
    rows: list[tuple[Any, ...]] = []
    for path in paths:
        with pq.ParquetFile(path) as file:
            table = file.read(columns=list(columns))
        rows.extend(zip(*(table[name].to_pylist() for name in columns), strict=True))
    return rows


def in_files(view: ReadView) -> list[Origin]:
    """(journal, position) of the rows in the data files of a view."""
    return read_files((one.path for one in view.files), ("journal", "position"))


def in_lake(store: Store) -> list[int]:
    """Positions in the data files of the newest version, sorted; for stores with one journal id."""
    return sorted(position for _, position in in_files(store.read_view()))


def in_hot_rows(view: ReadView) -> list[Origin]:
    """(journal, position) of the hot rows of a view."""
    return list(zip(view.hot["journal"].to_pylist(), view.hot["position"].to_pylist(), strict=True))


def in_view(view: ReadView) -> list[Origin]:
    """(journal, position) of all rows of a view, sorted; a row that is there twice is in the list twice."""
    return sorted(in_files(view) + in_hot_rows(view))


def stored(store: Store) -> list[Origin]:
    """(journal, position) of all that is stored now, sorted."""
    return in_view(store.read_view())


def positions(store: Store) -> list[int]:
    """Positions of all that is stored now, sorted; for stores with one journal id."""
    return [position for _, position in stored(store)]


def through(last: int) -> list[int]:
    """Positions 1 to *last*."""
    return list(range(1, last + 1))


def execute(journal: Path, sql: str, parameters: Sequence[Any] = ()) -> list[Any]:
    """Run SQL on a journal from outside, as damage or a look inside."""
    connection = apsw.Connection(str(journal))
    connection.set_busy_timeout(10_000)
    try:
        return list(connection.execute(sql, tuple(parameters)))
    finally:
        connection.close()


def eventually(condition: Callable[[], bool], *, timeout_s: float = 120.0, pause_s: float = 0.01) -> None:
    """Wait until *condition* holds, looking again after a pause; an assertion fails if it does not in time."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(pause_s)


def log_entry(folder: Path, version: int) -> Path:
    """The table's log entry of *version*."""
    return StorePaths.of(folder).table / "_delta_log" / f"{version:020d}.json"


def data_files(folder: Path) -> set[Path]:
    """All Parquet files below the table's folder, in the log or not."""
    return set(StorePaths.of(folder).table.glob("date=*/type=*/*.parquet"))


def remove_checkpoints(folder: Path) -> None:
    """Take the table's checkpoints away, so that its log entries have to be read."""
    log = StorePaths.of(folder).table / "_delta_log"
    for path in [*log.glob("*.checkpoint*"), *log.glob("_last_checkpoint")]:
        path.unlink()


def full_table(view: ReadView, columns: Sequence[str]) -> pa.Table:
    """All rows of a view as one table, without the partition columns."""
    tables = [view.hot.select(list(columns))]
    for one in view.files:
        with pq.ParquetFile(one.path) as file:
            tables.append(file.read(columns=list(columns)))
    return pa.concat_tables(tables).sort_by([("journal", "ascending"), ("position", "ascending")])
