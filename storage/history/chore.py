"""Having runs made, merged and removed in the background, one step at a time."""

from __future__ import annotations

import logging
import os
import shutil
import subprocess
import sys
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

import msgspec
import pyarrow as pa

from storage.data_files import DataFile
from storage.durable_files import fsync_path, make_durable_folder
from storage.history.building import FileSource, Job, RunSource
from storage.history.coverage import base_name
from storage.history.manifest import BUILDING_PREFIX, DAMAGED, Run, read_manifest, run_folders
from storage.history.planning import Build, Merge, Remove, Room, Step, plan_step
from storage.lake import Snapshot
from storage.locks import FileLock
from storage.paths import StorePaths
from storage.shortcuts import ShortcutLimits

# This share of the disk is never used for copies.
_DISK_FREE_SHARE_MIN: Final = 0.1
_ERROR_CHARACTERS_MAX: Final = 2000
# The disk may have room by then that it had not.
_LOOK_AGAIN_S: Final = 60.0
_ERRORS: Final = "errors.txt"
_SOURCE_FOLDER: Final = Path(__file__).resolve().parents[2]

_log = logging.getLogger("actionlake.history")


class BuildFailed(Exception):
    """The process that makes a run ended with an error; it is tried again."""


class Building(Protocol):
    """A job under way, as a process is."""

    @property
    def returncode(self) -> int | None:
        """0 after success, something else after a failure, None meanwhile."""

    def poll(self) -> int | None:
        """Look whether it has ended."""

    def kill(self) -> None:
        """End it."""

    def wait(self) -> int:
        """Wait until it has ended."""


@dataclass(slots=True)
class _UnderWay:
    step: Build | Merge
    id: str
    folder: Path
    process: Building


@dataclass(frozen=True, slots=True)
class _Idle:
    """Nothing was to be done: of which version, runs and columns that is known, and until when it stays so."""

    state: tuple[int, tuple[int, ...], list[str]]
    until_s: float


class HistoryChore:
    """Plans a step, has a process do it, and publishes what it made. For one thread; `stop` may come from another."""

    def __init__(
        self,
        paths: StorePaths,
        limits: ShortcutLimits,
        snapshot: Callable[[], Snapshot],
        columns: Callable[[], pa.Schema],
        *,
        start: Callable[[Job], Building] | None = None,
    ) -> None:
        """Set up.

        Args:
            paths: of the store.
            limits: to be kept.
            snapshot: loads the newest snapshot.
            columns: the columns of data files as they are now.
            start: begins a job; in a process of its own unless given.
        """
        self._paths = paths
        self._limits = limits
        self._snapshot = snapshot
        self._columns = columns
        self._start_job = start or start_process
        self._under_way: _UnderWay | None = None
        self._cleaned = False
        self._idle: _Idle | None = None
        self._rests_at_s = 0.0

    @property
    def busy(self) -> bool:
        """Whether a run is being made."""
        return self._under_way is not None

    def run(self) -> bool:
        """Look at what is under way, or begin the next step; return whether to look again at once.

        Raises:
            BuildFailed: a run could not be made.
            OSError: something could not be written.
        """
        if self._under_way is not None:
            if self._under_way.process.poll() is None:
                return False
            return self._finish(self._under_way)
        lock = FileLock(self._paths.cache_lock)
        if not lock.try_acquire(f"pid {os.getpid()}, history"):
            return False
        with lock:
            if not self._cleaned:
                remove_unfinished(self._paths.history)
                self._cleaned = True
            return self._begin()

    def stop(self) -> None:
        """End what is under way; what it made so far is removed at the next start."""
        if self._under_way is not None:
            self._under_way.process.kill()
            self._under_way.process.wait()

    def _begin(self) -> bool:
        snapshot = self._snapshot()
        now_s = time.time()
        state = (snapshot.version, _changes_of(self._paths.history), self._columns().names)
        if self._idle is not None and self._idle.state == state and now_s < self._idle.until_s:
            return False
        self._idle, self._rests_at_s = None, now_s + _LOOK_AGAIN_S
        runs = checked_runs(self._paths.history)
        step = plan_step(
            snapshot.files,
            runs,
            columns=self._columns().names,
            rested=lambda one: self._rested(one, now_s),
            room=self._room(snapshot),
        )
        match step:
            case None:
                self._idle = _Idle(state, self._rests_at_s)
                return False
            case Remove(ids):
                for id_ in ids:
                    _log.info("removing run %s: nothing of it counts any more", id_)
                    remove_run(self._paths.history, id_)
                return True
            case _:
                self._start(step)
                return False

    def _rested(self, one: DataFile, now_s: float) -> bool:
        try:
            rests_at_s = os.stat(one.path).st_mtime + self._limits.history_rest_s
        except OSError:
            return False
        if rests_at_s > now_s:
            self._rests_at_s = min(self._rests_at_s, rests_at_s)
        return rests_at_s <= now_s

    def _room(self, snapshot: Snapshot) -> Room:
        table_bytes = sum(one.size_bytes for one in snapshot.files)
        disk = os.statvfs(self._paths.state)
        free = (disk.f_bavail - int(disk.f_blocks * _DISK_FREE_SHARE_MIN)) * disk.f_frsize
        return Room(int(table_bytes * self._limits.history_bytes_share_max), max(0, free))

    def _start(self, step: Build | Merge) -> None:
        history = self._paths.history
        id_ = uuid.uuid4().hex
        folder = history / f"{BUILDING_PREFIX}{id_}"
        make_durable_folder(folder)
        history.chmod(0o700)
        sources: list[FileSource | RunSource]
        if isinstance(step, Build):
            sources = [FileSource(one.path, one.date.isoformat(), one.type, one.rows) for one in step.files]
        else:
            sources = [RunSource(str(history / use.run.id), use.used, tuple(sorted(use.excluded))) for use in step.uses]
        job = Job(str(folder), id_, self._columns().serialize().to_pybytes(), tuple(sources))
        process = self._start_job(job)
        self._under_way = _UnderWay(step, id_, folder, process)

    def _finish(self, done: _UnderWay) -> bool:
        lock = FileLock(self._paths.cache_lock)
        if not lock.try_acquire(f"pid {os.getpid()}, history"):
            return False
        with lock:
            self._under_way = None
            try:
                return self._publish(done)
            finally:
                shutil.rmtree(done.folder, ignore_errors=True)

    def _publish(self, done: _UnderWay) -> bool:
        """Let a run that was made be read, if what it is from is still there."""
        if done.process.returncode != 0:
            errors = done.folder / _ERRORS
            said = errors.read_text(errors="replace")[-_ERROR_CHARACTERS_MAX:] if errors.exists() else "interrupted"
            if _sources_gone(done.step, self._paths.history):
                return True
            raise BuildFailed(f"a copy of the history could not be made (exit code {done.process.returncode}): {said}")
        live = {base_name(one) for one in self._snapshot().files}
        (done.folder / _ERRORS).unlink(missing_ok=True)
        renamed = done.folder.with_name(done.id)
        if isinstance(done.step, Build):
            if not all(base_name(one) in live for one in done.step.files):
                return True
        elif not all((self._paths.history / use.run.id).exists() for use in done.step.uses):
            return True
        os.rename(done.folder, renamed)
        fsync_path(self._paths.history)
        run = read_manifest(renamed)
        if run is None:
            raise BuildFailed(f"{renamed} does not check")
        if isinstance(done.step, Merge):
            for use in done.step.uses:
                remove_run(self._paths.history, use.run.id)
        _log.info("history run %s rows=%d bytes=%d files=%d", run.id, run.rows, run.size_bytes, len(run.parts))
        return True


