"""Queries that last stand still while submissions come, but for their share of the time, and never otherwise."""

from __future__ import annotations

import errno
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import pytest

from queries.sql import Cancellation, SqlCancelled, SqlLimits, SqlRequest, SqlTimeout, SqlWorkerDied, standing_back
from queries.sql.lasting import QUIET_AFTER_S, LastingQueries
from tests.queries.sql_tables import Sandbox, SmallTable, make_rows, sandbox, write_table

pytestmark = pytest.mark.skipif(
    not standing_back.is_known() or not hasattr(os, "pidfd_open"), reason="the system has no such policy or signals"
)

_LASTS: Final = SqlRequest("SELECT count(*) FROM range(1000000) a, range(1000000) b")
_FOR_HOURS: Final = 1e-6
"""A share so small that what stands still does so until somebody lets it go."""
_ROOT: Final = Path(__file__).parents[2]


class Submissions:
    """A position that grows, as that of the last acknowledged action does, while they come."""

    def __init__(self, *, come: bool = True) -> None:
        self._position = 0
        self.come = come

    def __call__(self) -> int:
        self._position += self.come
        return self._position


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> SmallTable:
    return write_table(tmp_path_factory.mktemp("table") / "actions", make_rows(days=1, per_file=1))


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each query lasts from its beginning, and a worker that obeys late, on a busy machine, is not ended for it."""
    monkeypatch.setattr(standing_back, "AFTER_S", 0.0)
    monkeypatch.setattr("queries.sql.running.KILL_AFTER_S", 180.0)


@pytest.fixture
def process() -> Iterator[subprocess.Popen[bytes]]:
    """One that stands for a worker."""
    with sleeping() as one:
        yield one
        one.kill()


def sleeping() -> subprocess.Popen[bytes]:
    return subprocess.Popen(["sleep", "600"])


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 180
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.002)


def state(pid: int) -> str:
    """As /proc has it: T for one that stands still, Z or nothing for one that has ended."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return ""


def is_still(pid: int) -> bool:
    return state(pid) == "T"


def seen_still(pid: int, for_s: float) -> bool:
    """Whether it stands still at any time of the next seconds."""
    end = time.monotonic() + for_s
    while time.monotonic() < end:
        if is_still(pid):
            return True
        time.sleep(0.002)
    return False


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


def pool_beside(
    table: SmallTable, folder: Path, submissions: Callable[[], int], share_min: float, **options: Any
) -> Any:
    return sandbox(table, folder, when_idle=True, acknowledged=submissions, share_min=share_min, **options)


def lasting_queries(submissions: Callable[[], int], share_min: float = _FOR_HOURS) -> LastingQueries:
    return LastingQueries(always_aside=True, acknowledged=submissions, share_min=share_min)


def test_while_submissions_come_it_stands_still_most_of_the_time_and_runs_now_and_then(
    table: SmallTable, tmp_path: Path
) -> None:
    with pool_beside(table, tmp_path, Submissions(), 0.1) as one:
        (pid,) = one.pool.worker_pids()
        lasting = Lasting(one)
        ran_s, still_s = [], []
        wait_until(lambda: is_still(pid))
        for _ in range(5):
            began_s = time.monotonic()
            wait_until(lambda: not is_still(pid))
            still_s.append(time.monotonic() - began_s)
            began_s = time.monotonic()
            wait_until(lambda: is_still(pid))
            ran_s.append(time.monotonic() - began_s)
        lasting.end()
    assert sum(still_s) > sum(ran_s)
    # For 0.45 s; a busy machine may see the beginning late.
    assert max(still_s) >= 0.4


def allowed(pid: int) -> list[set[int]]:
    """On which processors each thread of a process may run."""
    return [os.sched_getaffinity(int(one)) for one in os.listdir(f"/proc/{pid}/task")]


