"""The load: one process that submits bodies over many connections and counts what was acknowledged.

A closed loop: each connection sends its next request when the answer to the last one is complete. The requests' bytes
are made before the clock starts, so that the driver costs little of the machine it shares with the server.

Run as `python -m bench.load --port PORT --actions N …`; it writes one JSON object a line: events, and at the end the
result. An answer that is not 200 with all actions accepted ends the run as failed, except for 429 and 503 with
`Retry-After`: that request is sent again after that time, its latency goes on, and it is counted as deferred.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import math
import re
import sys
import time
from array import array
from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final, cast

import uvloop

from bench.bodies import make_bodies, make_streams, pool_size
from bench.latencies import count_latencies

PATH: Final = "/api/submitlogs"
MEDIA_TYPES: Final = {"json": "application/json", "arrow": "application/vnd.apache.arrow.stream"}
# Distinct streams; each is of many users, so that a few are as many actions as the bodies.
STREAMS: Final = 40
PROGRESS_INTERVAL_S: Final = 0.5

_CONTENT_LENGTH: Final = re.compile(rb"\r\ncontent-length:[ \t]*(\d+)", re.IGNORECASE)
_RETRY_AFTER: Final = re.compile(rb"\r\nretry-after:[ \t]*(\d+)", re.IGNORECASE)
_CONNECTION_CLOSE: Final = re.compile(rb"\r\nconnection:[ \t]*close", re.IGNORECASE)
_ACCEPTED: Final = re.compile(rb'"accepted"\s*:\s*(\d+)')

Event = dict[str, Any]


class LoadFailed(Exception):
    """The server did not acknowledge what it was sent; there is no result."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadPlan:
    """How long, and over how many connections.

    Attributes:
        warmup_s: answers of this first time are counted as acknowledged, but not measured.
        window_s: the measured time after it.
        requests_max: when given, this many requests are sent, all are measured, and the two times above do not apply.
        stall_timeout_s: the run fails when no answer came for this long.
    """

    host: str = "127.0.0.1"
    port: int
    connections: int = 64
    warmup_s: float = 5.0
    window_s: float = 30.0
    requests_max: int | None = None
    stall_timeout_s: float = 180.0
    media_type: str = MEDIA_TYPES["json"]


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadResult:
    """What was acknowledged. `window_…`, `requests`, `actions` and the latencies are of the measured window only.

    Attributes:
        actions_acknowledged: all actions answered with 200, warm-up and the last answers included: what must be stored.
        deferred: answers 429 and 503 that asked to come again.
        cpu_s: processor time of the driver in the window.
    """

    window_s: float
    requests: int
    actions: int
    latency_p50_ms: float
    latency_p90_ms: float
    latency_p99_ms: float
    latency_max_ms: float
    requests_acknowledged: int
    actions_acknowledged: int
    deferred: int
    cpu_s: float


def quantile(ascending: Sequence[float], share: float) -> float:
    """The nearest-rank quantile of a non-empty ascending sequence: a value that did occur."""
    return ascending[max(0, math.ceil(share * len(ascending)) - 1)]


class _Load:
    """What the connections share: the next request, the answers, and when to stop."""

    def __init__(self, plan: LoadPlan, bodies: Sequence[bytes], actions_per_request: int) -> None:
        head = f"POST {PATH} HTTP/1.1\r\nHost: {plan.host}:{plan.port}\r\nContent-Type: {plan.media_type}\r\n"
        requests = [f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body for body in bodies]
        self._requests = itertools.cycle(requests)
        self._requests_max = plan.requests_max
        self._actions_per_request = actions_per_request
        self.finished: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.sent = 0
        self.acknowledged = 0
        self.actions_acknowledged = 0
        self.deferred = 0
        self.answered_at = array("d")
        self.latency_s = array("d")
        self._stopping = False

    def next_request(self) -> bytes | None:
        """The next request's bytes, or None when no more are to be sent."""
        if self._stopping or self.sent == self._requests_max:
            return None
        self.sent += 1
        return next(self._requests)

    def acknowledge(self, body: bytes, sent_at: float) -> None:
        """Count the answer 200 to one request."""
        match = _ACCEPTED.search(body)
        if match is None or int(match[1]) != self._actions_per_request:
            self.fail(f"200, but not all of {self._actions_per_request} actions were accepted: {body[:300]!r}")
            return
        now = time.perf_counter()
        self.answered_at.append(now)
        self.latency_s.append(now - sent_at)
        self.acknowledged += 1
        self.actions_acknowledged += self._actions_per_request
        if self.acknowledged == self.sent and (self._stopping or self.sent == self._requests_max):
            self._finish()

    def stop(self) -> None:
        """Send no more; the run is finished when all answers are there."""
        self._stopping = True
        if self.acknowledged == self.sent:
            self._finish()

    def fail(self, reason: str) -> None:
        """End the run without a result."""
        self._stopping = True
        if not self.finished.done():
            self.finished.set_exception(LoadFailed(reason))

    def _finish(self) -> None:
        if not self.finished.done():
            self.finished.set_result(None)


