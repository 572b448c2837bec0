"""A query's answer on its way: columns, rows as they come, and afterwards what it cost."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from types import TracebackType
from typing import Final

import pyarrow as pa

from queries.sql.errors import SqlWorkerDied
from queries.sql.messages import Finished, Started
from queries.sql.running import RunningQuery, StopReason

_END_OF_STREAM: Final = memoryview(b"\xff\xff\xff\xff\0\0\0\0")


@dataclass(frozen=True, slots=True)
class SqlColumn:
    """A column of an answer: its name and DuckDB's name of its type."""

    name: str
    type: str


@dataclass(frozen=True, slots=True)
class FileCount:
    """A number of files and the bytes in them."""

    files: int
    bytes: int


@dataclass(frozen=True, slots=True)
class SqlPruning:
    """What was decided before anything was read; the last is the upper bound of what the query reads.

    Attributes:
        total: of the snapshot.
        by_partition: left after conditions on `date` and `type`.
        by_time: left after conditions on `time`, too.
        hot_rows: rows in no file yet, which every query looks at.
        by_user: with an explanation, files of which a row group can hold the user.
        row_groups: with an explanation, row groups that can be needed, of how many, and their bytes.
    """

    total: FileCount
    by_partition: FileCount
    by_time: FileCount
    hot_rows: int
    by_user: FileCount | None = None
    row_groups: tuple[int, int, int] | None = None


@dataclass(frozen=True, slots=True)
class SqlStatistics:
    """What a query cost.

    Attributes:
        rows: of the answer.
        truncated: whether `max_rows` cut it.
        scanned_files: files that were opened. Of an answer that was cut, the upper bound.
        total_files: files of the snapshot.
        scanned_bytes: bytes that were really read from files, as DuckDB counts them; of an answer that was cut, as
            the kernel does.
        elapsed_ms: in the worker, from the query's arrival to its last batch.
    """

    rows: int
    truncated: bool
    scanned_files: int
    total_files: int
    scanned_bytes: int
    elapsed_ms: float


class SqlResult:
    """An answer. Iterate over it, once, for its rows; close it, or use it as a context: until then it holds a worker.

    Not safe for several threads at once, except `cancel`.

    Attributes:
        columns: names and types.
        schema: the same for Arrow.
        pruning: which files the query may read.
        statistics: what it cost; None until all rows were taken.
    """

    def __init__(self, query: RunningQuery, started: Started, schema: pa.Schema) -> None:
        self._query = query
        self.columns = tuple(SqlColumn(name, type_) for name, type_ in started.columns)
        self.schema = schema
        self.pruning = SqlPruning(
            total=FileCount(*started.total),
            by_partition=FileCount(*started.by_partition),
            by_time=FileCount(*started.by_time),
            hot_rows=started.hot_rows,
            by_user=None if started.by_user is None else FileCount(*started.by_user),
            row_groups=started.row_groups,
        )
        self.statistics: SqlStatistics | None = None
        self._received: deque[pa.RecordBatch] = deque()

    def __iter__(self) -> Iterator[pa.RecordBatch]:
        return self

    def __next__(self) -> pa.RecordBatch:
        """Return the next rows.

        Raises:
            SqlError: a row made the query fail, such as a text that is no number.
            SqlTimeout, SqlTooLarge, SqlCancelled, SqlWorkerDied, SnapshotUnreadable: see `queries.sql.errors`.
        """
        if self._received:
            return self._received.popleft()
        payload = self._receive()
        if payload is None:
            raise StopIteration
        with pa.ipc.open_stream(pa.py_buffer(payload)) as stream:
            for batch in stream:
                batch.validate()
                self._received.append(batch)
        self._query.ask_for_more()
        return self._received.popleft()

    def arrow_stream(self) -> Iterator[list[bytes | memoryview]]:
        """Yield the rest of the answer as one Arrow stream, as the worker wrote it, instead of its rows.

        Each time whole messages. Nothing of it is looked at: that is for whoever reads it. Only for schemas without
        dictionaries, which each message brings anew.

        Raises:
            SqlError, SqlTimeout, SqlTooLarge, SqlCancelled, SqlWorkerDied, SnapshotUnreadable: as `__next__`.
        """
        begin = memoryview(self.schema.serialize().to_pybytes())
        yield [begin]
        while (payload := self._receive()) is not None:
            payload = payload.cast("B")
            # Each message is a stream of its own.
            if payload[: len(begin)] != begin or payload[-len(_END_OF_STREAM) :] != _END_OF_STREAM:
                raise SqlWorkerDied("the worker answered with another schema than it had named")
            self._query.ask_for_more()
            yield [payload[len(begin) : -len(_END_OF_STREAM)]]
        yield [_END_OF_STREAM]

    def _receive(self) -> memoryview | None:
        """Wait for the next message with rows; None at the end, when the statistics are there."""
        if self._query.over:
            return None
        message, payload = self._query.receive()
        if not isinstance(message, Finished):
            return payload
        self.statistics = SqlStatistics(
            rows=message.rows,
            truncated=message.truncated,
            scanned_files=message.scanned_files,
            total_files=self.pruning.total.files,
            scanned_bytes=message.scanned_bytes,
            elapsed_ms=message.elapsed_ms,
        )
        return None

    def cancel(self) -> None:
        """Stop the query, from any thread; whoever iterates gets `SqlCancelled`."""
        self._query.stop(StopReason.CANCELLED)

    def close(self) -> None:
        """Give the worker back. A query that has rows left is stopped; nothing happens if it has none."""
        self._query.close()

    def __enter__(self) -> SqlResult:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
