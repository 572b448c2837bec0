"""A worker's answer on its way to the service: few messages, no faster than they are asked for, within its limits.

What an answer begins with waits for the first rows, so that a small answer is two writes: the rows, which the service
turns into its answer's format while the worker finds out what they cost, and that. The rows of a large one are written
by a thread of their own, while DuckDB makes the next ones.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Sequence
from typing import Final

import pyarrow as pa

from queries.sql.channel import Channel, encode_frame
from queries.sql.engine import BATCH_ROWS
from queries.sql.failures import Interrupted, ResultTooLarge
from queries.sql.messages import Batch, Failed, Finished, Started, ToWorker

# Rows travel in messages of about this size: fewer, and the service has more to do at once. One batch more is still a
# chunk of an answer.
_MESSAGE_BYTES: Final = 3 << 18
# Messages whose rows are ready while one is written.
_MESSAGES_AHEAD: Final = 1
# More is not held beside what DuckDB makes next.
_BESIDE_BYTES_MAX: Final = 4 << 20


class AnswerSender:
    """Sends one answer. Its methods are for one thread, and must be called in their order, `end` at last.

    Args:
        channel: to the service.
        credits: one for each message with rows that may be sent.
        stop: set when the query shall stop; then a credit is given, too.
        bytes_max: of all rows.
        last_word: looks at the outcome before it is sent.
    """

    def __init__(
        self,
        channel: Channel[ToWorker],
        *,
        credits: threading.Semaphore,
        stop: threading.Event,
        bytes_max: int,
        last_word: Callable[[Finished | Failed], Finished | Failed],
    ) -> None:
        self._channel = channel
        self._credits = credits
        self._stop = stop
        self._bytes_max = bytes_max
        self._last_word = last_word
        self._sent_bytes = 0
        self._waiting: list[bytes | memoryview] = []
        self._held: list[pa.RecordBatch] = []
        self._held_bytes = 0
        self._buffer: pa.Buffer | None = None
        self._writer: _Writer | None = None

    def started(self, started: Started, schema: pa.Schema) -> None:
        """Begin an answer."""
        self._waiting += encode_frame(started, memoryview(schema.serialize()))

    def batch(self, batch: pa.RecordBatch) -> None:
        """Send rows, the first ones at once unless they are all, later ones together with what follows them.

        Raises:
            Interrupted: the query shall stop.
            ResultTooLarge: all rows together are larger than allowed.
            ChannelClosed: the service is gone.
        """
        self._held.append(batch)
        self._held_bytes += batch.nbytes
        if not self._sent_bytes:
            # DuckDB fills all batches but the last.
            if batch.num_rows >= BATCH_ROWS:
                self._encode(self._take_held())
                self._send_waiting()
        elif self._held_bytes >= min(_MESSAGE_BYTES, self._sent_bytes):
            large = self._held_bytes > _BESIDE_BYTES_MAX
            if self._writer is None:
                self._writer = _Writer(self._write)
            self._writer.put(self._take_held())
            if large:
                self._writer.wait()

    def send_last(self) -> None:
        """Send what is held back; raises as `batch`."""
        if self._writer is not None:
            self._writer.finish()
        if self._held:
            self._encode(self._take_held())
            self._send_waiting()

    def end(self, outcome: Finished | Failed) -> None:
        """Send what still waits, unless the query failed, and how it ended.

        Raises:
            ChannelClosed: the service is gone.
        """
        if isinstance(outcome, Failed):
            if self._writer is not None:
                self._writer.give_up()
            self._waiting = []
        self._waiting += encode_frame(self._last_word(outcome))
        self._send_waiting()

    def _take_held(self) -> list[pa.RecordBatch]:
        held, self._held, self._held_bytes = self._held, [], 0
        return held

    def _write(self, batches: Sequence[pa.RecordBatch]) -> None:
        self._encode(batches)
        self._send_waiting()

    def _encode(self, batches: Sequence[pa.RecordBatch]) -> None:
        """Make a message of rows, as soon as one may be sent."""
        measured = pa.MockOutputStream()
        _write_stream(measured, batches)
        if self._buffer is None or self._buffer.size < measured.size():
            # Kept from message to message: memory that was used before costs half of what new memory does.
            self._buffer = pa.allocate_buffer(measured.size())
        _write_stream(pa.FixedSizeBufferWriter(self._buffer), batches)
        payload = memoryview(self._buffer)[: measured.size()]
        self._sent_bytes += len(payload)
        if self._sent_bytes > self._bytes_max:
            raise ResultTooLarge("result_bytes_max")
        self._credits.acquire()
        if self._stop.is_set():
            raise Interrupted
        self._waiting += encode_frame(Batch(), payload)

    def _send_waiting(self) -> None:
        self._channel.send_frame(self._waiting)
        self._waiting = []


class _Writer:
    """A thread that writes what it is given, in order, until it fails once."""

    def __init__(self, write: Callable[[Sequence[pa.RecordBatch]], None]) -> None:
        self._write = write
        self._queue: queue.Queue[Sequence[pa.RecordBatch] | None] = queue.Queue(_MESSAGES_AHEAD)
        self._error: Exception | None = None
        self._thread = threading.Thread(target=self._run, name="send", daemon=True)
        self._thread.start()

    def put(self, batches: Sequence[pa.RecordBatch]) -> None:
        """Have rows written; raises what writing earlier ones raised."""
        self._queue.put(batches)
        if self._error is not None:
            raise self._error

    def wait(self) -> None:
        """Wait until all is written so far; raises what writing raised."""
        self._queue.join()
        if self._error is not None:
            raise self._error

    def finish(self) -> None:
        """Wait until all is written; raises what writing raised."""
        self.give_up()
        if self._error is not None:
            raise self._error

    def give_up(self) -> None:
        """Wait until nothing is written any more."""
        if self._thread.is_alive():
            self._queue.put(None)
            self._thread.join()

    def _run(self) -> None:
        while (batches := self._queue.get()) is not None:
            if self._error is None:
                try:
                    self._write(batches)
                except Exception as error:  # noqa: BLE001
                    # Raised where the answer is made.
                    self._error = error
            # Not held until the next ones come.
            batches = None
            self._queue.task_done()


def _write_stream(sink: pa.NativeFile, batches: Sequence[pa.RecordBatch]) -> None:
    with pa.ipc.new_stream(sink, batches[0].schema) as writer:
        for one in batches:
            writer.write_batch(one)
