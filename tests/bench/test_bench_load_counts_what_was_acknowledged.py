"""The load driver's figures are what the server acknowledged: no more, no less, and none at all when it did not."""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from bench.bodies import make_bodies, make_streams, pool_size
from bench.errors import BenchFailed
from bench.ingest import WORKLOADS, IngestWorkload
from bench.load import LoadFailed, LoadPlan, LoadResult, drive, quantile
from bench.opponents import BASELINE
from storage.arrow_batches import ArrowParser
from storage.schema import ActionSchema
from storage.submission import SubmissionLimits

ACTIONS = 7
BODIES = make_bodies(actions_per_request=ACTIONS, count=20, seed=1, base_time_s=1_700_000_000)

# Gets the number of the request, from 1, and the number of its actions; None closes the connection.
Answer = Callable[[int, int], bytes | None]


def http(status: str, body: str, *headers: str) -> bytes:
    lines = [f"HTTP/1.1 {status}", f"content-length: {len(body)}", *headers]
    return ("\r\n".join(lines) + "\r\n\r\n" + body).encode()


def accepted(count: int) -> bytes:
    return http("200 OK", json.dumps({"status": "submitted", "accepted": count, "rejected": []}))


def accept_all(_: int, actions: int) -> bytes:
    return accepted(actions)


class Server:
    """Counts by itself what it acknowledges: requests and actions answered with 200."""

    def __init__(self, answer: Answer, *, fragment_bytes: int | None = None, delay_s: float = 0.0) -> None:
        self._answer = answer
        self._fragment_bytes = fragment_bytes
        self._delay_s = delay_s
        self.requests = 0
        self.acknowledged_requests = 0
        self.acknowledged_actions = 0

    async def serve(self, client: Callable[[int], Awaitable[Any]]) -> Any:
        """Serve on a free port while *client*, given the port, runs; return what it returns."""
        server = await asyncio.start_server(self._connection, "127.0.0.1", 0)
        async with server:
            return await client(server.sockets[0].getsockname()[1])

    async def _connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while await self._request(reader, writer):
                pass
        except (asyncio.IncompleteReadError, ConnectionError):
            pass  # The driver is done, or has given up.
        finally:
            writer.close()

    async def _request(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        head = await reader.readuntil(b"\r\n\r\n")
        length = int(head.lower().partition(b"content-length:")[2].split()[0])
        actions = len(json.loads(await reader.readexactly(length))["actions"])
        self.requests += 1
        content = self._answer(self.requests, actions)
        if content is None:
            return False
        await asyncio.sleep(self._delay_s)
        if content.startswith(b"HTTP/1.1 200"):
            self.acknowledged_requests += 1
            self.acknowledged_actions += actions
        step = self._fragment_bytes or len(content)
        for start in range(0, len(content), step):
            writer.write(content[start : start + step])
            await writer.drain()
            if self._fragment_bytes is not None:
                await asyncio.sleep(0.001)
        return True


def run(server: Server, **plan: Any) -> tuple[LoadResult, list[str]]:
    events: list[str] = []

    async def client(port: int) -> LoadResult:
        return await drive(
            LoadPlan(port=port, **{"connections": 8, **plan}),
            BODIES,
            ACTIONS,
            lambda event: events.append(event["event"]),
        )

    return asyncio.run(server.serve(client)), events


def test_a_timed_run_counts_what_the_server_counts() -> None:
    server = Server(accept_all)
    result, events = run(server, warmup_s=0.3, window_s=0.7)
    assert result.requests_acknowledged == server.acknowledged_requests == server.requests
    assert result.actions_acknowledged == server.acknowledged_actions
    assert 0 < result.requests < result.requests_acknowledged
    assert result.actions == result.requests * ACTIONS
    assert result.deferred == 0
    assert result.window_s >= 0.7
    assert 0 < result.latency_p50_ms <= result.latency_p90_ms <= result.latency_p99_ms <= result.latency_max_ms
    assert [event for event in events if event != "progress"] == ["window_begin", "window_end", "latencies"]


def test_a_counted_run_sends_exactly_that_many_requests_and_measures_all() -> None:
    server = Server(accept_all)
    result, _ = run(server, requests_max=123)
    assert server.requests == result.requests == result.requests_acknowledged == 123
    assert server.acknowledged_actions == result.actions == result.actions_acknowledged == 123 * ACTIONS


def test_fewer_requests_than_connections_end_too() -> None:
    server = Server(accept_all)
    result, _ = run(server, requests_max=3)
    assert server.requests == result.requests == 3


def test_answers_that_come_in_fragments_are_counted_once() -> None:
    server = Server(accept_all, fragment_bytes=11)
    result, _ = run(server, requests_max=60)
    assert server.acknowledged_requests == result.requests == 60


def test_latency_is_the_time_until_the_answer() -> None:
    result, _ = run(Server(accept_all, delay_s=0.05), requests_max=40)
    assert result.latency_p50_ms >= 50
    # 40 requests over 8 connections, each with one under way at a time, are five in a row.
    assert result.window_s >= 5 * 0.05


def test_a_server_that_asks_to_come_again_is_asked_again_and_nothing_is_counted_twice() -> None:
    def every_third_later(number: int, actions: int) -> bytes:
        if number % 3 == 0:
            return http("503 Service Unavailable", "{}", "retry-after: 0")
        return accepted(actions)

    server = Server(every_third_later)
    result, _ = run(server, requests_max=100)
    assert server.acknowledged_requests == result.requests == 100
    assert server.acknowledged_actions == result.actions_acknowledged == 100 * ACTIONS
    assert result.deferred == server.requests - 100 > 0


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (http("500 Internal Server Error", "oh no"), "not 200.*oh no"),
        (http("503 Service Unavailable", "{}"), "not 200"),
        (http("400 Bad Request", "{}", "retry-after: 0"), "not 200"),
        (accepted(ACTIONS - 1), "not all of 7 actions"),
        (accepted(ACTIONS + 1), "not all of 7 actions"),
        (http("200 OK", '{"status":"submitted"}'), "not all of 7 actions"),
        (accepted(ACTIONS) + accepted(ACTIONS), "more than one answer"),
        (http("200 OK", '{"accepted":7}', "connection: close"), "closes a connection after its answer"),
        (b"SMTP 200 hello\r\n\r\n", "not an HTTP/1.1 answer"),
        (b"HTTP/1.1 200 OK\r\n\r\n{}", "not an HTTP/1.1 answer with a length"),
        (None, "closed a connection with a request under way"),
    ],
)
@pytest.mark.parametrize("how", [{"requests_max": 100}, {"warmup_s": 5.0, "window_s": 5.0}, {"warmup_s": 0.0}])
def test_control_one_bad_answer_among_good_ones_leaves_no_result(
    bad: bytes | None, reason: str, how: dict[str, Any]
) -> None:
    server = Server(lambda number, actions: bad if number == 50 else accepted(actions))
    with pytest.raises(LoadFailed, match=f"(?s){reason}"):
        run(server, **how)


