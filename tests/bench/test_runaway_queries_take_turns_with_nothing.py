"""Figures beside runaway queries are medians of windows in turn, and a query that did not run away leaves none."""

from __future__ import annotations

import json
import os
import random
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, cast

import pytest

from bench.errors import BenchFailed
from bench.ingest import IngestWorkload
from bench.latencies import count_latencies, pooled_quantile_ms
from bench.load import quantile
from bench.opponents import ACTIONLAKE, Opponent
from bench.processes import ServerProcess
from bench.runaway import (
    ALONE,
    ALONE_AGAIN,
    LOADS,
    RUNAWAY,
    RUNAWAYS,
    SMALL,
    Window,
    runaway_figures,
    running_away,
    settle,
)
from bench.runaway_tables import RUNAWAY_TARGETS, runaway_tables
from bench.runs import Piece
from bench.summary import judge
from service.settings import Settings
from tests.storage.building import eventually

COMPUTING = RUNAWAYS[0]


def window(late_ms: float, actions_per_s: float = 100.0, **more: float) -> Window:
    """One with 98 answers in a millisecond, and two that are late."""
    figures = {"actions_per_s": actions_per_s, "latency_max_ms": 9.0, **more}
    return Window(figures, count_latencies([0.001] * 98 + [late_ms / 1000] * 2))


def test_ratios_are_of_all_answers_to_those_alone() -> None:
    figures = runaway_figures(
        {
            ("full", ALONE): [window(10.0), window(20.0), window(20.0)],
            ("full", ALONE_AGAIN): [window(20.0), window(20.0), window(20.0)],
            ("full", "computing"): [window(22.0, 80.0), window(22.0, 90.0), window(22.0, 95.0)],
            ("full", SMALL): [window(20.0, small_ms=7.0, small_max_ms=70.0)],
        }
    )
    assert figures["full_alone_p50_ms"] == pytest.approx(1.0, rel=0.01)
    assert figures["full_alone_p99_ms"] == pytest.approx(20.0, rel=0.01)
    assert figures["full_control_p99_ratio"] == pytest.approx(1.0)
    assert figures["full_computing_p99_ratio"] == pytest.approx(1.1, rel=0.02)
    assert figures["full_computing_actions_ratio"] == pytest.approx(0.9)
    assert (figures["full_small_ms"], figures["full_small_longest_small_ms"]) == (7.0, 70.0)
    assert "full_computing_ms" not in figures


def test_quantiles_of_windows_together_are_those_of_all_their_answers() -> None:
    source = random.Random(1)
    windows = [[source.expovariate(200 / (one + 1)) for _ in range(1_000 * (one + 1))] for one in range(4)]
    everything = sorted(latency for one in windows for latency in one)
    for share in (0.001, 0.5, 0.9, 0.99, 1.0):
        pooled = pooled_quantile_ms([count_latencies(one) for one in windows], share)
        assert pooled == pytest.approx(quantile(everything, share) * 1000, rel=0.01)
    with pytest.raises(ValueError, match="no latencies"):
        pooled_quantile_ms([{}], 0.5)


@contextmanager
def answering(status: int) -> Iterator[tuple[int, threading.Event]]:
    """A server that answers each query with *status* at once, and tells that it was asked."""
    asked = threading.Event()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            assert "sql" in json.loads(self.rfile.read(int(self.headers["content-length"])))
            asked.set()
            self.send_response(status)
            self.send_header("content-length", "2")
            self.end_headers()
            self.wfile.write(b"{}")

        def log_message(self, *_: Any) -> None:
            """Nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield server.server_address[1], asked
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def test_a_query_that_a_limit_ended_is_followed_by_another() -> None:
    with answering(COMPUTING.statuses[0]) as (port, asked), running_away(port, COMPUTING, 2):
        for _ in range(3):
            asked.clear()
            assert asked.wait(180)


@pytest.mark.parametrize("status", [200, 400, 503])
def test_control_a_query_that_no_limit_ended_leaves_no_figure(status: int) -> None:
    with (
        answering(status) as (port, asked),
        pytest.raises(BenchFailed, match=f"ended by no limit: {status}"),
        running_away(port, COMPUTING, 1),
    ):
        # Until it has heard the answer.
        eventually(lambda: asked.is_set() and not any("keep_running" in one.name for one in threading.enumerate()))


@pytest.mark.parametrize("own_session", [True, False])
def test_a_server_is_in_our_session_where_that_is_wanted(tmp_path: Path, own_session: bool) -> None:
    with ServerProcess(["sleep", "600"], tmp_path / "log", own_session=own_session) as server:
        (pid,) = server.pids()
        assert (os.getsid(pid) == os.getsid(0)) is not own_session
        assert os.getpgid(pid) == pid, "an interrupt of ours does not reach it"
    assert server.pids() == []


class Flushing:
    """A server that has less in its journal each time it is asked."""

    title = "a server"

    def __init__(self, *depths: float) -> None:
        self.depths = list(depths)

    def readings(self, _: int) -> dict[str, float]:
        return {"journal_depth": self.depths.pop(0) if len(self.depths) > 1 else self.depths[0]}


def test_a_window_begins_when_what_the_one_before_left_is_flushed(monkeypatch: pytest.MonkeyPatch) -> None:
    most = Settings().flush_rows_max
    server = Flushing(9.0 * most, float(most), most - 1.0, 0.0)
    settle(cast(Opponent, server), 0)
    assert server.depths == [0.0]
    monkeypatch.setattr("bench.runaway._SETTLED_WITHIN_S", 0.1)
    with pytest.raises(BenchFailed, match="did not flush within"):
        settle(cast(Opponent, Flushing(9.0 * most)), 0)


def test_a_measurement_of_a_real_server_has_every_figure_that_a_target_needs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def drive(load: IngestWorkload, *_: object) -> Iterator[dict[str, Any]]:
        """Stand in for the driver, a process whose start takes longer than all the rest."""
        assert not load.own_session
        yield {"event": "window_begin"}
        yield {"event": "latencies", "counts": window(1.0).counts}
        result = {"requests": 1, "actions": 1, "actions_acknowledged": 0, "window_s": 1.0, "cpu_s": 0.0}
        yield {"event": "result", "result": {**result, **window(1.0).figures}}

    monkeypatch.setattr(IngestWorkload, "drive", drive)
    # Other tests take the processors meanwhile.
    monkeypatch.setenv("ACTIONLAKE_SQL_WHEN_IDLE", "false")
    (load,) = [one for one in LOADS if one.name == "light"]
    tiny = replace(RUNAWAY, actions=20_000, days=5, repetitions=1, loads=(load,))
    figures = dict(tiny.measure(ACTIONLAKE, tmp_path, base_time_s=1_700_000_000, progress=lambda *_: None))
    assert tiny.headline(figures)
    piece = Piece(
        workload=RUNAWAY.name, opponent=ACTIONLAKE.name, round=1, command="python -m bench",
        began_at="2026-01-01T00:00:00+00:00", figures=figures,
    )  # fmt: skip
    wanted = [one for one in RUNAWAY_TARGETS if one.figure.startswith(load.name)]
    assert len(wanted) == len(RUNAWAYS)
    assert all(judge(target, [piece], ACTIONLAKE.name).measured is not None for target in wanted)
    targets, windows = runaway_tables([piece])
    assert len(targets.rows) == len(LOADS) * len(RUNAWAYS)
    assert len(windows.rows) == len(LOADS) * (len(RUNAWAYS) + 3) + 1
    assert runaway_tables([]) == []
