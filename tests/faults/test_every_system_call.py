"""A run that dies, or fails, at any of its system calls leaves everything acknowledged there once, and nothing wrong.

The run makes a store, submits, flushes, commits, trims and compacts, and in a second part opens it again, vacuums, and
erases a user (`tests.faults.held_run`). The kernel holds every call by which it changes what is on disk, of whichever
thread and in the order of the whole process (`tests.faults.held_calls`): before its N-th the process is killed, or the
N-th fails with EIO or with ENOSPC, or it and all after it fail with ENOSPC, as on a disk that stays full. The long form
goes through every N until the run comes to its end without having met the fault. Then the store is opened, compared
with what clients know, verified, and used again.
"""

from __future__ import annotations

import errno
import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Final

import pytest

from tests.faults.effort import repetitions
from tests.faults.held_calls import KILL, Call, HeldCalls, can_hold
from tests.faults.held_run import PARTS, UPKEEP, WORK
from tests.faults.script_outcome import history_of, problem_after, problem_with_more
from tests.service.forked_service import ENVIRONMENT, ROOT, ForkedProcess

pytestmark = pytest.mark.skipif(not can_hold(), reason="the kernel does not let a test hold system calls here")


@dataclass(frozen=True, slots=True)
class _Fault:
    """What is done to a call, and to those after it if it *lasts*; *some* is how often the short form does it."""

    name: str
    error: int
    some: int
    lasts: bool = False


_FAULTS: Final = (
    _Fault("SIGKILL", KILL, some=3),
    _Fault("EIO", errno.EIO, some=2),
    _Fault("ENOSPC", errno.ENOSPC, some=1),
    _Fault("ENOSPC from then on", errno.ENOSPC, some=1, lasts=True),
)
_NONE: Final = _Fault("nothing", KILL, some=0)


class _Striker:
    """Decides about the calls of one run: the fault strikes the call of a number, counted from 1."""

    def __init__(self, fault: _Fault, number: int) -> None:
        self.calls: list[Call] = []
        self.struck: Call | None = None
        self._fault = fault
        self._number = number

    def __call__(self, call: Call) -> int | None:
        """Count a call, and say what becomes of it."""
        self.calls.append(call)
        place = len(self.calls)
        if place != self._number and not (self._fault.lasts and place > self._number > 0):
            return None
        self.struck = self.struck or call
        return self._fault.error


