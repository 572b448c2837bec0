"""The accepted rows of a batch of many users, in the form in which the journal keeps them.

One row of the journal for each user and session would be most of the cost of rows that come by the ten thousand. A
batch has its users and sessions among its columns, and its payload is what Arrow writes of it (an IPC stream of one
record batch, its buffers compressed with lz4), with a checksum at its end.
"""

from __future__ import annotations

import zlib
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from storage.schema import TIMESTAMP, ActionSchema, TableColumns

# Stands for the one user of a submission, which is never empty.
BATCH_USER: Final = ""

_CHECKSUM_BYTES: Final = 4
_DAY_US: Final = 86_400_000_000
# Each column by a thread of its own takes twice the processor for batches of this size.
_COMPRESSED: Final = pa.ipc.IpcWriteOptions(compression="lz4", use_threads=False)
_AS_IT_IS: Final = pa.ipc.IpcWriteOptions()
_READ: Final = pa.ipc.IpcReadOptions(use_threads=False)
# What the journal may hold, and a flush takes at once, is bounded in the journal's bytes. A batch that becomes so many
# times as large when it is read is kept as it is.
_EXPANSION_MAX: Final = 3
_FIXED: Final = {
    "time": pa.int64(),
    "utc_offset_minutes": pa.int16(),
    "type": pa.dictionary(pa.int16(), pa.string()),
    "user_id": pa.string(),
    "session_id": pa.string(),
    "properties": pa.string(),
}


def encode_batch(batch: pa.RecordBatch) -> bytes:
    """Encode rows for the journal.

    Args:
        batch: the columns of `_FIXED`, and promoted columns, each with its own type.
    """
    encoded = _write(batch, _COMPRESSED)
    if encoded.size * _EXPANSION_MAX < batch.nbytes:
        encoded = _write(batch, _AS_IT_IS)
    return b"".join((encoded, zlib.crc32(encoded).to_bytes(_CHECKSUM_BYTES, "little")))


def _write(batch: pa.RecordBatch, options: pa.ipc.IpcWriteOptions) -> pa.Buffer:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, batch.schema, options=options) as writer:
        writer.write_batch(batch)
    return sink.getvalue()


def decode_batch(payload: bytes, *, rows: int) -> pa.RecordBatch:
    """Decode what `encode_batch` encoded.

    Raises:
        ValueError: the payload is damaged, or does not hold *rows* rows of the columns that it should.
        pyarrow.ArrowException: the same, as Arrow finds it.
    """
    encoded = memoryview(payload)[:-_CHECKSUM_BYTES]
    if zlib.crc32(encoded).to_bytes(_CHECKSUM_BYTES, "little") != payload[-_CHECKSUM_BYTES:]:
        raise ValueError("the checksum does not match: the journal's file is damaged")
    batch = pa.ipc.open_stream(pa.py_buffer(encoded), options=_READ).read_next_batch()
    batch.validate(full=True)
    if batch.num_rows != rows:
        raise ValueError(f"the batch holds {batch.num_rows} rows where its positions are {rows}")
    for name, type_ in _FIXED.items():
        if batch.schema.field(name).type != type_:
            raise ValueError(f"column {name} is {batch.schema.field(name).type} where it must be {type_}")
    return batch


def count_rows(payload: bytes) -> int:
    """How many rows a payload says it holds; whether it is whole, `decode_batch` checks.

    Raises:
        ValueError: the payload is damaged.
        pyarrow.ArrowException: the same, as Arrow finds it.
    """
    encoded = memoryview(payload)[:-_CHECKSUM_BYTES]
    return int(pa.ipc.open_stream(pa.py_buffer(encoded)).read_next_batch().num_rows)


def batch_to_table(
    batch: pa.RecordBatch,
    *,
    first_position: int,
    received_at_us: int,
    journal: str,
    schema: ActionSchema | TableColumns,
) -> pa.Table:
    """Turn a decoded batch into rows with all columns of `schema.table_schema`.

    Promoted columns that the schema no longer knows, or knows with another type, are left out; those that the batch
    lacks are null.
    """
    n = batch.num_rows
    time = batch.column("time")
    columns: dict[str, pa.Array] = {
        "date": pc.divide(time, _DAY_US).cast(pa.int32()).view(pa.date32()),
        "type": batch.column("type").cast(pa.string()),
        "time": time.view(TIMESTAMP),
        **{name: batch.column(name) for name in ("user_id", "session_id", "utc_offset_minutes", "properties")},
        "received_at": pa.repeat(pa.scalar(received_at_us, pa.int64()), n).view(TIMESTAMP),
        "journal": pa.repeat(pa.scalar(journal), n),
        "position": pa.array(np.arange(first_position, first_position + n)),
    }
    for field in schema.promoted_fields:
        place = batch.schema.get_field_index(field.name)
        known = place >= 0 and batch.schema.field(place).type == field.type
        columns[field.name] = batch.column(place) if known else pa.nulls(n, field.type)
    return pa.table([columns[name] for name in schema.table_schema.names], schema=schema.table_schema)
