"""What is asked of the sandbox: limits, a query, and the snapshot that it is asked of. Plain values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import pyarrow as pa

from storage.data_files import DataFile
from storage.erased_rows import NOTHING_ERASED, ErasedRows

SQL_CHARACTERS_MAX: Final = 999_999
"""The longest text of a query: less than 1 MB. What is longer is a mistake, and would only be slow to refuse."""


@dataclass(frozen=True, slots=True)
class SqlLimits:
    """What one query may use.

    Attributes:
        memory_bytes_max: of DuckDB; beyond it a query spills to disk, or fails. The process gets 1 GiB of address
            space beside it, for what DuckDB does not account for.
        threads: of DuckDB, in each worker.
        temp_bytes_max: of spilled data.
        timeout_s: from the moment a worker takes the query to its last batch, which includes waiting for a reader
            that is slow.
        result_bytes_max: of the answer, as Arrow.
        rows_max: of the answer, where the request does not ask for fewer.
    """

    memory_bytes_max: int = 1 << 29
    threads: int = 2
    temp_bytes_max: int = 2 << 30
    timeout_s: float = 30.0
    result_bytes_max: int = 1 << 30
    rows_max: int = 10_000_000


@dataclass(frozen=True, slots=True)
class SqlRequest:
    """One query.

    Attributes:
        sql: exactly one SELECT (or WITH, VALUES, DESCRIBE, SUMMARIZE, SHOW TABLES, EXPLAIN of one).
        parameters: for `?` and `$1` a sequence, for `$name` a mapping.
        max_rows: the answer ends after so many rows and says that it was cut; None for all.
        explain: answer with the plan instead of running the query.
        scanned_bytes_max: the query is stopped soon after it has read more than that from files; None for no limit.
    """

    sql: str
    parameters: Sequence[object] | Mapping[str, object] = ()
    max_rows: int | None = None
    explain: bool = False
    scanned_bytes_max: int | None = None


@dataclass(frozen=True, slots=True)
class TableView:
    """A pinned snapshot of the table.

    `files` and `hot` are sent to a worker only if they are other objects than those it has. So they must not be
    changed after they were given here.

    Attributes:
        files: the data files, below the pool's data folder.
        hot: the rows that are in no file yet, with all columns of `schema`.
        schema: all columns of the table, `date` and `type` included, and at least those of the views.
        views: the SELECT of each ready view by its name; None for those that the pool was started with.
        erased: rows of the files that are not to be seen.
    """

    files: Sequence[DataFile]
    hot: pa.Table
    schema: pa.Schema
    views: Mapping[str, str] | None = None
    erased: ErasedRows = NOTHING_ERASED
