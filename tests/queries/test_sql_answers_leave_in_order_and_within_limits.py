"""What a worker's answer is on the wire: rows in order, no more than were asked for, and one end, however it ends."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field

import pyarrow as pa
import pytest

from queries.sql.answer_sender import AnswerSender
from queries.sql.channel import Channel
from queries.sql.engine import BATCH_ROWS
from queries.sql.failures import Interrupted, ResultTooLarge
from queries.sql.messages import Batch, Failed, Finished, FromWorker, Started

SCHEMA = pa.schema([("number", pa.int64()), ("text", pa.string())])
STARTED = Started([("number", "BIGINT"), ("text", "VARCHAR")], (0, 0), (0, 0), (0, 0), 0)
FINISHED = Finished(rows=0, truncated=False, scanned_files=0, scanned_bytes=0, elapsed_ms=1.0)
FAILED = Failed("sql", "a row was wrong")


@dataclass
class Wire:
    """A sender, and the service's end."""

    service: Channel[FromWorker]
    worker: Channel[FromWorker]
    credits: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(4))
    stop: threading.Event = field(default_factory=threading.Event)

    def sender(self, bytes_max: int = 1 << 40) -> AnswerSender:
        """A sender of one answer."""
        return AnswerSender(
            self.worker,  # type: ignore[arg-type]  # what it receives does not matter here
            credits=self.credits,
            stop=self.stop,
            bytes_max=bytes_max,
            last_word=lambda outcome: outcome,
        )

    def messages(self, *, credits: bool = True) -> Iterator[tuple[object, list[int]]]:
        """What arrives, each with its numbers, to the end of the answer; gives a credit for each with rows."""
        while True:
            message, payload = self.service.receive()
            numbers: list[int] = []
            if isinstance(message, Batch):
                numbers = pa.ipc.open_stream(pa.py_buffer(payload)).read_all()["number"].to_pylist()
                if credits:
                    self.credits.release()
            yield message, numbers
            if isinstance(message, Finished | Failed):
                return


@pytest.fixture
def wire() -> Iterator[Wire]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield Wire(
            Channel(ours.fileno(), FromWorker, payload_bytes_max=1 << 30),
            Channel(theirs.fileno(), FromWorker, payload_bytes_max=1 << 30),
        )


def _batch(first: int, rows: int = BATCH_ROWS, text: str = "x" * 100) -> pa.RecordBatch:
    return pa.record_batch([pa.array(range(first, first + rows)), pa.array([text] * rows)], schema=SCHEMA)


def _send(sender: AnswerSender, batches: int) -> None:
    sender.started(STARTED, SCHEMA)
    for number in range(batches):
        sender.batch(_batch(number * BATCH_ROWS))
    sender.batch(_batch(batches * BATCH_ROWS, rows=5))
    sender.send_last()
    sender.end(FINISHED)


@pytest.mark.parametrize("batches", [0, 1, 2, 60])
def test_rows_arrive_in_order_and_whole(wire: Wire, batches: int) -> None:
    thread = threading.Thread(target=_send, args=(wire.sender(), batches))
    thread.start()
    received = list(wire.messages())
    thread.join()
    assert received[0][0] == STARTED
    assert received[-1][0] == FINISHED
    assert [number for _, numbers in received for number in numbers] == list(range(batches * BATCH_ROWS + 5))


def test_the_rows_of_a_small_answer_are_one_write_before_its_end(wire: Wire) -> None:
    sender = wire.sender()
    sender.started(STARTED, SCHEMA)
    sender.batch(_batch(0, rows=5))
    sender.send_last()
    messages = wire.messages()
    assert next(messages)[0] == STARTED
    # The rows came with it, and the end is not known yet.
    at_once = wire.service.received_bytes
    assert [type(one) for one, _ in (next(messages),)] == [Batch]
    assert wire.service.received_bytes == at_once
    assert not wire.service.has_read_ahead
    sender.end(FINISHED)
    assert [one for one, _ in messages] == [FINISHED]


def test_no_more_is_sent_than_was_asked_for(wire: Wire) -> None:
    thread = threading.Thread(target=_send, args=(wire.sender(), 60))
    thread.start()
    messages = wire.messages(credits=False)
    assert [type(one) for one, _ in (next(messages) for _ in range(5))] == [Started, *[Batch] * 4]
    thread.join(0.05)
    assert thread.is_alive()
    assert not wire.service.has_read_ahead
    wire.credits.release(1_000)
    assert sum(len(numbers) for _, numbers in messages) > BATCH_ROWS
    thread.join()


def test_a_query_that_waits_for_its_reader_can_be_stopped(wire: Wire) -> None:
    raised: list[Exception] = []

    def send() -> None:
        sender = wire.sender()
        try:
            _send(sender, 60)
        except Interrupted as error:
            raised.append(error)
            sender.end(FAILED)

    thread = threading.Thread(target=send)
    thread.start()
    messages = wire.messages(credits=False)
    for _ in range(5):
        next(messages)
    wire.stop.set()
    wire.credits.release()
    assert [one for one, _ in messages] == [FAILED]
    thread.join()
    assert len(raised) == 1


@pytest.mark.parametrize("batches", [1, 60])
def test_an_answer_that_is_too_large_ends_with_an_error(wire: Wire, batches: int) -> None:
    sender = wire.sender(bytes_max=400_000 * batches // 2)
    ended: list[FromWorker] = []
    reader = threading.Thread(target=lambda: ended.extend(one for one, _ in wire.messages()))  # type: ignore[misc]
    reader.start()
    with pytest.raises(ResultTooLarge):
        _send(sender, batches)
    sender.end(FAILED)
    reader.join()
    assert ended[-1] == FAILED
    assert sum(isinstance(one, Finished | Failed) for one in ended) == 1


def test_rows_that_were_held_back_do_not_follow_a_failure(wire: Wire) -> None:
    sender = wire.sender()
    sender.started(STARTED, SCHEMA)
    sender.batch(_batch(0, rows=5))
    sender.end(FAILED)
    assert [one for one, _ in wire.messages()] == [FAILED]


def test_large_rows_are_not_held_beside_others(wire: Wire) -> None:
    sender = wire.sender()
    reader = threading.Thread(target=lambda: list(wire.messages()))
    reader.start()
    sender.started(STARTED, SCHEMA)
    sender.batch(_batch(0))
    large = _batch(BATCH_ROWS, text="x" * 4_000)
    before = pa.total_allocated_bytes()
    for _ in range(6):
        sender.batch(large)
    # The message that is kept for the next one, and what the reader has of it.
    assert pa.total_allocated_bytes() - before < 3 * large.nbytes
    sender.send_last()
    sender.end(FINISHED)
    reader.join()
