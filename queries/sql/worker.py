"""A worker process: raises its walls, then answers one query after the other until the service goes away.

`process` starts it with an empty environment and one socket, whose descriptor is the program's argument. The main
thread runs queries; a second thread listens, so that a query can be stopped, and a vanished service is noticed, while
DuckDB works.
"""

from __future__ import annotations

import datetime
import faulthandler
import os
import queue
import select
import sys
import threading
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec

from queries.sql.channel import Channel, ChannelClosed, encode_frame
from queries.sql.messages import (
    Batch,
    Cancel,
    Failed,
    Finished,
    More,
    NotReady,
    Ready,
    Run,
    Start,
    Started,
    ToWorker,
    UseErased,
    UseHot,
    UseTable,
)
from queries.sql.walls import resource_limits
from queries.sql.walls.around import Enclosure, Walls
from storage.free_memory import give_back

if TYPE_CHECKING:
    import pyarrow as pa

    from queries.sql.engine import Engine
    from queries.sql.handover import HotReceiver

_PAYLOAD_BYTES_MAX: Final = 1 << 34
_LOOK_AGAIN_S: Final = 0.02
# Beside what DuckDB accounts for: buffers of answers, strings in the making, stacks of threads.
_ADDRESS_SPACE_BESIDE_BYTES: Final = 1 << 30
_FILE_BESIDE_SPILL_BYTES: Final = 1 << 20
# Rows travel in messages of about this size: fewer, and the service has more to do at once. One batch more is still a
# chunk of an answer.
_MESSAGE_BYTES: Final = 3 << 18
# Memory that the last queries used goes back when none has come for so long; at the latest after that.
_REST_S: Final = 0.2
_GIVE_BACK_S_MAX: Final = 10.0


@dataclass(slots=True)
class _Query:
    """A query from its arrival to its end."""

    run: Run
    credits: threading.Semaphore
    stop: threading.Event = field(default_factory=threading.Event)
    over: bool = False
    read_before: int | None = None
    scanned_too_much: int | None = None

    @property
    def must_be_watched(self) -> bool:
        """Whether the query shall stop, or may have to because of what it reads."""
        return self.stop.is_set() or self.run.scanned_bytes_max is not None

    def must_end(self, bytes_read: Callable[[], int | None]) -> bool:
        """Look whether the query shall stop, or has read more than it may."""
        limit = self.run.scanned_bytes_max
        if limit is not None and self.scanned_too_much is None and self.read_before is not None:
            scanned = (bytes_read() or 0) - self.read_before
            if scanned > limit:
                self.scanned_too_much = scanned
                self.stop.set()
                # The answer may wait for its reader.
                self.credits.release()
        return self.stop.is_set()


