"""What the Athena API needs of the engine behind it: something that runs DuckDB's SQL and can be stopped."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from typing import Protocol

import pyarrow as pa

from queries.athena.errors import QueryError


class QueryCancelled(Exception):
    """The query was stopped because its `cancelled` was set."""


class ScanLimitExceeded(Exception):
    """The query was stopped because it would read, or has read, more than it may.

    Attributes:
        scanned_bytes: what it had read, or would have.
    """

    def __init__(self, scanned_bytes: int) -> None:
        super().__init__(f"{scanned_bytes} bytes scanned")
        self.scanned_bytes = scanned_bytes


class EngineError(QueryError):
    """A query that the engine could not finish, where the query itself is not to blame.

    Attributes:
        retryable: whether the same query may succeed later.
    """

    def __init__(self, code: str, message: str, *, retryable: bool) -> None:
        super().__init__(code, message)
        self.retryable = retryable


class EngineResult(Protocol):
    """A query's answer on its way."""

    @property
    def schema(self) -> pa.Schema:
        """The columns of the batches."""

    @property
    def batches(self) -> Iterator[pa.RecordBatch]:
        """The rows, once. Raises `QueryCancelled` or `ScanLimitExceeded` when the query was stopped.

        An iterator that has a `close` is closed when no more rows are wanted.
        """

    @property
    def scanned_bytes(self) -> int:
        """Bytes that were really read; valid after the last batch."""

    @property
    def engine_ms(self) -> float:
        """How long the engine worked; valid after the last batch."""


class SqlEngine(Protocol):
    """Runs queries, each over one snapshot of the table. Its methods are called from several threads."""

    def run(
        self, sql: str, parameters: Sequence[object], *, cancelled: threading.Event, scanned_bytes_max: int | None
    ) -> EngineResult:
        """Start *sql*, one SELECT of DuckDB's or an EXPLAIN of one; it may use `macros.MACROS`.

        Args:
            sql: the query.
            parameters: values for its placeholders.
            cancelled: when it is set, the query stops soon and `QueryCancelled` is raised.
            scanned_bytes_max: when the query reads more, it stops and `ScanLimitExceeded` is raised.

        Raises:
            QueryCancelled: it was stopped.
            ScanLimitExceeded: it would read more than it may.
            EngineError: it cannot run now, or was stopped at a limit.
            storage.errors.InvalidInput: DuckDB refuses it; the message is DuckDB's.
        """
