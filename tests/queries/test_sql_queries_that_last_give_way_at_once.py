"""Queries that last give way to other threads without waiting for the scheduler's tick, and leave nothing behind.

How long others wait for them is measured by `bench.runaway`; here it is that what shortens the wait is there while such
a query runs, and gone afterwards, however it ends.
"""

from __future__ import annotations

import ctypes
import errno
import logging
import os
import platform
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from queries.sql import Cancellation, SqlCancelled, SqlRequest, SqlWorkerDied, standing_back, ticks
from queries.sql.ticks import Ticks
from queries.sql.walls import kernel
from tests.queries.sql_tables import Sandbox, SmallTable, make_rows, sandbox, write_table

pytestmark = pytest.mark.skipif(not standing_back.is_known(), reason="the system has no such policy")

_SCHED_GETATTR = {"x86_64": 315, "aarch64": 275}
_LASTS = SqlRequest("SELECT count(*) FROM range(1000000) a, range(1000000) b")


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> SmallTable:
    return write_table(tmp_path_factory.mktemp("table") / "actions", make_rows(days=1, per_file=1))


@pytest.fixture
def held() -> Iterator[Ticks]:
    one = Ticks()
    one.hold()
    try:
        yield one
    finally:
        one.close()


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 180
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def slice_ns(thread: int) -> int:
    """What sched_getattr(2) gives for a thread's slice; 0 where the kernel tells of none."""
    attributes = (ctypes.c_uint64 * 6)()
    kernel.system_call(
        _SCHED_GETATTR[platform.machine()], ctypes.c_int(thread), attributes, ctypes.c_uint(48), ctypes.c_uint(0)
    )
    return int(attributes[3])


def knows_slices() -> bool:
    """Whether the kernel lets a thread choose its slice; asked of a thread that ends."""
    if not standing_back.is_known() or platform.machine() not in _SCHED_GETATTR:
        return False
    seen: list[int] = []

    def choose() -> None:
        kernel.share_processors(0, slice_ns=50_000_000)
        seen.append(slice_ns(0))

    thread = threading.Thread(target=choose)
    thread.start()
    thread.join()
    return seen == [50_000_000]


def threads_of(pid: int) -> list[int]:
    return [int(one) for one in os.listdir(f"/proc/{pid}/task")]


