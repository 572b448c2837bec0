"""Who is asked: how each keeps the actions, and how each answers, in its own process and in its own fastest form.

Every contender gets the same Parquet files to load from. An answer is the bytes (or the Arrow table) that an
application would be handed; reading values out of it is part of the comparison of answers, and not of the time.
"""

from __future__ import annotations

import abc
import datetime
import json
import sqlite3
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import duckdb
import polars as pl
import pyarrow as pa

from bench.comparison.questions import DAILY, ROW_COLUMNS, Question, bounds, funnel_sql, rows_sql

Row = tuple[Any, ...]
_UTC: Final = datetime.UTC
_EPOCH: Final = datetime.datetime(1970, 1, 1, tzinfo=_UTC)
_JSON_ROW: Final = ", ".join(ROW_COLUMNS)


class Contender(abc.ABC):
    """One that keeps the actions in a folder of its own and answers questions about them."""

    name: str
    title: str

    @abc.abstractmethod
    def load(self, source: Sequence[Path], folder: Path) -> None:
        """Take all actions of the *source* files into *folder*, and make it ready as its own manual advises."""

    @abc.abstractmethod
    def open(self, folder: Path) -> None:
        """Open what was loaded."""

    @abc.abstractmethod
    def ask(self, question: Question) -> Any:
        """Answer; this is what is timed."""

    @abc.abstractmethod
    def rows(self, answer: Any, question: Question) -> list[Row]:
        """The values of an answer in a form that can be compared: (time in µs, type, properties), or counts."""

    def bytes_on_disk(self, folder: Path) -> dict[str, int]:
        """What the actions take, and what caches take beside them."""
        return {"data": folder_bytes(folder), "caches": 0}

    def close(self) -> None:
        """Let go of everything."""


def folder_bytes(folder: Path) -> int:
    """The sizes of all files below a folder."""
    return sum(one.stat().st_size for one in folder.rglob("*") if one.is_file())


def micros(moment: datetime.datetime) -> int:
    """Microseconds since the epoch."""
    since = (moment if moment.tzinfo else moment.replace(tzinfo=_UTC)) - _EPOCH
    return (since.days * 86_400 + since.seconds) * 1_000_000 + since.microseconds


def table_rows(table: pa.Table, question: Question) -> list[Row]:
    """The comparable values of an Arrow table."""
    if question.counts:
        return [tuple(_plain(one) for one in row.values()) for row in table.to_pylist()]
    chosen = table.select(["time", "type", "properties"]).to_pylist()
    return [(micros(row["time"]), _text(row["type"]), _text(row["properties"])) for row in chosen]


def _plain(value: Any) -> Any:
    if isinstance(value, bytes):
        return value.decode()
    return value.isoformat() if isinstance(value, datetime.date) else value


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


def _quoted_times(question: Question, form: str) -> dict[int, str]:
    return {
        at: form.format((_EPOCH + datetime.timedelta(microseconds=at)).strftime("%Y-%m-%d %H:%M:%S.%f"))
        for at in bounds(question)
    }


class ClickHouse(Contender):
    """chDB, ClickHouse inside the process, with a MergeTree."""

    def __init__(self, name: str, order_by: str) -> None:
        self.name = name
        self.title = f"ClickHouse (chDB), ORDER BY {order_by}"
        self._order_by = order_by
        self._session: Any = None

    def load(self, source: Sequence[Path], folder: Path) -> None:
        self.open(folder)
        nullable = "Nullable({})".format
        columns = {
            "date": "Date", "type": "LowCardinality(String)", "user_id": "String", "session_id": nullable("String"),
            "time": "DateTime64(6, 'UTC')", "utc_offset_minutes": "Int16", "properties": "String",
            "location_x": nullable("Float64"), "location_y": nullable("Float64"), "viewed_id": nullable("String"),
            "page_from": nullable("String"), "page_to": nullable("String"), "received_at": "DateTime64(6, 'UTC')",
            "journal": "LowCardinality(String)", "position": "Int64",
        }  # fmt: skip
        described = ", ".join(f"{name} {kind}" for name, kind in columns.items())
        self._run("CREATE DATABASE IF NOT EXISTS compared ENGINE = Atomic")
        self._run(f"CREATE TABLE compared.actions ({described}) ENGINE = MergeTree ORDER BY ({self._order_by})")
        names = ", ".join(columns)
        for path in source:
            self._run(f"INSERT INTO compared.actions ({names}) SELECT {names} FROM file('{path}', 'Parquet')")
        self._run("OPTIMIZE TABLE compared.actions FINAL")

    def open(self, folder: Path) -> None:
        from chdb.session import Session

        self._session = Session(str(folder))

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
        times = _quoted_times(question, "toDateTime64('{}', 6, 'UTC')")
        columns = "*" if question.columnar else _JSON_ROW
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

    def close(self) -> None:
        self._session.close()


