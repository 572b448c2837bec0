"""What `verify` looks at in the journal: its structure, its rows, and whether it belongs to the table."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from storage.columns import JournalRow, rows_to_table
from storage.errors import CorruptData, StoreError
from storage.head_mark import noted
from storage.journal import Journal, mark_of
from storage.journal_records import JournalState
from storage.latch import Latch
from storage.paths import StorePaths
from storage.problems import RESTORE, Problem
from storage.schema import ActionSchema

_ROWS_AT_ONCE: Final = 2000


@dataclass(frozen=True, slots=True)
class JournalFindings:
    """What the journal holds above a watermark, and what is wrong with it.

    Attributes:
        state: None if the journal cannot be read.
        rows: actions above the watermark that decode.
        behind: the journal was trimmed beyond the watermark, or asks for a newer version: the snapshot of the table
            is older than the journal. Load the table again; if it is the newest, that is a problem.
        complete: nothing of this journal was ever put aside or erased, so that each flush must hold every position.
    """

    state: JournalState | None
    rows: int
    behind: bool
    complete: bool
    problems: tuple[Problem, ...]


def verify_journal(
    paths: StorePaths, schema: ActionSchema, *, watermarks: dict[str, int], version: int, deep: bool
) -> JournalFindings:
    """Check the journal against the table's *version* with its *watermarks*, in one read transaction.

    Its write-ahead log cannot be emptied meanwhile. Memory is bounded by some thousand submissions.
    """
    try:
        # Before the journal is read, so that what is acknowledged in between is no contradiction.
        acknowledged = _acknowledged(paths)
        journal = Journal(paths.journal, None)
    except StoreError as error:
        return _unreadable(paths, str(error))
    try:
        broken = journal.integrity_problems(thorough=deep)
        if broken:
            return _unreadable(paths, broken[0])
        with journal.pinned() as (state, rows_above):
            watermark = watermarks.get(state.id, 0)
            if state.trimmed_position > watermark or state.lake_version_min > version:
                wrong = _against_table(paths, state, watermark, version, acknowledged)
                return JournalFindings(state, 0, behind=True, complete=False, problems=wrong)
            rows, problems = _check_rows(paths, schema, state, rows_above(watermark), watermark)
        problems += _against_table(paths, state, watermark, version, acknowledged)
        complete = not journal.may_have_left_rows_out()
        return JournalFindings(state, rows, behind=False, complete=complete, problems=tuple(problems))
    except StoreError as error:
        return _unreadable(paths, str(error))
    finally:
        journal.close()


def latch_problem(paths: StorePaths) -> Problem | None:
    """The failure that the store is latched by, if it is."""
    if not paths.latch.exists():
        return None
    reason = Latch.read(paths.latch)
    if reason is None:
        return None
    return Problem(paths.latch, f"the store has failed: {reason}", "look at the disk, then restart the service")


def _check_rows(
    paths: StorePaths, schema: ActionSchema, state: JournalState, rows: Iterator[JournalRow], watermark: int
) -> tuple[int, list[Problem]]:
    """Check that rows hold every position above *watermark* up to the head once, and decode."""
    problems: list[Problem] = []
    good = 0
    expected = watermark + 1
    part: list[JournalRow] = []
    for row in rows:
        # A submission of which the table has a part begins below the watermark.
        good -= max(0, watermark + 1 - row.first_position)
        if row.first_position != expected and not (expected == watermark + 1 and row.first_position <= expected):
            what = "lacks" if row.first_position > expected else "holds twice"
            low, high = sorted((expected, row.first_position))
            problems.append(_problem(paths, f"{what} positions {low} to {high - 1}", RESTORE))
        expected = max(expected, row.last_position + 1)
        part.append(row)
        if len(part) == _ROWS_AT_ONCE:
            good += _decoded(paths, schema, state, part, problems)
            part = []
    good += _decoded(paths, schema, state, part, problems)
    if expected <= state.head:
        problems.append(_problem(paths, f"lacks positions {expected} to {state.head}, its last", RESTORE))
    if expected > state.head + 1:
        problems.append(_problem(paths, f"holds rows beyond its last position {state.head}", RESTORE))
    return good, problems


def _decoded(
    paths: StorePaths, schema: ActionSchema, state: JournalState, rows: list[JournalRow], problems: list[Problem]
) -> int:
    """Count the actions of the rows that decode, and note each row that does not."""
    try:
        rows_to_table(rows, state.id, schema)
    except CorruptData as error:
        if len(rows) == 1:
            advice = "the next flush puts them aside as dead letters; restore them from a backup"
            problems.append(Problem(paths.journal, str(error), advice, is_put_aside=True))
            return 0
        half = len(rows) // 2
        return sum(_decoded(paths, schema, state, part, problems) for part in (rows[:half], rows[half:]))
    return sum(row.actions for row in rows)


def _acknowledged(paths: StorePaths) -> dict[str, int]:
    page = mark_of(paths.journal)
    return {journal: head for journal, head in [noted(page)] if journal}


def _against_table(
    paths: StorePaths, state: JournalState, watermark: int, version: int, acknowledged: dict[str, int]
) -> tuple[Problem, ...]:
    wrong: list[tuple[str, str]] = []
    if state.trimmed_position > watermark:
        wrong.append(
            (
                f"was trimmed up to position {state.trimmed_position}, and the table ends at {watermark}",
                "the table is older than the journal: restore both from one backup",
            )
        )
    if watermark > state.head:
        wrong.append(
            (
                f"ends at position {state.head}, and the table has {watermark}: it is an older copy",
                "start the service, which gives it a new id; what was only in the newer journal is lost",
            )
        )
    if acknowledged.get(state.id, 0) > max(state.head, watermark):
        wrong.append(
            (
                f"ends at position {state.head}, and {acknowledged[state.id]} was acknowledged: its write-ahead log"
                f" {paths.journal.name}-wal is damaged, or it is an older copy",
                RESTORE,
            )
        )
    if state.trimmed_position > state.head:
        wrong.append((f"was trimmed beyond its last position {state.head}", RESTORE))
    if max(state.durable_version, state.lake_version_min) > version:
        wrong.append(
            (
                f"speaks of version {max(state.durable_version, state.lake_version_min)} of the table, whose newest"
                f" is {version}",
                "the table is older than the journal: restore both from one backup",
            )
        )
    return tuple(_problem(paths, what, advice) for what, advice in wrong)


def _unreadable(paths: StorePaths, what: str) -> JournalFindings:
    return JournalFindings(None, 0, behind=False, complete=False, problems=(_problem(paths, what, RESTORE),))


def _problem(paths: StorePaths, what: str, advice: str) -> Problem:
    return Problem(paths.journal, what, advice)
