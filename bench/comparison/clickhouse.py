"""ClickHouse as a contender: chDB, which is ClickHouse inside the process, with a MergeTree."""

from __future__ import annotations

import datetime
import json
import time
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
from chdb.session import Session

from bench.comparison.contender import JSON_ROW, Contender, Row, micros, quoted_times, table_rows
from bench.comparison.questions import DAILY, Question, funnel_sql, rows_sql

_LOOK_S: Final = 0.5
_QUIET_LOOKS: Final = 6
_NULLABLE: Final = "Nullable({})".format
_COLUMNS: Final = {
    "date": "Date", "type": "LowCardinality(String)", "user_id": "String", "session_id": _NULLABLE("String"),
    "time": "DateTime64(6, 'UTC')", "utc_offset_minutes": "Int16", "properties": "String",
    "location_x": _NULLABLE("Float64"), "location_y": _NULLABLE("Float64"), "viewed_id": _NULLABLE("String"),
    "page_from": _NULLABLE("String"), "page_to": _NULLABLE("String"), "received_at": "DateTime64(6, 'UTC')",
    "journal": "LowCardinality(String)", "position": "Int64",
}  # fmt: skip


class ClickHouse(Contender):
    """All actions in one table with the same columns, in the given order."""

    def __init__(self, order_by: str) -> None:
        self._order_by = order_by

    def create(self, folder: Path) -> None:
        self.open(folder)
        described = ", ".join(f"{name} {kind}" for name, kind in _COLUMNS.items())
        self._run("CREATE DATABASE IF NOT EXISTS compared ENGINE = Atomic")
        self._run(f"CREATE TABLE compared.actions ({described}) ENGINE = MergeTree ORDER BY ({self._order_by})")

    def take(self, source: Path) -> None:
        names = ", ".join(_COLUMNS)
        self._run(f"INSERT INTO compared.actions ({names}) SELECT {names} FROM file('{source}', 'Parquet')")

    def finish(self) -> None:
        """Wait for the merges that ClickHouse makes by itself; its manual advises against `OPTIMIZE FINAL`."""
        quiet_looks = 0
        while quiet_looks < _QUIET_LOOKS:
            time.sleep(_LOOK_S)
            merging = int(self._run("SELECT count() FROM system.merges WHERE database = 'compared'"))
            quiet_looks = 0 if merging else quiet_looks + 1

    def open(self, folder: Path) -> None:
        self._session: Any = Session(str(folder))

    def _run(self, sql: str, form: str = "CSV") -> bytes:
        answer: bytes = self._session.query(sql, form).bytes()
        return answer

    def ask(self, question: Question) -> bytes:
        return self._run(self._sql(question), "ArrowStream" if question.columnar else "JSONEachRow")

    def _sql(self, question: Question) -> str:
        if question.kind == "daily":
            return DAILY.replace("actions GROUP", "compared.actions GROUP")
        if question.kind == "funnel":
            return funnel_sql(question, date_literal="toDate('{}')").replace("FROM actions", "FROM compared.actions")
        times = quoted_times(question, "toDateTime64('{}', 6, 'UTC')")
        columns = "*" if question.columnar else JSON_ROW
        return rows_sql(question, time_literal=times, columns=columns).replace(" actions ", " compared.actions ", 1)

    def rows(self, answer: bytes, question: Question) -> list[Row]:
        if question.columnar:
            with pa.ipc.open_stream(answer) as stream:
                return table_rows(stream.read_all(), question)
        values = [json.loads(line) for line in answer.splitlines()]
        if question.counts:
            return [tuple(int(one) if str(one).isdigit() else one for one in row.values()) for row in values]
        return [
            (micros(datetime.datetime.fromisoformat(row["time"])), row["type"], row["properties"]) for row in values
        ]

    def bytes_on_disk(self, folder: Path) -> dict[str, int]:
        """The parts that are in use; those that a merge has replaced stay some minutes, and do not count."""
        del folder
        used = self._run("SELECT sum(bytes_on_disk) FROM system.parts WHERE active AND database = 'compared'")
        return {"data_bytes": int(used), "caches_bytes": 0}

    def close(self) -> None:
        self._session.close()
