"""The workload of queries: what HTTP, sandbox and Athena API add to a bare DuckDB, and how fast rows leave.

A server is started on a folder that holds its actions already. Questions to it and to a DuckDB connection of this
process take turns; every answer's number of rows is checked.
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import Any, Final

import boto3
import duckdb

from bench.errors import BenchFailed
from bench.http_client import HttpConnection, StreamReading, count_arrow_rows, count_lines
from bench.ingest import SERVER_LOG
from bench.opponents import Opponent
from bench.processes import PeakResident, ServerProcess, free_port, machine_busy_s
from bench.stored_actions import ASKED_USER, StoredActions, write_actions
from bench.workloads import Progress
from service.settings import Settings

_WARM_UPS: Final = 5
_ATHENA_POLL_S: Final = 0.005
_ATHENA_TIMEOUT_S: Final = 60.0
_BARE_BATCH_ROWS: Final = 16_384
_ALL: Final = "SELECT * FROM actions"


@dataclass(frozen=True, slots=True)
class SmallQuery:
    """A question with a short answer, whose number of rows is known."""

    name: str
    title: str
    sql: Callable[[StoredActions], str]
    rows: Callable[[StoredActions], int]


@dataclass(frozen=True, slots=True)
class StreamKind:
    """A way in which all rows leave the server: method, target and body by what is stored, and how rows are counted."""

    name: str
    title: str
    request: Callable[[StoredActions], tuple[str, str, object]]
    count: Callable[[Any], int]


SMALL_QUERIES: Final = (
    SmallQuery(
        "count_by_type",
        "count by type",
        lambda _: "SELECT type, count(*) AS actions FROM actions GROUP BY type ORDER BY type",
        lambda stored: len(stored.by_type),
    ),
    SmallQuery(
        "user_day",
        "one user's rows of one day",
        lambda stored: (
            "SELECT time, type, session_id, properties FROM actions"
            f" WHERE user_id = '{ASKED_USER}' AND date = DATE '{stored.asked_date}' ORDER BY time"
        ),
        lambda stored: stored.asked_rows,
    ),
    SmallQuery(
        "daily_users",
        "daily distinct users",
        lambda _: "SELECT date, count(DISTINCT user_id) AS users FROM actions GROUP BY date ORDER BY date",
        lambda stored: stored.days,
    ),
)


def retrieval(format_: str) -> Callable[[StoredActions], tuple[str, str, object]]:
    """The request for all that is stored, in this format."""

    def request(stored: StoredActions) -> tuple[str, str, object]:
        end = stored.first_date + timedelta(days=stored.days)
        bounds = f"fromTime={stored.first_date}T00:00:00Z&toTime={end}T00:00:00Z"
        return "GET", f"/api/retrievelogs?{bounds}&format={format_}", None

    return request


def _sql_stream(format_: str) -> Callable[[StoredActions], tuple[str, str, object]]:
    # One row more than there are, so that an answer with rows too many is noticed instead of cut.
    return lambda stored: ("POST", f"/api/sql?format={format_}", {"sql": _ALL, "maxRows": stored.actions + 1})


STREAM_KINDS: Final = (
    StreamKind("retrieve_ndjson", "GET /api/retrievelogs, NDJSON", retrieval("ndjson"), count_lines),
    StreamKind("retrieve_arrow", "GET /api/retrievelogs, Arrow", retrieval("arrow"), count_arrow_rows),
    StreamKind("sql_ndjson", "POST /api/sql, NDJSON", _sql_stream("ndjson"), count_lines),
    StreamKind("sql_arrow", "POST /api/sql, Arrow", _sql_stream("arrow"), count_arrow_rows),
)


def check_rows(what: str, rows: int, expected: int) -> None:
    """Do nothing if an answer has as many rows as it must.

    Raises:
        BenchFailed: it has not.
    """
    if rows != expected:
        raise BenchFailed(f"{what} answered {rows} rows, not {expected}")


def overhead_figures(name: str, http_s: Sequence[float], bare_s: Sequence[float]) -> dict[str, float]:
    """The medians of both sides, and by how much the one over HTTP is longer."""
    http_ms, bare_ms = statistics.median(http_s) * 1000, statistics.median(bare_s) * 1000
    return {f"{name}_http_ms": http_ms, f"{name}_bare_ms": bare_ms, f"{name}_added_ms": http_ms - bare_ms}


def stream_figures(name: str, readings: Sequence[StreamReading]) -> dict[str, float]:
    """The medians of rate and first byte, and the longest first byte."""
    first_bytes_s = [one.first_byte_s for one in readings]
    return {
        f"{name}_actions_per_s": statistics.median(one.rows / one.elapsed_s for one in readings),
        f"{name}_first_byte_s": statistics.median(first_bytes_s),
        f"{name}_first_byte_max_s": max(first_bytes_s),
    }


@dataclass(frozen=True, slots=True, kw_only=True)
class QueryWorkload:
    """Questions of several kinds over actions that are in files; each kind is repeated, in turn with the others."""

    name: str = "queries"
    title: str = "queries"
    actions: int = 1_000_000
    days: int = 10
    small_repetitions: int = 101
    athena_repetitions: int = 51
    stream_repetitions: int = 7
    opponents: tuple[str, ...] = ("actionlake",)
    rounds_max: int = 1

    def shortened(self) -> QueryWorkload | None:
        """A fifth of the actions, and few repetitions."""
        return replace(self, actions=200_000, small_repetitions=15, athena_repetitions=9, stream_repetitions=3)

    def measure(self, opponent: Opponent, folder: Path, *, base_time_s: int, progress: Progress) -> Mapping[str, float]:
        """Write the actions, start the server, and ask.

        Raises:
            BenchFailed: the server failed, an answer was late or had another number of rows than it must, or the
                folder holds another number of actions afterwards.
        """
        data, port = folder / "data", free_port()
        stored = write_actions(
            data,
            actions=self.actions,
            days=self.days,
            base_time_s=base_time_s,
            progress=lambda share: progress(share * 0.3, "writing actions"),
        )
        os.sync()
        figures: dict[str, float] = {"actions": float(stored.actions), "files": float(len(stored.paths))}
        with ServerProcess(opponent.command(data, port), folder / SERVER_LOG) as server:
            server.wait_ready(f"http://127.0.0.1:{port}{opponent.ready_path}")
            began_s, own_cpu_s = time.perf_counter(), time.process_time()
            machine_cpu_s, server_cpu_s = machine_busy_s(), server.cpu_s()
            with HttpConnection(port) as connection, bare_connection(stored) as bare:
                figures |= self._measure_small(stored, connection, bare, progress)
                figures |= self._measure_athena(stored, port, progress)
                figures |= self._measure_streams(stored, server, connection, bare, progress)
            window_s, own_cpu_s = time.perf_counter() - began_s, time.process_time() - own_cpu_s
            machine_cpu_s, server_cpu_s = machine_busy_s() - machine_cpu_s, server.cpu_s() - server_cpu_s
            figures["window_s"] = window_s
            figures["other_cpus"] = max(0.0, (machine_cpu_s - server_cpu_s - own_cpu_s) / window_s)
            server.stop()
        check_rows("the folder, counted afterwards,", opponent.count_stored(data), stored.actions)
        return figures

    def headline(self, figures: Mapping[str, float]) -> str:
        """What is added to small queries, Athena's round trip, and the rates."""
        added = ", ".join(f"{figures[f'{one.name}_added_ms']:.1f}" for one in SMALL_QUERIES)
        rates = ", ".join(f"{figures[f'{one.name}_actions_per_s']:,.0f}" for one in STREAM_KINDS)
        return (
            f"/api/sql adds {added} ms, Athena {figures['athena_ms']:.1f} ms, streams {rates} actions/s,"
            f" RSS +{figures['streams_rss_growth_bytes'] / 1e6:,.0f} MB"
        )

    def _measure_small(
        self, stored: StoredActions, connection: HttpConnection, bare: duckdb.DuckDBPyConnection, progress: Progress
    ) -> dict[str, float]:
        http_s: dict[str, list[float]] = {one.name: [] for one in SMALL_QUERIES}
        bare_s: dict[str, list[float]] = {one.name: [] for one in SMALL_QUERIES}

        def ask_http(query: SmallQuery, sql: str, expected: int) -> None:
            began_s = time.perf_counter()
            rows = connection.post_sql(sql)
            http_s[query.name].append(time.perf_counter() - began_s)
            check_rows(f"{query.title} over HTTP", len(rows), expected)

        def ask_bare(query: SmallQuery, sql: str, expected: int) -> None:
            began_s = time.perf_counter()
            table = bare.execute(sql).to_arrow_table()
            bare_s[query.name].append(time.perf_counter() - began_s)
            check_rows(f"{query.title} in a bare DuckDB", table.num_rows, expected)

        for repetition in range(_WARM_UPS + self.small_repetitions):
            for query in SMALL_QUERIES:
                sql, expected = query.sql(stored), query.rows(stored)
                for ask in (ask_http, ask_bare) if repetition % 2 else (ask_bare, ask_http):
                    ask(query, sql, expected)
            progress(0.3 + 0.25 * repetition / (_WARM_UPS + self.small_repetitions), "small queries")
        figures: dict[str, float] = {}
        for query in SMALL_QUERIES:
            figures |= overhead_figures(query.name, http_s[query.name][_WARM_UPS:], bare_s[query.name][_WARM_UPS:])
        return figures

    def _measure_athena(self, stored: StoredActions, port: int, progress: Progress) -> dict[str, float]:
        client = boto3.client(
            "athena",
            endpoint_url=f"http://127.0.0.1:{port}",
            region_name="us-east-1",
            # Any will do: without keys the server takes every signature.
            aws_access_key_id="bench",
            aws_secret_access_key="bench",
        )
        took_s = []
        for repetition in range(_WARM_UPS + self.athena_repetitions):
            began_s = time.perf_counter()
            rows = _athena_rows(client, SMALL_QUERIES[0].sql(stored))
            took_s.append(time.perf_counter() - began_s)
            # The first of Athena's rows are the names of the columns.
            check_rows("Athena", len(rows) - 1, SMALL_QUERIES[0].rows(stored))
            progress(0.55 + 0.1 * repetition / (_WARM_UPS + self.athena_repetitions), "Athena")
        return {"athena_ms": statistics.median(took_s[_WARM_UPS:]) * 1000}

    def _measure_streams(
        self,
        stored: StoredActions,
        server: ServerProcess,
        connection: HttpConnection,
        bare: duckdb.DuckDBPyConnection,
        progress: Progress,
    ) -> dict[str, float]:
        readings: dict[str, list[StreamReading]] = {one.name: [] for one in STREAM_KINDS}
        growth_bytes: dict[str, int] = {one.name: 0 for one in STREAM_KINDS}
        bare_readings = []
        with PeakResident(server.pids()) as resident:
            for repetition in range(self.stream_repetitions):
                bare_readings.append(_bare_stream(bare))
                check_rows("a bare DuckDB", bare_readings[-1].rows, stored.actions)
                for kind in STREAM_KINDS:
                    resident.forget_peak()
                    method, target, body = kind.request(stored)
                    reading = connection.stream(method, target, body, count=kind.count)
                    growth_bytes[kind.name] = max(growth_bytes[kind.name], resident.growth_bytes())
                    check_rows(kind.title, reading.rows, stored.actions)
                    readings[kind.name].append(reading)
                progress(0.65 + 0.35 * repetition / self.stream_repetitions, "streams")
        figures = stream_figures("bare", bare_readings)
        for kind in STREAM_KINDS:
            figures |= stream_figures(kind.name, readings[kind.name])
            figures[f"{kind.name}_rss_growth_bytes"] = float(growth_bytes[kind.name])
        figures["streams_rss_growth_bytes"] = float(max(growth_bytes.values()))
        figures["streams_first_byte_max_s"] = max(figures[f"{one.name}_first_byte_max_s"] for one in STREAM_KINDS)
        return figures


