"""Retrieval by user, type and time, from one pinned view: the files that can hold it, and what is in memory of it.

DuckDB gets an explicit list of files (`queries.sources`) and prunes row groups by their statistics. A page reads files
from its own end of time, and stops when no other can hold a row of it. Rows are turned into JSON texts inside DuckDB,
so that no Python runs per row.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

import pyarrow as pa

from queries.action_rows import action_json_sql
from queries.direct_reading import DirectReader
from queries.engine import QueryConnection
from queries.file_index import RetrievalFilter
from queries.memory_rows import MEMORY_ROWS_MAX, TEXTS_MAX, json_texts, page_rows
from queries.paging import Cursor, decode_cursor, encode_cursor, fingerprint
from queries.pruning import Pruned
from queries.reading_order import reading_steps
from queries.sources import Order, PageBounds, Sources, find_sources
from queries.without_erased import ERASED_ROWS, without_erased
from storage.data_files import DataFile
from storage.erased_rows import ErasedRows
from storage.file_names import all_have_columns
from storage.read_view import ReadView

ROW_COLUMNS: Final = (
    "user_id",
    "session_id",
    "time",
    "utc_offset_minutes",
    "type",
    "properties",
    "journal",
    "position",
)
_ROW_COLUMNS: Final = ", ".join(ROW_COLUMNS)
_HIVE: Final = "hive_partitioning = true, hive_types = {'date': DATE, 'type': VARCHAR}"


@dataclass(frozen=True, slots=True)
class RetrievalRequest:
    """One page that is asked for: the filter, the order by time, how many rows at most, and where to go on."""

    filter: RetrievalFilter
    order: Order
    limit: int
    cursor: str | None = None


@dataclass(frozen=True, slots=True)
class ScanStatistics:
    """What a query touched: files opened, files in the snapshot, bytes read from files."""

    scanned_files: int
    total_files: int
    scanned_bytes: int


@dataclass(frozen=True, slots=True)
class RetrievalPage:
    """One page.

    Attributes:
        rows: a JSON text for each action, in the order asked for.
        next: the cursor of the next page, or None if this is the last.
        copied_files: files of the history's runs among those that were opened.
    """

    rows: Sequence[str]
    next: str | None
    statistics: ScanStatistics
    pruned: Pruned
    copied_files: int


class RetrievalQuery:
    """The SQL of one filter, over files and hot rows, with its parameters."""

    def __init__(self, asked: RetrievalFilter) -> None:
        self.parameters: dict[str, object] = {}
        self._conditions: list[str] = []
        self._user_id = asked.user_id
        if asked.user_id is not None:
            self.where("user_id = $user_id", user_id=asked.user_id)
        if asked.user_prefix is not None:
            self.where("user_id >= $user_prefix", user_prefix=asked.user_prefix)
            if asked.users_below is not None:
                self.where("user_id < $users_below", users_below=asked.users_below)
        if asked.action_type is not None:
            self.where("type = $action_type", action_type=asked.action_type)
        if asked.from_us is not None:
            self.where("time >= make_timestamptz($from_us)", from_us=asked.from_us)
        if asked.to_us is not None:
            self.where("time <= make_timestamptz($to_us)", to_us=asked.to_us)

    def where(self, condition: str, **parameters: object) -> None:
        """Add a condition."""
        self._conditions.append(condition)
        self.parameters.update(parameters)

    def source(
        self,
        connection: QueryConnection,
        files: Sequence[DataFile],
        memory: pa.Table,
        erased: ErasedRows,
        *,
        columns: Sequence[str] | None = None,
    ) -> str:
        """Return SQL for the rows that meet all conditions; registers *memory*, and *erased* if there are any.

        Args:
            connection: to run it on.
            files: that can hold such rows.
            memory: rows that are in none of them.
            erased: which rows of the files are to be left out; whoever asks for one user pays for that user's only.
            columns: all columns of the table, where they are wanted; the ones of a JSON answer, which every file has,
                otherwise.
        """
        condition = " AND ".join(self._conditions) or "true"
        if self._user_id is not None:
            erased = erased.of_user(self._user_id)
        if erased:
            connection.register(ERASED_ROWS, erased.as_table())
        if files:
            self.parameters["files"] = [one.path for one in files]
            connection.opens(files)
        if memory.num_rows or not files or columns is not None:
            connection.register("memory_rows", memory)
        if columns is not None:
            # Files from before a column was added lack it, perhaps all of them: the rows in memory, if only as an empty
            # table, say what columns there are.
            quoted = [f'"{name}"' for name in columns]
            names = ", ".join(quoted)
            by_name = "" if all_have_columns((one.path for one in files), memory.schema) else ", union_by_name = true"
            stored = f"SELECT * FROM read_parquet($files, {_HIVE}{by_name}) UNION ALL BY NAME "  # noqa: S608
            everything = f"{stored if files else ''}SELECT * FROM memory_rows"  # noqa: S608
            chosen = f"SELECT {names} FROM ({everything}) WHERE {condition}"  # noqa: S608
            return without_erased(chosen, quoted) if erased else chosen
        parts = []
        if files:
            stored = f"SELECT {_ROW_COLUMNS} FROM read_parquet($files, {_HIVE}) WHERE {condition}"  # noqa: S608
            parts.append(without_erased(stored, ROW_COLUMNS) if erased else stored)
        if memory.num_rows or not files:
            parts.append(f"SELECT {_ROW_COLUMNS} FROM memory_rows WHERE {condition}")  # noqa: S608
        return " UNION ALL ".join(parts)


def footers_bytes() -> int:
    """About what the footers that this process keeps of files, to read them without DuckDB, take in memory."""
    return _direct.footers_bytes


def question_of(request: RetrievalRequest) -> bytes:
    """Identify what is asked apart from the page, so that a cursor of another question is refused."""
    return fingerprint(request.filter, request.order)


def retrieve_page(connection: QueryConnection, view: ReadView, request: RetrievalRequest) -> RetrievalPage:
    """Read one page.

    Raises:
        InvalidInput: the cursor is none, or belongs to another question.
        QueryStopped: the connection was interrupted.
    """
    question = question_of(request)
    cursor = None if request.cursor is None else decode_cursor(request.cursor, question)
    asked = request.filter if cursor is None else _from_cursor(request.filter, request.order, cursor)
    # One more than a page tells whether there is another.
    rows_max = request.limit + 1
    beyond = None if cursor is None else (cursor.time_us, cursor.journal, cursor.position)
    page = PageBounds(request.order, rows_max, beyond)
    sources = find_sources(view, asked, ROW_COLUMNS, page=page)
    _direct.follow(view.files)
    reader = _PageReader(connection, asked, page, cursor, view.erased)
    texts, keys = reader.read(sources)
    following = None
    if keys.num_rows > request.limit:
        last = keys.slice(request.limit - 1, 1)
        time_us = int(last["time"].cast(pa.int64())[0].as_py())
        following = encode_cursor(question, time_us, last["journal"][0].as_py(), last["position"][0].as_py())
    statistics = ScanStatistics(
        reader.read_files + sources.copied_files, len(view.files), reader.read_bytes + sources.copied_bytes
    )
    return RetrievalPage(texts[: request.limit], following, statistics, sources.pruned, sources.copied_files)


def _from_cursor(asked: RetrievalFilter, order: Order, cursor: Cursor) -> RetrievalFilter:
    """Restrict what is asked for to what can lie beyond the cursor."""
    if order == "asc":
        from_us = cursor.time_us if asked.from_us is None else max(asked.from_us, cursor.time_us)
        return replace(asked, from_us=from_us)
    to_us = cursor.time_us if asked.to_us is None else min(asked.to_us, cursor.time_us)
    return replace(asked, to_us=to_us)


class _PageReader:
    """Reads the first rows of what is asked for, files step by step from their end of time."""

    def __init__(
        self,
        connection: QueryConnection,
        asked: RetrievalFilter,
        page: PageBounds,
        cursor: Cursor | None,
        erased: ErasedRows,
    ) -> None:
        self._connection = connection
        self._asked = asked
        self._page = page
        self._rows_max = page.rows
        self._cursor = cursor
        self._erased = erased
        self._ascending = page.order == "asc"
        direction = "ASC" if self._ascending else "DESC"
        self._order = f"time {direction}, journal {direction}, position {direction}"
        self.read_files = 0
        self.read_bytes = 0

    def read(self, sources: Sources) -> tuple[list[str], pa.Table]:
        """Return the rows as JSON texts, and their time, journal and position."""
        memory = sources.memory
        steps = reading_steps(
            sources.files,
            ascending=self._ascending,
            rows=self._rows_max,
            of_one_user=self._asked.user_id is not None,
            begin_with_none=memory.num_rows >= self._rows_max,
        )
        for step in steps[:-1]:
            memory = self._take(step.files, memory)
            if memory.num_rows == self._rows_max and step.is_beyond(_last_time_us(memory)):
                return self._write((), memory)
        return self._write(steps[-1].files, memory)

    def _take(self, files: Sequence[DataFile], memory: pa.Table) -> pa.Table:
        """The first rows of these files and of those in memory, in order."""
        together = self._together(files, memory)
        if together is None:
            return self._fetch(_ROW_COLUMNS, files, memory)
        return page_rows(together, self._asked, self._page)

    def _write(self, files: Sequence[DataFile], memory: pa.Table) -> tuple[list[str], pa.Table]:
        """The first rows of these files and of those in memory, in order and as texts."""
        together = self._together(files, memory)
        if together is not None:
            files, memory = (), page_rows(together, self._asked, self._page)
            if memory.num_rows <= TEXTS_MAX:
                return json_texts(memory), memory
        rows = self._fetch(_RENDERED, files, memory)
        return rows["row"].to_pylist(), rows

    def _together(self, files: Sequence[DataFile], memory: pa.Table) -> pa.Table | None:
        """What is in memory with what is asked for of these files; None where DuckDB is to read them, or is faster."""
        if memory.num_rows > MEMORY_ROWS_MAX:
            return None
        if not files:
            return memory
        found = _direct.read(files, self._asked, memory.schema, self._connection.check)
        if found is None:
            return None
        self.read_files += len(files)
        self.read_bytes += found.read_bytes
        rows = self._erased.without(found.rows)
        return pa.concat_tables([memory, rows]) if memory.num_rows else rows

    def _fetch(self, columns: str, files: Sequence[DataFile], memory: pa.Table) -> pa.Table:
        query = RetrievalQuery(self._asked)
        if self._cursor is not None:
            self._go_on(query, self._cursor)
        source = query.source(self._connection, files, memory, self._erased)
        sql = (
            f"SELECT {columns} FROM (SELECT * FROM ({source}) ORDER BY {self._order} LIMIT {self._rows_max})"  # noqa: S608
            f" ORDER BY {self._order}"
        )
        result = self._connection.fetch(sql, query.parameters)
        if files:
            self.read_files += len(files)
            # The end of a tiny file, which is all of it, is read before its columns are.
            self.read_bytes += min(self._connection.bytes_read(), sum(one.size_bytes for one in files))
        return result

    def _go_on(self, query: RetrievalQuery, cursor: Cursor) -> None:
        """Restrict the query to what lies beyond the cursor."""
        compare = ">" if self._ascending else "<"
        query.where(
            f"time {compare}= make_timestamptz($cursor_us) AND (time {compare} make_timestamptz($cursor_us) OR"
            f" journal {compare} $cursor_journal OR"
            f" (journal = $cursor_journal AND position {compare} $cursor_position))",
            cursor_us=cursor.time_us,
            cursor_journal=cursor.journal,
            cursor_position=cursor.position,
        )


# The footers of this process.
_direct: Final = DirectReader()
_RENDERED: Final = f"{action_json_sql()} AS row, time, journal, position"


def _last_time_us(rows: pa.Table) -> int:
    return int(rows["time"][rows.num_rows - 1].cast(pa.int64()).as_py())
