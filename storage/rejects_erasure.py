"""Taking a user out of the dead letters and out of the table `rejects`, and old files of the table off the disk.

An erasure deletes the letters first and then rewrites the table, always with a commit, even where no file holds the
user: a move of letters that had read them before plans from an older snapshot, and is refused (`rejects_table`).
Old versions of the table keep their files until `remove_unreferenced_rejects`.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Final

import pyarrow as pa
import pyarrow.compute as pc

from storage.batch_columns import count_rows, decode_batch, encode_batch
from storage.dead_letters import Execute, Mark, delete_letters, put_marks, read_rejects_state, replace_original
from storage.errors import CommitRefused, RewriteConflict
from storage.journal import Journal
from storage.latch import Latch
from storage.rejects_files import Row, decode_original, encode_original, read_rows, remove_files, write_rows
from storage.rejects_table import RejectsFile, RejectsTable
from storage.write_errors import write_errors_told
from storage.write_guard import nobody_writes, writing_files

_ATTEMPTS_MAX: Final = 10
_WRITERS_TIMEOUT_S: Final = 10.0
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


def without_user(
    user: str | None, original: bytes, *, position: int | None, action_index: int | None, user_id: str
) -> bytes | None:
    """What stays of a reject's original without *user_id*: all of it, a part of a batch, or, where None, nothing.

    A reject is the user's by its submission, or by its text where that was no submission. A batch of many users that
    could not be flushed keeps the rows of the others, without those that an earlier commit took. One that cannot be
    decoded holds nobody's actions any more, and may hold the user: nothing of it stays.
    """
    if user is not None:
        return None if user == user_id else original
    if position is None or original.startswith(b"{"):
        return None if names_user(original, user_id) else original
    try:
        batch = decode_batch(original, rows=count_rows(original)).slice(action_index or 0)
    except (pa.ArrowException, ValueError, KeyError, OSError, StopIteration):
        return None
    kept = batch.filter(pc.not_equal(batch.column("user_id"), user_id))
    if kept.num_rows == batch.num_rows:
        return original
    return encode_batch(kept) if kept.num_rows else None


def erase_letters(journal: Journal, user_id: str, *, unflushable: bool = False) -> int:
    """Delete the user's dead letters, and mark their ids as dropped, in one transaction; return how many.

    Comes before the user's actions are erased from the journal and the lake, so that no replay brings them back; and
    once more for the *unflushable* ones alone, which the journal's last flush of such actions may have made.

    Raises:
        DiskFull, StoreFailed: as `Journal.append`.
    """
    with journal.writing() as execute:
        which = " AND position IS NOT NULL" if unflushable else ""
        ids = [row[0] for row in execute(f"SELECT id FROM dead_letters WHERE user_id = ?{which}", (user_id,))]  # noqa: S608
        parts: list[tuple[bytes, int]] = []
        for id_, original, position, action_index in execute(
            f"SELECT id, original, position, action_index FROM dead_letters WHERE user_id IS NULL{which}"  # noqa: S608
        ):
            kept = without_user(None, original, position=position, action_index=action_index, user_id=user_id)
            if kept is None:
                ids.append(id_)
            elif kept is not original:
                parts.append((kept, id_))
        _delete(execute, ids, time.time_ns() // 1000)
        for kept, id_ in parts:
            replace_original(execute, id_, kept)
    return len(ids) + len(parts)


def _delete(execute: Execute, ids: list[int], now_us: int) -> None:
    source = read_rejects_state(execute).source
    for one in ids:
        delete_letters(execute, "id = ?", (one,))
    # A replay that had read a letter before finds that it was decided about.
    put_marks(execute, [Mark(source, one, "dropped", None, None, now_us, None) for one in ids])


def erase_from_rejects(journal: Journal, folder: Path, latch: Latch, user_id: str, *, unflushable: bool = False) -> int:
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
                state = read_rejects_state(execute)
            snapshot = table.snapshot(state.source)
            if snapshot.version < 0:
                return 0
            removed: list[RejectsFile] = []
            added: list[RejectsFile] = []
            gone = 0
            with writing_files(folder):
                try:
                    for file in snapshot.files:
                        rows = list(read_rows(folder, file))
                        stays = [
                            row if unflushable and row["position"] is None else _row_without(row, user_id)
                            for row in rows
                        ]
                        changed = sum(one is not row for one, row in zip(stays, rows, strict=True))
                        if changed:
                            gone += changed
                            removed.append(file)
                            added += write_rows(folder, file.date, [one for one in stays if one is not None])
                except BaseException:
                    remove_files(folder, added)
                    raise
                try:
                    version = table.commit(
                        removed, added, planned_from=snapshot, source=state.source, watermark=snapshot.watermark
                    )
                except RewriteConflict:
                    remove_files(folder, added)
                    continue
                except CommitRefused:
                    # These two say that nothing was committed; any other error does not.
                    remove_files(folder, added)
                    raise
            # Also what a move of letters has committed and not synced yet: readers are bound to this version by then.
            table.sync(after_version=min(state.durable_version, snapshot.version))
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
            for user, original, position, taken in execute(
                "SELECT user_id, original, position, action_index FROM dead_letters"
            )
            if without_user(user, original, position=position, action_index=taken, user_id=user_id) is not original
        )
        source = read_rejects_state(execute).source
    snapshot = RejectsTable(folder).snapshot(source)
    return letters + sum(
        1 for file in snapshot.files for row in read_rows(folder, file) if _row_without(row, user_id) is not row
    )


def _row_without(row: Row, user_id: str) -> Row | None:
    """The row itself, or what stays of it."""
    original = decode_original(row["original"], row["original_encoding"])
    kept = without_user(
        row["user_id"],
        original,
        position=row["position"],
        action_index=row["action_index"],
        user_id=user_id,
    )
    if kept is None or kept is original:
        return row if kept is original else None
    text, encoding = encode_original(kept)
    return row | {
        "original": text,
        "original_encoding": encoding,
        "original_bytes": len(kept),
        "action_index": None,
    }


def remove_unreferenced_rejects(folder: Path, *, older_than_s: float, timeout_s: float = _WRITERS_TIMEOUT_S) -> bool:
    """Remove data files that the newest version of the table does not name and that are older than so many seconds.

    Returns:
        Whether that was done: not if somebody was between writing a file and naming it for longer than *timeout_s*.

    Raises:
        CorruptData: the table's log cannot be read.
        OSError: a file could not be removed.
    """
    if not folder.exists():
        return True
    before = time.time() - older_than_s
    with nobody_writes(folder, timeout_s=timeout_s) as alone:
        if not alone:
            return False
        found = [path for path in folder.glob("date=*/*.parquet") if path.stat().st_mtime < before]
        if found:
            live = {one.relative_path for one in RejectsTable(folder).snapshot("").files}
            for path in found:
                if path.relative_to(folder).as_posix() not in live:
                    path.unlink(missing_ok=True)
    return True
