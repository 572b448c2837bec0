"""Figures of queries are of answers with all their rows: their arithmetic is right, and a wrong number leaves none."""

from __future__ import annotations

import io
import mmap
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from bench.errors import BenchFailed
from bench.http_client import HttpConnection, StreamReading, count_arrow_rows, count_lines
from bench.opponents import ACTIONLAKE
from bench.processes import PeakResident
from bench.queries import (
    QUERIES,
    SMALL_QUERIES,
    STREAM_KINDS,
    QueryWorkload,
    StreamKind,
    bare_connection,
    check_rows,
    overhead_figures,
    stream_figures,
)
from bench.query_tables import QUERY_TARGETS, query_tables
from bench.report import markdown
from bench.runs import Piece, RunHeader
from bench.stored_actions import StoredActions, write_actions
from bench.streams import LONG_STREAM_KINDS, LONG_STREAMS
from bench.summary import judge
from queries.formats import Format, encode

BASE_TIME_S = 1_700_000_000
TINY = QueryWorkload(
    actions=20_000, days=5, small_repetitions=1, athena_repetitions=1, stream_repetitions=1, opponents=("actionlake",)
)


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> StoredActions:
    return write_actions(
        tmp_path_factory.mktemp("stored") / "data",
        actions=20_000,
        days=5,
        base_time_s=BASE_TIME_S,
        progress=lambda _: None,
    )


def piece(figures: dict[str, float]) -> Piece:
    return Piece(
        workload=QUERIES.name,
        opponent=ACTIONLAKE.name,
        round=1,
        command="python -m bench",
        began_at="2026-01-01T00:00:00+00:00",
        figures={"other_cpus": 0.0, **figures},
    )


def test_what_is_added_is_the_difference_of_the_medians() -> None:
    figures = overhead_figures("q", [0.010, 0.100, 0.012], [0.002, 0.003, 0.090])
    assert figures == pytest.approx({"q_http_ms": 12.0, "q_bare_ms": 3.0, "q_added_ms": 9.0})


def test_rates_are_medians_over_whole_answers_and_the_longest_first_byte_is_kept() -> None:
    readings = [StreamReading(100, 0.1, 2.0), StreamReading(100, 0.7, 1.0), StreamReading(100, 0.2, 4.0)]
    figures = stream_figures("s", readings)
    assert figures == pytest.approx({"s_actions_per_s": 50.0, "s_first_byte_s": 0.2, "s_first_byte_max_s": 0.7})


@pytest.mark.parametrize("rows", [9, 11, 0])
def test_control_another_number_of_rows_is_an_error(rows: int) -> None:
    check_rows("it", 10, 10)
    with pytest.raises(BenchFailed, match=f"it answered {rows} rows, not 10"):
        check_rows("it", rows, 10)


def test_what_is_written_is_what_a_bare_duckdb_finds(stored: StoredActions) -> None:
    with bare_connection(stored) as bare:
        assert dict(bare.execute(SMALL_QUERIES[0].sql(stored)).fetchall()) == stored.by_type
        assert set(stored.by_type) == {"click", "view", "navigate"}
        for query in SMALL_QUERIES:
            assert bare.execute(query.sql(stored)).to_arrow_table().num_rows == query.rows(stored) > 0
        count = "SELECT count(*), count(DISTINCT position), min(date), max(date) - min(date) + 1 FROM actions"
        assert bare.execute(count).fetchall() == [(20_000, 20_000, stored.first_date, 5)]
        wrong = "SELECT count(*) FROM actions WHERE date != CAST(time AS DATE) OR NOT json_valid(properties)"
        assert bare.execute(wrong).fetchall() == [(0,)]


def test_a_measurement_of_a_real_server_has_every_figure_that_a_target_needs(tmp_path: Path) -> None:
    figures = dict(TINY.measure(ACTIONLAKE, tmp_path, base_time_s=BASE_TIME_S, progress=lambda *_: None))
    assert figures["actions"] == 20_000
    assert figures["files"] == 15
    for query in SMALL_QUERIES:
        http_ms, bare_ms = figures[f"{query.name}_http_ms"], figures[f"{query.name}_bare_ms"]
        assert min(http_ms, bare_ms) > 0
        assert figures[f"{query.name}_added_ms"] == pytest.approx(http_ms - bare_ms)
    for kind in STREAM_KINDS:
        assert 0 < figures[f"{kind.name}_first_byte_s"] <= 20_000 / figures[f"{kind.name}_actions_per_s"]
    assert TINY.headline(figures)
    done = [piece(figures)]
    of_these = [target for target in QUERY_TARGETS if target.workload == QUERIES.name]
    assert all(judge(target, done, ACTIONLAKE.name).measured is not None for target in of_these)
    _, *tables = query_tables(done)
    assert len(tables) == 2
    assert "–" not in str([table.rows[:-1] for table in tables])


def test_long_streams_are_read_whole_and_have_the_figure_that_their_target_needs(tmp_path: Path) -> None:
    # One format, since each starts a server.
    (parquet,) = (one for one in LONG_STREAM_KINDS if one.name == "long_parquet")
    tiny = replace(LONG_STREAMS, actions=5_000, days=5, repetitions=1, kinds=(parquet,))
    figures = dict(tiny.measure(ACTIONLAKE, tmp_path, base_time_s=BASE_TIME_S, progress=lambda *_: None))
    assert figures["long_rss_growth_bytes"] == figures["long_parquet_rss_growth_bytes"] > 0
    assert tiny.headline(figures).startswith("RSS parquet +")
    done = [replace(piece(figures), workload=LONG_STREAMS.name)]
    (target,) = (one for one in QUERY_TARGETS if one.workload == LONG_STREAMS.name)
    assert judge(target, done, ACTIONLAKE.name).measured == pytest.approx(figures["long_rss_growth_bytes"])
    assert [len(table.rows) for table in query_tables(done)[1:]] == [len(LONG_STREAM_KINDS)]


