"""What a query needed goes back to the system once its worker rests, whatever the largest query was."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

import pytest

from queries.sql import worker
from queries.sql.worker import Worker
from tests.queries.sql_tables import make_rows, sandbox, write_table

MIB = 1024 * 1024
LARGE = "SELECT count(DISTINCT (i, i)) AS n FROM range(2000000) AS t(i)"


def memory(pid: int, name: str) -> int:
    """`VmRSS`, what a process has in memory now, or `VmHWM`, the most that it ever had, in bytes."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    raise AssertionError("the kernel does not say")


@pytest.mark.skipif(sys.platform != "linux", reason="the allocators are those of Linux")
def test_a_worker_is_small_again_after_a_large_query(tmp_path: Path) -> None:
    table = write_table(tmp_path / "actions", make_rows(days=1, per_file=10))
    with sandbox(table, tmp_path / "temp", workers=1) as sql:
        sql.ask("SELECT count(*) FROM actions")
        (pid,) = sql.pool.worker_pids()
        before = memory(pid, "VmRSS")
        sql.ask(LARGE)
        # The control: there is something to give back.
        assert memory(pid, "VmHWM") - before > 64 * MIB
        deadline = time.monotonic() + 180
        while memory(pid, "VmRSS") - before > 32 * MIB:
            assert time.monotonic() < deadline, f"it keeps {(memory(pid, 'VmRSS') - before) // MIB} MiB"
            time.sleep(0.02)
        assert sql.pool.worker_pids() == [pid]


def test_only_a_little_stays_for_a_dashboards_next_query(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is little is counted from what the worker had when it last gave back, which may be more than at first."""
    resident: list[int | None] = [100 * MIB]
    nothing: Any = None
    one = Worker(nothing, 0, nothing, nothing, nothing, lambda: 0, lambda: resident[-1])

    def rest_s(now: int | None) -> float | None:
        resident.append(now)
        one._used_since_s = 0.0
        return one._rest_s()

    assert one._rest_s() is None, "nothing was used"
    assert rest_s(120 * MIB) == 10.0
    assert rest_s(133 * MIB) == 0.2
    assert rest_s(None) == 0.2
    monkeypatch.setattr(worker, "give_back", lambda: resident.append(130 * MIB))
    one._give_back()
    assert one._rest_s() is None
    assert rest_s(160 * MIB) == 10.0
    assert rest_s(163 * MIB) == 0.2
