"""The workload of runaway queries: what is left of ingest while SQL queries never end, and the other way round.

One server takes submissions, a window at a time: alone, beside queries that compute, beside queries that spill to disk,
and beside small queries, which have to be answered all the same. The windows take turns, several times, so that what
slows down as the folder grows slows down all of them, and each begins when what the one before left is flushed.
Quantiles are of all answers of a kind of window together: whether a flush falls into a window is chance, but each kind
has its share of them. Windows alone come twice in each turn, and the ratio between the two is what the ratios of the
others may differ by without a reason.
"""

from __future__ import annotations

import http.client
import json
import os
import socket
import statistics
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from bench.errors import BenchFailed
from bench.http_client import HttpConnection
from bench.ingest import SERVER_LOG, IngestWorkload
from bench.latencies import pooled_quantile_ms
from bench.opponents import Opponent
from bench.processes import ServerProcess, free_port, machine_busy_s
from bench.queries import SMALL_QUERIES, check_rows
from bench.stored_actions import StoredActions, write_actions
from bench.workloads import Progress
from service.settings import Settings

_ANSWER_TIMEOUT_S: Final = 120.0
_UNDER_WAY_S: Final = 0.5
_SETTLED_WITHIN_S: Final = 60.0
_BETWEEN_SMALL_S: Final = 0.05
# Of one user and one day: files that do not grow meanwhile.
_SMALL: Final = SMALL_QUERIES[1]


@dataclass(frozen=True, slots=True)
class Load:
    """Submissions of *actions_per_request* actions over so many connections, each of which waits for its answers."""

    name: str
    title: str
    actions_per_request: int
    connections: int


@dataclass(frozen=True, slots=True)
class Runaway:
    """A query that does not end before a limit ends it, with the statuses of the answers that say so."""

    name: str
    title: str
    sql: str
    statuses: tuple[int, ...]


LOADS: Final = (
    Load("full", "64 connections, 100 actions a request", 100, 64),
    Load("light", "2 connections, 10 actions a request", 10, 2),
)
RUNAWAYS: Final = (
    Runaway(
        "computing",
        "queries that compute",
        "SELECT sum(hash(a.position, b.position)) FROM actions a, actions b",
        (408,),
    ),
    Runaway(
        "spilling",
        "queries that spill",
        "SELECT a.properties, b.properties FROM actions a, actions b ORDER BY hash(a.position, b.position)",
        (408, 413),
    ),
)
ALONE: Final = "alone"
ALONE_AGAIN: Final = "control"
SMALL: Final = "small"


