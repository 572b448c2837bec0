"""`backup`: a copy of a store, of one instant, while a service goes on with it.

What is stored is lake(V) plus the journal's rows above the W of that same V (`storage.store`). So the journal is
copied first, in one read transaction, with trimmed position T and head H, and then the version V that it says is
durable. Whatever was committed up to V was decided before that moment, so that T <= W(V) <= H, and the copied journal
has all that belongs to it. A later version may not be taken, even with W within these bounds: a row that was put aside
as unflushable meanwhile would be neither in its files nor, above W, in the journal, and a reject that was replayed
meanwhile would be marked so without its actions. The backup is exactly what was acknowledged when its journal was
copied.

Data files never change. Those of V stay until the vacuum's grace is over; should one be gone all the same, the backup
begins anew. An erasure that comes in between names the backup as not covered, like any other that was begun before it
was done. A file that an earlier backup below the same destination has is
linked instead of copied.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pyarrow as pa
import pyarrow.parquet as pq

from storage.backup_records import (
    UNFINISHED,
    Manifest,
    finished_backups,
    folder_name,
    record_backup,
    record_removal,
    unfinished_backups,
)
from storage.clock import system_now_us
from storage.dead_letters import read_rejects_state
from storage.durable_files import fsync_path, make_durable_folder
from storage.errors import CorruptData, InvalidInput, StoreFailed
from storage.journal import Journal
from storage.locks import FileLock
from storage.log_replay import LoggedFile, LogState, checkpoint_files, read_log
from storage.paths import StorePaths
from storage.rejects_table import app_id

_ATTEMPTS: Final = 5
# What file systems answer that have no links, or not that many, or not from there.
_NO_LINK: Final = (errno.EPERM, errno.EOPNOTSUPP, errno.EMLINK, errno.EXDEV, errno.ENOSYS)


@dataclass(frozen=True, slots=True)
class BackupResult:
    """What a backup did.

    Attributes:
        path: its folder.
        manifest: what it holds.
        copied: how many data files were copied; the others an earlier backup had.
        copied_bytes: of those.
        removed: earlier backups that were removed.
    """

    path: Path
    manifest: Manifest
    copied: int
    copied_bytes: int
    removed: tuple[Path, ...]


class _MovedOn(Exception):
    """The store has moved on in a way that the copy cannot be finished: begin anew."""


def back_up(paths: StorePaths, destination: Path, *, keep: int | None) -> BackupResult:
    """Make a backup of a store below *destination*, whether or not a service holds the store.

    A backup that is interrupted leaves a folder that `restore` does not take; the next one removes it.

    Args:
        paths: of the store.
        destination: a folder, made if there is none; every backup is a folder of its own below it.
        keep: how many finished backups to leave there, the new one among them; None for all.

    Raises:
        FileNotFoundError: there is no store.
        InvalidInput: the destination lies inside the store, or the other way round.
        StoreLocked: another backup to the destination is under way.
        CorruptData: the store is damaged.
        StoreFailed: the store moved on faster than it could be copied.
        OSError: the destination could not be written.
    """
    _require_apart(paths, destination)
    if not paths.journal.exists():
        raise FileNotFoundError(f"there is no store in {paths.data}: {paths.journal} does not exist")
    make_durable_folder(destination)
    with FileLock(destination / "backup.lock") as lock:
        lock.acquire(f"pid {os.getpid()}, backing up {paths.data}")
        for leftover in unfinished_backups(destination):
            shutil.rmtree(leftover)
        for _ in range(_ATTEMPTS):
            with contextlib.suppress(_MovedOn):
                return _back_up(paths, destination, keep)
    raise StoreFailed(f"{paths.data} changed faster than it could be copied to {destination}; try again later")


def superseded(destination: Path, keep: int | None) -> list[Path]:
    """The finished backups that a new one will replace."""
    earlier = finished_backups(destination)
    return [] if keep is None else earlier[: max(0, len(earlier) + 1 - keep)]


def _back_up(paths: StorePaths, destination: Path, keep: int | None) -> BackupResult:
    begun_at_us = system_now_us()
    final = destination / folder_name(begun_at_us, destination)
    target = final.with_name(final.name + UNFINISHED)
    record_backup(paths, final, begun_at_us)
    earlier = finished_backups(destination)
    if target.exists():
        shutil.rmtree(target)
    target.mkdir()
    copy = _Copy(StorePaths.of(target), earlier[-1] if earlier else None)
    manifest = copy.make(paths, begun_at_us)
    _fsync_folders(target)
    manifest.write(target)
    fsync_path(target)
    target.rename(final)
    fsync_path(destination)
    removed = superseded(destination, keep + 1) if keep is not None else []
    for old in removed:
        # Until it is gone it must not look finished.
        doomed = old.with_name(old.name + UNFINISHED)
        old.rename(doomed)
        fsync_path(destination)
        shutil.rmtree(doomed)
        record_removal(paths, old)
    return BackupResult(final, manifest, copy.copied, copy.copied_bytes, tuple(removed))


class _Copy:
    """A backup in the making."""

    def __init__(self, target: StorePaths, earlier: Path | None) -> None:
        self._target = target
        self._earlier = earlier
        self.copied = 0
        self.copied_bytes = 0

    def make(self, paths: StorePaths, begun_at_us: int) -> Manifest:
        """Copy everything.

        Raises:
            _MovedOn: the store has moved on in between.
        """
        source = Journal(paths.journal, None)
        try:
            source.copy_to(self._target.journal)
        finally:
            source.close()
        journal = Journal(self._target.journal, None)
        try:
            broken = journal.integrity_problems()
            if broken:
                raise CorruptData(f"the journal {paths.journal} is damaged: {broken[0]}; restore it from a backup")
            state = journal.state()
            with journal.reading() as execute:
                rejects = read_rejects_state(execute)
                head: int = execute(
                    "SELECT ifnull((SELECT seq FROM sqlite_sequence WHERE name = 'dead_letters'), 0)"
                ).fetchone()[0]
        finally:
            journal.close()
        table = _read_version(
            paths.table,
            max(0, state.durable_version, state.lake_version_min),
            state.id,
            trimmed=state.trimmed_position,
            head=state.head,
        )
        # Marks of the rejects are in the journal until a version that is durable has them.
        rejects_table = _read_version(
            paths.rejects,
            max(rejects.durable_version, rejects.version_min),
            app_id(rejects.source),
            trimmed=rejects.moved_through,
            head=head,
        )
        for folder, into, log in (
            (paths.table, self._target.table, table),
            (paths.rejects, self._target.rejects, rejects_table),
        ):
            if log.version >= 0:
                self._copy_table(folder, into, log)
        for secret in (paths.keys, paths.keys_master):
            if secret.exists():
                _copy_file(secret, self._target.state / secret.name, mode=0o600)
        files = [*table.files.values(), *rejects_table.files.values()]
        return Manifest(
            begun_at_us=begun_at_us,
            finished_at_us=system_now_us(),
            journal=state.id,
            head=state.head,
            version=table.version,
            watermark=table.watermarks.get(state.id, 0),
            rejects_version=rejects_table.version,
            files=len(files),
            rows=sum(one.rows for one in files),
            bytes=sum(one.size_bytes for one in files),
        )

    def _copy_table(self, folder: Path, into: Path, log: LogState) -> None:
        into.mkdir()
        (into / "_delta_log").mkdir()
        for one in log.files.values():
            self._copy_data_file(folder, into, one)
        first = max(log.checkpoint or 0, 0)
        names = [f"{version:020d}.json" for version in range(first, log.version + 1)]
        if log.checkpoint is not None:
            names += [path.name for path in checkpoint_files(folder / "_delta_log").get(log.checkpoint, [])]
        for name in names:
            try:
                _copy_file(folder / "_delta_log" / name, into / "_delta_log" / name)
            except FileNotFoundError as error:
                # The entry that a checkpoint was made at may be cleaned up; any other is needed.
                if name != f"{log.checkpoint or -1:020d}.json":
                    raise _MovedOn(name) from error
        copied = read_log(into)
        if copied.problems or copied.files.keys() != log.files.keys() or copied.version != log.version:
            raise CorruptData(f"the log of {folder} was not copied whole to {into}: {copied.problems}")

    def _copy_data_file(self, folder: Path, into: Path, one: LoggedFile) -> None:
        path = into / one.path
        path.parent.mkdir(parents=True, exist_ok=True)
        known = self._earlier / into.name / one.path if self._earlier is not None else None
        if known is not None and _is_whole(known, one) and _link(known, path):
            return
        try:
            _copy_file(folder / one.path, path)
        except FileNotFoundError as error:
            raise _MovedOn(one.path) from error
        if not _is_whole(path, one):
            raise CorruptData(
                f"{folder / one.path} is damaged: it has not the {one.size_bytes} bytes and {one.rows} rows that the"
                " table's log says (actionlake verify tells more)"
            )
        self.copied += 1
        self.copied_bytes += one.size_bytes


def _read_version(table: Path, version: int, journal: str, *, trimmed: int, head: int) -> LogState:
    """Read a version of a table, -1 for none, that a journal with this trimmed position and head says is durable.

    Raises:
        _MovedOn: its log was cleaned up meanwhile.
        CorruptData: it does not belong to that journal.
    """
    if version < 0:
        return LogState()
    log = read_log(table, through=version)
    if log.problems or log.version < version:
        if read_log(table).checkpoint not in (None, log.checkpoint):
            raise _MovedOn("the log was cleaned up")
        path, what = log.problems[0] if log.problems else (table, f"ends before version {version}")
        raise CorruptData(f"{path} {what}: start the service, which repairs what a crash leaves, or restore")
    watermark = log.watermarks.get(journal, 0)
    if not trimmed <= watermark <= head:
        raise CorruptData(
            f"version {version} of the table in {table} ends at position {watermark}, and the journal holds what comes"
            f" after {trimmed} up to {head}: they do not belong together (actionlake verify tells more)"
        )
    return log


def _copy_file(source: Path, target: Path, *, mode: int = 0o644) -> None:
    with source.open("rb") as reader:
        descriptor = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
        with os.fdopen(descriptor, "wb") as writer:
            shutil.copyfileobj(reader, writer, 1 << 20)
            writer.flush()
            os.fsync(writer.fileno())


def _is_whole(path: Path, one: LoggedFile) -> bool:
    try:
        return path.stat().st_size == one.size_bytes and pq.read_metadata(path).num_rows == one.rows
    except (OSError, pa.ArrowException):
        return False


def _link(known: Path, path: Path) -> bool:
    try:
        os.link(known, path)
    except OSError as error:
        if error.errno not in _NO_LINK:
            raise
        return False
    return True


def _fsync_folders(top: Path) -> None:
    for folder, _, _ in os.walk(top):
        fsync_path(Path(folder))


def _require_apart(paths: StorePaths, destination: Path) -> None:
    there = destination.resolve()
    for folder in (paths.data.resolve(), paths.state.resolve()):
        if there.is_relative_to(folder) or folder.is_relative_to(there):
            raise InvalidInput(f"{destination} and {folder} lie inside one another; choose a folder elsewhere")
