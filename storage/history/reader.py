"""The runs of a store as one process reads them."""

from __future__ import annotations

import contextlib
import logging
import threading
from pathlib import Path
from typing import Final

import pyarrow as pa

from storage.history.coverage import Coverage, RunUse, cover
from storage.history.manifest import DAMAGED, Run, read_manifest, run_folders
from storage.history.packed import CopyDamaged
from storage.history.reading import FooterCache, Found, Wanted, read_user
from storage.lake import Snapshot

_FOOTERS_BYTES_MAX: Final = 128 << 20
_COVERAGES_KEPT: Final = 4

_log = logging.getLogger("actionlake.history")


class RunUnreadable(Exception):
    """A run cannot be used any more; ask for the coverage again."""


class HistoryReader:
    """Finds out which runs there are, and reads from them. Methods may be called from any thread."""

    def __init__(self, history: Path) -> None:
        self._history = history
        self._lock = threading.Lock()
        self._footers = FooterCache(_FOOTERS_BYTES_MAX)
        self._seen_ns = -1
        self._runs: dict[str, Run] = {}
        self._given_up: set[str] = set()
        self._covered: dict[frozenset[str], tuple[Snapshot, Coverage]] = {}

    def coverage(self, snapshot: Snapshot, columns: frozenset[str]) -> Coverage:
        """Return what is to be read of runs and what directly; costs a look at the folder if nothing has changed.

        Args:
            snapshot: that is read.
            columns: that a run must have to be used. A data file without a column is known to have no value in it; a
                run without it may be older than the column.
        """
        with self._lock:
            try:
                changed_ns = self._history.stat().st_mtime_ns
            except OSError:
                changed_ns = 0
            if changed_ns != self._seen_ns:
                self._seen_ns = changed_ns
                self._load()
            known = self._covered.get(columns)
            if known is None or known[0] is not snapshot:
                known = (snapshot, cover(snapshot.files, self._usable(columns)))
                self._covered = {**dict(list(self._covered.items())[-_COVERAGES_KEPT + 1 :]), columns: known}
            return known[1]

    @property
    def runs(self) -> tuple[Run, ...]:
        """The runs that there were at the last look."""
        with self._lock:
            return tuple(self._runs.values())

    @property
    def footers_bytes(self) -> int:
        """About what the footers that are remembered take in memory."""
        return self._footers.kept_bytes

    def _usable(self, columns: frozenset[str]) -> list[Run]:
        needed = columns - {"date"}
        return [run for run in self._runs.values() if run.id not in self._given_up and needed <= set(run.columns)]

    def _load(self) -> None:
        known = self._runs
        found = [known.get(folder.name) or read_manifest(folder) for folder in run_folders(self._history)]
        self._runs = {run.id: run for run in found if run is not None}
        self._given_up &= set(self._runs)
        self._covered = {}

    def read(self, use: RunUse, wanted: Wanted) -> Found:
        """Read what a run holds of a user.

        Raises:
            RunUnreadable: the run is gone or damaged, and will not be in the next coverage.
        """
        try:
            return read_user(self._history, use, wanted, self._footers)
        except (CopyDamaged, OSError, pa.ArrowException) as error:
            self._give_up(use.run.id, error)
            raise RunUnreadable(use.run.id) from error

    def _give_up(self, id_: str, error: Exception) -> None:
        folder = self._history / id_
        if folder.exists():
            _log.warning("the history's run %s is damaged and not used: %s", id_, error)
            with contextlib.suppress(OSError):
                # Tells the process that makes copies, which removes it and makes another.
                (folder / DAMAGED).touch()
        with self._lock:
            self._given_up.add(id_)
            self._covered = {}
            self._seen_ns = -1