class Worker:
    """Serves one channel with one engine."""

    def __init__(
        self,
        channel: Channel[ToWorker],
        descriptor: int,
        engine: Engine,
        hot: HotReceiver,
        walls: Walls,
        bytes_read: Callable[[], int | None],
    ) -> None:
        self._channel = channel
        self._descriptor = descriptor
        self._engine = engine
        self._walls = walls
        self._bytes_read = bytes_read
        self._work: queue.SimpleQueue[tuple[UseTable | UseHot | UseErased | _Query, memoryview]] = queue.SimpleQueue()
        self._hot = hot
        self._broken: Failed | None = None
        # Since when there may be memory to give back.
        self._used_since_s: float | None = None

    def serve(self) -> None:
        """Answer queries; ends with the process."""
        threading.Thread(target=self._listen, name="listen", daemon=True).start()
        while True:
            try:
                work, payload = self._work.get(timeout=None if self._used_since_s is None else _REST_S)
            except queue.Empty:
                self._give_back()
                continue
            if isinstance(work, _Query):
                self._answer(work)
                if self._used_since_s is None:
                    self._used_since_s = time.monotonic()
                elif time.monotonic() - self._used_since_s > _GIVE_BACK_S_MAX:
                    self._give_back()
            else:
                self._take(work, payload)

    def _give_back(self) -> None:
        give_back()
        self._used_since_s = None

    def _listen(self) -> None:
        """Take messages as they come, and interrupt a query that shall stop until it has."""
        current: _Query | None = None
        while True:
            watched = current is not None and not current.over and current.must_be_watched
            if not self._channel.has_read_ahead and not self._arrives(_LOOK_AGAIN_S if watched else None):
                if current is not None and not current.over and current.must_end(self._bytes_read):
                    self._engine.interrupt()
                continue
            try:
                message, payload = self._channel.receive()
            except ChannelClosed:
                os._exit(0)
            match message:
                case UseTable() | UseHot() | UseErased():
                    self._work.put((message, payload))
                case Run():
                    current = _Query(message, threading.Semaphore(message.batches))
                    self._work.put((current, payload))
                case More() if current is not None and message.batches > 0:
                    current.credits.release(message.batches)
                case Cancel() if current is not None:
                    current.stop.set()
                    current.credits.release()
                    self._engine.interrupt()
                case _:
                    os._exit(2)

    def _arrives(self, timeout_s: float | None) -> bool:
        """Wait for the service to say something."""
        return bool(select.select([self._descriptor], [], [], timeout_s)[0])

    def _take(self, message: UseTable | UseHot | UseErased, payload: memoryview) -> None:
        """Take a snapshot's files, rows, or which rows are erased; what goes wrong is the next query's answer."""
        import pyarrow as pa

        from queries.sql.pruning import FileBounds
        from storage.erased_rows import ErasedRows

        try:
            if isinstance(message, UseTable):
                files = [
                    FileBounds(path, size_bytes, datetime.date.fromordinal(date), type_, time_min_us, time_max_us)
                    for path, size_bytes, date, type_, time_min_us, time_max_us in message.files
                ]
                self._engine.use_table(pa.ipc.read_schema(pa.py_buffer(payload)), files, message.views)
            elif isinstance(message, UseErased):
                self._engine.use_erased(ErasedRows(message.kept_after))
            else:
                self._engine.use_hot(self._hot.decode(message, payload))
        except Exception:  # noqa: BLE001
            # For the service's log; it may name paths.
            traceback.print_exc()
            self._broken = Failed("engine", "the snapshot could not be taken", retire=True)

    def _answer(self, query: _Query) -> None:
        from queries.sql.engine import QueryFailed, Receiver

        resource_limits.allow_cpu_seconds(query.run.cpu_s_max)
        query.read_before = self._bytes_read() if query.run.scanned_bytes_max is not None else None
        sender = _Sender(self._channel, query, self._last_word)
        failed = self._broken
        if failed is None:
            try:
                self._engine.run(
                    query.run,
                    Receiver(sender.started, sender.batch, query.stop, sender.hold_last, sender.end),
                )
            except QueryFailed as error:
                failed = error.failed
        if failed is not None:
            if failed.kind == "interrupted" and query.scanned_too_much is not None:
                failed = Failed("scan_limit", "more was read than may be", scanned_bytes=query.scanned_too_much)
            sender.end(failed)

    def _last_word(self, outcome: Finished | Failed) -> Finished | Failed:
        """Say with how a query ended whether it was the last one here."""
        if self._engine.worn or self._walls.memory_is_short():
            return msgspec.structs.replace(outcome, retire=True)
        return outcome


class _Sender:
    """Sends one answer, no faster than it is asked for, and no more than is allowed.

    What it begins with waits for the first rows, and the last rows wait for the end, so that a small answer is one
    write, which wakes the service once.
    """

    def __init__(
        self, channel: Channel[ToWorker], query: _Query, last_word: Callable[[Finished | Failed], Finished | Failed]
    ) -> None:
        self._channel = channel
        self._query = query
        self._last_word = last_word
        self._sent_bytes = 0
        self._waiting: list[bytes | memoryview] = []
        self._held: list[pa.RecordBatch] = []
        self._held_bytes = 0
        self._buffer: pa.Buffer | None = None

    def started(self, started: Started, schema: pa.Schema) -> None:
        """Begin an answer."""
        self._waiting += encode_frame(started, memoryview(schema.serialize()))

    def batch(self, batch: pa.RecordBatch) -> None:
        """Send rows, the first ones at once unless they are all, later ones together with what follows them."""
        self._held.append(batch)
        self._held_bytes += batch.nbytes
        if self._held_bytes >= min(_MESSAGE_BYTES, self._sent_bytes) and (self._sent_bytes or _may_go_on(batch)):
            self._encode_held()
            self._send_waiting()

    def hold_last(self) -> None:
        """Make what is held back ready to be sent with the end."""
        if self._held:
            self._encode_held()

    def end(self, outcome: Finished | Failed) -> None:
        """Send what still waits, unless the query failed, and how it ended."""
        self._query.over = True
        if isinstance(outcome, Failed):
            self._waiting = []
        self._waiting += encode_frame(self._last_word(outcome))
        try:
            self._send_waiting()
        except ChannelClosed:
            os._exit(0)

    def _encode_held(self) -> None:
        """Make a message of what is held back, as soon as one may be sent."""
        import pyarrow as pa

        from queries.sql.failures import Interrupted, ResultTooLarge

        measured = pa.MockOutputStream()
        self._write_held(measured)
        if self._buffer is None or self._buffer.size < measured.size():
            # Kept from message to message: memory that was used before costs half of what new memory does.
            self._buffer = pa.allocate_buffer(measured.size())
        self._write_held(pa.FixedSizeBufferWriter(self._buffer))
        payload = memoryview(self._buffer)[: measured.size()]
        self._held, self._held_bytes = [], 0
        self._sent_bytes += len(payload)
        if self._sent_bytes > self._query.run.result_bytes_max:
            raise ResultTooLarge("result_bytes_max")
        self._query.credits.acquire()
        if self._query.stop.is_set():
            raise Interrupted
        self._waiting += encode_frame(Batch(), payload)

    def _send_waiting(self) -> None:
        self._channel.send_frame(self._waiting)
        self._waiting = []

    def _write_held(self, sink: pa.NativeFile) -> None:
        import pyarrow as pa

        with pa.ipc.new_stream(sink, self._held[0].schema) as writer:
            for one in self._held:
                writer.write_batch(one)


