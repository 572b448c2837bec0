"""The workload of long streams: by how much a server grows while millions of actions leave it, in each format.

Each format has a server of its own, just started, so that nothing that an earlier one left hides what it takes.
"""

from __future__ import annotations

import io
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import pyarrow.parquet as pq

from bench.http_client import HttpConnection, count_arrow_rows, count_lines
from bench.ingest import SERVER_LOG
from bench.opponents import Opponent
from bench.processes import PeakResident, ServerProcess, free_port, machine_busy_s, resident_bytes
from bench.queries import StreamKind, check_rows, retrieval
from bench.stored_actions import StoredActions, write_actions
from bench.workloads import Progress

_SETTLED_BYTES: Final = 1_000_000
_SETTLED_LOOK_S: Final = 1.0
_SETTLED_TIMEOUT_S: Final = 60.0


def _count_csv_rows(response: Any) -> int:
    return count_lines(response) - 1


def _count_parquet_rows(response: Any) -> int:
    rows: int = pq.read_metadata(io.BytesIO(response.read())).num_rows
    return rows


_KINDS: Final[Mapping[str, Callable[[Any], int]]] = {
    "ndjson": count_lines,
    "csv": _count_csv_rows,
    "arrow": count_arrow_rows,
    "parquet": _count_parquet_rows,
}
LONG_STREAM_KINDS: Final = tuple(
    StreamKind(f"long_{format_}", f"GET /api/retrievelogs, {format_}", retrieval(format_), count)
    for format_, count in _KINDS.items()
)


@dataclass(frozen=True, slots=True, kw_only=True)
class LongStreamWorkload:
    """All of many actions, several times in each format, from one freshly started server a format."""

    name: str = "streams"
    title: str = "long streams"
    actions: int = 5_040_000
    days: int = 28
    repetitions: int = 2
    kinds: tuple[StreamKind, ...] = LONG_STREAM_KINDS
    opponents: tuple[str, ...] = ("actionlake",)
    rounds_max: int = 1

    def shortened(self) -> LongStreamWorkload:
        """A twelfth of the actions, once."""
        return replace(self, actions=420_000, repetitions=1)

    def measure(self, opponent: Opponent, folder: Path, *, base_time_s: int, progress: Progress) -> Mapping[str, float]:
        """Write the actions, and read them in each format.

        Raises:
            BenchFailed: the server failed, an answer had another number of rows than it must, or the folder holds
                another number of actions afterwards.
        """
        data = folder / "data"
        stored = write_actions(
            data,
            actions=self.actions,
            days=self.days,
            base_time_s=base_time_s,
            progress=lambda share: progress(share * 0.3, "writing actions"),
        )
        os.sync()
        figures: dict[str, float] = {"actions": float(stored.actions), "files": float(len(stored.paths))}
        window_s = others_s = 0.0
        for number, kind in enumerate(self.kinds):
            progress(0.3 + 0.7 * number / len(self.kinds), kind.title)
            port = free_port()
            with ServerProcess(opponent.command(data, port), folder / SERVER_LOG) as server:
                server.wait_ready(f"http://127.0.0.1:{port}{opponent.ready_path}")
                _wait_settled(server)
                began_s, own_cpu_s = time.perf_counter(), time.process_time()
                machine_cpu_s, server_cpu_s = machine_busy_s(), server.cpu_s()
                figures |= self._read(stored, server, port, kind)
                window_s += time.perf_counter() - began_s
                own_cpu_s, server_cpu_s = time.process_time() - own_cpu_s, server.cpu_s() - server_cpu_s
                others_s += machine_busy_s() - machine_cpu_s - server_cpu_s - own_cpu_s
                server.stop()
        figures |= {"window_s": window_s, "other_cpus": max(0.0, others_s / window_s)}
        figures["long_rss_growth_bytes"] = max(figures[f"{one.name}_rss_growth_bytes"] for one in self.kinds)
        check_rows("the folder, counted afterwards,", opponent.count_stored(data), stored.actions)
        return figures

    def headline(self, figures: Mapping[str, float]) -> str:
        """By how much each format had the server grow."""
        return "RSS " + ", ".join(
            f"{one.name.removeprefix('long_')} +{figures[f'{one.name}_rss_growth_bytes'] / 1e6:,.0f} MB"
            for one in self.kinds
        )

    def _read(self, stored: StoredActions, server: ServerProcess, port: int, kind: StreamKind) -> dict[str, float]:
        method, target, body = kind.request(stored)
        rates = []
        with PeakResident(server.pids()) as resident, HttpConnection(port) as connection:
            for _ in range(self.repetitions):
                reading = connection.stream(method, target, body, count=kind.count)
                check_rows(kind.title, reading.rows, stored.actions)
                rates.append(reading.rows / reading.elapsed_s)
            growth_bytes = resident.growth_bytes()
        return {f"{kind.name}_rss_growth_bytes": float(growth_bytes), f"{kind.name}_actions_per_s": max(rates)}


def _wait_settled(server: ServerProcess) -> None:
    """Wait until all processes are there that a start makes, and grow no more by themselves; not for ever."""
    deadline_s = time.monotonic() + _SETTLED_TIMEOUT_S
    before: tuple[list[int], int] | None = None
    while time.monotonic() < deadline_s:
        pids = server.pids()
        now = (pids, sum(map(resident_bytes, pids)))
        if before is not None and pids == before[0] and abs(now[1] - before[1]) < _SETTLED_BYTES:
            return
        before = now
        time.sleep(_SETTLED_LOOK_S)


LONG_STREAMS: Final = LongStreamWorkload()
