"""The table of Actionlake read without Actionlake: by DuckDB over a glob, and by Polars over the Delta table."""

from __future__ import annotations

import datetime
from pathlib import Path

import duckdb
import polars as pl
import pyarrow as pa

from bench.comparison.contender import DATA, EPOCH, JSON_ROW, Reader, Row, quoted_times, table_rows
from bench.comparison.questions import DAILY, ROW_COLUMNS, Question, funnel_sql, rows_sql


class DuckDbGlob(Reader):
    """DuckDB over a glob of the table's files, as somebody would open the folder without Actionlake."""

    def open(self, folder: Path) -> None:
        self._connection = duckdb.connect()
        self._connection.execute("SET TimeZone = 'UTC'")
        pattern = folder / DATA / "actions" / "*" / "*" / "*.parquet"
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
            times = quoted_times(question, "TIMESTAMPTZ '{}+00'")
            sql = rows_sql(question, time_literal=times, columns="*" if question.columnar else JSON_ROW)
        return self._connection.execute(sql).to_arrow_table()

    def rows(self, answer: pa.Table, question: Question) -> list[Row]:
        return table_rows(answer, question)


class PolarsScan(Reader):
    """Polars over the Delta table, as a notebook would."""

    def open(self, folder: Path) -> None:
        self._folder = str(folder / DATA / "actions")

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
            frame = frame.filter(pl.col("time") >= EPOCH + datetime.timedelta(microseconds=question.from_us))
        if question.to_us is not None:
            frame = frame.filter(pl.col("time") < EPOCH + datetime.timedelta(microseconds=question.to_us))
        newest = question.newest
        frame = frame.sort("time", "position", descending=newest is not None)
        if newest is not None:
            frame = frame.head(newest)
        if not question.columnar:
            frame = frame.select(*ROW_COLUMNS)
        return frame.collect().to_arrow()

    def rows(self, answer: pa.Table, question: Question) -> list[Row]:
        return table_rows(answer, question)
