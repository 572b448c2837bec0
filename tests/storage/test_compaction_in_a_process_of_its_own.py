"""The process that compacts may die, with its parent or alone, and two of them may meet: rows are as they were."""

from __future__ import annotations

import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pyarrow as pa
import pytest

from storage.data_files import sort_rows, write_partitions
from storage.errors import CommitRefused
from storage.lake import Lake
from storage.maintenance import compaction_process
from storage.maintenance.chores import Upkeeper
from storage.maintenance.compaction import CompactionResult
from storage.maintenance.compaction_process import CompactionProcess
from storage.maintenance.options import MaintenanceOptions
from storage.maintenance.planning import CompactionLimits
from storage.store import Store
from tests.faults.effort import repetitions
from tests.faults.held_calls import KILL, Call, HeldCalls, can_hold
from tests.storage.building import FIRST_DAY, SCHEMA, eventually, opened, positions, put, store_in, through
from tests.storage.compacting import MEMORY_BYTES, put_files
from tests.storage.held_compaction import GATE_VARIABLE

RESTING = CompactionLimits(rest_ms=0)


def started(store: Store, done: list[CompactionResult]) -> CompactionProcess:
    return CompactionProcess(store.paths, RESTING, memory_bytes_max=MEMORY_BYTES, on_commit=done.append)


def test_two_processes_at_once_leave_every_row_once(store: Store) -> None:
    put_files(store, 6, rows=8, days=4)
    done: list[CompactionResult] = []
    processes = [started(store, done), started(store, done)]
    put(store, 5)
    store.flush_here()
    for one in processes:
        eventually(one.finished, timeout_s=180)
    assert positions(store) == through(53)
    assert len(store.read_view().files) <= 6
    assert sum(one.files_removed - one.files_added for one in done) == 25 - len(store.read_view().files)


