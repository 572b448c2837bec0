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

from queries.sql import standing_back
from queries.sql.channel import Channel, ChannelClosed
from queries.sql.messages import (
    Cancel,
    Failed,
    Finished,
    More,
    NotReady,
    Ready,
    Run,
    Start,
    ToWorker,
    UseErased,
    UseHot,
    UseTable,
)
from queries.sql.walls import resource_limits
from queries.sql.walls.around import Enclosure, Walls
from storage.free_memory import give_back

if TYPE_CHECKING:
    from queries.sql.engine import Engine
    from queries.sql.handover import HotReceiver

_PAYLOAD_BYTES_MAX: Final = 1 << 34
_LOOK_AGAIN_S: Final = 0.02
# Beside what DuckDB accounts for: buffers of answers, strings in the making, stacks of threads.
_ADDRESS_SPACE_BESIDE_BYTES: Final = 1 << 30
_FILE_BESIDE_SPILL_BYTES: Final = 1 << 20
# Memory that the last queries used goes back when none has come for so long; at the latest after that. A little stays
# for longer: a dashboard's query, which comes again each few seconds, spends milliseconds on taking it anew.
_REST_S: Final = 0.2
_GIVE_BACK_S_MAX: Final = 10.0
_LITTLE_BYTES: Final = 32 * 1024 * 1024
_REST_WITH_LITTLE_S: Final = 10.0


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
        resident_bytes: Callable[[], int | None],
    ) -> None:
        self._channel = channel
        self._descriptor = descriptor
        self._engine = engine
        self._walls = walls
        self._bytes_read = bytes_read
        self._work: queue.SimpleQueue[tuple[UseTable | UseHot | UseErased | _Query, memoryview]] = queue.SimpleQueue()
        self._hot = hot
        self._broken: Failed | None = None
        # Since when there may be memory to give back, and what there is when it is given back.
        self._used_since_s: float | None = None
        self._resident_bytes = resident_bytes
        self._resident_bytes_at_rest = resident_bytes()

    def serve(self) -> None:
        """Answer queries; ends with the process."""
        threading.Thread(target=self._listen, name="listen", daemon=True).start()
        while True:
            try:
                work, payload = self._work.get(timeout=self._rest_s())
            except queue.Empty:
                self._give_back()
                continue
            if isinstance(work, _Query):
                self._answer(work)
                if self._used_since_s is None:
                    self._used_since_s = time.monotonic()
                elif time.monotonic() - self._used_since_s > _GIVE_BACK_S_MAX and self._has_grown():
                    self._give_back()
            else:
                self._take(work, payload)

    def _give_back(self) -> None:
        give_back()
        self._used_since_s = None
        self._resident_bytes_at_rest = self._resident_bytes()

    def _rest_s(self) -> float | None:
        """How long to wait for the next query until memory is given back; None when there is none to give."""
        if self._used_since_s is None:
            return None
        return _REST_S if self._has_grown() else _REST_WITH_LITTLE_S

    def _has_grown(self) -> bool:
        """Whether there is more to give back than a little, as far as the system says."""
        now, at_rest = self._resident_bytes(), self._resident_bytes_at_rest
        return now is None or at_rest is None or now - at_rest > _LITTLE_BYTES

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
        from queries.sql.answer_sender import AnswerSender
        from queries.sql.engine import QueryFailed, Receiver

        resource_limits.allow_cpu_seconds(query.run.cpu_s_max)
        query.read_before = self._bytes_read() if query.run.scanned_bytes_max is not None else None

        def last_word(outcome: Finished | Failed) -> Finished | Failed:
            query.over = True
            retire = self._engine.worn or self._walls.memory_is_short()
            return msgspec.structs.replace(outcome, retire=True) if retire else outcome

        sender = AnswerSender(
            self._channel,
            credits=query.credits,
            stop=query.stop,
            bytes_max=query.run.result_bytes_max,
            last_word=last_word,
        )
        failed = self._broken
        try:
            if failed is None:
                try:
                    self._engine.run(
                        query.run,
                        Receiver(sender.started, sender.batch, query.stop, sender.send_last, sender.end),
                    )
                except QueryFailed as error:
                    failed = error.failed
            if failed is not None:
                if failed.kind == "interrupted" and query.scanned_too_much is not None:
                    failed = Failed("scan_limit", "more was read than may be", scanned_bytes=query.scanned_too_much)
                sender.end(failed)
        except ChannelClosed:
            os._exit(0)


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
    if not standing_back.is_known():
        return
    try:
        standing_back.put_thread_aside()
    except OSError as error:
        print(f"the system does not let this worker wait for idle processors: {error}", file=sys.stderr)


def _build(channel: Channel[ToWorker], descriptor: int, start: Start, payload: memoryview) -> tuple[Worker, Ready]:
    os.nice(start.niceness)
    bytes_read, resident = resource_limits.BytesRead(), resource_limits.ResidentBytes()
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

    # Needed later, when its file is out of reach.
    import queries.sql.answer_sender  # noqa: F401
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
    return Worker(channel, descriptor, engine, HotReceiver(), walls, bytes_now, resident.now), Ready(walls.seal())
