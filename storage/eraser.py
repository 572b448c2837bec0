"""Erasing users for good: a chore that takes each recorded erasure from phase to phase until nothing is left.

    recorded → rejects → flushing → rewriting → waiting → sweeping → cleaning → done

Every phase looks at what is there and does what is left to do, so that each may end at any point and begin again: what
was done is found done. Which phase an erasure is in is in the journal's database, and all its work is idempotent.

Nothing brings an erased row back. Once the journal is trimmed past the erasure, no flush has such a row in its hands:
a batch that was read before the erasure is committed before, or refused for its watermark. Whoever writes files anew
from ones that hold such rows meets a conflict, since the erasure has removed these from the table.
"""

from __future__ import annotations

import datetime
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import pyarrow as pa

from storage.data_files import DataFile, WrittenFile, remove_unreferenced
from storage.durable_files import make_names_durable
from storage.erased_rows import ErasedRows
from storage.erasure_files import count_erased, write_without
from storage.erasure_records import (
    Erasure,
    Phase,
    count_up,
    enter_phase,
    erased_by,
    insert_erasure,
    pending_erasures,
    read_erasure,
    require_version,
    set_files_total,
)
from storage.errors import CommitRefused, RewriteConflict
from storage.journal import Journal
from storage.lake import Lake
from storage.latch import Latch
from storage.maintenance.durability import make_durable
from storage.maintenance.temp_folder import own_temp_folder
from storage.paths import StorePaths
from storage.rejects_erasure import erase_from_rejects, erase_letters, remove_unreferenced_rejects
from storage.shortcut_upkeep import forget_files, forget_rows
from storage.write_guard import nobody_writes, writing_files

_FILES_PER_COMMIT: Final = 64
_BYTES_PER_COMMIT: Final = 256 * 1024 * 1024
_WRITERS_TIMEOUT_S: Final = 10.0
# How long the other chores wait at the most, beside the step at hand.
_RUN_S: Final = 2.0

_log = logging.getLogger("actionlake.erasure")


def request_erasure(journal: Journal, user_id: str, *, now_us: int, forget_user: Callable[[str], None]) -> Erasure:
    """Record an erasure, and remove at once what needs no rewriting; any process of the store may do this.

    From here on no reader shows the user's rows up to this moment. What could not be removed at once is tried again by
    the `Eraser`, which does the rest.

    Raises:
        DiskFull: it is not recorded.
        StoreFailed: the store is latched.
    """
    with journal.writing() as execute:
        made = insert_erasure(execute, user_id, now_us)
    try:
        _forget(journal, made, now_us=now_us, forget_user=forget_user)
    except Exception as error:  # noqa: BLE001 - it is recorded, so that the Eraser tries again and tells
        # The error's text may hold the id.
        _log.warning("erasure %s: the rest is tried again: %s", made.id, type(error).__name__)
    return made


def _forget(journal: Journal, one: Erasure, *, now_us: int, forget_user: Callable[[str], None]) -> None:
    assert one.user_id is not None, "the id is known until the last phase"
    letters = erase_letters(journal, one.user_id)
    forget_user(one.user_id)
    with journal.writing() as execute:
        count_up(execute, one.id, dead_letters=letters)
        known = read_erasure(execute, one.id)
        # The leader may have done the same meanwhile, and be far beyond it.
        if known is not None and known.phase is Phase.RECORDED:
            enter_phase(execute, [one.id], Phase.REJECTS, now_us)