@dataclass(frozen=True, slots=True)
class Window:
    """What was measured in one window: the driver's figures, and its latencies as `bench.latencies` counts them."""

    figures: Mapping[str, float]
    counts: Mapping[str, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class RunawayWorkload:
    """Windows of ingest, each kind once in every repetition, in the other direction in every second one.

    Those beside small queries, which no ratio is needed of, only in the first. About eight minutes.

    Server and load share a session: the load stands for clients on other machines, which no query delays, and Linux
    lets a thread wait longer for one that is put aside if the two are in different sessions (decision 22).
    """

    name: str = "runaway"
    title: str = "ingest beside runaway queries"
    actions: int = 200_000
    days: int = 10
    repetitions: int = 8
    warmup_s: float = 0.7
    window_s: float = 3.0
    loads: tuple[Load, ...] = LOADS
    opponents: tuple[str, ...] = ("actionlake",)
    rounds_max: int = 1
    flags: tuple[str, ...] = ()

    def shortened(self) -> RunawayWorkload | None:
        """One repetition of short windows."""
        return replace(self, repetitions=1, warmup_s=0.5, window_s=2.0)

    def measure(self, opponent: Opponent, folder: Path, *, base_time_s: int, progress: Progress) -> Mapping[str, float]:
        """Write some actions, start the server, and let the windows take turns.

        Raises:
            BenchFailed: the server failed, did not acknowledge everything, answered a query wrongly, let a runaway
                query end otherwise than by a limit, or does not hold what it acknowledged.
        """
        data, port = folder / "data", free_port()
        stored = write_actions(
            data, actions=self.actions, days=self.days, base_time_s=base_time_s, progress=lambda _: None
        )
        os.sync()
        windows: dict[tuple[str, str], list[Window]] = {}
        acknowledged = stored.actions
        small_s: list[float] = []
        command = [*opponent.command(data, port), *self.flags]
        with ServerProcess(command, folder / SERVER_LOG, own_session=False) as server:
            server.wait_ready(f"http://127.0.0.1:{port}{opponent.ready_path}")
            busy_s, server_cpu_s, began_s = machine_busy_s(), server.cpu_s(), time.perf_counter()
            driver_cpu_s, own_cpu_s = 0.0, time.process_time()
            for repetition in range(self.repetitions):
                small_s += _ask_small(port, stored, times=11)
                kinds = [ALONE, RUNAWAYS[0].name, ALONE_AGAIN, *(one.name for one in RUNAWAYS[1:])]
                if repetition == 0:
                    kinds.append(SMALL)
                for number, kind in enumerate(kinds if repetition % 2 == 0 else reversed(kinds)):
                    for load in self.loads:
                        progress((repetition + number / len(kinds)) / self.repetitions, f"{load.name}, {kind}")
                        window = self._window(opponent, port, load, kind, stored, base_time_s)
                        windows.setdefault((load.name, kind), []).append(window)
                        acknowledged += int(window.figures["actions_acknowledged"])
                        driver_cpu_s += window.figures["cpu_s"]
            window_s = time.perf_counter() - began_s
            other_s = machine_busy_s() - busy_s - (server.cpu_s() - server_cpu_s)
            other_s -= driver_cpu_s + time.process_time() - own_cpu_s
            server.stop()
        check_rows("the folder, counted afterwards,", opponent.count_stored(data), acknowledged)
        return {
            **runaway_figures(windows),
            "small_idle_ms": statistics.median(small_s) * 1000,
            # The driver outside of its windows is among the others.
            "other_cpus": max(0.0, other_s / window_s),
        }

    def headline(self, figures: Mapping[str, float]) -> str:
        """By how much p99 grows beside runaway queries, and how long small queries take."""
        grown = ", ".join(
            f"{load.name} {figures[f'{load.name}_{one.name}_p99_ratio']:.2f}x beside {one.name}"
            for load in self.loads
            for one in RUNAWAYS
        )
        control = ", ".join(f"{figures[f'{load.name}_{ALONE_AGAIN}_p99_ratio']:.2f}x" for load in self.loads)
        small = ", ".join(f"{figures[f'{load.name}_small_ms']:.0f}" for load in self.loads)
        return (
            f"p99 {grown} (beside nothing, again: {control});"
            f" small queries {figures['small_idle_ms']:.0f} ms, beside ingest {small} ms"
        )

    def _window(
        self, opponent: Opponent, port: int, load: Load, kind: str, stored: StoredActions, base_time_s: int
    ) -> Window:
        """Drive one window; its figures are those of the driver, and of small queries where they ran beside it."""
        ingest = IngestWorkload(
            name=self.name, title=self.title, actions_per_request=load.actions_per_request,
            connections=load.connections, warmup_s=self.warmup_s, window_s=self.window_s,
            own_session=False,
        )  # fmt: skip
        asked_s: list[float] = []
        beside: AbstractContextManager[None] = nullcontext()
        for one in RUNAWAYS:
            if one.name == kind:
                beside = running_away(port, one, Settings().sql_workers)
        if kind == SMALL:
            beside = _asking_small(port, stored, asked_s)
        result: Mapping[str, Any] | None = None
        counts: Mapping[str, int] = {}
        settle(opponent, port)
        with beside:
            for event in ingest.drive(port, base_time_s):
                match event["event"]:
                    case "failed":
                        raise BenchFailed(f"{opponent.title}: {event['reason']}")
                    case "window_begin":
                        asked_s.clear()
                    case "latencies":
                        counts = event["counts"]
                    case "result":
                        result = event["result"]
        if result is None:
            raise BenchFailed("the load driver ended without a result")
        if kind not in (ALONE, ALONE_AGAIN):
            # What still ends must not be in the next window.
            _ask_small(port, stored, times=1)
        figures = {name: float(value) for name, value in result.items()}
        figures["actions_per_s"] = figures["actions"] / figures["window_s"]
        if asked_s:
            figures |= {"small_ms": statistics.median(asked_s) * 1000, "small_max_ms": max(asked_s) * 1000}
        return Window(figures, counts)


def settle(opponent: Opponent, port: int) -> None:
    """Wait until what earlier windows left is flushed, so that each has only the flushes that it causes.

    Raises:
        BenchFailed: that takes more than a minute.
    """
    deadline = time.monotonic() + _SETTLED_WITHIN_S
    while opponent.readings(port)["journal_depth"] >= Settings().flush_rows_max:
        if time.monotonic() > deadline:
            raise BenchFailed(f"{opponent.title} did not flush within {_SETTLED_WITHIN_S:g} s what a window left")
        time.sleep(_BETWEEN_SMALL_S)


def runaway_figures(windows: Mapping[tuple[str, str], Sequence[Window]]) -> dict[str, float]:
    """Figures of each load and kind over its windows: quantiles of all answers, medians of the rest; and ratios.

    The ratios of queries are to both kinds of windows alone together, those of windows alone to each other.
    """
    taken = {"actions_per_s": "actions_per_s", "latency_max_ms": "longest_ms"}
    taken |= {"small_ms": "ms", "small_max_ms": "longest_small_ms"}
    figures: dict[str, float] = {}
    for (load, kind), found in windows.items():
        for given, name in taken.items():
            values = [one.figures[given] for one in found if given in one.figures]
            if values:
                figures[f"{load}_{kind}_{name}"] = statistics.median(values)
        for share in (50, 99):
            figures[f"{load}_{kind}_p{share}_ms"] = _pooled_ms(found, share)
    for load, kind in windows:
        alone = windows[load, ALONE]
        if kind not in (ALONE, ALONE_AGAIN):
            alone = [*alone, *windows.get((load, ALONE_AGAIN), ())]
        rate = statistics.median(one.figures["actions_per_s"] for one in alone)
        figures[f"{load}_{kind}_actions_ratio"] = figures[f"{load}_{kind}_actions_per_s"] / rate
        figures[f"{load}_{kind}_p99_ratio"] = figures[f"{load}_{kind}_p99_ms"] / _pooled_ms(alone, 99)
    return figures


def _pooled_ms(windows: Sequence[Window], share: int) -> float:
    return pooled_quantile_ms((one.counts for one in windows), share / 100)


@contextmanager
def running_away(port: int, runaway: Runaway, count: int) -> Iterator[None]:
    """Keep *count* runaway queries going while the block runs, one more for each that is ended.

    Raises:
        BenchFailed: one ended in another way than by a limit.
    """
    ends = threading.Event()
    wrong: list[str] = []
    connections = [http.client.HTTPConnection("127.0.0.1", port, timeout=_ANSWER_TIMEOUT_S) for _ in range(count)]

    def keep_running(connection: http.client.HTTPConnection) -> None:
        body = json.dumps({"sql": runaway.sql}).encode()
        while not ends.is_set():
            try:
                connection.request("POST", "/api/sql", body, {"Content-Type": "application/json"})
                with connection.getresponse() as response:
                    answer = response.read()
                if response.status not in runaway.statuses:
                    wrong.append(f"{response.status}: {answer[:300]!r}")
                    return
            except (OSError, http.client.HTTPException) as error:
                if not ends.is_set():
                    wrong.append(repr(error))
                return

    threads = [threading.Thread(target=keep_running, args=(one,), daemon=True) for one in connections]
    for thread in threads:
        thread.start()
    time.sleep(_UNDER_WAY_S)
    try:
        yield
    finally:
        ends.set()
        for connection, thread in zip(connections, threads, strict=True):
            # The server stops a query whose client goes away.
            with suppress(OSError, AttributeError):
                connection.sock.shutdown(socket.SHUT_RDWR)
            thread.join(_ANSWER_TIMEOUT_S)
            connection.close()
    if wrong:
        raise BenchFailed(f"{runaway.title} ended by no limit: {wrong[0]}")


@contextmanager
def _asking_small(port: int, stored: StoredActions, asked_s: list[float]) -> Iterator[None]:
    """Ask small queries one after the other, and note how long each took, while the block runs."""
    ends = threading.Event()
    wrong: list[BenchFailed] = []

    def keep_asking() -> None:
        try:
            while not ends.is_set():
                ends.wait(_BETWEEN_SMALL_S)
                # Also when it has ended meanwhile, so that there is one.
                asked_s.extend(_ask_small(port, stored, times=1))
        except BenchFailed as error:
            wrong.append(error)

    with ExitStack() as stack:
        thread = threading.Thread(target=keep_asking, daemon=True)
        thread.start()
        stack.callback(thread.join, _ANSWER_TIMEOUT_S)
        stack.callback(ends.set)
        yield
    if wrong:
        raise wrong[0]


def _ask_small(port: int, stored: StoredActions, times: int) -> list[float]:
    """Ask so many small queries over one new connection; return how long each took."""
    took_s = []
    with HttpConnection(port) as connection:
        for _ in range(times):
            began_s = time.perf_counter()
            rows = connection.post_sql(_SMALL.sql(stored))
            took_s.append(time.perf_counter() - began_s)
            check_rows(_SMALL.title, len(rows), _SMALL.rows(stored))
    return took_s


RUNAWAY: Final = RunawayWorkload()