def test_it_leaves_a_processor_beside_submissions_and_has_all_again_afterwards(
    table: SmallTable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not standing_back.may_put_aside_others() or len(os.sched_getaffinity(0)) < 2:
        pytest.skip("workers may not be put aside here, or there is one processor only")
    monkeypatch.setattr(standing_back, "take_back", lambda _: True)
    mine, submissions = os.sched_getaffinity(0), Submissions()
    with pool_beside(table, tmp_path, submissions, _FOR_HOURS) as one:
        (pid,) = one.pool.worker_pids()
        lasting = Lasting(one)
        wait_until(lambda: is_still(pid) and all(len(found) == len(mine) - 1 for found in allowed(pid)))
        assert all(found < mine for found in allowed(pid))
        submissions.come = False
        wait_until(lambda: not is_still(pid))
        assert all(found == mine for found in allowed(pid))
        lasting.end()
        assert one.pool.worker_pids() == [pid]
    again = Submissions()
    with pool_beside(table, tmp_path, again, _FOR_HOURS) as one:
        (pid,) = one.pool.worker_pids()
        lasting = Lasting(one)
        wait_until(lambda: is_still(pid) and all(found < mine for found in allowed(pid)))
        lasting.end()
        assert all(found == mine for found in allowed(pid))


def test_it_runs_on_while_no_submissions_come(table: SmallTable, tmp_path: Path) -> None:
    with pool_beside(table, tmp_path, lambda: 17, _FOR_HOURS) as one:
        (pid,) = one.pool.worker_pids()
        lasting = Lasting(one)
        wait_until(lambda: os.sched_getscheduler(pid) == os.SCHED_IDLE)
        assert not seen_still(pid, 0.6)
        lasting.end()


def test_it_goes_on_soon_after_the_last_submission(table: SmallTable, tmp_path: Path) -> None:
    submissions = Submissions()
    with pool_beside(table, tmp_path, submissions, _FOR_HOURS) as one:
        (pid,) = one.pool.worker_pids()
        lasting = Lasting(one)
        wait_until(lambda: is_still(pid))
        submissions.come = False
        wait_until(lambda: not is_still(pid))
        assert not seen_still(pid, 3 * QUIET_AFTER_S)
        lasting.end()


def test_it_runs_on_beside_submissions_where_its_share_is_all_of_the_time(table: SmallTable, tmp_path: Path) -> None:
    with pool_beside(table, tmp_path, Submissions(), 1.0) as one:
        (pid,) = one.pool.worker_pids()
        lasting = Lasting(one)
        wait_until(lambda: os.sched_getscheduler(pid) == os.SCHED_IDLE)
        assert not seen_still(pid, 0.6)
        lasting.end()


def test_one_that_stands_still_is_cancelled_at_once_and_its_worker_lives_on(
    table: SmallTable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Whatever rights those have who run the tests.
    monkeypatch.setattr(standing_back, "take_back", lambda _: True)
    with pool_beside(table, tmp_path, Submissions(), _FOR_HOURS) as one:
        (pid,) = one.pool.worker_pids()
        lasting = Lasting(one)
        wait_until(lambda: is_still(pid))
        lasting.end()
        monkeypatch.setattr(standing_back, "AFTER_S", 3_600.0)
        assert one.ask("SELECT count(*) FROM actions").rows == [(3,)]
        assert one.pool.worker_pids() == [pid]


def test_one_that_stands_still_is_stopped_by_its_time_limit(table: SmallTable, tmp_path: Path) -> None:
    with pool_beside(table, tmp_path, Submissions(), _FOR_HOURS, limits=SqlLimits(timeout_s=5.0)) as one:
        began_s = time.monotonic()
        with pytest.raises(SqlTimeout, match=r"timeout_s is 5; it stood still for \d+\.\d s .*sql_share_min") as error:
            one.pool.run(_LASTS, one.view)
        # In hours otherwise.
        assert time.monotonic() - began_s < 60
        assert 0 < error.value.still_s < time.monotonic() - began_s


def test_one_that_answers_runs_on_beside_submissions(table: SmallTable, tmp_path: Path) -> None:
    submissions = Submissions(come=False)
    with pool_beside(table, tmp_path, submissions, _FOR_HOURS) as one:
        (pid,) = one.pool.worker_pids()
        endless = SqlRequest("SELECT a.range FROM range(1000000) a, range(1000000) b", max_rows=10**9)
        result = one.pool.run(endless, one.view)
        submissions.come = True
        assert not seen_still(pid, 0.6)
        result.close()


def test_one_that_begins_to_answer_stands_still_no_more(process: subprocess.Popen[bytes]) -> None:
    lasting = lasting_queries(Submissions())
    lasting.begin(process.pid, answers=False)
    wait_until(lambda: is_still(process.pid))
    lasting.let_run(process.pid)
    wait_until(lambda: not is_still(process.pid))
    assert not seen_still(process.pid, 0.3)
    lasting.begin(process.pid, answers=True)
    assert not seen_still(process.pid, 0.3)
    lasting.close()


def test_all_that_last_stand_still_together(process: subprocess.Popen[bytes]) -> None:
    submissions = Submissions()
    lasting = lasting_queries(submissions)
    lasting.begin(process.pid, answers=False)
    wait_until(lambda: is_still(process.pid))
    with sleeping() as second:
        lasting.begin(second.pid, answers=False)
        wait_until(lambda: is_still(second.pid))
        submissions.come = False
        wait_until(lambda: not is_still(process.pid) and not is_still(second.pid))
        lasting.close()
        second.kill()


def test_it_begins_anew_when_others_last_later(process: subprocess.Popen[bytes]) -> None:
    lasting = lasting_queries(Submissions())
    for _ in range(3):
        began_s = time.monotonic()
        lasting.begin(process.pid, answers=False)
        wait_until(lambda: is_still(process.pid))
        # It is seen to stand still a little before that is noted.
        time.sleep(0.2)
        assert 0.1 <= lasting.let_run(process.pid) <= time.monotonic() - began_s
        assert lasting.let_run(process.pid) == 0
        assert lasting.end(process.pid, healthy=True)
        wait_until(lambda: not is_still(process.pid))
    lasting.close()


def test_what_stands_still_goes_on_when_the_pool_closes_and_nothing_does_so_afterwards(
    process: subprocess.Popen[bytes],
) -> None:
    lasting = lasting_queries(Submissions())
    lasting.begin(process.pid, answers=False)
    wait_until(lambda: is_still(process.pid))
    lasting.close()
    wait_until(lambda: not is_still(process.pid))
    lasting.begin(process.pid, answers=False)
    assert not seen_still(process.pid, 0.3)


@pytest.mark.parametrize("how", ["its worker dies", "the pool is closed"])
def test_one_that_stands_still_may_end_badly(
    table: SmallTable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    with pool_beside(table, tmp_path, Submissions(), _FOR_HOURS) as one:
        (pid,) = one.pool.worker_pids()
        lasting = Lasting(one)
        wait_until(lambda: is_still(pid))
        if how == "its worker dies":
            os.kill(pid, signal.SIGKILL)
            lasting.end(cancel=False)
            monkeypatch.setattr(standing_back, "AFTER_S", 3_600.0)
            assert one.ask("SELECT 1").rows == [(1,)]
    lasting.end(cancel=False)
    assert state(pid) in ("", "Z")


def test_a_worker_that_died_is_not_taken_back_for_its_id_may_be_another_ones(
    table: SmallTable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(standing_back, "may_put_aside_others", lambda: True)
    monkeypatch.setattr(standing_back, "take_back", lambda pid: pytest.fail(f"{pid} is taken back"))
    with pool_beside(table, tmp_path, Submissions(), _FOR_HOURS) as one:
        (pid,) = one.pool.worker_pids()
        lasting = Lasting(one)
        wait_until(lambda: is_still(pid))
        os.kill(pid, signal.SIGKILL)
        lasting.end(cancel=False)


def test_workers_that_stand_still_end_with_a_service_that_is_killed(table: SmallTable, tmp_path: Path) -> None:
    script = f"""
import itertools, sys, threading
sys.path.insert(0, {str(_ROOT)!r})
from pathlib import Path
from queries.sql import SqlRequest, standing_back
from tests.queries.sql_tables import make_rows, sandbox, write_table
standing_back.AFTER_S = 0.0
table = write_table(Path({str(tmp_path / "killed")!r}), make_rows(days=1, per_file=1))
count = itertools.count()
temp = Path({str(tmp_path / "temp")!r})
with sandbox(table, temp, when_idle=True, acknowledged=lambda: next(count), share_min={_FOR_HOURS}) as one:
    print(*one.pool.worker_pids(), flush=True)
    one.pool.run(SqlRequest({_LASTS.sql!r}), one.view)
"""
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True, cwd=_ROOT) as service:
        assert service.stdout is not None
        pid = int(service.stdout.readline())
        wait_until(lambda: is_still(pid))
        service.kill()
    wait_until(lambda: state(pid) in ("", "Z"))


def test_it_runs_on_where_the_system_has_no_descriptors_of_processes(
    process: subprocess.Popen[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(pid: int) -> int:
        raise OSError(errno.ENOSYS, f"none for {pid}")

    monkeypatch.setattr(os, "pidfd_open", refuse)
    lasting = lasting_queries(Submissions())
    lasting.begin(process.pid, answers=False)
    assert not seen_still(process.pid, 0.3)
    assert lasting.end(process.pid, healthy=True)
    lasting.close()


def test_one_that_may_not_be_made_to_stand_still_is_told_of(
    process: subprocess.Popen[bytes], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(descriptor: int, number: int) -> None:
        raise PermissionError(errno.EPERM, f"not {number} to {descriptor}")

    monkeypatch.setattr(signal, "pidfd_send_signal", refuse)
    lasting = lasting_queries(Submissions())
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            lasting.begin(process.pid, answers=False)
            wait_until(lambda: "cannot be made to stand still" in caplog.text)
            # It did not stand still for any time.
            assert lasting.let_run(process.pid) == 0
    lasting.close()
    assert caplog.text.count("cannot be made to stand still") == 1


def test_one_that_has_ended_before_it_lasts_costs_nothing() -> None:
    with sleeping() as gone:
        gone.kill()
    lasting = lasting_queries(Submissions())
    lasting.begin(gone.pid, answers=False)
    assert not lasting.end(gone.pid, healthy=False)
    lasting.close()