def start_process(job: Job) -> Building:
    """Have a job done by a process of its own, whose errors are in its folder.

    Raises:
        OSError: it cannot be started.
    """
    # The child runs the very code that its parent runs, whatever folder that was started in.
    path = os.pathsep.join(filter(None, [str(_SOURCE_FOLDER), os.environ.get("PYTHONPATH")]))
    with open(Path(job.folder) / _ERRORS, "wb") as errors:
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", "storage.history.building"],
            env={**os.environ, "PYTHONPATH": path},
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=errors,
        )
    assert process.stdin is not None
    process.stdin.write(msgspec.json.encode(job))
    process.stdin.close()
    return process


def _sources_gone(step: Step, history: Path) -> bool:
    match step:
        case Build(files):
            return not all(Path(one.path).exists() for one in files)
        case Merge(uses):
            return not all((history / use.run.id).exists() for use in uses)
        case _:
            return False


def _changes_of(history: Path) -> tuple[int, ...]:
    """When the runs were last changed, marked as damaged for one: a few looks, where all else takes one a file."""
    return tuple(folder.stat().st_mtime_ns for folder in run_folders(history))


def checked_runs(history: Path) -> list[Run]:
    """All runs that check; the others are removed. Only for the holder of the cache's lock.

    Raises:
        OSError: one cannot be removed.
    """
    runs = []
    for folder in run_folders(history):
        run = read_manifest(folder)
        if run is not None and not (folder / DAMAGED).exists() and _parts_are_there(folder, run):
            runs.append(run)
        else:
            _log.warning("removing run %s, which is damaged; its rows are copied again", folder.name)
            remove_run(history, folder.name)
    return runs


def _parts_are_there(folder: Path, run: Run) -> bool:
    for part in run.parts:
        if part is not None:
            try:
                if (folder / part.name).stat().st_size != part.size_bytes:
                    return False
            except OSError:
                return False
    return True


def remove_run(history: Path, id_: str) -> None:
    """Remove a run; a reader that is about to open it reads elsewhere."""
    folder = history / id_
    (folder / "manifest.json").unlink(missing_ok=True)
    shutil.rmtree(folder, ignore_errors=True)
    fsync_path(history)


def forget_sources(history: Path, files: frozenset[str] | set[str]) -> None:
    """Remove all that was made from these data files, named without their folder. Only for the holder of the lock."""
    remove_unfinished(history)
    for folder in run_folders(history):
        run = read_manifest(folder)
        if run is None or any(name in files for source in run.sources for name in source.files):
            remove_run(history, folder.name)


def remove_unfinished(history: Path) -> None:
    """Remove what was being made when a process ended."""
    for folder in history.glob(f"{BUILDING_PREFIX}*"):
        shutil.rmtree(folder, ignore_errors=True)
