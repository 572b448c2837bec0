"""At a start: bring the table `rejects` and the dead letters into a state in which every reject is there once.

The rules are those of the table `actions` (`storage.recovery`), with a durable version of its own. Two things differ.
The table is made when the first letters are moved, so that there may be none. And where the database's letters are
older than the table, as after restoring a disk, they get a new source: the table has them up to its watermark, what
comes later must not be taken for them.
"""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from pathlib import Path

from storage.dead_letters import RejectsState, delete_letters, read_rejects_state
from storage.errors import CorruptData
from storage.journal import Journal
from storage.lake import newest_version
from storage.rejects_flush import let_go
from storage.rejects_table import RejectsTable, app_id
from storage.torn_log import (
    Trusted,
    is_torn_creation,
    remove_torn_checkpoints,
    remove_torn_creation,
    remove_torn_entries,
)


@dataclass(frozen=True, slots=True)
class RejectsRecovery:
    """What a start found and did: log entries that were removed, and whether the table was gone."""

    removed_entries: tuple[str, ...]
    lost: bool


def recover_rejects(folder: Path, journal: Journal) -> RejectsRecovery:
    """Bring the table in *folder* and the journal's dead letters together.

    Raises:
        CorruptData: damage that a crash does not explain.
        OSError: the disk does not take writes.
    """
    with journal.reading() as execute:
        state = read_rejects_state(execute)
        head = int(
            execute("SELECT ifnull((SELECT seq FROM sqlite_sequence WHERE name = 'dead_letters'), 0)").fetchone()[0]
        )
    if newest_version(folder) < 0 or (state.durable_version < 0 and is_torn_creation(folder)):
        remove_torn_creation(folder)
        if state.durable_version >= 0:
            _begin_anew(journal)
        return RejectsRecovery((), lost=state.durable_version >= 0)
    removed = remove_torn_checkpoints(folder, state.durable_version)
    removed += remove_torn_entries(
        folder, Trusted(journal.path, durable_version=state.durable_version, app_id=app_id(state.source), head=head)
    )
    _require_durable_version(folder, journal, state)
    table = RejectsTable(folder)
    watermark = table.snapshot(state.source).watermark
    if watermark < state.moved_through:
        raise CorruptData(
            f"the table in {folder} is older than the journal {journal.path}, which has moved dead letters up to"
            f" {state.moved_through} to it: restore both from one backup"
        )
    table.sync(after_version=min(state.durable_version, table.version))
    if head < watermark:
        _take_new_source(journal, watermark)
        watermark = 0
    let_go(journal, through=watermark, durable_version=table.version, marks=())
    return RejectsRecovery(tuple(removed), lost=False)


def _require_durable_version(folder: Path, journal: Journal, state: RejectsState) -> None:
    """The entry of an erasure, of a replay or of a dropped reject may take no watermark with it when it is lost."""
    newest, known = newest_version(folder), max(state.durable_version, state.version_min)
    if newest < known:
        raise CorruptData(
            f"the table in {folder} ends with version {newest}, and the journal {journal.path} knows that version"
            f" {known} was synced: the newest entries of the table's log are lost; restore both from one backup"
        )


def _begin_anew(journal: Journal) -> None:
    """Go on without the table: what it held is lost, and marks of it say nothing any more."""
    with journal.writing() as execute:
        execute("DELETE FROM reject_marks WHERE id NOT IN (SELECT id FROM dead_letters)")
        execute("UPDATE rejects SET moved_through = 0, durable_version = -1, version_min = -1")


def _take_new_source(journal: Journal, watermark: int) -> None:
    """Let go of the letters that the table has under the old source, and name those that come by a new one."""
    with journal.writing() as execute:
        delete_letters(execute, "id <= ?", (watermark,))
        execute("UPDATE rejects SET source = ?, moved_through = 0, flush_requested_id = 0", (uuid.uuid4().hex,))
