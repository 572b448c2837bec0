"""A reader meets every position that was acknowledged before it looked, once, and none that was submitted after.

Submissions, flushes, trims and compactions go on meanwhile. Sets of positions are compared, as bits of a number, since
a count would not show a new row in the place of a missing one.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from storage.errors import RewriteConflict
from storage.flush import FlushLimits
from storage.read_view import ReadView
from storage.store import Store
from tests.faults.broken_stores import MISTAKES
from tests.faults.effort import repetitions
from tests.faults.scripted_run import compact
from tests.storage.building import opened, put

_ACTIONS = 3
_PAUSE_S = 0.002
_POSITIONS_MAX = 60_000


@dataclass(slots=True)
class _Readings:
    """What a reader has found so far."""

    reads: int = 0
    versions: set[int] = field(default_factory=set)
    files: dict[str, int] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)

    def look(self, view: ReadView, acknowledged: int, submitted: Callable[[], int]) -> None:
        """Compare one view with what was acknowledged before it was taken and submitted until after."""
        # Bit 0 is no position; it makes an empty store a set like any other.
        seen = 1
        masks = [self._mask_of(one.path) for one in view.files]
        for mask in [*masks, _mask(view.hot["position"].to_pylist())]:
            if seen & mask:
                self.problems.append(f"a position is there twice in version {view.snapshot.version}")
            seen |= mask
        last = seen.bit_length() - 1
        if seen != (1 << last + 1) - 1:
            self.problems.append(f"a position below {last} is missing in version {view.snapshot.version}")
        if not acknowledged <= last <= submitted():
            self.problems.append(f"it ends at {last}: {acknowledged} were acknowledged, {submitted()} submitted")
        self.reads += 1
        self.versions.add(view.snapshot.version)

    def _mask_of(self, path: str) -> int:
        if path not in self.files:
            with pq.ParquetFile(path) as file:
                self.files[path] = _mask(file.read(columns=["position"], use_threads=False)["position"].to_pylist())
        return self.files[path]


def _mask(positions: list[int]) -> int:
    mask = 0
    for position in positions:
        mask |= 1 << position
    return mask


@contextmanager
def _busy(folder: Path) -> Iterator[tuple[Store, list[int], list[int]]]:
    """A store that is submitted to, flushed and compacted; and what was submitted and acknowledged, at [0]."""
    store, _ = opened(folder, flush=FlushLimits(interval_ms_max=10, rows_max=500))
    submitted, acknowledged = [0], [0]
    stop = threading.Event()

    def submit() -> None:
        while not stop.wait(_PAUSE_S) and submitted[0] < _POSITIONS_MAX:
            submitted[0] += _ACTIONS
            put(store, _ACTIONS, days=2)
            acknowledged[0] += _ACTIONS

    def tidy() -> None:
        while not stop.wait(0.1):
            try:
                compact(store)
            except RewriteConflict:
                continue

    threads = [threading.Thread(target=submit), threading.Thread(target=tidy)]
    store.start_leading()
    for thread in threads:
        thread.start()
    try:
        yield store, submitted, acknowledged
    finally:
        stop.set()
        for thread in threads:
            thread.join()
        store.close(flush=False)


def _read(folder: Path, *, reads: int, until_noticed: bool) -> _Readings:
    readings = _Readings()
    with _busy(folder) as (store, submitted, acknowledged):
        deadline = time.monotonic() + 180
        while readings.reads < reads or (len(readings.versions) < 5 and time.monotonic() < deadline):
            before = acknowledged[0]
            readings.look(store.read_view(), before, lambda: submitted[0])
            if until_noticed and readings.problems:
                break
    return readings


def test_every_position_is_there_once(tmp_path: Path, figures: Callable[[str], None]) -> None:
    readings = _read(tmp_path / "data", reads=repetitions(suite=1000, long=100_000), until_noticed=False)
    figures(
        f"{readings.reads} reads of {len(readings.versions)} versions, {len(readings.files)} files:"
        f" {len(readings.problems)} violations"
    )
    assert not readings.problems, readings.problems[0]
    assert len(readings.versions) >= 5, "nothing was flushed meanwhile"


def test_the_control_notices_a_reader_that_is_late(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Store, "read_view", Store.read_view)
    MISTAKES["read_what_was_read_a_moment_ago"]()
    readings = _read(tmp_path / "data", reads=100_000, until_noticed=True)
    assert readings.problems