def is_gone(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


def programs_of(parent: int) -> list[int]:
    """The programs that tick for a process."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            state, parent_of = (folder / "stat").read_text().rpartition(")")[2].split()[:2]
            if (
                int(parent_of) == parent
                and state != "Z"
                and ticks.__file__.encode() in (folder / "cmdline").read_bytes()
            ):
                found.append(int(folder.name))
    return found


class Lasting:
    """A query that lasts, asked from another thread."""

    def __init__(self, one: Sandbox) -> None:
        self._cancellation = Cancellation()
        self._one = one
        self._thread = threading.Thread(target=self._ask)
        self._thread.start()

    def _ask(self) -> None:
        with suppress(SqlCancelled, SqlWorkerDied):
            self._one.pool.run(_LASTS, self._one.view, self._cancellation).close()

    def end(self, *, cancel: bool = True) -> None:
        if cancel:
            self._cancellation.cancel()
        self._thread.join(180)
        assert not self._thread.is_alive()


def _at_once(monkeypatch: pytest.MonkeyPatch, *, may_put_aside: bool = True) -> None:
    monkeypatch.setattr(standing_back, "AFTER_S", 0.0)
    monkeypatch.setattr("queries.sql.running.KILL_AFTER_S", 180.0)
    monkeypatch.setattr(standing_back, "may_put_aside_others", lambda: may_put_aside)


@pytest.mark.skipif(not knows_slices(), reason="the kernel lets nobody choose a slice")
def test_threads_that_are_put_aside_have_the_longest_slices_and_get_the_usual_ones_back(
    table: SmallTable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _at_once(monkeypatch)
    with sandbox(table, tmp_path, when_idle=True) as one:
        (pid,) = one.pool.worker_pids()
        usual = {slice_ns(thread) for thread in threads_of(pid)}
        assert max(usual) < 100_000_000
        lasting = Lasting(one)
        wait_until(lambda: {slice_ns(thread) for thread in threads_of(pid)} == {100_000_000})
        assert {os.sched_getscheduler(thread) for thread in threads_of(pid)} == {os.SCHED_IDLE}
        lasting.end()
        if one.pool.worker_pids() == [pid]:
            assert {slice_ns(thread) for thread in threads_of(pid)} <= usual


@pytest.mark.parametrize("number", [errno.EPERM, errno.EINVAL, errno.ENOSYS])
def test_workers_are_put_aside_where_nobody_may_choose_a_slice(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    def refuse(thread: int, *, slice_ns: int) -> None:
        raise OSError(number, "not here")

    monkeypatch.setattr(standing_back, "share_processors", refuse)
    with subprocess.Popen(["sleep", "600"]) as process:
        try:
            assert standing_back.put_aside(process.pid)
            assert os.sched_getscheduler(process.pid) == os.SCHED_IDLE
        finally:
            process.kill()


@pytest.mark.parametrize("may_put_aside", [True, False])
def test_processors_tick_while_a_query_lasts_and_not_before_or_after(
    table: SmallTable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, may_put_aside: bool
) -> None:
    _at_once(monkeypatch, may_put_aside=may_put_aside)
    with sandbox(table, tmp_path, when_idle=True, workers=2) as one:
        assert programs_of(os.getpid()) == []
        first = Lasting(one)
        wait_until(lambda: len(programs_of(os.getpid())) == 1)
        second = Lasting(one)
        wait_until(lambda: not one.pool.worker_pids(idle=True))
        first.end()
        wait_until(lambda: len(programs_of(os.getpid())) == 1)
        second.end()
        assert programs_of(os.getpid()) == []


def test_nothing_ticks_for_queries_that_do_not_stand_back(
    table: SmallTable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _at_once(monkeypatch)
    monkeypatch.setattr(Ticks, "hold", lambda _: pytest.fail("ticks"))
    with sandbox(table, tmp_path, when_idle=False) as one:
        assert one.ask("SELECT count(*) FROM actions").rows == [(3,)]


@pytest.mark.parametrize("how", ["its worker dies", "the pool is closed"])
def test_ticks_end_with_a_query_that_ends_badly(
    table: SmallTable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    _at_once(monkeypatch)
    with sandbox(table, tmp_path, when_idle=True) as one:
        (pid,) = one.pool.worker_pids()
        lasting = Lasting(one)
        wait_until(lambda: len(programs_of(os.getpid())) == 1)
        if how == "its worker dies":
            os.kill(pid, signal.SIGKILL)
            lasting.end(cancel=False)
            assert programs_of(os.getpid()) == []
    lasting.end(cancel=False)
    assert programs_of(os.getpid()) == []


def test_a_worker_that_died_is_not_taken_back_for_its_id_may_be_another_ones(
    table: SmallTable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _at_once(monkeypatch)
    monkeypatch.setattr(standing_back, "take_back", lambda pid: pytest.fail(f"{pid} is taken back"))
    with sandbox(table, tmp_path, when_idle=True) as one:
        (pid,) = one.pool.worker_pids()
        lasting = Lasting(one)
        wait_until(lambda: len(programs_of(os.getpid())) == 1)
        os.kill(pid, signal.SIGKILL)
        lasting.end(cancel=False)


def test_every_processor_gets_a_thread_of_its_own_that_wakes_again_and_again(held: Ticks) -> None:
    pid = held.pid
    assert pid is not None
    mine = [{one} for one in sorted(os.sched_getaffinity(0))]

    def pinned() -> list[int]:
        return [one for one in threads_of(pid) if os.sched_getaffinity(one) in mine]

    def times_woken(thread: int) -> int:
        status = Path(f"/proc/{pid}/task/{thread}/status").read_text()
        return int(status.partition("\nvoluntary_ctxt_switches:")[2].split()[0])

    if len(mine) > 1:
        wait_until(lambda: sorted(sorted(os.sched_getaffinity(one)) for one in pinned()) == [sorted(x) for x in mine])
    wait_until(lambda: all(times_woken(one) > 100 for one in pinned()))
    # Not in the way of the service where that takes every processor, nor put aside.
    own = os.getpriority(os.PRIO_PROCESS, 0)
    assert {os.getpriority(os.PRIO_PROCESS, one) for one in pinned()} == {min(own + ticks.NICENESS, 19)}
    assert {os.sched_getscheduler(one) for one in pinned()} == {os.SCHED_OTHER}


def test_it_ticks_until_the_last_who_holds_it_lets_go(held: Ticks) -> None:
    pid = held.pid
    assert pid is not None
    held.hold()
    held.release()
    assert held.pid == pid
    assert not is_gone(pid)
    held.release()
    assert is_gone(pid)
    held.hold()
    assert held.pid not in (None, pid)


def test_it_ends_with_a_process_that_is_killed() -> None:
    script = (
        "import sys, time; sys.path.insert(0, sys.argv[1]); from queries.sql.ticks import Ticks;"
        " held = Ticks(); held.hold(); print(held.pid, flush=True); time.sleep(600)"
    )
    root = str(Path(ticks.__file__).resolve().parents[2])
    command = [sys.executable, "-c", script, root]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        pid = int(process.stdout.readline())
        assert not is_gone(pid)
        process.kill()
    wait_until(lambda: is_gone(pid))


def test_nothing_ticks_where_there_are_processors_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ticks, "PROCESSORS_MAX", 0)
    one = Ticks()
    one.hold()
    assert one.pid is None
    one.release()


def test_a_program_that_cannot_be_started_is_told_of_and_costs_no_query(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    one = Ticks()
    with caplog.at_level(logging.WARNING):
        one.hold()
    assert one.pid is None
    assert "no ticks" in caplog.text
    one.release()
