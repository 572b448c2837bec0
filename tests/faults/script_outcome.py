"""What a scripted run had been told, and whether the store that it left keeps that."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Final

import pyarrow as pa

from storage.clock import system_now_us
from storage.errors import StoreError
from storage.journal_records import Append
from storage.opening import open_store
from storage.paths import StorePaths
from storage.schema import ActionSchema
from storage.store import Store
from storage.store_options import StoreOptions
from storage.submission import SubmissionLimits, SubmissionParser
from storage.verification import verify
from tests.faults.history import Action, History, submission_body
from tests.faults.store_process import NOTHING_KEPT
from tests.faults.stored_rows import StoredRows

# Nobody of a script.
_NEW_USER: Final = "a newcomer"


def history_of(reports: Iterable[str]) -> History:
    """Read the reports of `tests.faults.scripted_run`, in their order."""
    history = History()
    for report in reports:
        kind, _, rest = report.strip().partition(" ")
        if kind in ("F", "G"):
            history.erase(rest, done=kind == "G")
        if kind not in ("S", "A", "R"):
            continue
        user, first, count, *error = rest.split(" ", 3)
        actions = [Action(user, int(first) + step) for step in range(int(count))]
        if kind == "S":
            history.send(actions)
        elif kind == "A":
            history.acknowledge(actions)
        elif error[0].startswith(NOTHING_KEPT):
            history.refuse(actions)
    return history


def problem_after(folder: Path, history: History) -> str | None:
    """Recover the store in *folder*, and tell what is wrong with it: by what clients know, and by `verify`."""
    return _problem(folder, history, lambda store: None)


def problem_with_more(folder: Path, history: History) -> str | None:
    """Recover the store in *folder*, submit and flush, and tell whether that fails, or what is wrong then."""
    actions = [Action(_NEW_USER, sequence) for sequence in (1, 101)]

    def use(store: Store) -> None:
        parsed = SubmissionParser(store.schema, SubmissionLimits()).parse_json(
            submission_body(actions), now_us=system_now_us()
        )
        history.send(actions)
        store.append([Append(parsed.submissions, parsed.rejections, b"kept")])
        history.acknowledge(actions)
        store.flush_here()

    return _problem(folder, history, use)


def _problem(folder: Path, history: History, use: Callable[[Store], None]) -> str | None:
    paths = StorePaths.of(folder)
    try:
        store, _ = open_store(paths, ActionSchema(), StoreOptions(), holder="the test")
    except StoreError as error:
        return f"the store does not open: {error}"
    try:
        use(store)
        violations = history.judge(StoredRows().of(store.read_view()))
    except (StoreError, OSError, pa.ArrowException) as error:
        return f"the store cannot be used: {type(error).__name__}: {error}"
    finally:
        store.close(flush=False)
    if violations:
        return str(violations)
    return "; ".join(map(str, verify(paths, ActionSchema(), deep=False).problems)) or None