def bare_connection(stored: StoredActions) -> duckdb.DuckDBPyConnection:
    """A DuckDB connection as somebody would open it over the same files, with as many threads as the sandbox has."""
    connection = duckdb.connect(config={"threads": Settings().sql_threads})
    connection.execute("SET TimeZone = 'UTC'")
    connection.execute("SET enable_external_file_cache = false")
    paths = ", ".join(f"'{path}'" for path in stored.paths)
    connection.execute(
        f"CREATE VIEW actions AS FROM read_parquet([{paths}], hive_partitioning = true,"
        " hive_types = {'date': DATE, 'type': VARCHAR})"
    )
    return connection


def _bare_stream(bare: duckdb.DuckDBPyConnection) -> StreamReading:
    began_s = time.perf_counter()
    reader = bare.execute(_ALL).to_arrow_reader(_BARE_BATCH_ROWS)
    rows = reader.read_next_batch().num_rows
    first_s = time.perf_counter() - began_s
    rows += sum(batch.num_rows for batch in reader)
    return StreamReading(rows, first_s, time.perf_counter() - began_s)


def _athena_rows(client: Any, sql: str) -> list[Any]:
    execution = client.start_query_execution(QueryString=sql)["QueryExecutionId"]
    deadline_s = time.monotonic() + _ATHENA_TIMEOUT_S
    while True:
        status = client.get_query_execution(QueryExecutionId=execution)["QueryExecution"]["Status"]
        if status["State"] == "SUCCEEDED":
            rows: list[Any] = client.get_query_results(QueryExecutionId=execution)["ResultSet"]["Rows"]
            return rows
        if status["State"] in ("FAILED", "CANCELLED"):
            raise BenchFailed(f"Athena: {status['State']}: {status.get('StateChangeReason', 'no reason')}")
        if time.monotonic() > deadline_s:
            raise BenchFailed(f"Athena: {status['State']} after {_ATHENA_TIMEOUT_S:g} s")
        time.sleep(_ATHENA_POLL_S)


QUERIES: Final = QueryWorkload()
