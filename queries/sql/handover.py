"""Hot rows on their way to a worker: only the batches that it has not.

The store's hot rows grow by a batch at a time, and a table of them shares the memory of the batches that it had
before. So what a worker has already is recognised by where it lies in memory.
"""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa

from queries.sql.messages import UseHot

_FRESH = -1


class HotSender:
    """What one worker has been sent. The service's side."""

    def __init__(self) -> None:
        self._places: dict[tuple[int, ...], int] = {}
        # Keeps the memory from being used for something else as long as it is recognised by its address.
        self._table: pa.Table | None = None

    def encode(self, table: pa.Table) -> tuple[UseHot, memoryview]:
        """Return the message that gives the worker the rows of *table*, instead of what it had."""
        batches = [batch for batch in table.to_batches() if batch.num_rows]
        identities = [_identity(batch) for batch in batches]
        order = [self._places.get(identity, _FRESH) for identity in identities]
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, table.schema) as writer:
            for batch, place in zip(batches, order, strict=True):
                if place == _FRESH:
                    writer.write_batch(batch)
        self._places = {identity: place for place, identity in enumerate(identities)}
        self._table = table
        return UseHot(order), memoryview(sink.getvalue())

    def forget(self) -> None:
        """Take it that the worker has nothing."""
        self._places = {}
        self._table = None


class HotReceiver:
    """What one worker has. The worker's side."""

    def __init__(self) -> None:
        self._batches: Sequence[pa.RecordBatch] = ()

    def decode(self, message: UseHot, payload: memoryview) -> pa.Table:
        """Return the rows that a message gives."""
        with pa.ipc.open_stream(pa.py_buffer(payload)) as stream:
            schema, fresh = stream.schema, iter(list(stream))
        self._batches = [next(fresh) if place == _FRESH else self._batches[place] for place in message.order]
        return pa.Table.from_batches(self._batches, schema)


def _identity(batch: pa.RecordBatch) -> tuple[int, ...]:
    """Return where a batch lies in memory: the same for the same rows, as long as both exist."""
    identity = [batch.num_rows]
    for column in batch.columns:
        identity.append(column.offset)
        identity.extend(0 if buffer is None else buffer.address for buffer in column.buffers())
    return tuple(identity)