def test_control_a_server_that_stops_answering_is_noticed() -> None:
    async def client(port: int) -> LoadResult:
        plan = LoadPlan(port=port, connections=2, requests_max=10, stall_timeout_s=0.2)
        return await drive(plan, BODIES, ACTIONS, lambda _: None)

    with pytest.raises(LoadFailed, match=r"no answer for 0\.2 s: 0 answered, 2 under way"):
        asyncio.run(Server(accept_all, delay_s=3).serve(client))


def test_control_a_window_without_an_answer_leaves_no_result() -> None:
    with pytest.raises(LoadFailed, match="no answer came inside the measured window"):
        run(Server(accept_all, delay_s=0.5), warmup_s=0.0, window_s=0.1)


@pytest.mark.parametrize("fails", [False, True])
def test_the_command_writes_its_result_and_says_by_its_exit_code_that_there_is_none(*, fails: bool) -> None:
    async def client(port: int) -> tuple[int, list[dict[str, Any]]]:
        command = [sys.executable, "-m", "bench.load", "--port", str(port), "--actions", "2"]
        command += ["--base-time-s", "1700000000", "--connections", "4", "--requests-max", "30"]
        process = await asyncio.create_subprocess_exec(
            *command, cwd=Path(__file__).parents[2], stdout=asyncio.subprocess.PIPE
        )
        output, _ = await process.communicate()
        assert process.returncode is not None
        return process.returncode, [json.loads(line) for line in output.splitlines()]

    server = Server(lambda number, actions: http("500 No", "{}") if fails and number == 20 else accepted(actions))
    code, events = asyncio.run(server.serve(client))
    if fails:
        assert code == 1
        assert events[-1]["event"] == "failed"
        assert "not 200" in events[-1]["reason"]
    else:
        assert code == 0
        assert events[-1]["event"] == "result"
        assert events[-1]["result"]["actions_acknowledged"] == server.acknowledged_actions == 60