class _Connection(asyncio.Protocol):
    """One keep-alive connection with at most one request under way."""

    def __init__(self, load: _Load) -> None:
        self._load = load
        self._received = b""
        self._request: bytes | None = None
        self._sent_at = 0.0
        self._transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports have the methods of asyncio.Transport, but do not derive from it.
        self._transport = cast(asyncio.Transport, transport)

    def send_next(self) -> None:
        """Send the next request, if there is one."""
        self._request = self._load.next_request()
        if self._request is not None:
            self._sent_at = time.perf_counter()
            self._transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        if self._received:
            data = self._received + data
        head_end = data.find(b"\r\n\r\n")
        if head_end < 0:
            self._received = data
            return
        length = _CONTENT_LENGTH.search(data, 0, head_end)
        if not data.startswith(b"HTTP/1.1 ") or length is None or self._request is None:
            self._load.fail(f"not an HTTP/1.1 answer with a length to a request: {data[:300]!r}")
            return
        missing = head_end + 4 + int(length[1]) - len(data)
        if missing > 0:
            self._received = data
            return
        if missing < 0:
            self._load.fail(f"more than one answer to a request: {data[:300]!r}")
            return
        self._received = b""
        status = data[9:12]
        if status == b"200" and _CONNECTION_CLOSE.search(data, 0, head_end) is not None:
            self._load.fail("the server closes a connection after its answer")
        elif status == b"200":
            self._load.acknowledge(data[head_end + 4 :], self._sent_at)
            self.send_next()
        elif status in (b"429", b"503") and (after := _RETRY_AFTER.search(data, 0, head_end)) is not None:
            self._load.deferred += 1
            asyncio.get_running_loop().call_later(int(after[1]), self._send_again)
        else:
            self._load.fail(f"the answer was not 200: {data[:600].decode(errors='replace')}")

    def _send_again(self) -> None:
        assert self._request is not None
        if self._transport.is_closing():
            self._load.fail("the server closed a connection after it had asked to come again")
        else:
            self._transport.write(self._request)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._request is not None:
            self._load.fail(f"the server closed a connection with a request under way: {exc}")

    def close(self) -> None:
        """Close the connection; an answer under way is given up."""
        self._request = None
        self._transport.close()


