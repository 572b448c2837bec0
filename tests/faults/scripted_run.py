"""One script over a store, step by step in one thread, for faults at every step of it and for traces of what it wrote.

    python -m tests.faults.scripted_run REPORTS FOLDER[=MISTAKE|=upkeep]...

runs it in each folder, with a mistake in those that name one, or with a vacuum and an erasure at the end. What it does
and is told goes to the file REPORTS, a line each, as of `tests.faults.store_process`: `S user first count` before a
submission is handed over, `A user first count` when it is acknowledged, `R user first count error` when it is refused;
`F user` before a user is erased, and `G user` when that is acknowledged; `B folder` before the folder is opened.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, Final
from unittest import mock

import apsw

import storage.data_files
from storage.clock import system_now_us
from storage.errors import StoreError
from storage.flush import Flusher, FlushLimits
from storage.journal import Journal
from storage.journal_records import Append
from storage.lake import Lake
from storage.maintenance.compaction import CompactionRun
from storage.maintenance.compaction import compact as compact_table
from storage.maintenance.planning import CompactionLimits
from storage.maintenance.vacuum import vacuum
from storage.opening import open_store
from storage.paths import StorePaths
from storage.schema import ActionSchema
from storage.store import Store
from storage.store_options import StoreOptions
from storage.submission import SubmissionLimits, SubmissionParser
from tests.faults.history import Action, submission_body
from tests.storage.erasing import finish

_ROUNDS: Final = 3
_COMPACTION_MEMORY_BYTES: Final = 256 << 20
_LIMITS: Final = FlushLimits(rows_max=16, partitions_max=2)
UPKEEP: Final = "upkeep"
Report = Callable[[str], None]


def perform(folder: Path, name: str, report: Report) -> None:
    """Open the store (it recovers), submit, flush, trim, checkpoint, compact, and close."""
    store, _ = open_store(StorePaths.of(folder), ActionSchema(), StoreOptions(flush=_LIMITS), holder="a script")
    try:
        for number in range(_ROUNDS):
            for step in range(3):
                _submit(store, f"{name}-{number}", 40 * step, 6 + step, report)
            _try(store.flush_here, report)
            _submit(store, f"{name}-{number}", 200, 3, report)
            if number == 1:
                _try(lambda: compact(store), report)
        _submit(store, f"{name}-last", 0, 2, report)
    finally:
        store.close(flush=False)


def upkeep(folder: Path, erased_user: str, report: Report) -> None:
    """Open the store, remove what the table no longer names, erase a user to the end, and close."""
    options = StoreOptions(flush=_LIMITS, erasure_grace_ms=0)
    report(f"B {folder}")
    store, _ = open_store(StorePaths.of(folder), ActionSchema(), options, holder="a script")
    try:
        lake = Lake(store.paths.table, store.schema)
        now_ms = system_now_us() // 1000
        _try(lambda: vacuum(lake, store.journal, store.latch, now_ms=now_ms, grace_ms=0), report)
        _try(lambda: _erase(store, erased_user, report), report)
        _submit(store, erased_user, 300, 2, report)
    finally:
        store.close(flush=False)


def _erase(store: Store, user: str, report: Report) -> None:
    report(f"F {user}")
    store.erase(user)
    report(f"G {user}")
    finish(store)


def _submit(store: Store, user: str, first: int, count: int, report: Report) -> None:
    actions = [Action(user, first + step) for step in range(count)]
    parsed = SubmissionParser(store.schema, SubmissionLimits()).parse_json(
        submission_body(actions), now_us=system_now_us()
    )
    label = f"{user} {first} {count}"
    report(f"S {label}")
    try:
        store.append([Append(parsed.submissions, parsed.rejections, b"kept")])
    except StoreError as error:
        report(f"R {label} {type(error).__name__}: {error}")
    else:
        report(f"A {label}")


def _try(step: Callable[[], object], report: Report) -> None:
    try:
        step()
    except StoreError as error:
        report(f"L {type(error).__name__}: {error}")


def compact(store: Store) -> None:
    """Rewrite every partition that has more than one file."""
    run = CompactionRun(
        store.paths,
        store.journal,
        Lake(store.paths.table, store.schema),
        store.latch,
        CompactionLimits(),
        _COMPACTION_MEMORY_BYTES,
        now_ms=lambda: system_now_us() // 1000,
    )
    compact_table(run, thorough=True)


# Mistakes of durability, which no killed process shows and a power cut does.


@contextmanager
def synchronous_off() -> Iterator[None]:
    """The journal's commits are not synced."""
    connect = Journal._connect

    def careless(journal: Journal, *, read_only: bool) -> apsw.Connection:
        connection = connect(journal, read_only=read_only)
        connection.execute("PRAGMA synchronous = OFF")
        return connection

    with mock.patch.object(Journal, "_connect", careless):
        yield


@contextmanager
def folders_not_synced() -> Iterator[None]:
    """The folders of data files are not synced, so that their names may be lost."""
    with (
        mock.patch.object(storage.data_files, "fsync_path"),
        mock.patch.object(
            storage.data_files, "make_durable_folder", lambda path: path.mkdir(parents=True, exist_ok=True)
        ),
    ):
        yield


@contextmanager
def data_synced_too_late() -> Iterator[None]:
    """Data files are synced only when the store is closed, long after the commit that names them and its trim."""
    fsync = os.fsync

    def careless(descriptor: int) -> None:
        if not os.readlink(f"/proc/self/fd/{descriptor}").endswith(".parquet"):
            fsync(descriptor)

    with mock.patch.object(os, "fsync", careless):
        yield


@contextmanager
def trim_before_the_log_is_synced() -> Iterator[None]:
    """The journal is trimmed first, and the log entry that holds the rows instead is synced after that."""

    due: list[Callable[[], None]] = []
    trim = Journal.trim

    def later(flusher: Flusher, *, after_version: int) -> int:
        version = flusher._lake.version
        due.append(lambda: flusher._lake.sync(after_version=after_version, through_version=version))
        return version

    def careless(journal: Journal, watermark: int, *, durable_version: int) -> None:
        trim(journal, watermark, durable_version=durable_version)
        while due:
            due.pop()()

    with mock.patch.object(Flusher, "_sync_log", later), mock.patch.object(Journal, "trim", careless):
        yield


MISTAKES: Final[Mapping[str, Callable[[], Any]]] = {
    one.__name__: one
    for one in (synchronous_off, folders_not_synced, data_synced_too_late, trim_before_the_log_is_synced)
}


def main(reports: str, *folders: str) -> None:
    """Run the script in each folder, with the mistake that it names."""
    descriptor = os.open(reports, os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def report(line: str) -> None:
        os.write(descriptor, line.encode() + b"\n")

    for given in folders:
        folder, _, mistake = given.partition("=")
        report(f"B {folder}")
        with MISTAKES[mistake]() if mistake in MISTAKES else nullcontext():
            perform(Path(folder), mistake or "script", report)
        if mistake == UPKEEP:
            upkeep(Path(folder), f"{UPKEEP}-0", report)
        report(f"E {folder}")


if __name__ == "__main__":
    main(*sys.argv[1:])
