"""Taking a user out of the dead letters and out of the table `rejects`, and old files of the table off the disk.

An erasure deletes the letters first and then rewrites the table, always with a commit, even where no file holds the
user: a move of letters that had read them before plans from an older snapshot, and is refused (`rejects_table`).
Old versions of the table keep their files until `remove_unreferenced_rejects`.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from storage.dead_letters import Execute, Mark, delete_letters, put_marks, read_rejects_state
from storage.errors import CommitRefused, RewriteConflict
from storage.journal import Journal
from storage.latch import Latch
from storage.rejects_files import Row, decode_original, read_rows, remove_files, write_rows
from storage.rejects_table import RejectsFile, RejectsTable
from storage.write_errors import write_errors_told

_ATTEMPTS_MAX: Final = 10
_decoder: Final = json.JSONDecoder(strict=False)


def names_user(original: bytes, user_id: str) -> bool:
    """Tell whether a text, which may be no JSON at all, holds *user_id* as a JSON string, however it is escaped."""
    text = original.decode("utf-8", "surrogateescape")
    if any(json.dumps(user_id, ensure_ascii=ascii_only) in text for ascii_only in (False, True)):
        return True
    if "\\" not in text:
        return False
    start = text.find('"')
    while start >= 0:
        try:
            value, end = _decoder.raw_decode(text, start)
        except ValueError:
            end = start + 1
        else:
            if value == user_id:
                return True
        # A quote may end one string or begin the next: a text that is no JSON does not say.
        start = text.find('"', max(start + 1, end - 1))
    return False


def is_of_user(user: str | None, original: Callable[[], bytes], user_id: str) -> bool:
    """Tell whether a reject is the user's: by its submission, or by its text where that was no submission."""
    return user == user_id if user is not None else names_user(original(), user_id)


def erase_letters(journal: Journal, user_id: str) -> int:
    """Delete the user's dead letters, and mark their ids as dropped, in one transaction; return how many.

    Comes before the user's actions are erased from the journal and the lake, so that no replay brings them back.

    Raises:
        DiskFull, StoreFailed: as `Journal.append`.
    """
    with journal.writing() as execute:
        ids = [row[0] for row in execute("SELECT id FROM dead_letters WHERE user_id = ?", (user_id,))]
        ids += [
            row[0]
            for row in execute("SELECT id, original FROM dead_letters WHERE user_id IS NULL")
            if names_user(row[1], user_id)
        ]
        _delete(execute, ids, time.time_ns() // 1000)
    return len(ids)


def _delete(execute: Execute, ids: list[int], now_us: int) -> None:
    source = read_rejects_state(execute).source
    for one in ids:
        delete_letters(execute, "id = ?", (one,))
    # A replay that had read a letter before finds that it was decided about.
    put_marks(execute, [Mark(source, one, "dropped", None, None, now_us, None) for one in ids])


def erase_from_rejects(journal: Journal, folder: Path, latch: Latch, user_id: str) -> int:
    """Rewrite the table's files without the user's rows, durably, after `erase_letters`; return how many rows went.

    May run in any process, beside the leader.

    Raises:
        DiskFull, CommitRefused: nothing is changed; do it again.
        StoreFailed: a write or fsync failed; the latch is set.
        OSError, pyarrow.ArrowException: a file is missing or damaged.
    """
    latch.check()
    with write_errors_told(folder, latch):
        table = RejectsTable(folder)
        for _ in range(_ATTEMPTS_MAX):
            with journal.reading() as execute:
                source = read_rejects_state(execute).source
            snapshot = table.snapshot(source)
            if snapshot.version < 0:
                return 0
            removed: list[RejectsFile] = []
            added: list[RejectsFile] = []
            gone = 0
            try:
                for file in snapshot.files:
                    rows = list(read_rows(folder, file))
                    kept = [row for row in rows if not _row_is_of_user(row, user_id)]
                    if len(kept) < len(rows):
                        gone += len(rows) - len(kept)
                        removed.append(file)
                        added += write_rows(folder, file.date, kept)
                version = table.commit(
                    removed, added, planned_from=snapshot, source=source, watermark=snapshot.watermark
                )
            except RewriteConflict:
                remove_files(folder, added)
                continue
            except BaseException:
                remove_files(folder, added)
                raise
            table.sync(after_version=snapshot.version)
            with journal.writing() as execute:
                execute("UPDATE rejects SET version_min = max(version_min, ?)", (version,))
            return gone
    raise CommitRefused(f"{folder} is rewritten all the time")


def count_rejects(journal: Journal, folder: Path, user_id: str) -> int:
    """Count the user's dead letters and rows of the table, for whoever asks before erasing.

    Raises:
        CorruptData, OSError, pyarrow.ArrowException: a file is missing or damaged.
    """
    with journal.reading() as execute:
        letters = sum(
            1
            for row in execute("SELECT user_id, original FROM dead_letters")
            if row[0] == user_id or (row[0] is None and names_user(row[1], user_id))
        )
        source = read_rejects_state(execute).source
    snapshot = RejectsTable(folder).snapshot(source)
    return letters + sum(
        1 for file in snapshot.files for row in read_rows(folder, file) if _row_is_of_user(row, user_id)
    )


def _row_is_of_user(row: Row, user_id: str) -> bool:
    return is_of_user(row["user_id"], lambda: decode_original(row["original"], row["original_encoding"]), user_id)


def remove_unreferenced_rejects(folder: Path, *, older_than_s: float) -> list[Path]:
    """Remove data files that the newest version of the table does not name and that are older than so many seconds.

    Raises:
        CorruptData: the table's log cannot be read.
        OSError: a file could not be removed.
    """
    before = time.time() - older_than_s
    found = [path for path in folder.glob("date=*/*.parquet") if path.stat().st_mtime < before]
    if not found:
        return []
    # Loaded after the files were listed: what was committed since is not taken for unreferenced.
    live = {one.relative_path for one in RejectsTable(folder).snapshot("").files}
    gone = [path for path in found if path.relative_to(folder).as_posix() not in live]
    for path in gone:
        path.unlink(missing_ok=True)
    return gone