class _Runs:
    """Runs of one part of the script, each in a folder of its own that begins like the others."""

    def __init__(self, folder: Path, part: str, *, before: _Runs | None = None, mistake: str | None = None) -> None:
        """Take a *folder* that is there, and begin with what the runs *before*, if any, have left."""
        self.folder = folder
        self.part = part
        self.reports: list[str] = []
        self._before = before
        self._mistake = mistake

    @property
    def _store(self) -> Path:
        return self.folder / "store"

    def run(self, striker: _Striker) -> str | None:
        """Run once; return what went wrong with the process itself, if anything did."""
        self._begin()
        arguments = [str(self.folder / "gate"), str(self.folder / "reports"), str(self._store), self.part]
        output = os.open(self.folder / "output", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        try:
            with HeldCalls(self.folder / "gate") as held:
                process = ForkedProcess(
                    "tests.faults.held_run",
                    arguments if self._mistake is None else [*arguments, self._mistake],
                    output=output,
                    environment=ENVIRONMENT,
                    folder=ROOT,
                )
                code = held.see_through(process, self._store, striker)
        finally:
            os.close(output)
        self.reports = (self.folder / "reports").read_text().splitlines()
        killed = striker.struck is not None and striker.calls[-1] is striker.struck
        if code == 0 or (killed and code == -9):
            return None
        return f"the run ended with {code}: {(self.folder / 'output').read_text()[-2000:]}"

    def _begin(self) -> None:
        shutil.rmtree(self._store, ignore_errors=True)
        (self.folder / "reports").unlink(missing_ok=True)
        if self._before is not None:
            shutil.copytree(self._before._store, self._store)
            shutil.copy(self._before.folder / "reports", self.folder / "reports")

    def outcome(self, striker: _Striker) -> tuple[int, str | None]:
        """Run once, recover, and compare; return how many actions had to be there, and what is wrong."""
        problem = self.run(striker)
        history = history_of(self.reports)
        return len(history.acknowledged), (
            problem
            or _acknowledged_after_a_failure(self.reports)
            or problem_after(self._store, history)
            or problem_with_more(self._store, history)
        )


def _acknowledged_after_a_failure(reports: list[str]) -> str | None:
    """Tell whether a store that has failed took submissions before it was opened again."""
    failed = False
    for line in reports:
        failed = (failed and not line.startswith("B ")) or (line.startswith(("R ", "L ")) and "StoreFailed" in line)
        if failed and line.startswith("A "):
            return f"the store was not latched: {line}"
    return None


def _numbers(calls: int, some: int) -> Iterator[int]:
    """Every number in the long form; in the short one some of those of a run with so many calls, evenly spread."""
    return count(1) if repetitions(suite=0, long=1) else iter(range(calls // (2 * some) or 1, calls + 1, calls // some))


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[_Runs, list[Call]]]:
    """Runs of each part, and the calls of one that met no fault."""
    made: dict[str, tuple[_Runs, list[Call]]] = {}
    work: _Runs | None = None
    for part in PARTS:
        whole = _Runs(tmp_path_factory.mktemp("r"), part, before=work)
        calls = _Striker(_NONE, 0)
        assert whole.run(calls) is None
        made[part] = _Runs(tmp_path_factory.mktemp("r"), part, before=work), calls.calls
        work = whole
    return made


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("fault", _FAULTS, ids=lambda fault: fault.name)
def test_every_acknowledged_action_is_there_once(
    fault: _Fault,
    part: str,
    recorded: dict[str, tuple[_Runs, list[Call]]],
    figures: Callable[[str], None],
) -> None:
    runs, calls = recorded[part]
    met: Counter[str] = Counter()
    looked_for = 0
    for number in _numbers(len(calls), fault.some):
        striker = _Striker(fault, number)
        acknowledged, problem = runs.outcome(striker)
        assert problem is None, f"{fault.name} at call {number}, {striker.struck}: {problem}"
        if striker.struck is None:
            break
        met[striker.struck.name] += 1
        looked_for += acknowledged
    kinds = ", ".join(f"{times} × {name}" for name, times in met.most_common())
    figures(
        f"{fault.name} at {met.total()} of the {len(calls)} calls of {part} ({kinds}):"
        f" {looked_for} acknowledged actions looked for, all there once"
    )
    assert met


def test_the_parts_do_what_is_to_be_proven(recorded: dict[str, tuple[_Runs, list[Call]]]) -> None:
    """Appends, flushes, commits, trims and compacts; vacuums and erases: in both all kinds of calls are met."""
    _, calls = recorded[WORK]
    kinds = {call.name for call in calls}
    assert {"write", "pwrite64", "fsync", "fdatasync", "ftruncate"} <= kinds
    assert any(call.path.endswith("-wal") for call in calls if call.name == "pwrite64")
    assert any("/_delta_log/" in call.path for call in calls if call.name.startswith("link"))
    _, calls = recorded[UPKEEP]
    removed = [call.path for call in calls if call.name.startswith("unlink")]
    assert any(path.endswith(".parquet") for path in removed)


def test_the_control_notices_a_watermark_before_its_rows(tmp_path: Path) -> None:
    runs = _Runs(tmp_path, WORK, mistake="commit_the_watermark_before_its_rows")
    whole = _Striker(_NONE, 0)
    assert runs.run(whole) is None
    commits = [
        number
        for number, call in enumerate(whole.calls, 1)
        if call.name.startswith("link") and "/_delta_log/" in call.path
    ]
    # The first makes the table; of the next two one has the watermark, and one the rows.
    problems = [runs.outcome(_Striker(_FAULTS[0], number))[1] for number in commits[1:4]]
    assert any(problems)


def test_the_control_notices_a_store_that_goes_on(
    recorded: dict[str, tuple[_Runs, list[Call]]], tmp_path: Path
) -> None:
    runs = _Runs(tmp_path, WORK, mistake="forget_that_a_write_failed")
    _, calls = recorded[WORK]
    syncs = [number for number, call in enumerate(calls, 1) if call.name == "fdatasync" and call.path.endswith("-wal")]
    _, problem = runs.outcome(_Striker(_FAULTS[1], syncs[len(syncs) // 2]))
    assert problem is not None
    assert "not latched" in problem