class Eraser:
    """Does the work of recorded erasures. One at a time in a store; two would only get in each other's way.

    Args:
        paths, journal, latch: of the store.
        lake: a table handle of its own.
        grace_us: how long queries may go on that began on a version before the last rewrite; asked each time, since it
            follows the settings.
        now_us: the clock.
        forget_user: removes what is kept outside of the store's own files, such as the history of queries.
    """

    def __init__(
        self,
        paths: StorePaths,
        journal: Journal,
        lake: Lake,
        latch: Latch,
        *,
        grace_us: Callable[[], int],
        now_us: Callable[[], int],
        forget_user: Callable[[str], None] = lambda _: None,
    ) -> None:
        self._paths = paths
        self._journal = journal
        self._lake = lake
        self._latch = latch
        self._grace_us = grace_us
        self._now_us = now_us
        self._forget_user = forget_user
        # What was found in which file, for one set of erased rows; files never change.
        self._sought = ErasedRows()
        self._counts: dict[str, dict[str, int]] = {}

    def run(self) -> bool:
        """Take all pending erasures further, for a bounded time; return whether there is more to do at once.

        Raises:
            RewriteConflict: another rewrite was first; run again.
            StoreFailed: a sync failed; the latch is set.
            StoreError, OSError: run again later.
        """
        until_s = time.monotonic() + _RUN_S
        while self._step():
            if time.monotonic() > until_s:
                return True
        return False

    def _step(self) -> bool:
        """Take each phase's erasures a step further; return whether there is more to do at once."""
        with self._journal.reading() as execute:
            pending = pending_erasures(execute)
        more = False
        for phase, step in (
            (Phase.RECORDED, self._forget),
            (Phase.REJECTS, self._clear_rejects),
            (Phase.FLUSHING, self._await_flush),
            (Phase.REWRITING, self._rewrite),
            (Phase.WAITING, self._await_readers),
            (Phase.SWEEPING, self._sweep),
            (Phase.CLEANING, self._clean),
        ):
            group = [one for one in pending if one.phase is phase]
            if group:
                more = step(group) or more
        if not pending:
            self._counts = {}
        return more

    def _enter(self, group: Sequence[Erasure], phase: Phase) -> None:
        with self._journal.writing() as execute:
            enter_phase(execute, [one.id for one in group], phase, self._now_us())

    def _forget(self, group: Sequence[Erasure]) -> bool:
        for one in group:
            _forget(self._journal, one, now_us=self._now_us(), forget_user=self._forget_user)
        return True

    def _clear_rejects(self, group: Sequence[Erasure]) -> bool:
        for one in group:
            assert one.user_id is not None, "the id is known until the last phase"
            gone = erase_from_rejects(self._journal, self._paths.rejects, self._latch, one.user_id)
            with self._journal.writing() as execute:
                count_up(execute, one.id, dead_letters=gone)
                enter_phase(execute, [one.id], Phase.FLUSHING, self._now_us())
        return True

    def _await_flush(self, group: Sequence[Erasure]) -> bool:
        state = self._journal.state()
        # A journal that has another id by now, and does not know the erasure's, has no such row.
        cutoffs = {one.id: one.kept_after.get(state.id, 0) for one in group}
        flushed = [one for one in group if cutoffs[one.id] <= state.trimmed_position]
        for one in flushed:
            # The flush may have put a batch of many users aside, which it could not read to leave this one out.
            assert one.user_id is not None, "the id is known until the last phase"
            gone = erase_letters(self._journal, one.user_id, unflushable=True)
            gone += erase_from_rejects(self._journal, self._paths.rejects, self._latch, one.user_id, unflushable=True)
            with self._journal.writing() as execute:
                count_up(execute, one.id, dead_letters=gone)
                enter_phase(execute, [one.id], Phase.REWRITING, self._now_us())
        wanted = max(cutoffs.values())
        if wanted > max(state.trimmed_position, state.flush_requested_position):
            self._journal.request_flush(wanted)
        return bool(flushed)

    # Files of the table

    def _rewrite(self, group: Sequence[Erasure]) -> bool:
        """Rewrite some of the files that hold erased rows; if there are none, have readers use this version."""
        erased = erased_by(group)
        snapshot = self._lake.reload(self._journal.state().id)
        found = [(one, counts) for one in snapshot.files if (counts := self._count(one.path, erased))]
        if not found:
            make_durable(self._lake, self._journal, self._latch, snapshot.version)
            with self._journal.writing() as execute:
                require_version(execute, snapshot.version)
                enter_phase(execute, [one.id for one in group], Phase.WAITING, self._now_us())
            return self._grace_us() == 0
        batch = found[:1]
        size = batch[0][0].size_bytes
        for file, counts in found[1:_FILES_PER_COMMIT]:
            size += file.size_bytes
            if size > _BYTES_PER_COMMIT:
                break
            batch.append((file, counts))
        with self._journal.writing() as execute:
            _note_left(execute, group, [counts for _, counts in found])
        self._replace([file for file, _ in batch], erased)
        with self._journal.writing() as execute:
            _note_done(execute, group, [counts for _, counts in batch])
        return True

    def _count(self, path: str, erased: ErasedRows) -> dict[str, int]:
        if erased != self._sought:
            self._sought, self._counts = erased, {}
        counts = self._counts.get(path)
        if counts is None:
            counts = self._counts[path] = count_erased(path, erased)
        return counts

    def _replace(self, files: Sequence[DataFile], erased: ErasedRows) -> None:
        """Take *files* out of the table, and put what is left of them in their place."""
        written: list[WrittenFile] = []
        with writing_files(self._lake.folder):
            try:
                for one in files:
                    made = write_without(one, erased, self._lake.folder)
                    if made is not None:
                        written.append(made)
            except BaseException:
                remove_unreferenced(written, self._lake.folder)
                raise
            try:
                version = self._lake.rewrite(files, written, data_change=True)
            except (RewriteConflict, CommitRefused):
                # These say that nothing was committed; any other error does not.
                remove_unreferenced(written, self._lake.folder)
                raise
        make_durable(self._lake, self._journal, self._latch, version)
        forget_files(self._paths, files)

    def _await_readers(self, group: Sequence[Erasure]) -> bool:
        now_us, grace_us = self._now_us(), self._grace_us()
        over = [one for one in group if now_us - one.phase_since_us >= grace_us]
        if over:
            self._enter(over, Phase.SWEEPING)
        return bool(over)

    # Files on disk

    def _sweep(self, group: Sequence[Erasure]) -> bool:
        """Remove every file from the disk that is not in the table and holds erased rows, whoever left it there.

        What takes long is done while others write: files never change, so that what was found in one is known, and only
        the last look and the removal itself keep flushes waiting.
        """
        erased = erased_by(group)
        # What a crash kept from being forgotten when the files left the table.
        forget_files(self._paths, [_data_file(path) for path in self._find_doomed(erased)])
        with nobody_writes(self._lake.folder, timeout_s=_WRITERS_TIMEOUT_S) as alone:
            if not alone:
                return False
            removed = self._find_doomed(erased)
            for path in removed:
                path.unlink(missing_ok=True)
        # By what they hold, since no name leads from what was removed to the runs that were made of it.
        forget_rows(self._paths, erased, self._lake.snapshot(self._journal.state().id).files)
        # Made and removed again, which also removes what a compaction that died has spilled.
        with own_temp_folder(self._paths.compaction_temp):
            pass
        if not remove_unreferenced_rejects(self._paths.rejects, older_than_s=self._grace_us() / 1_000_000):
            return False
        self._make_removals_durable()
        with self._journal.writing() as execute:
            for one in group:
                count_up(execute, one.id, old_files=len(removed))
            enter_phase(execute, [one.id for one in group], Phase.CLEANING, self._now_us())
        return True

    def _find_doomed(self, erased: ErasedRows) -> list[Path]:
        """Find what has to go, which includes what somebody is writing just now, unless nobody is."""
        live = {one.path for one in self._lake.reload(self._journal.state().id).files}
        there = sorted(self._lake.folder.glob("date=*/type=*/*"))
        return [path for path in there if str(path) not in live and _is_doomed(path, erased, self._count)]

    def _make_removals_durable(self) -> None:
        """Sync every folder that a data file or a copy can have been removed from.

        Not only those of the files that this sweep removed: one that died before its sync, a vacuum, or a compaction
        that was too late may have removed the others, and none of them has left a sign of it.
        """
        table, rejects = self._lake.folder, self._paths.rejects
        caches = (self._paths.history, self._paths.user_filters.parent)
        make_names_durable(
            [*table.glob("date=*/type=*"), *table.glob("date=*"), table, *rejects.glob("date=*"), rejects, *caches]
        )

    # The journal's own files

    def _clean(self, group: Sequence[Erasure]) -> bool:
        """Leave nothing behind in free pages and in the write-ahead log; the record has lost the id before."""
        if not self._journal.scrub():
            return False
        self._enter(group, Phase.DONE)
        for one in group:
            _log.info("erasure %s is done: rows=%d files=%d", one.id, one.rows, one.files_done)
        return False


