"""What happens before anything else at a start: look at what a crash or a power cut left, and make it right.

The rule of the flush (`storage.flush`) leaves only these states behind:

* Data files that no log entry names: harmless, for the vacuum.
* Log entries above the journal's `durable_version`: committed, perhaps not synced. Whole ones are synced now. From
  the first one that is torn, or that names a file which is not whole, they are removed: their rows are still in the
  journal, which is trimmed only after a version was made durable.
* A checkpoint that is not whole: removed, since every entry that it sums up is still there.
* A first log entry that is not whole, and no journal: the table was being made, and is made again.
* Rows in the journal that the lake has durably: trimmed now. Letters of rows that an older journal took for unflushable
  and the lake has all the same are forgotten (`storage.flushed_letters`).

Anything else is damage that no crash of ours explains, and is reported by name instead of being worked around.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass

from storage.durable_files import make_durable_folder
from storage.errors import CorruptData
from storage.flushed_letters import forget_flushed_letters
from storage.head_mark import noted
from storage.journal import Journal, mark_of
from storage.journal_file import new_journal_id
from storage.journal_records import JournalState
from storage.lake import Lake, Snapshot, newest_version
from storage.latch import Latch
from storage.log_replay import read_log
from storage.paths import StorePaths
from storage.rejects_recovery import recover_rejects
from storage.schema import ActionSchema
from storage.torn_log import (
    Trusted,
    is_torn_creation,
    remove_torn_checkpoints,
    remove_torn_creation,
    remove_torn_entries,
)


@dataclass(frozen=True, slots=True)
class RecoveryReport:
    """What a start found and did; every entry is worth a line in the log.

    Attributes:
        created: the folder was empty and is a store now.
        journal_lost: there was a table with files and no journal; a new one was made.
        journal_rolled_back: the journal was older than the table; it got a new id.
        removed_entries: log entries and checkpoints that were taken away because they were not whole, with the reason.
        trimmed: rows that the lake had already.
        damaged_files: data files that the table names and that are missing or have another size. Everything else is
            served; queries that need one of them fail.
        rejects_lost: the table `rejects` was gone; what the journal's database still holds begins a new one.
    """

    created: bool
    journal_lost: bool
    journal_rolled_back: bool
    removed_entries: tuple[str, ...]
    trimmed: int
    rejects_lost: bool = False
    damaged_files: tuple[str, ...] = ()


def recover(paths: StorePaths, schema: ActionSchema, latch: Latch) -> RecoveryReport:
    """Bring a store into the state that the invariant speaks of; make it if there is none. Clears the latch.

    Only the holder of the service lock may call this.

    Raises:
        CorruptData: damage that a crash does not explain; the message says what and what to do.
        StoreFailed: the disk does not take writes.
    """
    make_durable_folder(paths.data)
    make_durable_folder(paths.state)
    if paths.unfinished_restore.exists():
        raise CorruptData(f"a restore into {paths.data} did not finish: empty the folder and restore again")
    had_journal = paths.journal.exists()
    had_table = newest_version(paths.table) >= 0 and (had_journal or not is_torn_creation(paths.table))
    if had_journal:
        _require_what_was_acknowledged(paths)
        Journal.upgrade(paths.journal)
    if not had_table and had_journal:
        _require_untouched(paths, latch)
    if not had_table:
        remove_torn_creation(paths.table)
        Lake.create(paths.table, schema)
    if not had_journal:
        Journal.create(
            paths.journal,
            durable_version=newest_version(paths.table),
            rejects_durable_version=newest_version(paths.rejects),
        )
    journal = Journal(paths.journal, latch)
    try:
        problems = journal.integrity_problems()
        if problems:
            raise CorruptData(f"the journal {paths.journal} is damaged: {problems[0]}; restore it from a backup")
        state = journal.state()
        removed = remove_torn_checkpoints(paths.table, state.durable_version)
        removed += remove_torn_entries(
            paths.table,
            Trusted(paths.journal, durable_version=state.durable_version, app_id=state.id, head=state.head),
        )
        lake = Lake(paths.table, schema)
        watermark = lake.watermark(state.id)
        rolled_back = state.head < watermark
        if watermark > state.trimmed_position:
            forget_flushed_letters(journal, lake)
        if rolled_back:
            _take_new_id(journal, lake)
        elif watermark < state.trimmed_position:
            raise CorruptData(
                f"the table in {paths.table} is older than the journal {paths.journal}: it ends at position"
                f" {watermark}, the journal was trimmed up to {state.trimmed_position}; restore both from one backup"
            )
        _require_durable_versions(paths, state)
        lake.add_missing_columns()
        version = newest_version(paths.table)
        lake.sync(after_version=state.durable_version, through_version=version)
        trimmed = 0 if rolled_back else watermark - state.trimmed_position
        if trimmed:
            journal.trim(watermark, durable_version=version)
        else:
            journal.record_durable(version)
        rejects = recover_rejects(paths.rejects, journal)
        journal.begin_mark()
        latch.clear()
        return RecoveryReport(
            created=not had_table and not had_journal,
            journal_lost=had_table and not had_journal,
            journal_rolled_back=rolled_back,
            removed_entries=(*removed, *rejects.removed_entries),
            trimmed=trimmed,
            rejects_lost=rejects.lost,
            damaged_files=tuple(damaged_files(lake.reload(state.id))),
        )
    finally:
        journal.close()


def _require_what_was_acknowledged(paths: StorePaths) -> None:
    """Look, before anything is written, whether the journal ends earlier than it once said it did.

    By a connection for reading only: a write-ahead log with a damaged frame in the middle stays as it is, so that what
    follows the damage can still be looked at.
    """
    journal_id, acknowledged = noted(mark_of(paths.journal))
    if not journal_id:
        return
    journal = Journal(paths.journal, None)
    try:
        state = journal.state()
    finally:
        journal.close()
    if state.id == journal_id and acknowledged > state.head:
        watermark = read_log(paths.table).watermarks.get(state.id, 0)
        if acknowledged > watermark:
            raise CorruptData(
                f"the journal {paths.journal} ends at position {state.head}, and {acknowledged} was acknowledged: its"
                f" write-ahead log {paths.journal}-wal is damaged, or it is an older copy; restore it from a backup, or"
                f" remove {mark_of(paths.journal)} to go on without the actions that are missing"
            )


def damaged_files(snapshot: Snapshot) -> Iterator[str]:
    """Look at the size of every data file, which costs microseconds a file; `verify` looks inside."""
    for one in snapshot.files:
        try:
            size = os.stat(one.path).st_size
        except FileNotFoundError:
            yield f"{one.path} is missing"
        else:
            if size != one.size_bytes:
                yield f"{one.path} has {size} bytes where the table's log says {one.size_bytes}"


def _take_new_id(journal: Journal, lake: Lake) -> None:
    """Give the journal a new id, whose watermark is in the table before the journal goes by it."""
    new = new_journal_id()
    before, head = lake.version, journal.state().head
    if head:
        lake.sync(after_version=before, through_version=lake.append([], journal=new, after=0, watermark=head))
    journal.take_new_id(new)


def _require_durable_versions(paths: StorePaths, state: JournalState) -> None:
    """The entry of a compaction or an erasure takes no watermark with it when it is lost."""
    newest, known = newest_version(paths.table), max(state.durable_version, state.lake_version_min)
    if newest < known:
        raise CorruptData(
            f"the table in {paths.table} ends with version {newest}, and the journal {paths.journal} knows that version"
            f" {known} was synced: the newest entries of the table's log are lost; restore both from one backup"
        )


def _require_untouched(paths: StorePaths, latch: Latch) -> None:
    """Look whether a table can be made anew for a journal; what the journal knew of its versions is forgotten then."""
    journal = Journal(paths.journal, latch)
    try:
        if journal.state().trimmed_position:
            raise CorruptData(
                f"there is a journal, {paths.journal}, that has moved rows into a table, and no table in"
                f" {paths.table}: restore the table, or move the journal away to begin anew"
            )
        journal.forget_versions()
    finally:
        journal.close()
