"""The table's log, read anew from its files: what `verify` and `backup` go by, independent of the table's library.

A state of the log is the newest checkpoint that can be read, and the entries after it. What is damaged is told as a
list instead of being raised, since a check has to name everything that is wrong and not only the first of it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pyarrow as pa
import pyarrow.parquet as pq

from storage.delta_log import entry_name, first_line, log_folder
from storage.lake import log_entries


@dataclass(frozen=True, slots=True)
class LoggedFile:
    """A data file as the log names it.

    Attributes:
        path: below the table's folder.
        partition: its partition values by column.
        statistics: as the log holds them: `numRecords`, `minValues`, `maxValues`.
    """

    path: str
    size_bytes: int
    partition: Mapping[str, str | None]
    statistics: Mapping[str, Any]

    @property
    def rows(self) -> int:
        """The number of its rows by the log, -1 if the log does not say."""
        return int(self.statistics.get("numRecords", -1))


@dataclass(frozen=True, slots=True)
class Commit:
    """One entry of the log, as far as rows are concerned.

    Attributes:
        added, removed: data files by path; a removed one may have been added before what is left of the log.
        data_change: whether it says that rows came or went.
        watermarks: application transactions that it sets.
    """

    version: int
    added: Mapping[str, LoggedFile]
    removed: frozenset[str]
    data_change: bool
    watermarks: Mapping[str, int]


@dataclass(slots=True)
class LogState:
    """The table at one version, and how it came there.

    Attributes:
        version: -1 if there is no entry.
        checkpoint: the version of the checkpoint that it is based on, None if it is based on entries alone.
        files: the live data files by path.
        watermarks: of every journal, and of `maintenance`.
        commits: all entries that are there, in order; those up to the checkpoint may have been cleaned up.
        problems: what is damaged: the file, and what is wrong with it.
    """

    version: int = -1
    checkpoint: int | None = None
    files: dict[str, LoggedFile] = field(default_factory=dict)
    watermarks: dict[str, int] = field(default_factory=dict)
    commits: list[Commit] = field(default_factory=list)
    problems: list[tuple[Path, str]] = field(default_factory=list)

    def apply(self, commit: Commit) -> None:
        """Go on to the version of *commit*."""
        for path in commit.removed:
            self.files.pop(path, None)
        self.files.update(commit.added)
        self.watermarks.update(commit.watermarks)


def read_log(table: Path, *, through: int | None = None) -> LogState:
    """Read the log of a table, up to version *through* if given.

    Beside a service that cleans its log up this may meet an entry that was there a moment ago; the caller reads again.
    """
    log = log_folder(table)
    state = LogState()
    entries = {v: path for v, path in sorted(log_entries(table).items()) if through is None or v <= through}
    _apply_newest_checkpoint(log, state, through)
    newest = max(entries, default=-1)
    state.version = max(newest, -1 if state.checkpoint is None else state.checkpoint)
    summed_up = -1 if state.checkpoint is None else state.checkpoint
    first = min(entries, default=state.version + 1)
    if first > summed_up + 1:
        gone = f"is missing, and so is every entry up to version {first - 1}: no checkpoint stands for them"
        state.problems.append((log / entry_name(summed_up + 1), gone))
    for version in range(first, state.version + 1):
        path = log / entry_name(version)
        try:
            commit = _commit(version, read_entry(path))
        except FileNotFoundError:
            # What a checkpoint stands for may be cleaned up.
            if version > summed_up:
                state.problems.append((path, "is missing, between entries that are there"))
        except (ValueError, KeyError, TypeError) as error:
            state.problems.append((path, f"is damaged: {error}"))
        else:
            state.commits.append(commit)
            if version > summed_up:
                state.apply(commit)
    return state


def read_entry(path: Path) -> list[dict[str, Any]]:
    """Read one entry of the table's log.

    Raises:
        FileNotFoundError: it is not there.
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


def missing_end(actions: Iterable[Mapping[str, Any]]) -> str | None:
    """Tell of an entry that was cut off between two lines: every commit of files ends with a transaction.

    A rewrite names the files that it removes first, so that one cut off would take rows away.
    """
    listed = list(actions)
    names_files = any("add" in action or "remove" in action for action in listed)
    return "cut off before its transaction" if names_files and "txn" not in listed[-1] else None


def is_whole_hint(hint: Path) -> bool:
    """Tell whether the table's hint at its newest checkpoint names one that is there."""
    try:
        version = json.loads(hint.read_bytes())["version"]
    except (ValueError, KeyError, TypeError):
        return False
    return any(hint.parent.glob(f"{version:020d}.checkpoint*.parquet"))


def checkpoint_files(log: Path) -> dict[int, list[Path]]:
    """Map version → the files of its checkpoint, newest first."""
    found: dict[int, list[Path]] = {}
    for path in sorted(log.glob("*.checkpoint*.parquet"), reverse=True):
        found.setdefault(int(path.name.split(".", maxsplit=1)[0]), []).append(path)
    return found


def _apply_newest_checkpoint(log: Path, state: LogState, through: int | None) -> None:
    for version, paths in checkpoint_files(log).items():
        try:
            tables = [_read_checkpoint(path) for path in paths]
        except FileNotFoundError:
            continue
        except (OSError, pa.ArrowException) as error:
            state.problems.extend((path, f"is damaged: {first_line(error)}") for path in paths)
            continue
        if state.checkpoint is None and (through is None or version <= through):
            for row in (row for table in tables for row in table.to_pylist()):
                if row.get("add"):
                    one = _logged_file(row["add"])
                    state.files[one.path] = one
                if row.get("txn"):
                    state.watermarks[row["txn"]["appId"]] = row["txn"]["version"]
            state.checkpoint = version


def _read_checkpoint(path: Path) -> pa.Table:
    with pq.ParquetFile(path) as file:
        columns = [name for name in ("add", "txn") if name in file.schema_arrow.names]
        return file.read(columns=columns, use_threads=False)


def _commit(version: int, actions: list[dict[str, Any]]) -> Commit:
    problem = missing_end(actions)
    if problem:
        raise ValueError(problem)
    added = {one.path: one for one in (_logged_file(action["add"]) for action in actions if "add" in action)}
    removed = frozenset(unquote(action["remove"]["path"]) for action in actions if "remove" in action)
    moved = [action[kind] for action in actions for kind in ("add", "remove") if kind in action]
    marks = {action["txn"]["appId"]: int(action["txn"]["version"]) for action in actions if "txn" in action}
    return Commit(version, added, removed, any(one.get("dataChange", True) for one in moved), marks)


def _logged_file(add: Mapping[str, Any]) -> LoggedFile:
    # A checkpoint's maps come as lists of pairs.
    partition = dict(add["partitionValues"])
    return LoggedFile(unquote(add["path"]), int(add["size"]), partition, json.loads(add["stats"] or "{}"))