async def drive(
    plan: LoadPlan, bodies: Sequence[bytes], actions_per_request: int, on_event: Callable[[Event], None]
) -> LoadResult:
    """Submit *bodies* in turn, over and over, by *plan*; return what was acknowledged.

    Every body must hold *actions_per_request* actions. *on_event* is told of `window_begin`, `progress` (twice a
    second), `window_end`, and of `latencies` by `bench.latencies`. All answers are in before this returns.

    Raises:
        LoadFailed: an answer was not 200, did not accept every action, did not come, or was no HTTP.
        OSError: the server cannot be reached.
    """
    load = _Load(plan, bodies, actions_per_request)
    connect = asyncio.get_running_loop().create_connection
    connections = [(await connect(lambda: _Connection(load), plan.host, plan.port))[1] for _ in range(plan.connections)]
    started_at = time.perf_counter()
    reporter = asyncio.create_task(_report(load, plan, started_at, on_event))
    try:
        if plan.requests_max is None:
            for connection in connections:
                connection.send_next()
            await _wait(load.finished, plan.warmup_s)
            begin, begin_cpu_s = time.perf_counter(), time.process_time()
            on_event({"event": "window_begin"})
            await _wait(load.finished, plan.window_s)
            end, end_cpu_s = time.perf_counter(), time.process_time()
            on_event({"event": "window_end"})
            load.stop()
            await load.finished
        else:
            begin, begin_cpu_s = time.perf_counter(), time.process_time()
            on_event({"event": "window_begin"})
            for connection in connections:
                connection.send_next()
            await load.finished
            end, end_cpu_s = time.perf_counter(), time.process_time()
            on_event({"event": "window_end"})
    finally:
        if reporter is not None:
            reporter.cancel()
        for connection in connections:
            connection.close()
    first, last = bisect_left(load.answered_at, begin), bisect_left(load.answered_at, end)
    latency_s = sorted(load.latency_s[first:last])
    if not latency_s:
        raise LoadFailed("no answer came inside the measured window")
    on_event({"event": "latencies", "counts": count_latencies(latency_s)})
    return LoadResult(
        window_s=end - begin,
        requests=len(latency_s),
        actions=len(latency_s) * actions_per_request,
        latency_p50_ms=quantile(latency_s, 0.5) * 1000,
        latency_p90_ms=quantile(latency_s, 0.9) * 1000,
        latency_p99_ms=quantile(latency_s, 0.99) * 1000,
        latency_max_ms=latency_s[-1] * 1000,
        requests_acknowledged=load.acknowledged,
        actions_acknowledged=load.actions_acknowledged,
        deferred=load.deferred,
        cpu_s=end_cpu_s - begin_cpu_s,
    )


async def _wait(finished: asyncio.Future[None], seconds: float) -> None:
    """Let *seconds* pass, or raise the reason at once when the run fails meanwhile."""
    done, _ = await asyncio.wait([finished], timeout=seconds)
    if done:
        finished.result()


async def _report(load: _Load, plan: LoadPlan, started_at: float, on_event: Callable[[Event], None]) -> None:
    """Tell the progress, and fail the run when it stalls."""
    last_acknowledged, last_at = 0, started_at
    while True:
        await asyncio.sleep(PROGRESS_INTERVAL_S)
        now = time.perf_counter()
        if load.acknowledged > last_acknowledged:
            last_acknowledged, last_at = load.acknowledged, now
        elif now - last_at > plan.stall_timeout_s:
            waiting = load.sent - load.acknowledged
            load.fail(f"no answer for {plan.stall_timeout_s:g} s: {load.acknowledged} answered, {waiting} under way")
            return
        on_event({"event": "progress", "elapsed_s": round(now - started_at, 1), "actions": load.actions_acknowledged})


def main(arguments: list[str]) -> int:
    """Make the bodies, drive the load, write events and the result; 0 when there is a result."""
    parser = argparse.ArgumentParser(prog="python -m bench.load", description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--actions", type=int, required=True, help="actions a request")
    parser.add_argument("--base-time-s", type=int, required=True, help="about when the actions happened, since 1970")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--connections", type=int, default=64)
    parser.add_argument("--warmup-s", type=float, default=5.0)
    parser.add_argument("--window-s", type=float, default=30.0)
    parser.add_argument("--requests-max", type=int)
    parser.add_argument("--form", choices=list(MEDIA_TYPES), default="json")
    options = parser.parse_args(arguments)
    if options.form == "arrow":
        bodies = make_streams(
            rows_per_stream=options.actions, count=STREAMS, seed=options.seed, base_time_s=options.base_time_s
        )
    else:
        bodies = make_bodies(
            actions_per_request=options.actions,
            count=pool_size(options.actions),
            seed=options.seed,
            base_time_s=options.base_time_s,
        )
    plan = LoadPlan(
        port=options.port,
        connections=options.connections,
        warmup_s=options.warmup_s,
        window_s=options.window_s,
        requests_max=options.requests_max,
        media_type=MEDIA_TYPES[options.form],
    )
    try:
        result = uvloop.run(drive(plan, bodies, options.actions, _write_event))
    except (LoadFailed, OSError) as error:
        _write_event({"event": "failed", "reason": str(error)})
        return 1
    _write_event({"event": "result", "result": asdict(result)})
    return 0


def _write_event(event: Event) -> None:
    print(json.dumps(event), flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
