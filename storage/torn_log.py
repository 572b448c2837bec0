"""What a crash or a power cut can leave of a table's log, told from damage that no crash explains.

Entries above the version that the journal knows to be durable are whole, or are removed from the first one that is not:
their rows are still in the journal. Checkpoints that are not whole are removed, since every entry is still there.
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

from storage.durable_files import fsync_path
from storage.errors import CorruptData
from storage.lake import log_entries, watermark_at
from storage.log_replay import is_whole_hint, missing_end, read_entry


def is_torn_creation(table: Path) -> bool:
    """Tell whether a crash while the table was made left its first entry, alone and not whole."""
    entries = log_entries(table)
    if set(entries) != {0}:
        return False
    try:
        read_entry(entries[0])
    except ValueError:
        return True
    return False


def remove_torn_creation(table: Path) -> None:
    log = table / "_delta_log"
    if any(log.glob("*.checkpoint*.parquet")):
        raise CorruptData(f"{log} holds checkpoints and no entry that can be read: restore the table from a backup")
    for path in log.glob("*"):
        path.unlink()


def remove_torn_checkpoints(table: Path, durable_version: int) -> list[str]:
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
    if hint.exists() and not is_whole_hint(hint):
        hint.unlink()
    if torn:
        fsync_path(log)
    return list(torn.values())


@dataclass(frozen=True, slots=True)
class Trusted:
    """What the journal says of a table.

    Attributes:
        journal: the journal's file, to be named.
        durable_version: the table's versions up to here were synced.
        app_id: of the application transaction that is the watermark.
        head: the newest row that the journal ever took; a watermark beyond it is from a later time.
    """

    journal: Path
    durable_version: int
    app_id: str
    head: int


def remove_torn_entries(table: Path, trusted: Trusted) -> list[str]:
    """Remove the log entries from the first one that is neither durable nor whole; return what was removed.

    Raises:
        CorruptData: the journal is older than what would be removed, so that it does not hold those rows.
    """
    entries = {v: path for v, path in sorted(log_entries(table).items()) if v > trusted.durable_version}
    actions: dict[int, list[dict[str, Any]]] = {}
    torn: dict[int, str] = {}
    for version, path in entries.items():
        try:
            actions[version] = read_entry(path)
        except ValueError as error:
            torn[version] = str(error)
    gone_later = {action["remove"]["path"] for one in actions.values() for action in one if "remove" in action}
    for version, one in actions.items():
        problem = missing_end(one) or _damaged_file(table, one, gone_later)
        if problem:
            torn[version] = problem
    if not torn:
        return []
    first_torn = min(torn)
    named = [watermark_at(table, trusted.app_id, first_torn - 1)] if first_torn else [0]
    named += [_watermark_named(one, trusted.app_id) for one in actions.values()]
    if max(named) > trusted.head:
        raise CorruptData(
            f"the journal {trusted.journal} is older than the table in {table}, whose entry"
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


def _watermark_named(actions: list[dict[str, Any]], journal: str) -> int:
    return max((a["txn"]["version"] for a in actions if "txn" in a and a["txn"]["appId"] == journal), default=0)


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
