"""Data files of the table `rejects`: rows from dead letters, files from rows, and rows with what was decided since.

A file is sorted by `received_at, source, reject_id`. Its row groups are cut by bytes, since one reject may be a line of
ten megabytes, so that reading one group is cheap; and so are the files. The exact bytes of an original are kept: as
text where they are UTF-8, as Base64 where they are not.
"""

from __future__ import annotations

import base64
import datetime
import os
import uuid
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.parquet as pq

from storage.dead_letters import DeadLetter, Mark
from storage.durable_files import fsync_path, make_durable_folder
from storage.rejects_table import BASE64, FILE_SCHEMA, UTF_8, RejectsFile
from storage.schema import TIMESTAMP

GROUP_ROWS_MAX: Final = 2_000
GROUP_BYTES_MAX: Final = 4 * 1024 * 1024
FILE_BYTES_MAX: Final = 64 * 1024 * 1024
_EPOCH: Final = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)

Row = dict[str, Any]
Marks = Mapping[tuple[str, int], Mark]


def encode_original(original: bytes) -> tuple[str, str]:
    """Return an original as text, and the encoding by which `decode_original` gives its bytes back."""
    try:
        return original.decode("utf-8", "strict"), UTF_8
    except UnicodeDecodeError:
        return base64.b64encode(original).decode(), BASE64


def decode_original(text: str, encoding: str) -> bytes:
    """Return the exact bytes of an original."""
    return base64.b64decode(text) if encoding == BASE64 else text.encode()


def moment_of(time_us: int) -> datetime.datetime:
    """A time in microseconds since the epoch as a datetime."""
    return _EPOCH + datetime.timedelta(microseconds=time_us)


def row_of_letter(letter: DeadLetter, source: str) -> Row:
    """A dead letter as a row of the table, open."""
    text, encoding = encode_original(letter.original)
    return {
        "source": source,
        "reject_id": letter.id,
        "received_at": moment_of(letter.received_at_us),
        "user_id": letter.user_id,
        "session_id": letter.session_id,
        "line": letter.line,
        "action_index": letter.action_index,
        "code": letter.code,
        "message": letter.message,
        "original": text,
        "original_encoding": encoding,
        "original_bytes": len(letter.original),
        "position": letter.position,
        "state": "open",
        "state_at": None,
        "replayed_position": None,
    }


def with_mark(row: Row, marks: Marks) -> Row | None:
    """The row as it is after what was decided about it; None where it was dropped. A replayed one stays replayed."""
    mark = marks.get((row["source"], row["reject_id"]))
    if mark is not None and mark.state == "dropped":
        return None
    if mark is None or row["state"] != "open":
        return row
    return row | {
        "state": mark.state,
        "state_at": moment_of(mark.at_us),
        "code": mark.code if mark.code is not None else row["code"],
        "message": mark.message if mark.message is not None else row["message"],
        "replayed_position": mark.position,
    }


def read_rows(folder: Path, file: RejectsFile) -> Iterator[Row]:
    """Read a file's rows, a row group at a time.

    Raises:
        OSError, pyarrow.ArrowException: it is missing or damaged.
    """
    with pq.ParquetFile(folder / file.relative_path) as opened:
        for group in range(opened.num_row_groups):
            yield from opened.read_row_group(group).to_pylist()


def write_rows(folder: Path, date: datetime.date, rows: Sequence[Row]) -> list[RejectsFile]:
    """Write rows of one date as durable files; none where there are no rows.

    Raises:
        OSError: a write or fsync failed; files written so far are removed again.
    """
    ordered = sorted(rows, key=lambda row: (row["received_at"], row["source"], row["reject_id"]))
    written: list[RejectsFile] = []
    try:
        for part in _parts(ordered, bytes_max=FILE_BYTES_MAX, rows_max=None):
            written.append(_write_one(folder, date, part))
    except BaseException:
        remove_files(folder, written)
        raise
    return written


def remove_files(folder: Path, files: Sequence[RejectsFile]) -> None:
    """Remove files that were written and are known not to be in the table."""
    for one in files:
        (folder / one.relative_path).unlink(missing_ok=True)


def _parts(rows: Sequence[Row], *, bytes_max: int, rows_max: int | None) -> Iterator[list[Row]]:
    part: list[Row] = []
    size = 0
    for row in rows:
        one = len(row["original"])
        if part and (size + one > bytes_max or len(part) == rows_max):
            yield part
            part, size = [], 0
        part.append(row)
        size += one
    if part:
        yield part


def _write_one(folder: Path, date: datetime.date, rows: Sequence[Row]) -> RejectsFile:
    relative = f"date={date.isoformat()}/part-{uuid.uuid4().hex}.parquet"
    path = folder / relative
    make_durable_folder(path.parent)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
    try:
        with (
            os.fdopen(descriptor, "wb", closefd=False) as sink,
            pq.ParquetWriter(sink, FILE_SCHEMA, compression="zstd") as writer,
        ):
            for part in _parts(rows, bytes_max=GROUP_BYTES_MAX, rows_max=GROUP_ROWS_MAX):
                writer.write_table(pa.Table.from_pylist(part, schema=FILE_SCHEMA))
        os.fsync(descriptor)
        size = os.fstat(descriptor).st_size
    except BaseException:
        path.unlink(missing_ok=True)
        raise
    finally:
        os.close(descriptor)
    fsync_path(path.parent)
    received = pa.array([row["received_at"] for row in rows], TIMESTAMP).cast(pa.int64()).to_pylist()
    ids = [row["reject_id"] for row in rows]
    return RejectsFile(relative, size, len(rows), date, min(received), max(received), min(ids), max(ids))