class DuckDbGlob(Contender):
    """DuckDB over a glob of the table's files, as somebody would open the folder without Actionlake."""

    name = "duckdb"
    title = "DuckDB over a glob of the same files"

    def load(self, source: Sequence[Path], folder: Path) -> None:
        """It reads the table of Actionlake."""

    def open(self, folder: Path) -> None:
        self._connection = duckdb.connect()
        self._connection.execute("SET TimeZone = 'UTC'")
        pattern = folder / "actions" / "*" / "*" / "*.parquet"
        self._connection.execute(
            f"CREATE VIEW actions AS FROM read_parquet('{pattern}', hive_partitioning = true,"
            " hive_types = {'date': DATE, 'type': VARCHAR})"
        )

    def ask(self, question: Question) -> pa.Table:
        if question.kind == "daily":
            sql = DAILY
        elif question.kind == "funnel":
            sql = funnel_sql(question)
        else:
            times = _quoted_times(question, "TIMESTAMPTZ '{}+00'")
            sql = rows_sql(question, time_literal=times, columns="*" if question.columnar else _JSON_ROW)
        return self._connection.execute(sql).to_arrow_table()

    def rows(self, answer: pa.Table, question: Question) -> list[Row]:
        return table_rows(answer, question)


class PolarsScan(Contender):
    """Polars over the Delta table, as a notebook would."""

    name = "polars"
    title = "Polars over scan_delta of the same table"

    def load(self, source: Sequence[Path], folder: Path) -> None:
        """It reads the table of Actionlake."""

    def open(self, folder: Path) -> None:
        self._folder = str(folder / "actions")

    def ask(self, question: Question) -> pa.Table:
        frame = pl.scan_delta(self._folder)
        if question.kind == "daily":
            daily = frame.group_by("date", "type").agg(
                pl.len().cast(pl.Int64).alias("actions"), pl.col("user_id").n_unique().cast(pl.Int64).alias("users")
            )
            return daily.sort("date", "type").collect().to_arrow()
        if question.kind == "funnel":
            context = pl.SQLContext(actions=frame)
            return context.execute(funnel_sql(question), eager=True).to_arrow()
        for column, wanted in (("user_id", question.user), ("type", question.type)):
            if wanted is not None:
                frame = frame.filter(pl.col(column) == wanted)
        if question.from_us is not None:
            frame = frame.filter(pl.col("time") >= _EPOCH + datetime.timedelta(microseconds=question.from_us))
        if question.to_us is not None:
            frame = frame.filter(pl.col("time") < _EPOCH + datetime.timedelta(microseconds=question.to_us))
        newest = question.newest
        frame = frame.sort("time", "position", descending=newest is not None)
        if newest is not None:
            frame = frame.head(newest)
        if not question.columnar:
            frame = frame.select(*ROW_COLUMNS)
        return frame.collect().to_arrow()

    def rows(self, answer: pa.Table, question: Question) -> list[Row]:
        return table_rows(answer, question)


class Sqlite(Contender):
    """sqlite3 with the indexes of the service that Actionlake replaces."""

    name = "sqlite"
    title = "SQLite, indexed by user and time, and by type and time"

    def load(self, source: Sequence[Path], folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.open(folder)
        run = self._connection.execute
        run("PRAGMA journal_mode = WAL")
        run("PRAGMA synchronous = NORMAL")
        run(
            "CREATE TABLE actions (date TEXT, type TEXT, user_id TEXT, session_id TEXT, time INTEGER,"
            " utc_offset_minutes INTEGER, properties TEXT, location_x REAL, location_y REAL, viewed_id TEXT,"
            " page_from TEXT, page_to TEXT, received_at INTEGER, journal TEXT, position INTEGER PRIMARY KEY)"
        )
        for rows in _row_batches(source):
            places = ", ".join("?" * 15)
            self._connection.executemany(f"INSERT INTO actions VALUES ({places})", rows)
            self._connection.commit()
        run("CREATE INDEX by_user ON actions (user_id, time)")
        run("CREATE INDEX by_type ON actions (type, time)")
        run("ANALYZE")
        self._connection.commit()

    def open(self, folder: Path) -> None:
        self._connection = sqlite3.connect(folder / "actions.sqlite")

    def ask(self, question: Question) -> list[Row]:
        if question.kind == "daily":
            sql = DAILY
        elif question.kind == "funnel":
            sql = funnel_sql(question, date_literal="'{}'")
        else:
            times = {at: str(at) for at in bounds(question)}
            columns = "time, type, properties, user_id, session_id, utc_offset_minutes"
            sql = rows_sql(question, time_literal=times, columns=columns)
        return self._connection.execute(sql).fetchall()

    def rows(self, answer: list[Row], question: Question) -> list[Row]:
        return answer if question.counts else [row[:3] for row in answer]

    def close(self) -> None:
        self._connection.close()


def _row_batches(source: Sequence[Path]) -> Iterator[list[Row]]:
    """The actions as rows, times as microseconds and dates as text, some thousands at a time."""
    connection = duckdb.connect()
    connection.execute("SET TimeZone = 'UTC'")
    paths = ", ".join(f"'{path}'" for path in source)
    cursor = connection.execute(
        "SELECT * REPLACE (date::VARCHAR AS date, epoch_us(time) AS time, epoch_us(received_at) AS received_at)"
        f" FROM read_parquet([{paths}])"
    )
    while rows := cursor.fetchmany(20_000):
        yield rows
