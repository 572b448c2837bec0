"""A run that dies, or fails, at any of its system calls leaves everything acknowledged there once, and nothing wrong.

The run opens a store, submits, flushes, commits, trims, checkpoints, compacts, vacuums and erases a user
(`tests.faults.scripted_run`). The
kernel's tracing interface kills it before its N-th call of a kind, or lets that call fail; the kinds are those that
change what is on disk. The long form goes through every N until the run survives. Calls are counted for each thread by
itself: all `fsync`, `fdatasync`, `pwrite64` and `ftruncate` are the main thread's, so that each is met; of the others,
which several threads make, the N-th is that of the thread that comes to it first.
"""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Final

import pytest

from tests.faults.effort import repetitions
from tests.faults.script_outcome import history_of, problem_after
from tests.faults.scripted_run import UPKEEP
from tests.faults.traced_faults import can_trace
from tests.service.forked_service import ROOT

pytestmark = pytest.mark.skipif(not can_trace(), reason="strace is not installed, or may not trace here")

_LANES: Final = 2
_TIMEOUT_S: Final = 120
_KILL: Final = "signal=KILL"
# The kind of fault, the call, and some of its N for the short form.
_SWEEPS: Final = (
    (_KILL, "pwrite64", (70,)),
    (_KILL, "fsync", (33,)),
    (_KILL, "fdatasync", (30,)),
    (_KILL, "write", ()),
    (_KILL, "linkat", ()),
    (_KILL, "rename", ()),
    (_KILL, "unlink", ()),
    (_KILL, "mkdir", ()),
    (_KILL, "ftruncate", ()),
    ("error=EIO", "fsync", ()),
    ("error=EIO", "fdatasync", (25,)),
    ("error=EIO", "pwrite64", ()),
    ("error=EIO", "linkat", ()),
    ("error=ENOSPC", "pwrite64", (90,)),
    ("error=ENOSPC", "write", ()),
    ("error=ENOSPC", "mkdir", ()),
)


@dataclass(frozen=True, slots=True)
class _Outcome:
    struck: bool
    acknowledged: int
    problem: str | None


def _run(folder: Path, fault: str, call: str, number: int) -> _Outcome:
    """Let a run meet one fault, recover, and compare."""
    folder.mkdir()
    reports, trace = folder / "reports", folder / "trace"
    command = ["strace", "-f", "-qq", "-o", str(trace), "-e", f"trace={call}"]
    command += ["-e", f"inject={call}:{fault}:when={number}"]
    command += [sys.executable, "-m", "tests.faults.scripted_run", str(reports), f"{folder / 'data'}={UPKEEP}"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, timeout=_TIMEOUT_S, check=False)
    lines = reports.read_text().splitlines() if reports.exists() else []
    struck = done.returncode == -signal.SIGKILL if fault == _KILL else "(INJECTED)" in trace.read_text()
    history = history_of(lines)
    problem = problem_after(folder / "data", history)
    if problem is None:
        problem = _acknowledged_after_a_failure(lines)
    return _Outcome(struck, len(history.acknowledged), problem)


def _acknowledged_after_a_failure(reports: list[str]) -> str | None:
    """Tell whether a store that has failed took submissions before it was opened again."""
    failed = False
    for line in reports:
        failed = (failed and not line.startswith("B ")) or (line.startswith("R ") and "StoreFailed" in line)
        if failed and line.startswith("A "):
            return f"the store was not latched: {line}"
    return None


def _numbers(some: tuple[int, ...]) -> Iterator[int]:
    return count(1) if repetitions(suite=0, long=1) else iter(some)


def _sweep(folder: Path, fault: str, call: str, some: tuple[int, ...]) -> str:
    """Go through the N of one sweep; return its figures."""
    acknowledged = faults = 0
    for number in _numbers(some):
        outcome = _run(folder / f"{fault.replace('=', '-')}-{call}-{number}", fault, call, number)
        assert outcome.problem is None, f"{call} number {number}, {fault}: {outcome.problem}"
        if not outcome.struck:
            break
        faults += 1
        acknowledged += outcome.acknowledged
    assert faults, f"{fault} has not struck any {call}"
    return f"{fault} at {faults} × {call}: {acknowledged} acknowledged actions, all there once"


def test_every_acknowledged_action_is_there_once(tmp_path: Path, figures: Callable[[str], None]) -> None:
    sweeps = [one for one in _SWEEPS if one[2] or repetitions(suite=0, long=1)]
    with ThreadPoolExecutor(_LANES) as lanes:
        done = [lanes.submit(_sweep, tmp_path, *one) for one in sweeps]
        for one in done:
            figures(one.result())


def test_the_control_notices_a_store_that_goes_on() -> None:
    assert _acknowledged_after_a_failure(["S u 0 1", "R u 0 1 StoreFailed: no", "S u 1 1", "A u 1 1"])
    assert _acknowledged_after_a_failure(["R u 0 1 StoreFailed: no", "B data", "A u 1 1"]) is None
    assert _acknowledged_after_a_failure(["S u 0 1", "A u 0 1", "R u 0 1 DiskFull: no", "A u 1 1"]) is None