class _Held:
    """A compaction of four files in each of four partitions, by a process whose system calls are held."""

    def __init__(self, folder: Path, gate: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(compaction_process, "_MODULE", "tests.storage.held_compaction")
        monkeypatch.setenv(GATE_VARIABLE, str(gate))
        self.calls: list[Call] = []
        with HeldCalls(gate) as held, store_in(folder) as store:
            put_files(store, 4, rows=8, days=4)
            process = started(store, [])
            self.status = held.see_through(process._process, folder, self._decide)
            if self.status:
                with pytest.raises(CommitRefused, match=f"status {self.status}"):
                    process.finished()
            else:
                assert process.finished()
            assert positions(store) == through(32)

    def _decide(self, call: Call) -> int | None:
        self.calls.append(call)
        return None


class _Killed(_Held):
    """The same, killed before a call, counted from 1."""

    def __init__(self, folder: Path, gate: Path, monkeypatch: pytest.MonkeyPatch, *, at: int) -> None:
        self._at = at
        super().__init__(folder, gate, monkeypatch)

    def _decide(self, call: Call) -> int | None:
        super()._decide(call)
        return KILL if len(self.calls) == self._at else None


@pytest.mark.skipif(not can_hold(), reason="the kernel does not let a test hold system calls here")
def test_a_kill_at_any_moment_loses_and_doubles_nothing(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed before calls that are spread over all by which it changes what is on disk."""

    def fresh() -> tuple[Path, Path]:
        folder = tmp_path_factory.mktemp("k")
        return folder / "store", folder / "gate"

    whole = _Held(*fresh(), monkeypatch)
    assert whole.status == 0
    assert any("/_delta_log/" in call.path for call in whole.calls)
    assert any(call.path.endswith(".parquet") for call in whole.calls)
    moments = repetitions(suite=2, long=60)
    for number in range(1, moments + 1):
        folder, gate = fresh()
        at = number * len(whole.calls) // (moments + 1)
        killed = _Killed(folder, gate, monkeypatch, at=at)
        assert killed.status == -signal.SIGKILL, f"call {at} of {len(whole.calls)} was not made"
        monkeypatch.undo()
        store, _ = opened(folder)
        process = started(store, [])
        eventually(process.finished, timeout_s=180)
        assert positions(store) == through(32), killed.calls[-1]
        assert len(store.read_view().files) <= 8
        assert not list(store.paths.compaction_temp.iterdir())
        store.close(flush=False)


def test_it_ends_with_its_parent(folder: Path) -> None:
    with store_in(folder) as store:
        put_files(store, 3)
    program = f"""
        import os
        from pathlib import Path
        from storage.maintenance.compaction_process import CompactionProcess
        from storage.maintenance.planning import CompactionLimits
        from storage.paths import StorePaths
        one = CompactionProcess(
            StorePaths.of(Path({str(folder)!r})), CompactionLimits(rest_ms=0), memory_bytes_max=1 << 28,
            on_commit=lambda _: None,
        )
        print(one.pid, flush=True)
        os.kill(os.getpid(), 9)
    """
    ended = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)], stdout=subprocess.PIPE, check=False, timeout=180
    )
    assert ended.returncode == -9
    child = int(ended.stdout)
    eventually(lambda: not Path(f"/proc/{child}/cmdline").exists() or not Path(f"/proc/{child}/cmdline").read_bytes())
    with store_in(folder) as store:
        assert positions(store) == through(18)


def test_the_caretaker_compacts_cleans_the_log_and_removes_the_old_files(folder: Path) -> None:
    told: list[CompactionResult] = []
    with store_in(folder) as store:
        put_files(store, 5, days=2)
        assert store.latch is not None
        options = MaintenanceOptions(
            RESTING, MEMORY_BYTES, vacuum_grace_ms=0, checkpoint_commits=4, on_compaction=told.append
        )
        upkeeper = Upkeeper(store.paths, store.journal, Lake(store.paths.table, SCHEMA), store.latch, lambda: options)
        chores = {chore.name: chore.run for chore in upkeeper.chores()}
        chores["compaction"]()
        eventually(lambda: not chores["compaction"]() and bool(told), timeout_s=180)
        upkeeper.close()
        chores["vacuum"]()
        chores["table log"]()
        assert len(list(store.paths.table.glob("date=*/type=*/*.parquet"))) == len(store.read_view().files) == 2
        assert positions(store) == through(30)


_FILE_ROWS = 20_000


def _wide_rows(position: int) -> pa.Table:
    """Rows of some 2 kB each, which take little time to compress and all of it in memory."""
    count = _FILE_ROWS
    names = [f"user{(n * 7919) % count:06}" for n in range(count)]
    columns = {
        "date": pa.array([FIRST_DAY.date()] * count, pa.date32()),
        "type": pa.array(["click"] * count, pa.string()),
        "user_id": pa.array(names, pa.string()),
        "time": pa.array([FIRST_DAY] * count, pa.timestamp("us", tz="UTC")),
        "properties": pa.array([f"{position + n:08}" * 250 for n in range(count)], pa.string()),
        "received_at": pa.array([FIRST_DAY] * count, pa.timestamp("us", tz="UTC")),
        "journal": pa.array(["elsewhere"] * count, pa.string()),
        "position": pa.array(range(position, position + count), pa.int64()),
    }
    arrays = [columns.get(field.name, pa.nulls(count, field.type)) for field in SCHEMA.table_schema]
    return sort_rows(pa.Table.from_arrays(arrays, schema=SCHEMA.table_schema))


def _growth_mb(store: Store, *, files: int, memory_mib: int) -> float:
    """By how much a process grows that compacts one partition of so many files, of 40 MB of text each."""
    lake = Lake(store.paths.table, SCHEMA)
    for number in range(files):
        start = number * _FILE_ROWS
        lake.append(
            write_partitions(_wide_rows(start + 1), store.paths.table),
            journal="elsewhere",
            after=start,
            watermark=start + _FILE_ROWS,
        )
    program = f"""
        from pathlib import Path
        from storage.maintenance.access import opened_upkeep
        from storage.maintenance.compaction import CompactionRun, compact
        from storage.maintenance.planning import CompactionLimits
        from storage.paths import StorePaths
        from storage.schema import ActionSchema
        import duckdb, pyarrow.parquet
        duckdb.connect().execute("select 1").fetchall()

        def peak_kib() -> int:
            # Not `getrusage`, which begins with what the process had in memory that started this one.
            (line,) = [one for one in Path("/proc/self/status").read_text().splitlines() if one.startswith("VmHWM:")]
            return int(line.split()[1])

        paths = StorePaths.of(Path({str(store.paths.data)!r}))
        memory_bytes = {memory_mib} << 20
        with opened_upkeep(paths, ActionSchema()) as upkeep:
            run = CompactionRun(
                paths, upkeep.journal, upkeep.lake, upkeep.latch, CompactionLimits(), memory_bytes, now_ms=lambda: 0
            )
            upkeep.lake.reload("elsewhere")
            before = peak_kib()
            assert compact(run, thorough=True).rows == {files * _FILE_ROWS}
        print(peak_kib() - before)
    """
    ended = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)], stdout=subprocess.PIPE, check=True, timeout=400
    )
    return int(ended.stdout) * 1024 / 1e6


def test_memory_is_bounded_however_large_a_partition_is(tmp_path: Path) -> None:
    """Another 160 MB of text make the process hardly larger, with 128 MiB for DuckDB; with 4 GiB it grows by more."""
    grown: list[float] = []
    for memory_mib, files in ((128, 4), (128, 8), (4096, 8)):
        with store_in(tmp_path / f"{memory_mib}-{files}") as store:
            grown.append(_growth_mb(store, files=files, memory_mib=memory_mib))
    print(f"grown by MB: {grown}")
    small, large, control = grown
    assert large - small < 80
    assert large < 450
    assert control - large > 160


def test_a_submission_on_many_days_ends_as_few_files_a_day(store: Store) -> None:
    days = repetitions(suite=120, long=3_000)
    put_files(store, 3, rows=days, days=days)
    before = len(store.read_view().files)
    done: list[CompactionResult] = []
    process = started(store, done)
    eventually(process.finished, timeout_s=600)
    assert before == 3 * days
    assert len(store.read_view().files) == days
    assert len(done) == -(-3 * days // RESTING.rewrite_files_max), "several partitions in one commit, boundedly"
    assert positions(store) == through(3 * days)
