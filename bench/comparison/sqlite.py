"""SQLite as a contender: with the columns of the table, and the indexes of the service that Actionlake replaces."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from pathlib import Path

import duckdb

from bench.comparison.contender import Contender, Row
from bench.comparison.questions import DAILY, Question, bounds, funnel_sql, rows_sql


class Sqlite(Contender):
    """sqlite3 with the indexes of the service that Actionlake replaces."""

    def create(self, folder: Path) -> None:
        folder.mkdir(parents=True)
        self.open(folder)
        run = self._connection.execute
        run("PRAGMA journal_mode = WAL")
        run("PRAGMA synchronous = NORMAL")
        run(
            "CREATE TABLE actions (date TEXT, type TEXT, user_id TEXT, session_id TEXT, time INTEGER,"
            " utc_offset_minutes INTEGER, properties TEXT, location_x REAL, location_y REAL, viewed_id TEXT,"
            " page_from TEXT, page_to TEXT, received_at INTEGER, journal TEXT, position INTEGER PRIMARY KEY)"
        )

    def take(self, source: Path) -> None:
        places = ", ".join("?" * 15)
        for rows in _row_batches(source):
            self._connection.executemany(f"INSERT INTO actions VALUES ({places})", rows)
        self._connection.commit()

    def finish(self) -> None:
        self._connection.execute("CREATE INDEX by_user ON actions (user_id, time)")
        self._connection.execute("CREATE INDEX by_type ON actions (type, time)")
        self._connection.execute("ANALYZE")
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


def _row_batches(source: Path) -> Iterator[list[Row]]:
    """The actions as rows, times as microseconds and dates as text, some thousands at a time."""
    connection = duckdb.connect()
    connection.execute("SET TimeZone = 'UTC'")
    cursor = connection.execute(
        "SELECT * REPLACE (date::VARCHAR AS date, epoch_us(time) AS time, epoch_us(received_at) AS received_at)"
        f" FROM read_parquet('{source}')"
    )
    while rows := cursor.fetchmany(20_000):
        yield rows
