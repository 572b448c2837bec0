"""Erasures in the journal's database: what was asked for, how far it is, and the receipt that remains.

A record holds the user's id only until the erasure is done. The receipt that remains holds no trace of it, not even a
hash, which whoever can guess an id could look up: an erasure's own random id is the only way to it.

The functions here work inside a transaction that `storage.journal` has begun; they get its `execute`.
"""

from __future__ import annotations

import enum
import json
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from storage.dead_letters import delete_letters
from storage.erased_rows import NOTHING_ERASED, ErasedRows

ERASURES_2: Final = """
CREATE TABLE erasures (
  sequence INTEGER PRIMARY KEY AUTOINCREMENT,
  id TEXT NOT NULL UNIQUE,
  user_id TEXT,
  kept_after TEXT NOT NULL,
  phase TEXT NOT NULL,
  phase_since_us INTEGER NOT NULL,
  requested_at_us INTEGER NOT NULL,
  finished_at_us INTEGER,
  files_total INTEGER NOT NULL DEFAULT 0,
  files_done INTEGER NOT NULL DEFAULT 0,
  rows INTEGER NOT NULL DEFAULT 0,
  dead_letters INTEGER NOT NULL DEFAULT 0,
  old_files INTEGER NOT NULL DEFAULT 0
) STRICT;
CREATE INDEX erasures_pending ON erasures (sequence) WHERE finished_at_us IS NULL;
"""


class Phase(enum.StrEnum):
    """How far an erasure is. Each phase may be done again from its beginning."""

    RECORDED = "recorded"
    """The rows are hidden; dead letters, query history and results are still to be removed."""
    REJECTS = "rejects"
    """Until the table `rejects` holds nothing of the user."""
    FLUSHING = "flushing"
    """Until nothing of what is erased is in the journal."""
    REWRITING = "rewriting"
    """Until no file of the newest version holds it."""
    WAITING = "waiting"
    """Until queries that began on an older version have ended."""
    SWEEPING = "sweeping"
    """Until no file on disk holds it."""
    CLEANING = "cleaning"
    """The id is gone from the record; until it is gone from the journal's free pages and its log."""
    DONE = "done"

    @property
    def hides(self) -> bool:
        """Whether readers still have to leave the rows out by themselves."""
        return self in _HIDING


_HIDING: Final = (Phase.RECORDED, Phase.REJECTS, Phase.FLUSHING, Phase.REWRITING)
_COLUMNS: Final = (
    "id, user_id, kept_after, phase, phase_since_us, requested_at_us, finished_at_us, files_total, files_done, rows,"
    " dead_letters, old_files"
)


@dataclass(frozen=True, slots=True)
class Erasure:
    """One erasure.

    Attributes:
        id: random; all that a receipt is known by.
        user_id: None once nothing of the user is left.
        kept_after: as `ErasedRows`.
        phase_since_us: when the phase began.
        files_total: data files that were found to hold the user's rows.
        files_done: how many of them were rewritten.
        rows: rows that were removed from them.
        dead_letters: rejects of the user that were removed, wherever they were.
        old_files: data files, no longer part of the table, that were removed from the disk.
    """

    id: str
    user_id: str | None
    kept_after: Mapping[str, int]
    phase: Phase
    phase_since_us: int
    requested_at_us: int
    finished_at_us: int | None = None
    files_total: int = 0
    files_done: int = 0
    rows: int = 0
    dead_letters: int = 0
    old_files: int = 0


def insert_erasure(execute: Callable[..., Any], user_id: str, now_us: int) -> Erasure:
    """Record that everything of *user_id* up to the journal's head is to be erased.

    The user's dead letters go in the same transaction, so that none is replayed behind the erasure's back.
    """
    journal, head = execute("SELECT id, next_position - 1 FROM journal").fetchone()
    letters = delete_letters(execute, "user_id = ?", (user_id,))
    made = Erasure(uuid.uuid4().hex, user_id, {journal: head}, Phase.RECORDED, now_us, now_us, dead_letters=letters)
    execute(
        "INSERT INTO erasures (id, user_id, kept_after, phase, phase_since_us, requested_at_us, dead_letters)"
        " VALUES (?, ?, ?, ?, ?, ?, ?)",
        (made.id, user_id, json.dumps(made.kept_after), str(made.phase), now_us, now_us, made.dead_letters),
    )
    return made


