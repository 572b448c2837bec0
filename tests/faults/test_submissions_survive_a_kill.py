"""A store that is killed at any moment has every acknowledged action exactly once, and none that was never sent."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import astuple, dataclass, field
from pathlib import Path
from typing import Final

import pytest

from storage.errors import CorruptData
from storage.opening import open_store
from storage.paths import StorePaths
from storage.schema import ActionSchema
from storage.store_options import StoreOptions
from tests.faults.broken_stores import MISTAKES
from tests.faults.effort import repetitions
from tests.faults.history import History
from tests.faults.store_process import Run, RunningStore, Spawner, spawner
from tests.faults.stored_rows import StoredRows

# A folder is used for so many cycles before a new one, so that making a store is among what is interrupted, and the
# time to read everything back stays small.
_CYCLES_A_FOLDER = 25
_CONTROL_CYCLES_MAX = 120
# A cycle is mostly waiting: for a process to start, for the disk, for the moment of the kill.
_LANES = 2
# So many of one, two or three actions are waited for in two thirds of the runs, however fast they come.
_SUBMISSIONS = 24


@dataclass(frozen=True, slots=True)
class _Moment:
    """When kills come.

    Attributes:
        share: of all kills.
        happened: what has happened before.
        seconds_max: how long after it at the most.
        holds: whether the run goes no further than its first commit, so that it is caught before the trim, however
            long the kill takes to arrive.
    """

    share: float
    happened: Callable[[RunningStore], bool] | None
    seconds_max: float
    holds: bool = False


_MOMENTS: Final[Sequence[_Moment]] = (
    _Moment(0.15, None, 0.03),
    _Moment(0.35, lambda run: run.submissions_acknowledged > _SUBMISSIONS, 0.03),
    _Moment(0.10, lambda run: run.commits_begun > 0, 0.01),
    _Moment(0.05, lambda run: run.commits > 0, 0.003),
    _Moment(0.05, lambda run: run.commits > 0, 0.003, holds=True),
    _Moment(0.30, lambda run: run.flushes > 0 and run.submissions_acknowledged > _SUBMISSIONS, 0.05),
)


@dataclass(slots=True)
class _Tally:
    cycles: int = 0
    kills_before_open: int = 0
    recoveries: int = 0
    trimmed_at_recovery: int = 0
    sent: int = 0
    acknowledged: int = 0
    in_files: int = 0
    hot: int = 0
    problems: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        return (
            f"{self.cycles} kills ({self.kills_before_open} while the store opened), {self.recoveries} recoveries"
            f" checked ({self.trimmed_at_recovery} found a commit that was not trimmed), {self.sent} actions sent,"
            f" {self.acknowledged} acknowledged, {self.in_files} found in files and {self.hot} in the journal;"
            f" violations: {'; '.join(self.problems) or 'none'}"
        )


class _KilledStore:
    """One folder, in which run after run is killed."""

    def __init__(self, folder: Path, processes: Spawner, choose: random.Random, mistake: str | None) -> None:
        self._folder = folder
        self._processes = processes
        self._choose = choose
        self._mistake = mistake
        self._history = History()
        self._rows = StoredRows()

    def kill_once(self, name: str, tally: _Tally) -> None:
        (moment,) = self._choose.choices(_MOMENTS, [one.share for one in _MOMENTS])
        run = self._processes.start(
            Run(str(self._folder), name, mistake=self._mistake, holds_after_commit=moment.holds)
        )
        if moment.happened is not None:
            run.read_until(self._history, moment.happened, timeout_s=180)
        run.read_for(self._history, seconds=self._choose.uniform(0, moment.seconds_max))
        run.kill(self._history)
        tally.cycles += 1
        tally.kills_before_open += not run.opened

    def check(self, tally: _Tally) -> None:
        """Recover, and compare what is there with what was sent and acknowledged."""
        tally.recoveries += 1
        try:
            store, report = open_store(StorePaths.of(self._folder), ActionSchema(), StoreOptions(), holder="the test")
        except CorruptData as error:
            tally.problems.append(f"the store does not open: {error}")
            return
        try:
            view = store.read_view()
            violations = self._history.judge(self._rows.of(view))
        finally:
            store.close(flush=False)
        tally.trimmed_at_recovery += report.trimmed > 0
        if violations:
            tally.problems.append(str(violations))
        self._last = (len(self._history.sent), len(self._history.acknowledged), view)

    def finish(self, tally: _Tally) -> None:
        sent, acknowledged, view = self._last
        tally.sent += sent
        tally.acknowledged += acknowledged
        tally.in_files += sum(one.rows for one in view.files)
        tally.hot += view.hot.num_rows


def _kill_often(folder: Path, *, cycles: int, mistake: str | None, seed: int) -> _Tally:
    """Kill a store *cycles* times, or until it is found to do wrong."""
    tally = _Tally()
    choose = random.Random(seed)
    with spawner() as processes:
        while tally.cycles < cycles and not tally.problems:
            store = _KilledStore(folder / f"from-{tally.cycles}", processes, choose, mistake)
            for _ in range(_CYCLES_A_FOLDER):
                store.kill_once(f"run-{tally.cycles}", tally)
                last = tally.cycles % _CYCLES_A_FOLDER == 0 or tally.cycles >= cycles
                # Sometimes the next run has to recover, and is perhaps killed while it does.
                if last or choose.random() < 0.7:
                    store.check(tally)
                if last or tally.problems:
                    break
            store.finish(tally)
    return tally


def _kill_side_by_side(folder: Path, *, cycles: int, seed: int) -> _Tally:
    """Kill stores in several lanes at once, each with its folders and its half of the cycles."""
    with ThreadPoolExecutor(_LANES) as threads:
        lanes = [
            threads.submit(
                _kill_often, folder / f"lane-{lane}", cycles=cycles // _LANES, mistake=None, seed=seed + lane
            )
            for lane in range(_LANES)
        ]
        tallies = [lane.result() for lane in lanes]
    return _Tally(*(sum(values, start=type(values[0])()) for values in zip(*map(astuple, tallies), strict=True)))


def test_every_acknowledged_action_is_there_exactly_once(tmp_path: Path, figures: Callable[[str], None]) -> None:
    """Kill the store at random moments, recover, compare sets, and go on in the same folder."""
    cycles = repetitions(suite=60, long=10_000)
    tally = _kill_side_by_side(tmp_path, cycles=cycles, seed=20180)
    figures(str(tally))
    assert not tally.problems, tally.problems[0]
    assert tally.cycles == cycles
    assert tally.acknowledged > 20 * cycles, "too little was going on when the kills came"
    assert tally.in_files > tally.acknowledged / 4, "flushes were hardly going on when the kills came"
    assert tally.trimmed_at_recovery, "no kill came between a commit and its trim"


@pytest.mark.parametrize(
    ("mistake", "sign"),
    [
        ("acknowledge_before_the_commit", "lost"),
        ("commit_rows_before_their_watermark", "doubled"),
        ("commit_the_watermark_before_its_rows", "lost"),
    ],
)
def test_the_control_notices(mistake: str, sign: str, tmp_path: Path, figures: Callable[[str], None]) -> None:
    """The same harness over a store that is wrong on purpose reports it."""
    assert mistake in MISTAKES
    tally = _kill_often(tmp_path, cycles=_CONTROL_CYCLES_MAX, mistake=mistake, seed=7)
    figures(f"noticed after {tally}")
    assert tally.problems, f"{tally.cycles} kills did not show the mistake"
    assert sign in tally.problems[0]