def _is_doomed(path: Path, erased: ErasedRows, count: Callable[[str, ErasedRows], Mapping[str, int]]) -> bool:
    """Tell whether a file that is in no version, and that nobody is writing, has to go."""
    try:
        return bool(count(str(path), erased))
    except FileNotFoundError:
        return False
    except (pa.ArrowException, OSError, ValueError):
        # What a crash left unfinished: nobody can tell what it holds, and nobody can read it.
        return True


def _data_file(path: Path) -> DataFile:
    """What the caches know a data file by."""
    date = datetime.date.fromisoformat(path.parent.parent.name.removeprefix("date="))
    return DataFile(str(path), 0, 0, date, path.parent.name.removeprefix("type="), 0, 0)


def _note_left(execute: Callable[..., Any], group: Sequence[Erasure], found: Sequence[Mapping[str, int]]) -> None:
    """Note how many of the files that were *found* each erasure is about."""
    for one in group:
        set_files_total(execute, one.id, sum(1 for counts in found if one.user_id in counts))


def _note_done(execute: Callable[..., Any], group: Sequence[Erasure], done: Sequence[Mapping[str, int]]) -> None:
    """Count the files that were rewritten, and the rows that they lost; of two erasures of one user to the first."""
    counted: set[str | None] = set()
    for one in group:
        mine = [rows for counts in done for user, rows in counts.items() if user == one.user_id]
        count_up(execute, one.id, files_done=len(mine), rows=0 if one.user_id in counted else sum(mine))
        counted.add(one.user_id)
