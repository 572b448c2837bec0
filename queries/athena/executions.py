"""Query executions: what was asked, in which state it is, and what it cost.

The history is one SQLite file that all processes of the service on a state folder share, and that outlives them.
"""

from __future__ import annotations

import enum
import json
import sqlite3
import threading
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from queries.athena.work_groups import ENGINE_VERSION

_BUSY_TIMEOUT_S: Final = 10.0

_TABLES: Final = """
CREATE TABLE IF NOT EXISTS executions (
    sequence INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL UNIQUE,
    token TEXT UNIQUE,
    request TEXT NOT NULL,
    work_group TEXT NOT NULL,
    query TEXT NOT NULL,
    parameters TEXT NOT NULL,
    database TEXT NOT NULL,
    catalog TEXT NOT NULL,
    statement_type TEXT NOT NULL,
    substatement_type TEXT NOT NULL,
    owner TEXT NOT NULL,
    stop_requested INTEGER NOT NULL DEFAULT 0,
    state TEXT NOT NULL,
    reason TEXT,
    error TEXT,
    submitted_at REAL NOT NULL,
    started_at REAL,
    completed_at REAL,
    planning_ms INTEGER NOT NULL DEFAULT 0,
    engine_ms INTEGER NOT NULL DEFAULT 0,
    scanned_bytes INTEGER NOT NULL DEFAULT 0,
    rows INTEGER NOT NULL DEFAULT 0,
    result_bytes INTEGER
) STRICT;
CREATE INDEX IF NOT EXISTS executions_by_work_group ON executions (work_group, sequence);
CREATE INDEX IF NOT EXISTS executions_unfinished ON executions (owner) WHERE completed_at IS NULL;
CREATE INDEX IF NOT EXISTS executions_with_result ON executions (completed_at) WHERE result_bytes IS NOT NULL;
CREATE TABLE IF NOT EXISTS discarded (id TEXT PRIMARY KEY) STRICT;
CREATE TABLE IF NOT EXISTS birth (one INTEGER PRIMARY KEY CHECK (one = 1), created_at REAL NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS prepared_statements (
    work_group TEXT NOT NULL,
    name TEXT NOT NULL,
    query TEXT NOT NULL,
    description TEXT NOT NULL,
    modified_at REAL NOT NULL,
    PRIMARY KEY (work_group, name)
) STRICT;
"""


class State(enum.StrEnum):
    """The state of an execution; the last three are final."""

    QUEUED = "QUEUED"
    RUNNING = "RUNNING"
    SUCCEEDED = "SUCCEEDED"
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"

    @property
    def is_final(self) -> bool:
        """Whether the execution has ended."""
        return self not in (State.QUEUED, State.RUNNING)


@dataclass(frozen=True, slots=True)
class Failure:
    """Why an execution failed.

    Attributes:
        category: 1 for the system's fault, 2 for the query's.
        error_type: Athena's number of the kind of error.
        retryable: whether the same query may succeed later.
        message: the reason in words.
    """

    category: int
    error_type: int
    retryable: bool
    message: str


