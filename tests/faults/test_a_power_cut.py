"""Whatever a power cut leaves of a run, of what was not synced by then, everything acknowledged is there once."""

from __future__ import annotations

import random
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.faults.effort import repetitions
from tests.faults.history import History
from tests.faults.power_loss import Call, power_cuts, read_trace, tracer
from tests.faults.script_outcome import history_of, problem_after
from tests.faults.scripted_run import MISTAKES
from tests.faults.traced_faults import can_trace
from tests.service.forked_service import ROOT

pytestmark = pytest.mark.skipif(not can_trace(), reason="strace is not installed, or may not trace here")

# Of a mistake that shows at most moments, and of one that shows between two calls.
_CONTROL_STATES_MAX = {"trim_before_the_log_is_synced": 400}
_CONTROL_STATES = 80
_CREATION_CALLS = 250


@dataclass(frozen=True, slots=True)
class _Traced:
    """The calls of one folder's run: where it begins and ends among all calls."""

    folder: Path
    calls: Sequence[Call]
    first: int
    last: int


@pytest.fixture(scope="module")
def traced(tmp_path_factory: pytest.TempPathFactory) -> dict[str, _Traced]:
    """A traced run as it should be, and one with each mistake, in one process."""
    folder = tmp_path_factory.mktemp("power")
    reports, trace = folder / "reports", folder / "trace"
    names = ["", *MISTAKES]
    folders = {name: folder / (name or "right") for name in names}
    given = [str(path) + (f"={name}" if name else "") for name, path in folders.items()]
    command = [*tracer(trace), sys.executable, "-m", "tests.faults.scripted_run", str(reports), *given]
    subprocess.run(command, check=True, cwd=ROOT)
    calls = list(read_trace(trace))
    marks = {call.strings[0].decode(): place for place, call in enumerate(calls) if call.path == str(reports)}
    return {name: _Traced(path, calls, marks[f"B {path}\n"], marks[f"E {path}\n"]) for name, path in folders.items()}


def _history(run: _Traced, moment: int) -> History:
    """What the run had been told by then."""
    calls = run.calls[run.first : moment]
    return history_of(call.strings[0].decode() for call in calls if call.path.endswith("/reports"))


def _cut(run: _Traced, states: int, folder: Path, *, until_noticed: bool) -> tuple[int, int, list[str]]:
    """Cut the power at moments of a run; return how many states, how many actions had to be there, and the problems."""
    choose = random.Random(4711)
    # What makes the store comes first, and shows no mistake.
    begin = run.first + (_CREATION_CALLS if until_noticed else 1)
    moments = sorted(choose.choices(range(begin, run.last + 1), k=states))
    problems: list[str] = []
    checked = acknowledged = 0
    for moment, disk in power_cuts(run.calls, run.folder, set(moments)):
        for _ in range(moments.count(moment)):
            shutil.rmtree(folder, ignore_errors=True)
            disk.after_power_loss(choose, folder, harsh=until_noticed)
            history = _history(run, moment)
            checked += 1
            acknowledged += len(history.acknowledged)
            problem = problem_after(folder, history)
            if problem:
                problems.append(f"after {moment - run.first} calls: {problem}")
                if until_noticed:
                    return checked, acknowledged, problems
    return checked, acknowledged, problems


def test_everything_acknowledged_is_there_once(
    traced: dict[str, _Traced], tmp_path: Path, figures: Callable[[str], None]
) -> None:
    states = repetitions(suite=30, long=1000)
    run = traced[""]
    checked, acknowledged, problems = _cut(run, states, tmp_path / "cut", until_noticed=False)
    figures(
        f"{checked} states of a run of {run.last - run.first} calls, {acknowledged} acknowledged actions looked for;"
        f" violations: {'; '.join(problems[:3]) or 'none'}"
    )
    assert not problems, problems[0]
    assert acknowledged > 20 * checked


@pytest.mark.parametrize("mistake", sorted(MISTAKES))
def test_the_control_notices(
    mistake: str, traced: dict[str, _Traced], tmp_path: Path, figures: Callable[[str], None]
) -> None:
    """A store that syncs too little is found out."""
    states = _CONTROL_STATES_MAX.get(mistake, _CONTROL_STATES)
    checked, _, problems = _cut(traced[mistake], states, tmp_path / "cut", until_noticed=True)
    figures(f"noticed in state {checked}: {problems[:1]}")
    assert problems, f"{checked} states did not show the mistake"
