"""User SQL, in a sandbox: one SELECT over the table and its views, in a separate process that can do nothing else.

    SqlPool ── run(SqlRequest, TableView) ──► SqlResult: Arrow batches as they come, then statistics

Three walls stand one behind the other, none of which is trusted alone:

1. `guard`: an allow-list over DuckDB's own syntax tree (tables, functions, kinds of nodes).
2. `connection`: DuckDB's settings, locked: no extensions, no files beyond the table, no writes, a memory limit.
3. `walls`: the operating system around the process: namespaces, Landlock, seccomp, another user, resource limits.

The service's side is `pool`, `crew`, `process`, `running` and `result`; the worker's side is `worker` and `engine`.
What is exported here is loaded when it is first asked for, because a worker must raise the first of its walls while
it has one thread only, and pyarrow starts more.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from queries.sql.cancellation import Cancellation
    from queries.sql.errors import (
        SnapshotUnreadable,
        SqlCancelled,
        SqlError,
        SqlScanLimit,
        SqlTimeout,
        SqlTooLarge,
        SqlWorkerDied,
    )
    from queries.sql.pool import SqlPool
    from queries.sql.process import LostWorker
    from queries.sql.request import SqlLimits, SqlRequest, TableView
    from queries.sql.result import FileCount, SqlColumn, SqlPruning, SqlResult, SqlStatistics
    from queries.sql.walls.report import IsolationReport, Proof, Wall

__all__ = [
    "Cancellation",
    "FileCount",
    "IsolationReport",
    "LostWorker",
    "Proof",
    "SnapshotUnreadable",
    "SqlCancelled",
    "SqlColumn",
    "SqlError",
    "SqlLimits",
    "SqlPool",
    "SqlPruning",
    "SqlRequest",
    "SqlResult",
    "SqlScanLimit",
    "SqlStatistics",
    "SqlTimeout",
    "SqlTooLarge",
    "SqlWorkerDied",
    "TableView",
    "Wall",
]

_HOME: Final = {
    "Cancellation": "cancellation",
    "FileCount": "result",
    "IsolationReport": "walls.report",
    "LostWorker": "process",
    "Proof": "walls.report",
    "SnapshotUnreadable": "errors",
    "SqlCancelled": "errors",
    "SqlColumn": "result",
    "SqlError": "errors",
    "SqlLimits": "request",
    "SqlPool": "pool",
    "SqlPruning": "result",
    "SqlRequest": "request",
    "SqlResult": "result",
    "SqlScanLimit": "errors",
    "SqlStatistics": "result",
    "SqlTimeout": "errors",
    "SqlTooLarge": "errors",
    "SqlWorkerDied": "errors",
    "TableView": "request",
    "Wall": "walls.report",
}


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
