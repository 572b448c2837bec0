"""Retrieval by user, type and time, from one pinned view: the files that can hold it, and the hot rows.

DuckDB gets an explicit list of files, pruned by partition and bounds of time, and prunes row groups by their
statistics. Rows are turned into JSON texts inside DuckDB, so that no Python runs per row.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final, Literal

import pyarrow as pa

from queries.action_rows import action_json_sql
from queries.engine import QueryConnection
from queries.paging import decode_cursor, encode_cursor, fingerprint
from queries.pruning import Pruned, RetrievalFilter, prune
from queries.without_erased import ERASED_ROWS, without_erased
from storage.data_files import DataFile
from storage.erased_rows import ErasedRows
from storage.file_names import all_have_columns
from storage.store import ReadView

Order = Literal["asc", "desc"]

_ROW_COLUMNS: Final = "user_id, session_id, time, utc_offset_minutes, type, properties, journal, position"
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
    """

    rows: Sequence[str]
    next: str | None
    statistics: ScanStatistics
    pruned: Pruned


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
        hot: pa.Table,
        erased: ErasedRows,
        *,
        columns: Sequence[str] | None = None,
    ) -> str:
        """Return SQL for the rows that meet all conditions; registers *hot*, and *erased* if there are any.

        Args:
            connection: to run it on.
            files: that can hold such rows.
            hot: the rows that are in no file.
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
        if hot.num_rows or not files or columns is not None:
            connection.register("hot_rows", hot)
        if columns is not None:
            # Files from before a column was added lack it, perhaps all of them: the hot rows, if only as an empty
            # table, say what columns there are.
            quoted = [f'"{name}"' for name in columns]
            names = ", ".join(quoted)
            by_name = "" if all_have_columns((one.path for one in files), hot.schema) else ", union_by_name = true"
            stored = f"SELECT * FROM read_parquet($files, {_HIVE}{by_name}) UNION ALL BY NAME "  # noqa: S608
            everything = f"{stored if files else ''}SELECT * FROM hot_rows"  # noqa: S608
            chosen = f"SELECT {names} FROM ({everything}) WHERE {condition}"  # noqa: S608
            return without_erased(chosen, quoted) if erased else chosen
        parts = []
        if files:
            stored = f"SELECT {_ROW_COLUMNS} FROM read_parquet($files, {_HIVE}) WHERE {condition}"  # noqa: S608
            parts.append(without_erased(stored, _ROW_COLUMNS.split(", ")) if erased else stored)
        if hot.num_rows or not files:
            parts.append(f"SELECT {_ROW_COLUMNS} FROM hot_rows WHERE {condition}")  # noqa: S608
        return " UNION ALL ".join(parts)


def question_of(request: RetrievalRequest) -> bytes:
    """Identify what is asked apart from the page, so that a cursor of another question is refused."""
    return fingerprint(request.filter, request.order)


def retrieve_page(connection: QueryConnection, view: ReadView, request: RetrievalRequest) -> RetrievalPage:
    """Read one page.

    Raises:
        InvalidInput: the cursor is none, or belongs to another question.
        QueryStopped: the connection was interrupted.
    """
    asked = request.filter
    question = question_of(request)
    query = RetrievalQuery(asked)
    pruned_by = asked
    if request.cursor is not None:
        pruned_by = _go_on(query, asked, request, question)
    pruned = prune(view.files, pruned_by, view.shortcuts.files_with)
    direction = "ASC" if request.order == "asc" else "DESC"
    source = query.source(connection, pruned.files, view.hot, view.erased)
    order = f"time {direction}, journal {direction}, position {direction}"
    sql = (
        f"SELECT {action_json_sql()} AS row, epoch_us(time) AS time_us, journal, position"  # noqa: S608
        f" FROM (SELECT * FROM ({source}) ORDER BY {order} LIMIT {request.limit + 1}) ORDER BY {order}"
    )
    result = connection.fetch(sql, query.parameters)
    following = None
    if result.num_rows > request.limit:
        result = result.slice(0, request.limit)
        last = result.slice(request.limit - 1).to_pylist()[0]
        following = encode_cursor(question, last["time_us"], last["journal"], last["position"])
    statistics = ScanStatistics(len(pruned.files), len(view.files), connection.bytes_read())
    return RetrievalPage(result["row"].to_pylist(), following, statistics, pruned)


def _go_on(
    query: RetrievalQuery, asked: RetrievalFilter, request: RetrievalRequest, question: bytes
) -> RetrievalFilter:
    """Restrict the query to what lies beyond the cursor; return the filter that prunes files for that."""
    assert request.cursor is not None
    cursor = decode_cursor(request.cursor, question)
    ascending = request.order == "asc"
    compare = ">" if ascending else "<"
    query.where(
        f"time {compare}= make_timestamptz($cursor_us) AND (time {compare} make_timestamptz($cursor_us) OR"
        f" journal {compare} $cursor_journal OR (journal = $cursor_journal AND position {compare} $cursor_position))",
        cursor_us=cursor.time_us,
        cursor_journal=cursor.journal,
        cursor_position=cursor.position,
    )
    if ascending:
        from_us = cursor.time_us if asked.from_us is None else max(asked.from_us, cursor.time_us)
        return replace(asked, from_us=from_us)
    to_us = cursor.time_us if asked.to_us is None else min(asked.to_us, cursor.time_us)
    return replace(asked, to_us=to_us)
