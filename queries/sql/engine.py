"""Runs one user query at a time in DuckDB: check, plan, choose files, run, stream.

Everything happens in one read-only transaction, so that `now()` means the same while planning and while running.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import msgspec
import pyarrow as pa

from queries.sql.catalog import Catalog, names_taken
from queries.sql.connection import open_locked_connection
from queries.sql.day_groups import DayGroups, parts_by_days
from queries.sql.failures import TABLE, TEMPORARY, Interrupted, ResultTooLarge, failure
from queries.sql.footers import Footers
from queries.sql.guard import CheckedStatement, Guard, StatementKind
from queries.sql.literals import sql_text
from queries.sql.messages import Failed, Finished, Run, Start, Started
from queries.sql.parameters import decode_parameters
from queries.sql.plain_queries import of_rows
from queries.sql.plans import analyzed_plan_text
from queries.sql.pruning import FileBounds, FileFilter, FilePruner, PrunedFiles
from queries.sql.remembered_plans import RememberedPlans
from queries.sql.row_groups import RowGroupSteps, row_group_steps
from queries.sql.steadiness import steady_functions
from storage.erased_rows import ErasedRows
from storage.file_names import all_have_columns

# Small enough that rows of the largest properties stay far below the memory limit together.
BATCH_ROWS: Final = 2_048
_FAILURE_TRIES: Final = 5
_FOOTERS: Final = "SELECT count(*) FROM parquet_file_metadata([{}])"
_PARSE: Final = (
    "SELECT list_transform([{}], lambda text: json_serialize_sql(text::VARCHAR, skip_null := true, skip_empty := true))"
)
_PLAN: Final = "EXPLAIN (FORMAT JSON) "
_PREFIXES: Final = {
    StatementKind.ROWS: "",
    StatementKind.SHOW_TABLES: "",
    StatementKind.EXPLAIN: "EXPLAIN ",
    StatementKind.EXPLAIN_ANALYZE: "EXPLAIN (ANALYZE, FORMAT JSON) ",
}


class QueryFailed(Exception):
    """A query ended with an error.

    Attributes:
        failed: what is to be said about it.
    """

    def __init__(self, failed: Failed) -> None:
        super().__init__(failed.message)
        self.failed = failed


@dataclass(slots=True)
class _Place:
    """Where in the user's text the statement at hand stands, to say where an error is; and what was made of it."""

    prefix: str = ""
    offset_bytes: int = 0
    # The query itself, when it began.
    executed: tuple[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class Receiver:
    """Who takes an answer.

    Attributes:
        started: called once, when the first rows are there, or that there are none.
        batch: called with rows in order; may wait, and raise to end the query.
        stop: set when the query shall stop.
        finish: called after the last rows, before it is known what they cost; may wait, and raise, as *batch*.
        finished: called at last, with what the query cost; whoever asked may have the answer while DuckDB clears up.
    """

    started: Callable[[Started, pa.Schema], None]
    batch: Callable[[pa.RecordBatch], None]
    stop: threading.Event
    finish: Callable[[], None] = lambda: None
    finished: Callable[[Finished], None] = lambda _: None

    def check(self) -> None:
        """Raise if the query shall stop.

        Raises:
            Interrupted: it shall.
        """
        if self.stop.is_set():
            raise Interrupted


class Engine:
    """DuckDB with the table's views, for one query at a time. Only `interrupt` may be called from other threads.

    Attributes:
        worn: it keeps so much of files that it has opened that another one should take its place.

    Args:
        start: folders, limits, views.
        schema: the columns of the table.
        bytes_read: how many bytes this process has read from files until now, or None where the system does not say.
    """

    def __init__(self, start: Start, schema: pa.Schema, bytes_read: Callable[[], int | None]) -> None:
        temp_folder = Path(start.temp_folder)
        for name in ("spill", "template"):
            (temp_folder / name).mkdir()
        self._hidden_paths = {start.temp_folder: TEMPORARY, start.data_folder: TABLE}
        self._connection = open_locked_connection(
            readable=(Path(start.data_folder), temp_folder / "template"),
            spill_folder=temp_folder / "spill",
            memory_bytes_max=start.memory_bytes_max,
            threads=start.threads,
            temp_bytes_max=start.temp_bytes_max,
        )
        self._bytes_read = bytes_read
        self._files: Sequence[FileBounds] = ()
        self._total = (0, 0)
        self._hot_rows = 0
        self._template_bytes = 0
        self._footers = Footers()
        self.worn = False
        self._start_views = start.views
        self._catalog = Catalog(self._connection, temp_folder / "template", macros=start.macros)
        self._guard = Guard(
            self._parse,
            views=start.views,
            macros=start.macros,
            taken=names_taken(self._connection),
            steady=steady_functions(self._connection, macros=start.macros),
        )
        self._plans = RememberedPlans()
        self._running_lock = threading.Lock()
        self._running = False
        self._stopped = False
        self._pruner = FilePruner(self._parse, table=self._catalog.stand_in, columns=self._catalog.stand_in_columns)
        self.use_table(schema, ())

    def use_table(self, schema: pa.Schema, files: Sequence[FileBounds], views: Mapping[str, str] | None = None) -> None:
        """Take the files of a snapshot for the queries that follow, and other ready views where *views* are given.

        If columns or views changed, no rows are hot.
        """
        if self._catalog.use_schema(schema, self._start_views if views is None else views):
            self._hot_rows = 0
            self._plans.forget()
            self._guard.use_views(self._catalog.names)
            self._connection.execute("SELECT * FROM actions").to_arrow_table()
            # Once more, since its footer is remembered from now on.
            self._connection.execute("SELECT * FROM actions").to_arrow_table()
            self._template_bytes = int(self._profile()["total_bytes_read"])
        self._catalog.use_columns(uniform=all_have_columns((file.path for file in files), schema))
        self._files = files
        self._plans.forget_files()
        self._catalog.forget_lists()
        self.worn = self.worn or self._footers.too_many(file.path for file in files)
        self._total = (len(files), sum(file.size_bytes for file in files))

    def use_hot(self, rows: pa.Table) -> None:
        """Take the rows that are in no file for the queries that follow."""
        self._catalog.use_hot(rows)
        self._hot_rows = rows.num_rows

    def use_erased(self, erased: ErasedRows) -> None:
        """Leave out these rows of files in the queries that follow."""
        self._catalog.use_erased(erased)

    def interrupt(self) -> None:
        """Stop what DuckDB does for a query at this moment; without effect on what it does next."""
        with self._running_lock:
            if self._running:
                self._stopped = True
                self._connection.interrupt()

    def warm_up(self) -> None:
        """Go once all the way a query goes, so that everything is loaded before the file system is out of reach."""
        values = {
            "t": ("datetime", "2000-01-01T00:00:00+00:00"),
            "d": ("date", "2000-01-01"),
            "n": ("decimal", "1.5"),
            "i": ("integer", str(1 << 70)),
            "l": ("list", [("time", "12:00:00"), ("as_is", None)]),
        }
        request = Run(
            sql="SELECT *, $d, $n, $i, $l FROM actions WHERE time > $t",
            parameters=dict(values),
            max_rows=None,
            rows_max=1,
            result_bytes_max=1,
            explain=False,
            cpu_s_max=1,
            batches=0,
        )
        self.run(request, Receiver(lambda *_: None, lambda _: None, threading.Event()))

    def run(self, request: Run, receiver: Receiver) -> Finished:
        """Run a query to its end and hand its rows, and what it cost, to the receiver.

        Raises:
            QueryFailed: the query is wrong, too large, or was stopped, or a file or the engine failed. The receiver
                has not been told that it is finished.
            duckdb.Error: the receiver was, but DuckDB could not clear up, so that nothing more may run.
        """
        began_s = time.monotonic()
        place = _Place()
        self._stopped = False
        done: Finished | None = None
        try:
            statement = self._guard.check(request.sql)
            place.offset_bytes = statement.offset_bytes
            kind = statement.kind
            if request.explain and kind is not StatementKind.EXPLAIN_ANALYZE:
                kind = StatementKind.EXPLAIN
            sql = self._catalog.show_tables if statement.kind is StatementKind.SHOW_TABLES else statement.select
            parameters = decode_parameters(request.parameters)
            with self._transaction():
                if request.explain:
                    plan, _, pruned = self._plan(sql, parameters, place)
                    explained = row_group_steps(self._connection, pruned.by_time, self._pruner.row_groups(plan))
                else:
                    pruned = self._prune(statement, request, sql, parameters, place)
                    explained = None
                receiver.check()
                place.prefix, sql = self._over_files(statement, kind, sql, pruned)
                read_before = self._bytes_read()
                if kind in (StatementKind.ROWS, StatementKind.EXPLAIN_ANALYZE):
                    self._learn_footers(pruned)
                place.executed = place.prefix + sql, parameters
                self._connection.execute(*place.executed)
                if kind is StatementKind.EXPLAIN_ANALYZE:
                    profile = json.loads(self._connection.fetchall()[0][1])
                    rows = self._send_plan(analyzed_plan_text(profile), self._started(pruned, explained), receiver)
                    receiver.finish()
                    truncated = False
                else:
                    rows, truncated = self._send_rows(request, self._started(pruned, explained), receiver)
                    # Whoever asked may have the rows while the profile is read.
                    receiver.finish()
                    profile = None if truncated else self._profile()
                    if profile is not None and "children" not in profile:
                        # DuckDB keeps none of what only shows plans and columns.
                        profile = None
                files, scanned_bytes = self._scanned(profile, pruned, read_before)
                done = Finished(
                    rows=rows,
                    truncated=truncated,
                    scanned_files=files,
                    scanned_bytes=scanned_bytes,
                    elapsed_ms=(time.monotonic() - began_s) * 1000,
                )
                receiver.finished(done)
        except Exception as error:
            if done is not None:
                raise
            failed = self._failed(error, request.sql, place)
            if failed.kind == "interrupted" and place.executed is not None and not self._stopped:
                failed = self._failure_again(place.executed, request, receiver, place)
            raise QueryFailed(failed) from error
        return done

    def _failure_again(self, executed: tuple[str, Any], request: Run, receiver: Receiver, place: _Place) -> Failed:
        """Run a query once more for what it fails of.

        Where one of DuckDB's threads fails, its others are interrupted, and once in a hundred times it tells of that
        instead (1.5.5, two threads).
        """
        for _ in range(_FAILURE_TRIES):
            try:
                with self._transaction():
                    receiver.check()
                    self._connection.execute(*executed)
                    with self._connection.to_arrow_reader(BATCH_ROWS) as reader:
                        for _ in reader:
                            receiver.check()
            except Exception as error:  # noqa: BLE001
                failed = self._failed(error, request.sql, place)
                if failed.kind != "interrupted" or self._stopped or isinstance(error, Interrupted):
                    return failed
        return Failed("engine", "the query was interrupted, and nobody asked for it", retire=True)

    def _prune(
        self, statement: CheckedStatement, request: Run, sql: str, parameters: Any, place: _Place
    ) -> PrunedFiles:
        """Return the files that a query can need. One of before need not be planned."""
        key = self._plans.key_of(request) if statement.steady else None
        if key is None:
            _, _, pruned = self._plan(sql, parameters, place)
            return pruned
        remembered = self._plans.prune(key, self._files)
        if remembered is not None:
            return remembered
        _, chosen, pruned = self._plan(sql, parameters, place)
        self._plans.learn(key, chosen, pruned, self._files)
        return pruned

    def _plan(self, sql: str, parameters: Any, place: _Place) -> tuple[str, FileFilter, PrunedFiles]:
        """Plan over the stand-in, and let `actions` have the files that the plan can need; return what is found."""
        place.prefix = _PLAN
        self._catalog.plan_with_stand_in()
        plan = self._connection.execute(_PLAN + sql, parameters).fetchall()[0][1]
        self._catalog.use_real_views()
        chosen = self._pruner.file_filter(plan)
        pruned = chosen.prune(self._files)
        self._catalog.use_files(pruned.by_time)
        return plan, chosen, pruned

    def _learn_footers(self, pruned: PrunedFiles) -> None:
        """Have DuckDB remember the footers of files that it opens for the first time.

        Its count of bytes is then of columns alone. Otherwise it has the end of each such file in it, which is longer
        than the footer, and all of a tiny file.
        """
        paths = self._footers.unknown(one.path for one in pruned.by_time)
        if paths:
            listed = ", ".join(map(sql_text, paths))
            self._connection.execute(_FOOTERS.format(listed)).fetchall()
            self._footers.learn(paths)
            self.worn = self.worn or self._footers.too_many(file.path for file in self._files)

    def _over_files(
        self, statement: CheckedStatement, kind: StatementKind, sql: str, pruned: PrunedFiles
    ) -> tuple[str, str]:
        """Let a query have the files that it can need; return what is to stand before its text, and the text."""
        if kind is StatementKind.ROWS and statement.by_days is not None:
            by_days = self._by_days(statement.by_days, sql, pruned)
            if by_days is not None:
                return "", by_days
        if (
            kind is StatementKind.ROWS
            and statement.plain
            and statement.steady
            and not self._catalog.has(pruned.by_time)
        ):
            # It was asked before: its files are listed already, or are from now on.
            select = self._catalog.select_of(pruned.by_time)
            if select is not None:
                return of_rows(select), sql
        self._catalog.use_files(pruned.by_time)
        return _PREFIXES[kind], sql

    def _by_days(self, groups: DayGroups, sql: str, pruned: PrunedFiles) -> str | None:
        """The same query over some days at a time; None where there is too little to read."""
        parts = parts_by_days(pruned.by_time)
        selects = self._catalog.selects_of(parts) if len(parts) > 1 else []
        return groups.union(sql, selects) if selects else None

    def _send_rows(self, request: Run, started: Started, receiver: Receiver) -> tuple[int, bool]:
        """Stream the answer; returns its rows, and whether there would have been more."""
        columns = [(str(one[0]), str(one[1])) for one in self._connection.description or ()]
        sent = 0
        with self._connection.to_arrow_reader(BATCH_ROWS) as reader:
            batch = next(reader, None)
            receiver.started(msgspec.structs.replace(started, columns=columns), reader.schema)
            while batch is not None:
                receiver.check()
                if request.max_rows is not None and sent + batch.num_rows > request.max_rows:
                    if request.max_rows > sent:
                        receiver.batch(batch.slice(0, request.max_rows - sent))
                    return request.max_rows, True
                sent += batch.num_rows
                if sent > request.rows_max:
                    raise ResultTooLarge("rows_max")
                receiver.batch(batch)
                batch = next(reader, None)
        return sent, False

    def _send_plan(self, text: str, started: Started, receiver: Receiver) -> int:
        batch = pa.record_batch({"explain_key": ["analyzed_plan"], "explain_value": [text]})
        columns = [(name, "VARCHAR") for name in batch.schema.names]
        receiver.started(msgspec.structs.replace(started, columns=columns), batch.schema)
        receiver.batch(batch)
        return 1

    def _started(self, pruned: PrunedFiles, explained: RowGroupSteps | None) -> Started:
        """What is known before the query runs; its columns are not."""
        by_partition, by_time = self._count(pruned.by_partition), self._count(pruned.by_time)
        by_user, row_groups = explained or (None, None)
        return Started([], self._total, by_partition, by_time, self._hot_rows, by_user, row_groups)

    def _count(self, files: Sequence[FileBounds]) -> tuple[int, int]:
        return self._total if files is self._files else (len(files), sum(file.size_bytes for file in files))

    def _scanned(
        self, profile: Mapping[str, Any] | None, pruned: PrunedFiles, read_before: int | None
    ) -> tuple[int, int]:
        """Return the files and bytes that were read.

        Where DuckDB has no profile, the kernel's count of bytes stands in, or the planned upper bound.
        """
        if profile is None:
            read_after = self._bytes_read()
            if not pruned.by_time or read_before is None or read_after is None:
                return self._count(pruned.by_time)
            return len(pruned.by_time), max(0, read_after - read_before - self._template_bytes)
        scans = list(_scans(profile))
        files = min(sum(_files_read(scan, self._catalog.template_path) for scan in scans), len(pruned.by_time))
        read = max(0, int(profile["total_bytes_read"]) - self._template_bytes * len(scans))
        return files, read + self._footers.bytes_of(one.path for one in pruned.by_time[:files])

    def _profile(self) -> dict[str, Any]:
        profile: dict[str, Any] = msgspec.json.decode(self._connection.get_profiling_information(format="json"))
        return profile

    def _parse(self, texts: Sequence[str]) -> list[str]:
        # Literals, since a bound parameter takes five times as long as the parsing itself.
        listed = ", ".join(sql_text(text) for text in texts)
        row = self._connection.execute(_PARSE.format(listed)).fetchall()[0]
        parsed: list[str] = row[0]
        return parsed

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        self._connection.execute("BEGIN TRANSACTION READ ONLY")
        self._running = True
        try:
            yield
        finally:
            with self._running_lock:
                self._running = False
            self._connection.execute("ROLLBACK")
            self._catalog.use_real_views()

    def _failed(self, error: Exception, text: str, place: _Place) -> Failed:
        return failure(error, text=text, prefix=place.prefix, offset_bytes=place.offset_bytes, hide=self._hide)

    def _hide(self, message: str) -> str:
        for path, shown in self._hidden_paths.items():
            message = message.replace(path, shown)
        return message


def _scans(node: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    if str(node.get("operator_name", "")).strip() == "READ_PARQUET":
        yield node["extra_info"]
    for child in node["children"]:
        yield from _scans(child)


def _files_read(scan: Mapping[str, Any], template_path: str) -> int:
    """Return how many files of the table a scan opened; the template, where it is opened, comes first."""
    names = str(scan.get("Filename(s)", ""))
    return int(scan.get("Total Files Read", 0)) - (1 if names.startswith(template_path) else 0)
