"""`verify`: is what is stored whole, once, and in agreement with itself? Reads everything, changes nothing.

It works on a folder whether or not a service holds it. A version of the table is pinned and compared with the journal
of that same moment, as readers do (`storage.read_view`); should the service have moved on in between so far that files
of that version are gone, what was found missing is looked at again in a newer one.

What is checked of completeness is what can be known: a flush commits as many rows as positions, less those that went
to the dead letters; a compaction as many rows as it takes away; and the journal holds every position above the
watermark. Gaps that are there for a reason (erased, expired, rejected rows) are counted and are no problem.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from storage.lake import MAINTENANCE, newest_version
from storage.log_replay import Commit, LoggedFile, LogState, is_whole_hint, read_log
from storage.paths import StorePaths
from storage.problems import RESTORE, Problem
from storage.schema import ActionSchema
from storage.verify_files import FilesFindings, verify_files
from storage.verify_journal import JournalFindings, latch_problem, verify_journal
from storage.verify_rejects import verify_rejects

_ATTEMPTS: Final = 4
_PIN_ATTEMPTS: Final = 100
MEMORY_BYTES_MAX: Final = 512 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class VerifyReport:
    """What `verify` found.

    Attributes:
        version: of the table that was looked at, -1 if there is none.
        files: data files of that version.
        rows: in those files, and in the journal only.
        absent: positions up to the watermarks that are in no file: erased, expired or rejected.
        problems: everything that is wrong; nothing if all is well.
    """

    version: int
    files: int
    rows: int
    absent: int
    problems: tuple[Problem, ...]


def verify(
    paths: StorePaths, schema: ActionSchema, *, deep: bool, memory_bytes_max: int = MEMORY_BYTES_MAX
) -> VerifyReport:
    """Check a store; with *deep* every value is read and not only what tells rows apart.

    Raises:
        FileNotFoundError: there is no store in the folder.
    """
    if not paths.journal.exists() and newest_version(paths.table) < 0:
        raise FileNotFoundError(f"there is no store in {paths.data}: neither {paths.table} nor {paths.journal}")
    for attempt in range(1, _ATTEMPTS + 1):
        report = _verify_once(paths, schema, deep=deep, memory_bytes_max=memory_bytes_max)
        newest = read_log(paths.table)
        if not report.problems or newest.version == report.version:
            return report
        if attempt == _ATTEMPTS:
            # The table moves on faster than it is read; what is said of files that are gone since is out of date.
            live = {paths.table / path for path in newest.files}
            kept = [one for one in report.problems if one.file.suffix != ".parquet" or one.file in live]
            report = replace(report, problems=tuple(kept))
    return report


def _verify_once(paths: StorePaths, schema: ActionSchema, *, deep: bool, memory_bytes_max: int) -> VerifyReport:
    log, journal = _pin(paths, schema, deep=deep)
    files = sorted(log.files.values(), key=lambda one: one.path)
    found = verify_files(
        paths.table,
        files,
        deep=deep,
        temp_folder=paths.state / "verify-temp",
        memory_bytes_max=memory_bytes_max,
    )
    problems = [Problem(path, what, RESTORE) for path, what in log.problems]
    if log.version < 0:
        problems.append(Problem(paths.table, "has no log: there is no table", RESTORE))
    problems += _wrong_hint(paths.table / "_delta_log")
    problems += journal.problems
    problems += found.problems
    problems += verify_rejects(paths)
    latched = latch_problem(paths)
    if latched is not None:
        problems.append(latched)
    problems += _wrong_watermarks(paths.table, log, found)
    absent = 0
    if not log.problems:
        must_be_complete = journal.state.id if journal.state is not None and journal.complete else None
        problems += _wrong_commits(paths.table, log, must_be_complete)
        absent = sum(version for name, version in log.watermarks.items() if name != MAINTENANCE) - found.rows
    return VerifyReport(
        version=log.version,
        files=len(files),
        rows=found.rows + journal.rows,
        absent=max(0, absent),
        problems=tuple(problems),
    )


def _pin(paths: StorePaths, schema: ActionSchema, *, deep: bool) -> tuple[LogState, JournalFindings]:
    """Find a version of the table that reaches the journal's trimmed position, and check the journal against it."""
    for _ in range(_PIN_ATTEMPTS):
        log = read_log(paths.table)
        journal = verify_journal(paths, schema, watermarks=log.watermarks, version=log.version, deep=deep)
        moved = newest_version(paths.table) != log.version
        if not moved or not (journal.behind or log.problems):
            break
    return log, journal


def _wrong_watermarks(table: Path, log: LogState, found: FilesFindings) -> Iterator[Problem]:
    for journal, (_, highest) in found.positions.items():
        watermark = log.watermarks.get(journal)
        if watermark is None:
            yield Problem(table, f"has rows of journal {journal}, which it has no watermark for", RESTORE)
        elif highest > watermark:
            what = f"has position {highest} of journal {journal}, above its watermark {watermark}"
            yield Problem(table, what, RESTORE)


def _wrong_hint(log: Path) -> Iterator[Problem]:
    hint = log / "_last_checkpoint"
    if hint.exists() and not is_whole_hint(hint):
        yield Problem(hint, "does not name a checkpoint that is there", "restart the service, which removes it")


def _wrong_commits(table: Path, log: LogState, complete_journal: str | None) -> Iterator[Problem]:
    """Check the commits that the log still tells of: rows may neither appear nor disappear in them.

    Args:
        table: its folder.
        log: its log.
        complete_journal: a journal of which each flush must hold every position.
    """
    files: dict[str, LoggedFile] = {}
    # What the first entries that are left follow upon is not known, unless they are the first of all.
    marks: defaultdict[str, int | None] = defaultdict(lambda: 0 if log.commits[0].version == 0 else None)
    for commit in log.commits:
        entry = table / "_delta_log" / f"{commit.version:020d}.json"
        gone = [files.pop(path) for path in commit.removed if path in files]
        came = sum(one.rows for one in commit.added.values())
        if MAINTENANCE in commit.watermarks:
            went = sum(one.rows for one in gone)
            if len(gone) == len(commit.removed) and (came > went or (came < went and not commit.data_change)):
                yield Problem(entry, f"replaces {went} rows by {came}", RESTORE)
        else:
            yield from _wrong_flush(entry, commit, marks, complete_journal)
        files.update(commit.added)
        marks.update(commit.watermarks)


def _wrong_flush(
    entry: Path, commit: Commit, before: Mapping[str, int | None], complete_journal: str | None
) -> Iterator[Problem]:
    came = sum(one.rows for one in commit.added.values())
    for journal, watermark in commit.watermarks.items():
        last = before[journal]
        if last is None:
            continue
        span = watermark - last
        if span <= 0:
            yield Problem(entry, f"moves the watermark of journal {journal} by {span}", RESTORE)
        # A commit of a watermark alone is how a journal that was rolled back or restored begins.
        elif came > span or (came and came < span and journal == complete_journal):
            yield Problem(entry, f"adds {came} rows for {span} positions of journal {journal}", RESTORE)