def read_erased_rows(execute: Callable[..., Any]) -> ErasedRows:
    """Read which rows readers have to leave out. Costs next to nothing where no erasure is under way."""
    return erased_by([one for one in pending_erasures(execute) if one.phase.hides])


def erased_by(erasures: Sequence[Erasure]) -> ErasedRows:
    """Put together which rows *erasures* cover, as far as their users are still known."""
    if not erasures:
        return NOTHING_ERASED
    return ErasedRows.of((one.user_id, one.kept_after) for one in erasures if one.user_id is not None)


def pending_erasures(execute: Callable[..., Any]) -> list[Erasure]:
    """Read the erasures that are not finished, oldest first."""
    found = execute(f"SELECT {_COLUMNS} FROM erasures WHERE finished_at_us IS NULL ORDER BY sequence")  # noqa: S608
    return [_erasure(row) for row in found]


def read_erasure(execute: Callable[..., Any], erasure_id: str) -> Erasure | None:
    """Read one erasure, or None if there is none with this id."""
    found = execute(f"SELECT {_COLUMNS} FROM erasures WHERE id = ?", (erasure_id,)).fetchone()  # noqa: S608
    return None if found is None else _erasure(found)


def newest_erasures(execute: Callable[..., Any], *, limit: int) -> list[Erasure]:
    """Read the newest erasures, finished or not."""
    found = execute(f"SELECT {_COLUMNS} FROM erasures ORDER BY sequence DESC LIMIT ?", (limit,))  # noqa: S608
    return [_erasure(row) for row in found]


def enter_phase(execute: Callable[..., Any], ids: Sequence[str], phase: Phase, now_us: int) -> None:
    """Move erasures on; from CLEANING on their users' ids are gone."""
    for one in ids:
        execute("UPDATE erasures SET phase = ?, phase_since_us = ? WHERE id = ?", (str(phase), now_us, one))
        if phase in (Phase.CLEANING, Phase.DONE):
            execute("UPDATE erasures SET user_id = NULL WHERE id = ?", (one,))
        if phase is Phase.DONE:
            execute("UPDATE erasures SET finished_at_us = ? WHERE id = ?", (now_us, one))


def require_version(execute: Callable[..., Any], version: int) -> None:
    """Let no reader use a version of the table below *version* from now on."""
    execute("UPDATE journal SET lake_version_min = max(lake_version_min, ?)", (version,))


def count_up(execute: Callable[..., Any], erasure_id: str, **more: int) -> None:
    """Add to the counts of an erasure."""
    for column, count in more.items():
        execute(f"UPDATE erasures SET {column} = {column} + ? WHERE id = ?", (count, erasure_id))  # noqa: S608


def set_files_total(execute: Callable[..., Any], erasure_id: str, files_left: int) -> None:
    """Note that *files_left* files are still to be rewritten beside those that were."""
    execute("UPDATE erasures SET files_total = files_done + ? WHERE id = ?", (files_left, erasure_id))


def keep_after_new_id(execute: Callable[..., Any], journal: str) -> None:
    """Note, before it does, that the journal goes on as *journal*: pending erasures cover it up to where they did."""
    old, head = execute("SELECT id, next_position - 1 FROM journal").fetchone()
    for one in pending_erasures(execute):
        kept = {**one.kept_after, journal: one.kept_after.get(old, head)}
        execute("UPDATE erasures SET kept_after = ? WHERE id = ?", (json.dumps(kept), one.id))


def _erasure(row: Sequence[Any]) -> Erasure:
    erasure_id, user_id, kept_after, phase, *rest = row
    return Erasure(erasure_id, user_id, json.loads(kept_after), Phase(phase), *rest)
