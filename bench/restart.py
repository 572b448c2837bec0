"""How long after a kill a store with much in it takes submissions again."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from bench.errors import BenchFailed
from bench.ingest import SERVER_LOG, IngestWorkload
from bench.opponents import Opponent
from bench.processes import ServerProcess, free_port, machine_busy_s
from bench.workloads import Progress

_STREAM_ROWS: Final = 20_000
_BODY_ACTIONS: Final = 100
_PATIENT: Final = ("--flush-interval-ms-max", "86400000", "--flush-rows-max", "10000000")
_READY_TIMEOUT_S: Final = 300.0


@dataclass(frozen=True, slots=True, kw_only=True)
class RestartWorkload:
    """Fill the table with *lake_rows* and the journal with *journal_rows*, kill the server, start it again.

    The time is from the start of the process to the first `/health/ready` that is answered with 200.
    """

    name: str
    title: str
    lake_rows: int
    journal_rows: int
    starts: int = 3
    opponents: tuple[str, ...] = ("actionlake",)
    rounds_max: int = 1

    def shortened(self) -> RestartWorkload:
        """The same over a fiftieth of the rows."""
        return replace(self, lake_rows=self.lake_rows // 50, starts=1)

    def measure(self, opponent: Opponent, folder: Path, *, base_time_s: int, progress: Progress) -> Mapping[str, float]:
        """Fill, kill, and time each of several starts, each followed by a kill.

        Raises:
            BenchFailed: the server failed, or lost what it acknowledged.
        """
        data = folder / "data"
        self._fill_lake(opponent, folder, base_time_s, progress)
        self._fill_journal(opponent, folder, base_time_s)
        seconds: list[float] = []
        for number in range(self.starts):
            progress(0.8 + 0.2 * number / self.starts, f"start {number + 1}")
            port = free_port()
            busy_s = -machine_busy_s()
            began = time.monotonic()
            command = [*opponent.command(data, port), *_PATIENT]
            with ServerProcess(command, folder / SERVER_LOG) as server:
                server.wait_ready(f"http://127.0.0.1:{port}{opponent.ready_path}", timeout_s=_READY_TIMEOUT_S)
                seconds.append(time.monotonic() - began)
                busy_s += machine_busy_s() - server.cpu_s()
                depth = opponent.readings(port)["journal_depth"]
            if depth != self.journal_rows:
                raise BenchFailed(f"the journal holds {depth:,.0f} actions after a start, not {self.journal_rows:,}")
        stored = opponent.count_stored(data)
        if stored != self.lake_rows + self.journal_rows:
            raise BenchFailed(f"{stored:,} actions are stored, not {self.lake_rows + self.journal_rows:,}")
        return {
            "ready_s": sorted(seconds)[len(seconds) // 2],
            "ready_longest_s": max(seconds),
            "actions_stored": float(stored),
            "other_cpus": max(0.0, busy_s / seconds[-1]),
        }

    def headline(self, figures: Mapping[str, float]) -> str:
        """The median and the longest time."""
        return f"ready after {figures['ready_s']:.2f} s, at most {figures['ready_longest_s']:.2f} s"

    def _fill_lake(self, opponent: Opponent, folder: Path, base_time_s: int, progress: Progress) -> None:
        load = IngestWorkload(
            name=self.name, title=self.title, actions_per_request=_STREAM_ROWS, form="arrow", connections=4,
            requests_max=self.lake_rows // _STREAM_ROWS,
        )  # fmt: skip
        load.measure(opponent, folder, base_time_s=base_time_s, progress=lambda done, note: progress(done * 0.8, note))

    def _fill_journal(self, opponent: Opponent, folder: Path, base_time_s: int) -> None:
        port = free_port()
        load = IngestWorkload(
            name=self.name, title=self.title, actions_per_request=_BODY_ACTIONS,
            requests_max=self.journal_rows // _BODY_ACTIONS,
        )  # fmt: skip
        command = [*opponent.command(folder / "data", port), *_PATIENT]
        with ServerProcess(command, folder / SERVER_LOG) as server:
            server.wait_ready(f"http://127.0.0.1:{port}{opponent.ready_path}")
            for event in load.drive(port, base_time_s):
                if event["event"] == "failed":
                    raise BenchFailed(f"{opponent.title}: {event['reason']}")
        # Leaving the block has killed it, with all that it had acknowledged in the journal.


RESTART: Final = RestartWorkload(
    name="restart",
    title="start with 10 million rows in the table and 100,000 in the journal",
    lake_rows=10_000_000,
    journal_rows=100_000,
)
