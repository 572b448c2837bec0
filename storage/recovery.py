"""What happens before anything else at a start: look at what a crash or a power cut left, and make it right.

The rule of the flush (`storage.flush`) leaves only these states behind:

* Data files that no log entry names: harmless, for the vacuum.
* Log entries above the journal's `durable_version`: committed, perhaps not synced. Whole ones are synced now. From
  the first one that is torn, or that names a file which is not whole, they are removed: their rows are still in the
  journal, which is trimmed only after a version was made durable.
* A checkpoint that is not whole: removed, since every entry that it sums up is still there.
* A first log entry that is not whole, and no journal: the table was being made, and is made again.
* Rows in the journal that the lake has durably: trimmed now.

Anything else is damage that no crash of ours explains, and is reported by name instead of being worked around.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pyarrow as pa
import pyarrow.parquet as pq

from storage.durable_files import fsync_path, make_durable_folder
from storage.errors import CorruptData
from storage.journal import Journal, new_journal_id
from storage.journal_records import JournalState
from storage.lake import Lake, log_entries, newest_version, watermark_at
from storage.latch import Latch
from storage.paths import StorePaths
from storage.schema import ActionSchema


@dataclass(frozen=True, slots=True)
class RecoveryReport:
    """What a start found and did; every entry is worth a line in the log.

    Attributes:
        created: the folder was empty and is a store now.
        journal_lost: there was a table with files and no journal; a new one was made.
        journal_rolled_back: the journal was older than the table; it got a new id.
        removed_entries: log entries and checkpoints that were taken away because they were not whole, with the reason.
        trimmed: rows that the lake had already.
    """

    created: bool
    journal_lost: bool
    journal_rolled_back: bool
    removed_entries: tuple[str, ...]
    trimmed: int


def recover(paths: StorePaths, schema: ActionSchema, latch: Latch) -> RecoveryReport:
    """Bring a store into the state that the invariant speaks of; make it if there is none. Clears the latch.

    Only the holder of the service lock may call this.

    Raises:
        CorruptData: damage that a crash does not explain; the message says what and what to do.
        StoreFailed: the disk does not take writes.
    """
    make_durable_folder(paths.data)
    make_durable_folder(paths.state)
    had_journal = paths.journal.exists()
    had_table = newest_version(paths.table) >= 0 and (had_journal or not _is_torn_creation(paths.table))
    if had_journal:
        Journal.upgrade(paths.journal)
    if not had_table and had_journal:
        _require_untouched(paths, latch)
    if not had_table:
        _remove_torn_creation(paths.table)
        Lake.create(paths.table, schema)
    if not had_journal:
        Journal.create(paths.journal, durable_version=newest_version(paths.table))
    journal = Journal(paths.journal, latch)
    try:
        problems = journal.integrity_problems()
        if problems:
            raise CorruptData(f"the journal {paths.journal} is damaged: {problems[0]}; restore it from a backup")
        state = journal.state()
        removed = _remove_torn_checkpoints(paths.table, state.durable_version)
        removed += _remove_torn_entries(paths, state)
        lake = Lake(paths.table, schema)
        watermark = lake.watermark(state.id)
        rolled_back = state.head < watermark
        if rolled_back:
            _take_new_id(journal, lake)
        elif watermark < state.trimmed_position:
            raise CorruptData(
                f"the table in {paths.table} is older than the journal {paths.journal}: it ends at position"
                f" {watermark}, the journal was trimmed up to {state.trimmed_position}; restore both from one backup"
            )
        lake.add_missing_columns()
        version = newest_version(paths.table)
        lake.sync(after_version=min(state.durable_version, version), through_version=version)
        trimmed = 0 if rolled_back else watermark - state.trimmed_position
        if trimmed:
            journal.trim(watermark, durable_version=version)
        else:
            journal.record_durable(version)
        latch.clear()
        return RecoveryReport(
            created=not had_table and not had_journal,
            journal_lost=had_table and not had_journal,
            journal_rolled_back=rolled_back,
            removed_entries=tuple(removed),
            trimmed=trimmed,
        )
    finally:
        journal.close()


def _take_new_id(journal: Journal, lake: Lake) -> None:
    """Give the journal a new id, whose watermark is in the table before the journal goes by it."""
    new = new_journal_id()
    before, head = lake.version, journal.state().head
    if head:
        lake.sync(after_version=before, through_version=lake.append([], journal=new, after=0, watermark=head))
    journal.take_new_id(new)


def _require_untouched(paths: StorePaths, latch: Latch) -> None:
    journal = Journal(paths.journal, latch)
    try:
        if journal.state().trimmed_position:
            raise CorruptData(
                f"there is a journal, {paths.journal}, that has moved rows into a table, and no table in"
                f" {paths.table}: restore the table, or move the journal away to begin anew"
            )
    finally:
        journal.close()


def _is_torn_creation(table: Path) -> bool:
    """Tell whether a crash while the table was made left its first entry, alone and not whole."""
    entries = log_entries(table)
    if set(entries) != {0}:
        return False
    try:
        read_entry(entries[0])
    except ValueError:
        return True
    return False


def _remove_torn_creation(table: Path) -> None:
    log = table / "_delta_log"
    if any(log.glob("*.checkpoint*.parquet")):
        raise CorruptData(f"{log} holds checkpoints and no entry that can be read: restore the table from a backup")
    for path in log.glob("*"):
        path.unlink()


def _remove_torn_checkpoints(table: Path, durable_version: int) -> list[str]:
    """Remove checkpoints that are not whole; return what was removed.

    Raises:
        CorruptData: an entry up to *durable_version* that no checkpoint stands for is missing or torn.
    """
    log = table / "_delta_log"
    torn: dict[Path, str] = {}
    summed_up = -1
    for path in sorted(log.glob("*.checkpoint*.parquet"), reverse=True):
        try:
            pq.read_metadata(path)
        except (OSError, pa.ArrowException) as error:
            torn[path] = f"{path.name} cannot be opened: {error}"
        else:
            summed_up = int(path.name.split(".", maxsplit=1)[0])
            break
    entries = log_entries(table)
    for version in range(summed_up + 1, min(durable_version, max(entries, default=-1)) + 1):
        path = log / f"{version:020d}.json"
        try:
            read_entry(path)
        except (FileNotFoundError, ValueError) as error:
            problem = "missing" if isinstance(error, FileNotFoundError) else error
            also = f", and so is {next(iter(torn)).name}" if torn else ""
            raise CorruptData(f"{path}, which was durable, is damaged ({problem}){also}: restore the table") from error
    for path in torn:
        path.unlink()
    hint = log / "_last_checkpoint"
    if hint.exists() and not _is_whole_hint(hint):
        hint.unlink()
    if torn:
        fsync_path(log)
    return list(torn.values())


def _is_whole_hint(hint: Path) -> bool:
    try:
        version = json.loads(hint.read_bytes())["version"]
    except (ValueError, KeyError, TypeError):
        return False
    return any(hint.parent.glob(f"{version:020d}.checkpoint*.parquet"))


def _remove_torn_entries(paths: StorePaths, journal: JournalState) -> list[str]:
    """Remove the log entries from the first one that is neither durable nor whole; return what was removed.

    Raises:
        CorruptData: the journal is older than what would be removed, so that it does not hold those rows.
    """
    table = paths.table
    entries = {v: path for v, path in sorted(log_entries(table).items()) if v > journal.durable_version}
    actions: dict[int, list[dict[str, Any]]] = {}
    torn: dict[int, str] = {}
    for version, path in entries.items():
        try:
            actions[version] = read_entry(path)
        except ValueError as error:
            torn[version] = str(error)
    gone_later = {action["remove"]["path"] for one in actions.values() for action in one if "remove" in action}
    for version, one in actions.items():
        problem = _missing_end(one) or _damaged_file(table, one, gone_later)
        if problem:
            torn[version] = problem
    if not torn:
        return []
    first_torn = min(torn)
    named = [watermark_at(table, journal.id, first_torn - 1)] if first_torn else [0]
    named += [_watermark_named(one, journal.id) for one in actions.values()]
    if max(named) > journal.head:
        raise CorruptData(
            f"the journal {paths.journal} is older than the table in {table}, whose entry"
            f" {entries[first_torn].name} is damaged as well ({torn[first_torn]}): restore both from one backup"
        )
    removed: list[str] = []
    for version in sorted((v for v in entries if v >= first_torn), reverse=True):
        for checkpoint in (table / "_delta_log").glob(f"{version:020d}.checkpoint*"):
            checkpoint.unlink()
            (table / "_delta_log" / "_last_checkpoint").unlink(missing_ok=True)
        entries[version].unlink()
        removed.append(f"{entries[version].name}: {torn.get(version, 'follows a torn entry')}")
    fsync_path(table / "_delta_log")
    return removed


def _missing_end(actions: list[dict[str, Any]]) -> str | None:
    """Tell of an entry that was cut off between two lines: every commit of rows ends with a transaction."""
    adds_rows = any("add" in action and action["add"].get("dataChange", True) for action in actions)
    return "cut off before its transaction" if adds_rows and not any("txn" in action for action in actions) else None


def _watermark_named(actions: list[dict[str, Any]], journal: str) -> int:
    return max((a["txn"]["version"] for a in actions if "txn" in a and a["txn"]["appId"] == journal), default=0)


def read_entry(path: Path) -> list[dict[str, Any]]:
    """Read one entry of the table's log.

    Raises:
        ValueError: it is torn: empty, cut off, or not JSON.
    """
    content = path.read_bytes()
    try:
        actions = [json.loads(line) for line in content.splitlines() if line.strip()]
    except ValueError as error:
        raise ValueError(f"not readable: {error}") from error
    if not actions or not all(isinstance(action, dict) for action in actions):
        raise ValueError("empty")
    return actions


def _damaged_file(table: Path, actions: list[dict[str, Any]], gone_later: set[str]) -> str | None:
    for action in actions:
        add = action.get("add")
        if add is None or add["path"] in gone_later:
            continue
        problem = data_file_problem(table / unquote(add["path"]), add)
        if problem:
            return problem
    return None


def data_file_problem(path: Path, add: Mapping[str, Any]) -> str | None:
    """Tell what is wrong with a data file that the log names by *add*, or None: it opens, with that size and rows."""
    try:
        size = path.stat().st_size
        if size != add["size"]:
            return f"{path.name} has {size} bytes where the log says {add['size']}"
        rows = pq.read_metadata(path).num_rows
    except FileNotFoundError:
        return f"{path.name} is missing"
    except (OSError, pa.ArrowException) as error:
        return f"{path.name} cannot be opened: {error}"
    wanted = json.loads(add["stats"])["numRecords"]
    return None if rows == wanted else f"{path.name} has {rows} rows where the log says {wanted}"