@pytest.mark.parametrize("kind", LONG_STREAM_KINDS)
def test_rows_of_long_streams_are_counted_in_each_format(kind: StreamKind) -> None:
    rows = pa.record_batch({"n": list(range(7))})
    format_ = Format(kind.name.removeprefix("long_"))
    answer = b"".join(encode(rows.schema, iter([rows]), format_))
    assert kind.count(io.BytesIO(answer)) == 7


def test_control_a_server_with_other_rows_than_were_written_leaves_no_figures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def one_more(*args: Any, **options: Any) -> StoredActions:
        written = write_actions(*args, **options)
        return replace(written, actions=written.actions + 1)

    monkeypatch.setattr("bench.queries.write_actions", one_more)
    with pytest.raises(BenchFailed, match="answered 20000 rows, not 20001"):
        TINY.measure(ACTIONLAKE, tmp_path, base_time_s=BASE_TIME_S, progress=lambda *_: None)


def test_targets_are_met_at_their_bounds_and_missed_beyond_them() -> None:
    def verdicts(figures: dict[str, float]) -> set[str]:
        done = [replace(piece(figures), workload=name) for name in (QUERIES.name, LONG_STREAMS.name)]
        return {judge(target, done, ACTIONLAKE.name).text() for target in QUERY_TARGETS}

    assert verdicts({target.figure: target.bound for target in QUERY_TARGETS}) == {"met"}
    worse = {target.figure: target.bound * (0.5 if target.kind == "at least" else 1.5) for target in QUERY_TARGETS}
    assert verdicts(worse) == {"missed by 50.0%"}


def test_the_page_has_a_section_of_queries_when_they_were_measured_and_none_otherwise() -> None:
    header = RunHeader(
        name="run",
        base_time_s=BASE_TIME_S,
        quick=False,
        rounds=1,
        environment={
            "cpu": "a",
            "cpus": 2,
            "memory_bytes": 2**30,
            "system": "Linux",
            "file_system": "ext4",
            "versions": {"duckdb": "1"},
        },
        fsync_median_ms=1.0,
    )
    page = markdown(header, [piece({target.figure: target.bound for target in QUERY_TARGETS})])
    _, heading, section = page.partition("\n## Queries\n")
    assert heading
    assert all(f"| {target.title} | " in section for target in QUERY_TARGETS)
    assert "## Queries" not in markdown(header, [])


def lines(count: int) -> bytes:
    return b'{"a":1}\n' * count


def arrow(count: int) -> bytes:
    sink = io.BytesIO()
    table = pa.table({"a": range(count)})
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table, max_chunksize=7)
    return sink.getvalue()


@contextmanager
def answering(status: int, body: bytes, *, ends: bool = True) -> Iterator[HttpConnection]:
    """A connection to a server that answers everything with *body* in chunks; without *ends*, it hangs up before."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self.send_response(status)
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            for start in range(0, len(body), 11):
                part = body[start : start + 11]
                self.wfile.write(f"{len(part):x}\r\n".encode() + part + b"\r\n")
            if ends:
                self.wfile.write(b"0\r\n\r\n")
            else:
                self.close_connection = True

        def log_message(self, format: str, *args: Any) -> None:
            """Nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        with HttpConnection(server.server_address[1]) as connection:
            yield connection
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.mark.parametrize(("body", "count"), [(lines(40), count_lines), (arrow(40), count_arrow_rows)])
def test_rows_of_a_stream_are_counted_and_its_connection_can_be_used_again(body: bytes, count: Any) -> None:
    with answering(200, body) as connection:
        for _ in range(2):
            reading = connection.stream("GET", "/", None, count=count)
            assert reading.rows == 40
            assert 0 < reading.first_byte_s <= reading.elapsed_s


@pytest.mark.parametrize(
    ("status", "body", "ends", "count"),
    [
        (500, b"oh no", True, count_lines),
        (200, lines(40), False, count_lines),
        (200, lines(40)[:-1], True, count_lines),
        (200, arrow(40), False, count_arrow_rows),
        (200, arrow(40)[:-100], True, count_arrow_rows),
        (200, arrow(40) + b"x", True, count_arrow_rows),
        (200, lines(40), True, count_arrow_rows),
    ],
)
def test_control_a_stream_that_fails_or_is_cut_leaves_no_figure(
    status: int, body: bytes, ends: bool, count: Any
) -> None:
    with answering(status, body, ends=ends) as connection, pytest.raises(BenchFailed, match="GET /"):
        connection.stream("GET", "/", None, count=count)


def test_growth_is_counted_from_the_beginning_of_the_block() -> None:
    with PeakResident([os.getpid()]) as resident:
        resident.forget_peak()
        # A mapping of its own is the kernel's again at once; what an allocator frees may stay with the process.
        with mmap.mmap(-1, 50_000_000) as held:
            held.write(b"x" * len(held))
            assert resident.growth_bytes() > 40e6
        resident.forget_peak()
        assert resident.growth_bytes() < 40e6