@dataclass(frozen=True, slots=True)
class Execution:
    """One execution of a query.

    Attributes:
        request: a digest of what was asked, to tell a repetition from another request with the same token.
        owner: the process that runs it.
        result_bytes: the size of its result, None when there is none or it is no longer kept.
    """

    id: str
    token: str | None
    request: str
    work_group: str
    query: str
    parameters: tuple[str, ...]
    database: str
    catalog: str
    statement_type: str
    substatement_type: str
    owner: str
    submitted_at: float
    state: State = State.QUEUED
    reason: str | None = None
    error: Failure | None = None
    started_at: float | None = None
    completed_at: float | None = None
    planning_ms: int = 0
    engine_ms: int = 0
    scanned_bytes: int = 0
    rows: int = 0
    result_bytes: int | None = None

    def ended(
        self, state: State, completed_at: float, reason: str | None = None, error: Failure | None = None
    ) -> Execution:
        """The execution at its end. A reason is always given where it did not succeed: clients read it unasked."""
        return replace(self, state=state, completed_at=completed_at, reason=reason, error=error)

    def details(self) -> dict[str, object]:
        """The execution as GetQueryExecution describes it."""
        status: dict[str, object] = {"State": str(self.state), "SubmissionDateTime": self.submitted_at}
        if self.reason is not None:
            status["StateChangeReason"] = self.reason
        if self.completed_at is not None:
            status["CompletionDateTime"] = self.completed_at
        if self.error is not None:
            status["AthenaError"] = {
                "ErrorCategory": self.error.category,
                "ErrorType": self.error.error_type,
                "Retryable": self.error.retryable,
                "ErrorMessage": self.error.message,
            }
        details: dict[str, object] = {
            "QueryExecutionId": self.id,
            "Query": self.query,
            "StatementType": self.statement_type,
            "SubstatementType": self.substatement_type,
            "ManagedQueryResultsConfiguration": {"Enabled": True},
            "QueryExecutionContext": {"Database": self.database, "Catalog": self.catalog},
            "Status": status,
            "Statistics": {
                **self.timeline(),
                "DataScannedInBytes": self.scanned_bytes,
                "ResultReuseInformation": {"ReusedPreviousResult": False},
            },
            "WorkGroup": self.work_group,
            "EngineVersion": ENGINE_VERSION,
        }
        if self.parameters:
            details["ExecutionParameters"] = list(self.parameters)
        return details

    def timeline(self) -> dict[str, object]:
        """Where the time went, in whole milliseconds."""
        queued = self.started_at - self.submitted_at if self.started_at is not None else 0.0
        total = self.completed_at - self.submitted_at if self.completed_at is not None else queued
        return {
            "EngineExecutionTimeInMillis": self.engine_ms,
            "TotalExecutionTimeInMillis": round(total * 1000),
            "QueryQueueTimeInMillis": round(queued * 1000),
            "QueryPlanningTimeInMillis": self.planning_ms,
            "ServicePreProcessingTimeInMillis": 0,
            "ServiceProcessingTimeInMillis": max(0, round(total * 1000 - queued * 1000) - self.engine_ms),
        }


_COLUMNS: Final = (
    "id", "token", "request", "work_group", "query", "parameters", "database", "catalog", "statement_type",
    "substatement_type", "owner", "submitted_at", "state", "reason", "error", "started_at", "completed_at",
    "planning_ms", "engine_ms", "scanned_bytes", "rows", "result_bytes",
)  # fmt: skip


# A text as it is, as a string of SQL has it, and both as they stand inside JSON.
_MENTIONS: Final = (
    "(instr(query, ?1) OR instr(query, ?2) OR instr(parameters, ?3) OR instr(parameters, ?4) "
    "OR instr(coalesce(reason, ''), ?1) OR instr(coalesce(token, ''), ?1))"
)
_OUTCOME: Final = (
    "state", "reason", "error", "started_at", "completed_at", "engine_ms", "scanned_bytes", "rows", "result_bytes",
)  # fmt: skip


