"""An engine for tests of the Athena API: DuckDB in the test's own process, over a small table of actions."""

from __future__ import annotations

import datetime
import json
import threading
from collections.abc import Iterator, Sequence

import duckdb
import pyarrow as pa

from queries.athena import MACROS, QueryCancelled, ScanLimitExceeded
from queries.views import view_statements
from storage.errors import InvalidInput
from storage.schema import ActionSchema

SCHEMA = ActionSchema()

_DAY = datetime.datetime(2024, 1, 2, 3, 4, 5, tzinfo=datetime.UTC)


def action_rows() -> list[dict[str, object]]:
    """Twelve actions of three users: four of each type, over two days."""
    rows = []
    for i in range(12):
        kind = ("click", "view", "navigate")[i % 3]
        moment = _DAY + datetime.timedelta(hours=3 * i, milliseconds=123 * i)
        properties_of: dict[str, dict[str, object]] = {
            "click": {"locationX": 10.5 * i, "locationY": float(i)},
            "view": {"viewedId": f"v{i}"},
            "navigate": {"pageFrom": f"/p{i}", "pageTo": f"/p{i + 1}"},
        }
        properties = properties_of[kind]
        rows.append(
            {
                "date": moment.date(),
                "type": kind,
                "user_id": f"user-{i % 3 + 1}" if i != 7 else "O'Brien",
                "session_id": f"s{i // 6}" if i % 4 else None,
                "time": moment,
                "utc_offset_minutes": -60 * (i % 3),
                "properties": json.dumps(properties),
                "location_x": properties.get("locationX"),
                "location_y": properties.get("locationY"),
                "viewed_id": properties.get("viewedId"),
                "page_from": properties.get("pageFrom"),
                "page_to": properties.get("pageTo"),
                "received_at": moment + datetime.timedelta(seconds=1),
                "journal": "j1",
                "position": i + 1,
            }
        )
    return rows


def actions_table() -> pa.Table:
    """The actions as the table's own columns."""
    return pa.Table.from_pylist(action_rows(), schema=SCHEMA.table_schema)


class _Answer:
    def __init__(self, schema: pa.Schema, batches: Iterator[pa.RecordBatch], scanned_bytes: int) -> None:
        self.schema = schema
        self.batches = batches
        self.scanned_bytes = scanned_bytes
        self.engine_ms = 1.0


class DuckDBEngine:
    """Runs each query on a cursor of its own, and interrupts it when it is cancelled."""

    def __init__(self, table: pa.Table | None = None) -> None:
        self.table = table if table is not None else actions_table()
        self._connection = duckdb.connect(config={"autoinstall_known_extensions": "false"})
        self._connection.execute("SET TimeZone = 'UTC'")
        for statement in MACROS.values():
            self._connection.execute(statement.replace("TEMP MACRO", "MACRO"))
        self._connection.register("table_of_actions", self.table)
        self._connection.execute("CREATE TABLE actions AS FROM table_of_actions")
        for name, select in view_statements(SCHEMA).items():
            self._connection.execute(f"CREATE VIEW {name} AS {select}")
        self.scanned = 0
        self.runs: list[str] = []

    def run(
        self, sql: str, parameters: Sequence[object], *, cancelled: threading.Event, scanned_bytes_max: int | None
    ) -> _Answer:
        """Run *sql*; every query that names the table is said to scan all of it."""
        self.runs.append(sql)
        scanned = self.table.nbytes if '"actions"' in sql else 0
        if scanned_bytes_max is not None and scanned > scanned_bytes_max:
            raise ScanLimitExceeded(scanned)
        cursor = self._connection.cursor()
        cursor.execute("SET TimeZone = 'UTC'")
        done = threading.Event()
        watcher = threading.Thread(target=_interrupt, args=(cursor, cancelled, done), daemon=True)
        watcher.start()
        try:
            reader = cursor.execute(sql, list(parameters)).to_arrow_reader(1024)
        except duckdb.Error as error:
            done.set()
            _raise(error)
        return _Answer(reader.schema, _batches(reader, done), scanned)


def _interrupt(cursor: duckdb.DuckDBPyConnection, cancelled: threading.Event, done: threading.Event) -> None:
    while not done.is_set():
        if cancelled.wait(0.01):
            cursor.interrupt()
            done.wait(0.01)


def _batches(reader: pa.RecordBatchReader, done: threading.Event) -> Iterator[pa.RecordBatch]:
    try:
        yield from reader
    except (duckdb.Error, OSError, pa.ArrowException) as error:
        _raise(error)
    finally:
        done.set()


def _raise(error: Exception) -> None:
    if isinstance(error, duckdb.InterruptException) or "INTERRUPT" in str(error):
        raise QueryCancelled from error
    raise InvalidInput(str(error)) from error
