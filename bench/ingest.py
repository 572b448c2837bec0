"""The workloads of ingest: how fast submissions become durable, and how much memory that takes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from bench.errors import BenchFailed
from bench.opponents import Opponent
from bench.processes import ROOT, ServerProcess, free_port, machine_busy_s
from bench.workloads import Progress

CONNECTIONS: Final = 64
SERVER_LOG: Final = "server.log"


@dataclass(frozen=True, slots=True, kw_only=True)
class IngestWorkload:
    """Submissions of *actions_per_request* actions over many connections, for a time or, with *requests_max*, a number.

    `form` is what they are sent as (`bench.load.MEDIA_TYPES`), and `flags` are given to the server besides.
    `journal_rows_max` is of those who hold flushing back: a window that ends with as many rows in the journal has
    measured the beginning of a flush, and fails. `own_session` is of the process that submits.

    The window is longer than the time after which the default settings flush, or the rate is high enough to flush by
    size: flushing is part of what is measured, and how often it happened is one of the figures.
    """

    name: str
    title: str
    actions_per_request: int
    form: str = "json"
    flags: tuple[str, ...] = ()
    connections: int = CONNECTIONS
    warmup_s: float = 5.0
    window_s: float = 30.0
    requests_max: int | None = None
    opponents: tuple[str, ...] = ("baseline", "actionlake")
    rounds_max: int = 100
    journal_rows_max: int | None = None
    own_session: bool = True

    def shortened(self) -> IngestWorkload | None:
        """Some seconds instead of a window that is long enough to flush."""
        return None if self.requests_max is not None else replace(self, warmup_s=1.0, window_s=4.0)

    def measure(self, opponent: Opponent, folder: Path, *, base_time_s: int, progress: Progress) -> Mapping[str, float]:
        """Start the server, drive it, stop it, and count what it stored.

        Raises:
            BenchFailed: the server failed, did not acknowledge everything, or does not hold what it acknowledged; or it
                flushed what was to be held back.
        """
        data, port = folder / "data", free_port()
        before: Mapping[str, float] = {}
        after: Mapping[str, float] = {}
        server_cpu_s = machine_cpu_s = 0.0
        result: dict[str, Any] | None = None
        # What an earlier piece left to be written is not this one's cost.
        os.sync()
        with ServerProcess([*opponent.command(data, port), *self.flags], folder / SERVER_LOG) as server:
            server.wait_ready(f"http://127.0.0.1:{port}{opponent.ready_path}")
            with self._driver(port, base_time_s) as events:
                for event in events:
                    match event["event"]:
                        case "window_begin":
                            machine_cpu_s -= machine_busy_s()
                            server_cpu_s -= server.cpu_s()
                            before = opponent.readings(port)
                        case "window_end":
                            machine_cpu_s += machine_busy_s()
                            server_cpu_s += server.cpu_s()
                            after = opponent.readings(port)
                        case "progress":
                            progress(self._share_done(event), f"{event['actions']:,} actions")
                        case "failed":
                            raise BenchFailed(f"{opponent.title}: {event['reason']}")
                        case "result":
                            result = event["result"]
            stop_s = server.stop()
        if result is None:
            raise BenchFailed("the load driver ended without a result")
        stored = opponent.count_stored(data)
        if stored != result["actions_acknowledged"]:
            raise BenchFailed(
                f"{opponent.title} acknowledged {result['actions_acknowledged']} actions and holds {stored}"
            )
        peaks = server.peak_rss_bytes.values()
        figures = {name: float(value) for name, value in result.items() if name != "cpu_s"}
        figures |= {
            "actions_per_s": result["actions"] / result["window_s"],
            "requests_per_s": result["requests"] / result["window_s"],
            "actions_stored": float(stored),
            "rss_peak_bytes": float(sum(peaks)),
            "rss_peak_largest_process_bytes": float(max(peaks)),
            "processes": float(len(peaks)),
            "server_cpus": server_cpu_s / result["window_s"],
            "driver_cpus": result["cpu_s"] / result["window_s"],
            # The kernel's own threads are among the others; clock ticks and the moment of reading can make it negative.
            "other_cpus": max(0.0, (machine_cpu_s - server_cpu_s - result["cpu_s"]) / result["window_s"]),
            "stop_s": stop_s,
        }
        for reading in after:
            if reading == "journal_depth":
                figures["journal_depth_begin"], figures["journal_depth_end"] = before[reading], after[reading]
            else:
                figures[reading] = after[reading] - before[reading]
        self.check_held_back(figures)
        return figures

    def check_held_back(self, figures: Mapping[str, float]) -> None:
        """Raise `BenchFailed` if a flush was held back, and yet began in the window."""
        if self.journal_rows_max is None:
            return
        if figures["flushes"] or figures["journal_depth_end"] >= self.journal_rows_max:
            raise BenchFailed(f"{self.name} measured a flush: take a window shorter than {self.window_s:g} s")

    def headline(self, figures: Mapping[str, float]) -> str:
        """Rate, p99, flushes and memory."""
        flushes = f", {figures['flushes']:.0f} flushes" if "flushes" in figures else ""
        return (
            f"{figures['actions_per_s']:,.0f} actions/s, p50 {figures['latency_p50_ms']:,.1f} ms,"
            f" p99 {figures['latency_p99_ms']:,.1f} ms{flushes}, peak RSS {figures['rss_peak_bytes'] / 1e6:,.0f} MB"
        )

    def _share_done(self, event: Mapping[str, Any]) -> float:
        if self.requests_max is not None:
            return float(event["actions"] / (self.requests_max * self.actions_per_request))
        return min(1.0, float(event["elapsed_s"]) / (self.warmup_s + self.window_s))

    def drive(self, port: int, base_time_s: int) -> Iterator[dict[str, Any]]:
        """Run the load against a server that is up; yield the driver's events as they come."""
        with self._driver(port, base_time_s) as events:
            yield from events

    @contextmanager
    def _driver(self, port: int, base_time_s: int) -> Iterator[Iterator[dict[str, Any]]]:
        """Run the load in a process of its own; yields its events as they come."""
        command = [sys.executable, "-m", "bench.load", "--port", str(port), "--base-time-s", str(base_time_s)]
        command += ["--actions", str(self.actions_per_request), "--connections", str(self.connections)]
        command += ["--form", self.form]
        if self.requests_max is None:
            command += ["--warmup-s", str(self.warmup_s), "--window-s", str(self.window_s)]
        else:
            command += ["--requests-max", str(self.requests_max)]
        process = subprocess.Popen(
            command, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True,
            start_new_session=self.own_session, process_group=None if self.own_session else 0,
        )  # fmt: skip
        assert process.stdout is not None
        try:
            with process.stdout as lines:
                yield (json.loads(line) for line in lines)
        finally:
            process.kill()
            process.wait()


