"""What `verify` looks at in the table `rejects`: its log, its files, its watermark, and doubles."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from storage.dead_letters import read_rejects_state
from storage.errors import StoreError
from storage.journal import Journal
from storage.log_replay import LoggedFile, read_log
from storage.paths import StorePaths
from storage.problems import RESTORE, Problem
from storage.rejects_table import app_id


def verify_rejects(paths: StorePaths) -> list[Problem]:
    """Check the table against the journal; a table that was never made is whole.

    Its rows are few and small, so that their ids are compared in memory.
    """
    try:
        journal = Journal(paths.journal, None)
    except StoreError:
        # Told by the check of the journal itself.
        return []
    try:
        # Before the table is read, which may move on but never back.
        with journal.reading() as execute:
            state = read_rejects_state(execute)
    except StoreError:
        return []
    finally:
        journal.close()
    log = read_log(paths.rejects)
    problems = [Problem(path, what, RESTORE) for path, what in log.problems]
    watermark = log.watermarks.get(app_id(state.source), 0)
    if watermark < state.moved_through or log.version < max(state.version_min, state.durable_version):
        what = f"is older than the journal, which has moved dead letters up to {state.moved_through} to it"
        problems.append(Problem(paths.rejects, what, "restore the table and the journal from one backup"))
    seen: Counter[tuple[str, int]] = Counter()
    for one in log.files.values():
        problem = _check_file(paths.rejects / one.path, one, seen)
        if problem is not None and one.path in read_log(paths.rejects).files:
            problems.append(problem)
    doubled = [reject for reject, times in seen.items() if times > 1]
    if doubled:
        source, number = doubled[0]
        what = f"holds {len(doubled)} rejects more than once, such as {number} of {source}"
        problems.append(Problem(paths.rejects, what, RESTORE))
    return problems


def _check_file(path: Path, one: LoggedFile, seen: Counter[tuple[str, int]]) -> Problem | None:
    try:
        size = path.stat().st_size
        with pq.ParquetFile(path, page_checksum_verification=True) as file:
            rows = file.read(columns=["source", "reject_id"], use_threads=False)
    except FileNotFoundError:
        return Problem(path, "is missing, and the table's log names it", RESTORE)
    except (OSError, pa.ArrowException) as error:
        return Problem(path, f"cannot be read: {str(error).partition(chr(10))[0]}", RESTORE)
    seen.update(zip(rows["source"].to_pylist(), rows["reject_id"].to_pylist(), strict=True))
    if size != one.size_bytes or rows.num_rows != one.rows:
        what = f"has {size} bytes and {rows.num_rows} rows, and the log says {one.size_bytes} and {one.rows}"
        return Problem(path, what, RESTORE)
    return None
