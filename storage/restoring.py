"""`restore`: a store from a backup, in an empty folder.

The journal always gets a new id. The original may be alive, or come back, and must never be taken for its copy: their
positions part ways from the backup on. The table's version of the backup has all rows of the old id up to its
watermark W; a commit gives the new id that same watermark, and the journal keeps its rows above W under it. What is
stored is what was stored, each once.

Idempotency keys are kept: a request that the backup has is still known when it is repeated, and one that it lacks is
not, since a backup holds the keys of exactly its own rows. Dead letters and rejects are kept as they are. API keys are
left out unless asked for, since one that was revoked after the backup would be valid again.
"""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from storage.backup_records import Manifest, finished_backups, unfinished_backups
from storage.durable_files import fsync_path, make_durable_folder
from storage.erasure_records import keep_after_new_id
from storage.errors import CorruptData, InvalidInput
from storage.journal import Journal
from storage.journal_file import new_journal_id
from storage.lake import Lake
from storage.latch import Latch
from storage.locks import FileLock
from storage.paths import StorePaths
from storage.schema import ActionSchema
from storage.verification import VerifyReport, verify


@dataclass(frozen=True, slots=True)
class RestoreResult:
    """What a restore did: from which backup, what `verify` says, and a later backup that was interrupted.

    The report's problems are rows of the journal that do not decode: the first flush puts them aside, as that of the
    original would have.
    """

    backup: Path
    manifest: Manifest
    report: VerifyReport
    interrupted: Path | None


def restore(source: Path, paths: StorePaths, schema: ActionSchema, *, with_keys: bool) -> RestoreResult:
    """Make a store out of a backup.

    A restore that is interrupted leaves a folder that no service opens.

    Args:
        source: one backup, or the folder that holds several: then the newest that is finished.
        paths: of the new store; its folders must be empty or not be there.
        schema: the columns.
        with_keys: restore API keys too.

    Raises:
        InvalidInput: there is no finished backup, or a folder is not empty.
        CorruptData: the backup is damaged.
        StoreFailed: the disk does not take writes.
    """
    backup, interrupted = _choose(source)
    manifest = Manifest.read(backup)
    for folder in {paths.data, paths.state}:
        if folder.exists() and any(folder.iterdir()):
            raise InvalidInput(f"{folder} is not empty; restore into an empty folder")
        make_durable_folder(folder)
    with FileLock(paths.service_lock) as lock:
        lock.acquire(f"pid {os.getpid()}, restoring")
        paths.unfinished_restore.write_text(f"from {backup}\n", encoding="utf-8")
        fsync_path(paths.unfinished_restore)
        fsync_path(paths.state)
        _copy(backup, paths, with_keys=with_keys)
        _give_new_id(paths, schema, manifest)
        report = verify(paths, schema, deep=False)
        fatal = [one for one in report.problems if not one.is_put_aside]
        if fatal:
            raise CorruptData(f"the backup {backup} is damaged: {fatal[0]}")
        paths.unfinished_restore.unlink()
        fsync_path(paths.state)
    return RestoreResult(backup, manifest, report, interrupted)


def _choose(source: Path) -> tuple[Path, Path | None]:
    """Find the newest finished backup, and one after it that was interrupted."""
    backups = [source] if (source / "backup.json").exists() else finished_backups(source)
    interrupted = unfinished_backups(source)
    if not backups:
        what = f"; {interrupted[-1].name} was interrupted" if interrupted else ""
        raise InvalidInput(f"there is no finished backup in {source}{what}")
    later = interrupted[-1] if interrupted and interrupted[-1].name > backups[-1].name else None
    return backups[-1], later


def _copy(backup: Path, paths: StorePaths, *, with_keys: bool) -> None:
    of_backup = StorePaths.of(backup)
    for table, into in ((of_backup.table, paths.table), (of_backup.rejects, paths.rejects)):
        if table.exists():
            shutil.copytree(table, into, copy_function=_copy_file)
            for folder, _, _ in os.walk(into):
                fsync_path(Path(folder))
    _copy_file(of_backup.journal, paths.journal)
    if with_keys:
        for secret, its_path in ((of_backup.keys, paths.keys), (of_backup.keys_master, paths.keys_master)):
            if secret.exists():
                _copy_file(secret, its_path)
                its_path.chmod(0o600)
    for folder_ in {paths.data, paths.state}:
        fsync_path(folder_)


def _copy_file(source: Path | str, target: Path | str) -> None:
    shutil.copyfile(source, target)
    fsync_path(Path(target))


def _give_new_id(paths: StorePaths, schema: ActionSchema, manifest: Manifest) -> None:
    """Name the journal anew, in the table first, and let go of the rows that the table has."""
    Journal.upgrade(paths.journal)
    new = new_journal_id()
    lake = Lake(paths.table, schema)
    version, watermark = lake.version, lake.watermark(manifest.journal)
    if (version, watermark) != (manifest.version, manifest.watermark):
        raise CorruptData(f"the backup's table is at version {version}, its manifest says {manifest.version}")
    if watermark:
        after = lake.append([], journal=new, after=0, watermark=watermark)
        lake.sync(after_version=version, through_version=after)
        version = after
    journal = Journal(paths.journal, Latch(paths.latch))
    try:
        if journal.state().id != manifest.journal:
            raise CorruptData(f"the backup's journal is {journal.state().id}, its manifest says {manifest.journal}")
        journal.trim(watermark, durable_version=version)
        with journal.writing() as execute:
            keep_after_new_id(execute, new)
            execute("UPDATE journal SET id = ?, flush_requested_position = 0", (new,))
    finally:
        journal.close()