MEMORY: Final = IngestWorkload(
    name="memory",
    title="10 million actions, 1,000 a request",
    actions_per_request=1_000,
    requests_max=10_000,
    opponents=("actionlake",),
    rounds_max=1,
)
# What keeps all that a window submits in the journal; the setting takes no larger number of rows.
_HELD_BACK_ROWS_MAX: Final = 10_000_000
_HELD_BACK: Final = (
    "--flush-rows-max", str(_HELD_BACK_ROWS_MAX),
    "--flush-bytes-max", "8000000000", "--journal-bytes-max", "8000000000",
)  # fmt: skip
# At one action a request nothing but age causes a flush (60 s by default), so that window is longer.
WORKLOADS: Final[tuple[IngestWorkload, ...]] = (
    IngestWorkload(name="submit-1", title="1 action a request", actions_per_request=1, window_s=75.0),
    IngestWorkload(name="submit-10", title="10 actions a request", actions_per_request=10),
    IngestWorkload(name="submit-100", title="100 actions a request", actions_per_request=100),
    IngestWorkload(name="submit-1000", title="1,000 actions a request", actions_per_request=1_000),
    *(
        IngestWorkload(
            name=f"held-back-{workers}{'' if connections == CONNECTIONS else f'-of-{connections}'}",
            title=f"100 actions a request, --workers {workers}, {connections} connections, flushing held back",
            actions_per_request=100,
            flags=(*_HELD_BACK, "--workers", str(workers)),
            connections=connections,
            warmup_s=3.0,
            window_s=9.0,
            opponents=("actionlake",),
            journal_rows_max=_HELD_BACK_ROWS_MAX,
        )
        # Once with as many as elsewhere, and once so many that each of two workers has as many.
        for connections in (CONNECTIONS, 2 * CONNECTIONS)
        for workers in (1, 2)
    ),
    IngestWorkload(
        name="workers-2",
        title="100 actions a request, --workers 2",
        actions_per_request=100,
        flags=("--workers", "2"),
        opponents=("actionlake",),
    ),
    IngestWorkload(
        name="sustained",
        title="1,000 actions a request, --workers 2, five minutes",
        actions_per_request=1_000,
        flags=("--workers", "2"),
        warmup_s=10.0,
        window_s=300.0,
        opponents=("actionlake",),
        rounds_max=1,
    ),
    IngestWorkload(
        name="arrow",
        title="Arrow streams of 20,000 rows",
        actions_per_request=20_000,
        form="arrow",
        connections=8,
        window_s=15.0,
        opponents=("actionlake",),
    ),
    IngestWorkload(
        name="arrow-held-back",
        title="Arrow streams of 20,000 rows, flushing held back",
        actions_per_request=20_000,
        form="arrow",
        flags=_HELD_BACK,
        connections=8,
        warmup_s=1.5,
        window_s=6.0,
        opponents=("actionlake",),
        journal_rows_max=_HELD_BACK_ROWS_MAX,
    ),
    MEMORY,
)
