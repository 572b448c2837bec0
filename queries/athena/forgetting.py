"""Forgetting a user: what the history of queries and their results may tell of one, removed for all processes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Final

from queries.athena.executions import History
from queries.athena.liveness import WorkerLock
from queries.athena.results import ResultFiles

HISTORY_FILE: Final = "athena.sqlite"
RESULTS_FOLDER: Final = "athena/results"
WORKERS_FOLDER: Final = "athena/workers"


def forget(history: History, results: ResultFiles, text: str, is_alive: Callable[[str], bool]) -> int:
    """Remove what history and results may tell of *text*, such as the id of a user who was erased.

    Executions and prepared statements that mention it are removed, and so are all results, of every process, since any
    of them may hold the user's rows. Queries that run meanwhile fail, and say that they may be run again.

    Returns:
        how many executions were removed.

    Raises:
        OSError, sqlite3.Error: something could not be removed.
    """
    history.discard_unfinished(text)
    for execution_id in history.with_result():
        results.remove(execution_id)
        history.result_removed(execution_id)
    # What a process that died had written, which nobody would end before the next service starts.
    running = {execution.id for execution in history.unfinished() if is_alive(execution.owner)}
    results.remove_all_but(running)
    return history.forget_mentions(text)


def forget_in(state_folder: Path, text: str) -> int:
    """As `forget`, from any process that can reach the state folder; without effect where no query was ever run.

    Raises:
        OSError, sqlite3.Error: something could not be removed.
    """
    if not (state_folder / HISTORY_FILE).exists():
        return 0
    history = History(state_folder / HISTORY_FILE)
    try:
        lock = WorkerLock(state_folder / WORKERS_FOLDER)
        try:
            return forget(history, ResultFiles(state_folder / RESULTS_FOLDER, bytes_max=0), text, lock.is_alive)
        finally:
            lock.release()
    finally:
        history.close()
