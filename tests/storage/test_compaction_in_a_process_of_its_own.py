"""The process that compacts may die, with its parent or alone, and two of them may meet: rows are as they were."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import textwrap
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import ClassVar

import pyarrow as pa
import pytest

from storage.data_files import sort_rows, write_partitions
from storage.errors import CommitRefused
from storage.lake import Lake
from storage.maintenance import chores, compaction_process
from storage.maintenance.chores import Upkeeper
from storage.maintenance.compaction import CompactionResult, compact
from storage.maintenance.compaction_child import NICENESS
from storage.maintenance.compaction_process import CompactionProcess
from storage.maintenance.options import MaintenanceOptions
from storage.maintenance.planning import CompactionLimits
from storage.store import Store
from tests.faults.effort import repetitions
from tests.faults.held_calls import KILL, Call, HeldCalls, can_hold
from tests.storage.building import FIRST_DAY, SCHEMA, eventually, opened, positions, put, store_in, through
from tests.storage.compacting import MEMORY_BYTES, compaction_run, put_files
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
        run = {chore.name: chore.run for chore in upkeeper.chores()}
        run["compaction"]()
        eventually(lambda: not run["compaction"]() and bool(told), timeout_s=180)
        upkeeper.close()
        run["vacuum"]()
        run["table log"]()
        assert len(list(store.paths.table.glob("date=*/type=*/*.parquet"))) == len(store.read_view().files) == 2
        assert positions(store) == through(30)


@pytest.mark.skipif(not can_hold(), reason="the kernel does not let a test hold system calls here")
@pytest.mark.parametrize("stands_back", [True, False])
def test_what_takes_long_leaves_the_processors_to_others_and_the_commit_does_not(
    stands_back: bool, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Seen at each call by which it changes what is on disk, while it is held there."""
    monkeypatch.setattr(compaction_process, "_MODULE", "tests.storage.held_compaction")
    monkeypatch.setenv(GATE_VARIABLE, str(tmp_path / "gate"))
    put_files(store, 3)
    with HeldCalls(tmp_path / "gate") as held:
        process = CompactionProcess(
            store.paths, RESTING, memory_bytes_max=MEMORY_BYTES, on_commit=lambda _: None, stands_back=stands_back
        )
        seen: list[tuple[_Priority, set[_Priority]]] = []

        def look(_: Call) -> None:
            seen.append((_priority_of(process.pid), set(_priorities_of_threads(process.pid))))

        assert held.see_through(process._process, store.paths.data, look) == 0
    assert process.finished()
    own = _priority_of(os.getpid())
    aside = os.SCHED_IDLE if stands_back else os.SCHED_OTHER, min(own[1] + NICENESS, 19)
    assert seen
    for main, others in seen:
        assert main == own
        assert aside in others
        assert stands_back or os.SCHED_IDLE not in {policy for policy, _ in others}


# The policy of a thread, and how nice it is.
_Priority = tuple[int, int]


def _priority_of(thread: int) -> _Priority:
    return os.sched_getscheduler(thread), os.getpriority(os.PRIO_PROCESS, thread)


def _priorities_of_threads(pid: int) -> Iterator[_Priority]:
    """Of all threads but the main one."""
    for name in os.listdir(f"/proc/{pid}/task"):
        # One of a library's may have ended since.
        with contextlib.suppress(ProcessLookupError):
            if int(name) != pid:
                yield _priority_of(int(name))


def test_files_are_written_aside_and_committed_by_the_caller(store: Store) -> None:
    put_files(store, 3)
    written: list[str] = []
    committed: list[str] = []
    with (
        ThreadPoolExecutor(1, "aside") as aside,
        compaction_run(
            store,
            limits=RESTING,
            aside=lambda rewrite: aside.submit(rewrite).result(),
            on_written=lambda _: written.append(threading.current_thread().name),
            on_commit=lambda _: committed.append(threading.current_thread().name),
        ) as run,
    ):
        compact(run)
    assert written == ["aside_0"]
    assert committed == [threading.current_thread().name]


class _Endless:
    """A compaction that comes to no end."""

    started: ClassVar[list[_Endless]] = []

    def __init__(self, *_: object, stands_back: bool, **__: object) -> None:
        self.stands_back = stands_back
        self.seconds_since_progress = 0.0
        self.stopped = False
        self.over = False
        self.started.append(self)

    def finished(self) -> bool:
        return self.over

    def stop(self) -> None:
        self.stopped = True


@pytest.mark.parametrize("why", ["too many files", "too long"])
def test_one_that_stands_back_is_replaced_when_it_must_not_wait_any_longer(
    why: str, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chores, "CompactionProcess", _Endless)
    monkeypatch.setattr(_Endless, "started", [])
    limits = CompactionLimits(files_spare=1)
    put_files(store, 5)
    assert store.latch is not None
    upkeeper = Upkeeper(
        store.paths, store.journal, Lake(store.paths.table, SCHEMA), store.latch, lambda: MaintenanceOptions(limits)
    )
    upkeeper.compact()
    upkeeper.compact()
    (first,) = _Endless.started
    assert (first.stands_back, first.stopped) == (True, False)
    if why == "too many files":
        put_files(store, 3)
    else:
        first.seconds_since_progress = 1e9
    upkeeper.compact()
    _, second = _Endless.started
    assert (first.stopped, second.stands_back) == (True, False)
    second.seconds_since_progress = 1e9
    upkeeper.compact()
    assert len(_Endless.started) == 2
    second.over = True
    upkeeper.compact()
    assert not _Endless.started[-1].stands_back, "it would get no processor either"
    _Endless.started[-1].over = True
    monkeypatch.setattr(chores, "_BUSY_S", 0.0)
    upkeeper.compact()
    assert [one.stands_back for one in _Endless.started[2:]] == [False, why == "too long"]
    upkeeper.close()
    assert _Endless.started[-1].stopped


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