class History:
    """The executions on file. Its methods may be called from any thread.

    Raises:
        sqlite3.Error: the file cannot be read or written.
    """

    def __init__(self, path: Path) -> None:
        self._lock = threading.Lock()
        self._connection = sqlite3.connect(
            path, timeout=_BUSY_TIMEOUT_S, isolation_level=None, check_same_thread=False, cached_statements=64
        )
        path.chmod(0o600)
        for pragma in ("journal_mode = WAL", "synchronous = NORMAL", "secure_delete = ON"):
            self._connection.execute(f"PRAGMA {pragma}")
        self._connection.executescript(_TABLES)

    def created_at(self, now: float) -> float:
        """When the file was made: *now*, the first time that this is asked."""
        self.change("INSERT INTO birth VALUES (1, ?) ON CONFLICT DO NOTHING", [now])
        return float(self.execute("SELECT created_at FROM birth")[0][0])

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._connection.close()

    def execute(self, sql: str, values: Sequence[object] = ()) -> list[tuple[Any, ...]]:
        """Run one statement, for the other tables in this file."""
        with self._lock:
            return self._connection.execute(sql, values).fetchall()

    def change(self, sql: str, values: Sequence[object] = ()) -> int:
        """Run one statement that changes rows; returns how many."""
        with self._lock:
            return self._connection.execute(sql, values).rowcount

    # Writing.

    def add(self, execution: Execution) -> Execution:
        """Keep a new execution; or find the one that its token has started already.

        Returns:
            *execution*, or the earlier one with the same token.
        """
        marks = ", ".join("?" * len(_COLUMNS))
        sql = f"INSERT INTO executions ({', '.join(_COLUMNS)}) VALUES ({marks}) ON CONFLICT (token) DO NOTHING"  # noqa: S608
        if self.change(sql, _row(execution)) == 1:
            return execution
        return self.by_token(execution.token or "") or execution

    def started(self, execution_id: str, started_at: float) -> bool:
        """Note that a queued execution runs now.

        Returns:
            False if it has ended meanwhile.
        """
        sql = "UPDATE executions SET state = 'RUNNING', started_at = ? WHERE id = ? AND state = 'QUEUED'"
        return self.change(sql, [started_at, execution_id]) == 1

    def ended(self, execution: Execution, *, discarded: bool = False) -> bool:
        """Keep the end of an execution, unless it has ended already, or is (or, *discarded*, is not) one to discard.

        Returns:
            whether it was kept.
        """
        values = dict(zip(_COLUMNS, _row(execution), strict=True))
        settings = ", ".join(f"{column} = ?" for column in _OUTCOME)
        sql = (
            f"UPDATE executions SET {settings} WHERE id = ? AND completed_at IS NULL "  # noqa: S608
            f"AND id {'IN' if discarded else 'NOT IN'} (SELECT id FROM discarded)"
        )
        return self.change(sql, [*(values[c] for c in _OUTCOME), execution.id]) == 1

    def cancelled_in_queue(self, execution_id: str, completed_at: float, reason: str) -> bool:
        """End an execution that is still queued as CANCELLED.

        Returns:
            False if it runs or has ended.
        """
        sql = (
            "UPDATE executions SET state = 'CANCELLED', reason = ?, completed_at = ? WHERE id = ? AND state = 'QUEUED'"
        )
        return self.change(sql, [reason, completed_at, execution_id]) == 1

    def by_token(self, token: str) -> Execution | None:
        """The execution that a client's token has started, if there is one."""
        found = self._select("token = ?", [token])
        return found[0] if found else None

    def request_stop(self, execution_id: str) -> None:
        """Ask the process that runs an execution to stop it."""
        self.change("UPDATE executions SET stop_requested = 1 WHERE id = ?", [execution_id])

    def stops_requested(self, owner: str) -> list[str]:
        """The unfinished executions of a process that were asked to stop."""
        sql = "SELECT id FROM executions WHERE owner = ? AND completed_at IS NULL AND stop_requested = 1"
        return [row[0] for row in self.execute(sql, [owner])]

    # Reading.

    def get(self, execution_id: str) -> Execution | None:
        """The execution of this id, if there is one."""
        found = self._select("id = ?", [execution_id])
        return found[0] if found else None

    def get_many(self, execution_ids: Sequence[str]) -> list[Execution]:
        """The executions of these ids that there are."""
        return self._select(f"id IN ({', '.join('?' * len(execution_ids))})", execution_ids)

    def unfinished(self) -> list[Execution]:
        """The executions that are queued or running, of every process."""
        return self._select("completed_at IS NULL", [])

    def list_ids(self, work_group: str, before: int | None, count: int) -> list[tuple[int, str]]:
        """The newest *count* executions of a work group, each with its number; those *before* one, if given."""
        sql = "SELECT sequence, id FROM executions WHERE work_group = ? AND sequence < ? ORDER BY sequence DESC LIMIT ?"
        return [(row[0], row[1]) for row in self.execute(sql, [work_group, 2**62 if before is None else before, count])]

    def _select(self, condition: str, values: Sequence[object]) -> list[Execution]:
        sql = f"SELECT {', '.join(_COLUMNS)} FROM executions WHERE {condition} ORDER BY sequence"  # noqa: S608
        return [_execution(row) for row in self.execute(sql, values)]

    # Retention.

    def results_to_remove(self, completed_before: float, bytes_max: int) -> list[str]:
        """The executions whose results are too old, and the oldest of those that together are too large."""
        kept = self.execute(
            "SELECT id, completed_at, result_bytes FROM executions WHERE result_bytes IS NOT NULL "
            "ORDER BY completed_at DESC"
        )
        remove, total = [], 0
        for execution_id, completed_at, size in kept:
            total += size
            if completed_at < completed_before or total > bytes_max:
                remove.append(execution_id)
        return remove

    def with_result(self) -> list[str]:
        """The executions whose results are kept."""
        return [row[0] for row in self.execute("SELECT id FROM executions WHERE result_bytes IS NOT NULL")]

    def result_removed(self, execution_id: str) -> None:
        """Note that a result is no longer kept."""
        self.change("UPDATE executions SET result_bytes = NULL WHERE id = ?", [execution_id])

    def forget(self, completed_before: float, rows_max: int) -> None:
        """Remove executions without a result that are too old, or too many."""
        self.change(
            "DELETE FROM executions WHERE result_bytes IS NULL AND completed_at IS NOT NULL AND (completed_at < ? "
            "OR sequence <= (SELECT max(sequence) FROM executions) - ?)",
            [completed_before, rows_max],
        )

    def discard_unfinished(self, text: str) -> None:
        """See to it that no unfinished execution ends with a result, and blank those that mention *text*."""
        self.change("INSERT OR IGNORE INTO discarded SELECT id FROM executions WHERE completed_at IS NULL")
        blank = "UPDATE executions SET query = '-- erased', parameters = '[]' WHERE completed_at IS NULL"
        self.change(f"{blank} AND {_MENTIONS}", _mentioned(text))

    def forget_mentions(self, text: str) -> int:
        """Remove the finished executions and the prepared statements that hold *text*, also from the file's log.

        Returns:
            how many executions were removed.

        Raises:
            sqlite3.OperationalError: another process reads the file so long that its log cannot be emptied.
        """
        sql = f"DELETE FROM executions WHERE completed_at IS NOT NULL AND {_MENTIONS}"  # noqa: S608
        removed = self.change(sql, _mentioned(text))
        self.change("DELETE FROM discarded WHERE id NOT IN (SELECT id FROM executions WHERE completed_at IS NULL)")
        self.change(
            "DELETE FROM prepared_statements "
            "WHERE instr(query, ?1) OR instr(query, ?2) OR instr(description, ?1) OR instr(name, ?1)",
            [text, text.replace("'", "''")],
        )
        [(is_busy, _, _)] = self.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        if is_busy:
            raise sqlite3.OperationalError("the log of athena.sqlite is in use and could not be emptied")
        return removed


def _mentioned(text: str) -> list[str]:
    """The values of `_MENTIONS`."""
    in_sql = text.replace("'", "''")
    return [text, in_sql, json.dumps(text)[1:-1], json.dumps(in_sql)[1:-1]]


def _row(execution: Execution) -> list[object]:
    error = execution.error
    values: dict[str, object] = {name: getattr(execution, name) for name in _COLUMNS}
    values["parameters"] = json.dumps(execution.parameters, ensure_ascii=True)
    values["state"] = str(execution.state)
    values["error"] = (
        json.dumps([error.category, error.error_type, error.retryable, error.message]) if error is not None else None
    )
    return [values[name] for name in _COLUMNS]


def _execution(row: Sequence[Any]) -> Execution:
    values = dict(zip(_COLUMNS, row, strict=True))
    values["parameters"] = tuple(json.loads(values["parameters"]))
    values["state"] = State(values["state"])
    values["error"] = Failure(*json.loads(values["error"])) if values["error"] is not None else None
    return Execution(**values)