def _may_go_on(batch: pa.RecordBatch) -> bool:
    """Whether more rows may follow these: DuckDB fills all batches but the last."""
    from queries.sql.engine import BATCH_ROWS

    return bool(batch.num_rows >= BATCH_ROWS)


def main() -> None:
    """Raise the walls, tell the service that they stand, and serve it."""
    # Before anything else: the walls that need a process with one thread and no large libraries.
    faulthandler.enable()
    descriptor = int(sys.argv[1])
    channel: Channel[ToWorker] = Channel(descriptor, ToWorker, payload_bytes_max=_PAYLOAD_BYTES_MAX)
    start, payload = channel.receive()
    if not isinstance(start, Start):
        os._exit(2)
    try:
        worker, ready = _build(channel, descriptor, start, payload)
    except Exception as error:  # noqa: BLE001
        channel.send(NotReady(f"{type(error).__name__}: {error}"))
        os._exit(1)
    channel.send(ready)
    worker.serve()


def _run_when_idle() -> None:
    """Take only what others leave of the processors, from now on and in every thread that is started.

    A nice process still has its share, and keeps the processor to the end of its slice while the service waits for it.
    An idle one is put aside at once. Where the system knows no such thing, being nice is all there is.
    """
    if not hasattr(os, "SCHED_IDLE"):
        return
    try:
        os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
    except OSError as error:
        print(f"the system does not let this worker wait for idle processors: {error}", file=sys.stderr)


def _build(channel: Channel[ToWorker], descriptor: int, start: Start, payload: memoryview) -> tuple[Worker, Ready]:
    os.nice(start.niceness)
    bytes_read = resource_limits.BytesRead()
    walls = Walls(
        Enclosure(
            data_folder=Path(start.data_folder),
            temp_folder=Path(start.temp_folder),
            file_bytes_max=start.temp_bytes_max + _FILE_BESIDE_SPILL_BYTES,
            address_space_bytes_more=start.memory_bytes_max + _ADDRESS_SPACE_BESIDE_BYTES,
            walls=frozenset(start.walls),
        )
    )
    walls.prepare()
    # pyarrow and DuckDB do without these here: they start in half the time, and do not look for them again and again.
    for module in ("numpy", "pandas"):
        sys.modules[module] = None  # type: ignore[assignment]
    import pyarrow as pa

    from queries.sql.engine import Engine
    from queries.sql.handover import HotReceiver

    # Finds the allocators, whose files are out of reach later.
    give_back()
    walls.enclose()

    def bytes_now() -> int | None:
        return bytes_read.now(besides=channel.received_bytes)

    if start.when_idle:
        # Starting is not a query: until here the worker is only nice.
        _run_when_idle()
    engine = Engine(start, pa.ipc.read_schema(pa.py_buffer(payload)), bytes_now)
    engine.warm_up()
    return Worker(channel, descriptor, engine, HotReceiver(), walls, bytes_now), Ready(walls.seal())
