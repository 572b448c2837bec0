"""Making a run from data files or from other runs, in a process of its own: `python -m storage.history.building`.

The job comes on standard input, the result is a folder with a manifest. Nothing is read from or written to anything
but the files that are named. The process has the lowest priority, one thread for sorting, and ends with its parent.

Memory is bounded by going over the sources once for each range of hashes whose rows, unpacked, are about
`PASS_BYTES`. Sources that are runs are sorted by hash already, so that each is read about once all the same.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from storage.durable_files import fsync_path
from storage.history.manifest import (
    FORMAT,
    HASH_BITS,
    MANIFEST,
    Part,
    Run,
    Source,
    footer_digest,
    read_manifest,
    write_manifest,
)
from storage.history.packed import (
    ROW_GROUP_ROWS,
    footer_metadata,
    notes_of,
    pack,
    unpack_journal,
    unpack_properties,
    unpack_times,
    writing_options,
)
from storage.history.reading import USER_HASH, without_partitions
from storage.user_hash import user_digests

PART_ROWS: Final = 300_000
# A run of at least this many rows stays for a while: the smaller ones are soon merged.
TIGHT_ROWS_MIN: Final = 4_000_000
PASS_BYTES: Final = 128 << 20
_BITS_MAX: Final = 16
_ORDER: Final = (USER_HASH, "user_id", "time", "journal", "position")
_PARENT_POLL_S: Final = 0.2


class FileSource(msgspec.Struct, frozen=True, tag_field="kind", tag="file"):
    """A data file to be copied."""

    path: str
    date: str
    type: str
    rows: int


class RunSource(msgspec.Struct, frozen=True, tag_field="kind", tag="run"):
    """A run to be merged: its folder, what counts of it, and the partitions to be left out."""

    folder: str
    used: tuple[Source, ...]
    excluded: tuple[tuple[str, str], ...]


class Job(msgspec.Struct, frozen=True):
    """What to make.

    Attributes:
        folder: to be filled; it exists and is empty. The run's id is what follows the prefix in its name.
        id: the run's.
        columns: names of the columns of a data file that are to be kept.
        schema: these columns, as Arrow's IPC writes a schema.
        sources: files or runs.
    """

    folder: str
    id: str
    schema: bytes
    sources: tuple[FileSource | RunSource, ...]


class SourceChanged(Exception):
    """A source does not hold what it should."""


Hashes = npt.NDArray[np.uint64]


def build_run(job: Job) -> Run:
    """Make the run of a job.

    Raises:
        SourceChanged: a source does not hold what it should.
        OSError, pa.ArrowException: something cannot be read or written.
    """
    schema = pa.ipc.read_schema(pa.py_buffer(job.schema)).insert(0, pa.field("type", pa.string()))
    expected = sum(_rows_of(one) for one in job.sources)
    bits = min(_BITS_MAX, max(0, (-(-expected // PART_ROWS) - 1).bit_length()))
    unpacked = sum(_unpacked_bytes(one) for one in job.sources)
    pass_bits = min(bits, max(0, (-(-unpacked // PASS_BYTES) - 1).bit_length()))
    folder = Path(job.folder)
    parts: list[Part | None] = []
    for number in range(1 << pass_bits):
        low, high = _range(number, pass_bits)
        rows = _sorted(pa.concat_tables([_read(one, schema, low, high) for one in job.sources]))
        hashes: Hashes = rows[USER_HASH].to_numpy()
        inner = 1 << (bits - pass_bits)
        for place in range(number * inner, (number + 1) * inner):
            begin, end = _range(place, bits)
            first = int(np.searchsorted(hashes, np.uint64(begin)))
            last = int(np.searchsorted(hashes, np.uint64(end), side="right"))
            of_part = rows.slice(first, last - first)
            parts.append(_write_part(folder, f"part-{place:05d}.parquet", of_part, tight=expected >= TIGHT_ROWS_MIN))
    run = Run(FORMAT, job.id, bits, tuple(parts), (USER_HASH, *schema.names), _sources(job))
    if run.rows != expected:
        raise SourceChanged(f"the sources have {run.rows} rows, not {expected}")
    write_manifest(folder, run)
    return run


def _rows_of(source: FileSource | RunSource) -> int:
    return source.rows if isinstance(source, FileSource) else sum(one.rows for one in source.used)


def _range(number: int, bits: int) -> tuple[int, int]:
    """The first and the last hash whose leading bits are *number*."""
    width = 1 << (HASH_BITS - bits)
    return number * width, (number + 1) * width - 1


def _sources(job: Job) -> tuple[Source, ...]:
    """What the new run holds, by partition."""
    rows: dict[tuple[str, str], int] = {}
    files: dict[tuple[str, str], list[str]] = {}
    for one in job.sources:
        parts = (
            [Source(one.date, one.type, one.rows, (one.path.rsplit("/", 1)[1],))]
            if isinstance(one, FileSource)
            else one.used
        )
        for part in parts:
            rows[part.partition] = rows.get(part.partition, 0) + part.rows
            files.setdefault(part.partition, []).extend(part.files)
    return tuple(Source(date, type_, rows[date, type_], tuple(files[date, type_])) for date, type_ in sorted(rows))


def _parts(source: RunSource) -> list[Path]:
    return sorted(Path(source.folder).glob("*.parquet"))


def _unpacked_bytes(source: FileSource | RunSource) -> int:
    """What a source takes in memory, about."""
    paths = [Path(source.path)] if isinstance(source, FileSource) else _parts(source)
    total = 0
    for path in paths:
        metadata = pq.read_metadata(path)
        # Dictionaries unpack to more than the file says; a row has a dozen columns of at least eight bytes.
        total += metadata.num_rows * 128 + sum(
            metadata.row_group(group).total_byte_size for group in range(metadata.num_row_groups)
        )
    return total


def _read(source: FileSource | RunSource, schema: pa.Schema, low: int, high: int) -> pa.Table:
    """Read the rows of the users with hashes from *low* to *high*, with their hashes."""
    if isinstance(source, FileSource):
        return _read_file(source, schema, low, high)
    run = read_manifest(Path(source.folder))
    if run is None:
        raise SourceChanged(f"{source.folder} is no run")
    excluded = frozenset((date, type_) for date, type_ in source.excluded)
    with_hash = schema.insert(0, pa.field(USER_HASH, pa.uint64()))
    tables = [with_hash.empty_table()]
    for number, part in enumerate(run.parts):
        begin, end = _range(number, run.bits)
        if part is not None and begin <= high and end >= low:
            tables += [one.select(with_hash.names) for one in _read_part(Path(source.folder) / part.name, low, high)]
    rows = pa.concat_tables(tables)
    return without_partitions(rows, excluded) if excluded else rows


def _read_part(path: Path, low: int, high: int) -> Iterator[pa.Table]:
    with pq.ParquetFile(path, page_checksum_verification=True) as file:
        metadata = file.metadata
        place = file.schema_arrow.names.index(USER_HASH)
        groups = []
        for group in range(metadata.num_row_groups):
            statistics = metadata.row_group(group).column(place).statistics
            if statistics.min <= high and statistics.max >= low:
                groups.append(group)
        if groups:
            rows = unpack_times(file.read_row_groups(groups, use_threads=False))
            notes = notes_of(metadata.metadata)
            rows = unpack_properties(unpack_journal(rows, notes), notes)
            hashes: Hashes = rows[USER_HASH].to_numpy()
            yield rows.filter(pa.array((hashes >= np.uint64(low)) & (hashes <= np.uint64(high))))


def _read_file(source: FileSource, schema: pa.Schema, low: int, high: int) -> pa.Table:
    with pq.ParquetFile(source.path) as file:
        present = [name for name in schema.names if name in file.schema_arrow.names]
        rows = file.read(columns=present, use_threads=False)
    if rows.num_rows != source.rows:
        raise SourceChanged(f"{source.path} has {rows.num_rows} rows, not {source.rows}")
    users = rows["user_id"].combine_chunks().dictionary_encode()
    users = users.combine_chunks() if isinstance(users, pa.ChunkedArray) else users
    digests = user_digests(users.dictionary.to_pylist())[:, 0]
    hashes: Hashes = digests[users.indices.to_numpy()]
    arrays: list[Any] = [pa.chunked_array([pa.array(hashes, pa.uint64())])]
    for field in schema:
        if field.name == "type":
            arrays.append(pa.repeat(pa.scalar(source.type), rows.num_rows))
        elif field.name in present:
            arrays.append(rows[field.name].cast(field.type))
        else:
            arrays.append(pa.nulls(rows.num_rows, field.type))
    table = pa.table(arrays, schema=schema.insert(0, pa.field(USER_HASH, pa.uint64())))
    if low == 0 and high == (1 << HASH_BITS) - 1:
        return table
    return table.filter(pa.array((hashes >= np.uint64(low)) & (hashes <= np.uint64(high))))


def _sorted(rows: pa.Table) -> pa.Table:
    # Four times as fast as Arrow's own sorting by five columns. Imported with its number of threads set.
    import polars as pl

    frame = pl.DataFrame(rows).sort(_ORDER)
    return frame.to_arrow().cast(rows.schema)


def _write_part(folder: Path, name: str, rows: pa.Table, *, tight: bool) -> Part | None:
    if not rows.num_rows:
        return None
    path = folder / name
    packed, notes = pack(rows, row_group_rows=ROW_GROUP_ROWS)
    with open(path, "xb", opener=lambda file, flags: os.open(file, flags, 0o600)) as sink:
        with pq.ParquetWriter(
            sink,
            packed.schema,
            # Readers look for hashes and times; other statistics would only make the footer larger.
            write_statistics=[USER_HASH, "time"],
            store_schema=False,
            **writing_options(packed, tight=tight),
        ) as writer:
            writer.add_key_value_metadata(footer_metadata(notes))
            writer.write_table(packed, row_group_size=ROW_GROUP_ROWS)
        sink.flush()
        os.fsync(sink.fileno())
        size = sink.tell()
    with open(path, "rb") as file:
        file.seek(size - 8)
        length = int.from_bytes(file.read(4), "little") + 8
        file.seek(size - length)
        return Part(name, size, rows.num_rows, footer_digest(file.read()))


def _end_with_parent() -> None:
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(_PARENT_POLL_S)
        os._exit(1)

    threading.Thread(target=watch, name="parent watch", daemon=True).start()


def main() -> None:
    """Do the job on standard input."""
    _end_with_parent()
    os.nice(19)
    os.environ["POLARS_MAX_THREADS"] = "1"
    pa.set_cpu_count(1)
    job = msgspec.json.decode(sys.stdin.buffer.read(), type=Job)
    run = build_run(job)
    fsync_path(Path(job.folder) / MANIFEST)
    print(run.rows)


if __name__ == "__main__":
    main()
