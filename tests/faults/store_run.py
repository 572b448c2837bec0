"""What happens inside a process of `tests.faults.store_process`: clients submit, and a flush follows the other."""

from __future__ import annotations

import json
import os
import queue
import random
import sys
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, Final

import storage.group_commit
from storage.clock import system_now_us
from storage.data_files import WrittenFile
from storage.errors import Overloaded, StoreError
from storage.flush import FlushLimits
from storage.journal_records import Append
from storage.lake import Lake
from storage.opening import open_store, read_store
from storage.paths import StorePaths
from storage.schema import ActionSchema
from storage.store import Store
from storage.store_options import StoreOptions
from storage.submission import SubmissionLimits, SubmissionParser
from tests.faults import broken_stores, injected_faults
from tests.faults.history import Action, submission_body
from tests.faults.store_process import Run
from tests.faults.stored_rows import StoredRows

# Small enough that a run of milliseconds goes through all of it: several commits a flush, a part of a submission in
# one commit and the rest in the next, a trim after each.
LIMITS: Final = FlushLimits(interval_ms_max=1, rows_max=150, bytes_max=1 << 20, partitions_max=3)
_FLUSH_TIMEOUT_S: Final = 10.0
_PAUSE_S: Final = 0.01

Report = Callable[[str], None]


def perform(run: Run, reports: int) -> None:
    """Do what *run* says; returns only when all clients have ended."""

    def report(line: str) -> None:
        os.write(reports, line.encode() + b"\n")

    if run.mistake is not None:
        broken_stores.MISTAKES[run.mistake]()
    _report_commits(report, hold=run.holds_after_commit)
    sys.setswitchinterval(storage.group_commit.SWITCH_INTERVAL_S)
    if run.fault and run.fault_from_start:
        injected_faults.install(**run.fault)
    store = _open(run, report)
    report("O")
    if run.fault and not run.fault_from_start:
        injected_faults.install(**run.fault)
    if run.threads and not run.read_only:
        _submit(run, store, report)
    for row in StoredRows().of(store.read_view()):
        report(f"D {json.dumps([*row.action, row.whole, *(row.place or ())])}")


def _report_commits(report: Report, *, hold: bool) -> None:
    append = Lake.append

    def reported(lake: Lake, files: Sequence[WrittenFile], *, journal: str, after: int, watermark: int) -> int:
        report("B")
        version = append(lake, files, journal=journal, after=after, watermark=watermark)
        report("C")
        if hold:
            threading.Event().wait()
        return version

    Lake.append = reported  # type: ignore[method-assign,assignment]


def _open(run: Run, report: Report) -> Store:
    paths = StorePaths.of(run.folder)
    schema = ActionSchema()
    if run.read_only:
        return read_store(paths, schema)
    options = StoreOptions(
        flush=LIMITS,
        on_flush=lambda result: report("F"),
        on_flush_error=lambda error: report(f"L {type(error).__name__}: {error}; {error.__cause__!r}"),
    )
    return open_store(paths, schema, options, holder=f"pid {os.getpid()}")[0]


def _submit(run: Run, store: Store, report: Report) -> None:
    committer = storage.group_commit.GroupCommitter(
        store.journal,
        now_us=system_now_us,
        deliver=_deliver,
        pending_bytes_max=1 << 20,
        on_commit=lambda requests, seconds: None,
    )
    store.start_leading()
    flushing = threading.Thread(target=_flush_always, args=(store,), daemon=True)
    flushing.start()
    clients = [
        threading.Thread(target=_submit_always, args=(run, f"{run.name}-{number}", store, committer, report))
        for number in range(run.threads)
    ]
    for client in clients:
        client.start()
    for client in clients:
        client.join()


def _deliver(outcomes: list[tuple[Any, bytes | StoreError]]) -> None:
    for waiting, outcome in outcomes:
        waiting.put(outcome)


def _flush_always(store: Store) -> None:
    """Ask for one flush after the other; what goes wrong there is the leader's to notice, and the clients' to hear."""
    while True:
        try:
            store.flush(timeout_s=_FLUSH_TIMEOUT_S)
        except Overloaded:
            time.sleep(_PAUSE_S)
        except StoreError:
            return


def _submit_always(
    run: Run, user: str, store: Store, committer: storage.group_commit.GroupCommitter, report: Report
) -> None:
    choose = random.Random(user)
    parser = SubmissionParser(store.schema, SubmissionLimits())
    waiting: queue.SimpleQueue[bytes | StoreError] = queue.SimpleQueue()
    sequence = 0
    while True:
        actions = [Action(user, sequence + step) for step in range(choose.randint(1, run.actions_max))]
        label = f"{user} {sequence} {len(actions)}"
        sequence += len(actions)
        parsed = parser.parse_json(submission_body(actions), now_us=system_now_us())
        report(f"S {label}")
        committer.submit(waiting, Append(parsed.submissions, parsed.rejections, b"kept"))
        outcome = waiting.get()
        if isinstance(outcome, bytes):
            report(f"A {label}")
            continue
        report(f"R {label} {type(outcome).__name__}: {outcome}")
        if not (run.patience and isinstance(outcome, Overloaded)):
            return
        time.sleep(_PAUSE_S)