def test_bodies_are_the_same_for_everybody_distinct_and_hold_what_they_are_counted_for() -> None:
    for actions, count in ((1, 300), (10, 300), (1000, 3)):
        made = make_bodies(actions_per_request=actions, count=count, seed=5, base_time_s=1_700_000_000)
        assert made == make_bodies(actions_per_request=actions, count=count, seed=5, base_time_s=1_700_000_000)
        assert made != make_bodies(actions_per_request=actions, count=count, seed=6, base_time_s=1_700_000_000)
        assert len(set(made)) == count
        submissions = [json.loads(body) for body in made]
        assert {len(submission["actions"]) for submission in submissions} == {actions}
        types = {action["type"] for submission in submissions for action in submission["actions"]}
        assert types == {"CLICK", "VIEW", "NAVIGATE"}
    assert [pool_size(actions) for actions in (1, 10, 100, 1000)] == [20_000, 20_000, 10_000, 1_000]


def test_quantiles_are_values_that_did_occur() -> None:
    ascending = [float(value) for value in range(1, 101)]
    assert [quantile(ascending, share) for share in (0.5, 0.9, 0.99, 1.0)] == [50, 90, 99, 100]
    assert quantile([3.0], 0.99) == 3


FEW = IngestWorkload(name="few", title="few", actions_per_request=1, requests_max=40, opponents=("baseline",))


def test_what_the_baseline_acknowledged_is_what_it_stores(tmp_path: Path) -> None:
    shares: list[float] = []
    figures = FEW.measure(BASELINE, tmp_path, base_time_s=1_700_000_000, progress=lambda share, _: shares.append(share))
    assert (
        figures["actions_acknowledged"] == figures["actions_stored"] == BASELINE.count_stored(tmp_path / "data") == 40
    )
    assert figures["rss_peak_bytes"] > 10e6
    assert figures["actions_per_s"] == pytest.approx(40 / figures["window_s"])


def test_control_a_server_that_stores_less_than_it_acknowledged_leaves_no_figures(tmp_path: Path) -> None:
    forgetful = replace(BASELINE, count_stored=lambda data: BASELINE.count_stored(data) - 1)
    with pytest.raises(BenchFailed, match="acknowledged 40 actions and holds 39"):
        FEW.measure(forgetful, tmp_path, base_time_s=1_700_000_000, progress=lambda share, _: None)


def test_every_row_of_a_stream_is_accepted_and_streams_are_of_many_users() -> None:
    streams = make_streams(rows_per_stream=100, count=3, seed=1, base_time_s=1_700_000_000)
    parser = ArrowParser(ActionSchema(), SubmissionLimits(), body_bytes_max=1 << 20, rows_max=1_000)
    parsed = [parser.parse(stream, now_us=1_800_000_000_000_000) for stream in streams]
    assert [(one.accepted, len(one.rejections)) for one in parsed] == [(100, 0)] * 3
    assert len(set(streams)) == 3
    with pa.ipc.open_stream(streams[0]) as reader:
        assert len(reader.read_all()["user_id"].unique()) > 1


@pytest.mark.parametrize(
    ("figures", "is_measured"),
    [
        ({"flushes": 0.0, "journal_depth_end": 9_999_999.0}, False),
        ({"flushes": 0.0, "journal_depth_end": 10_000_000.0}, True),
        ({"flushes": 1.0, "journal_depth_end": 5.0}, True),
    ],
)
def test_a_flush_that_is_held_back_is_not_measured(figures: dict[str, float], is_measured: bool) -> None:
    expected = pytest.raises(BenchFailed, match="measured a flush") if is_measured else contextlib.nullcontext()
    held_back = [one for one in WORKLOADS if "held-back" in one.name]
    assert len(held_back) == 5
    for workload in held_back:
        with expected:
            workload.check_held_back(figures)
        replace(workload, journal_rows_max=None).check_held_back(figures)
