"""An answer of any length leaves in chunks, from the first batch on, holds little memory, and closes its source."""

from __future__ import annotations

import gc
import tracemalloc
from collections.abc import Callable, Iterator

import duckdb
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from queries.formats import ByteStream, Format, Piece, encode, encode_lines
from queries.formats.byte_streams import CHUNK_BYTES_MAX, LARGE_CHUNK_BYTES_MAX
from queries.formats.encoding import ARROW_MESSAGE_BYTES

BATCH_ROWS = 20_000
BATCHES = 100
_NUMBERS = pa.array(range(BATCH_ROWS), pa.int64())
_TEXTS = pa.array([f"user {at}" for at in range(BATCH_ROWS)])


def batch_of(at: int) -> pa.RecordBatch:
    """A batch whose memory is its own."""
    return pa.record_batch(
        {"n": pc.add(_NUMBERS, at * BATCH_ROWS), "user": pc.binary_join_element_wise(_TEXTS, str(at), "/")}
    )


class Source(Iterator[pa.RecordBatch]):
    """Batches made when they are asked for."""

    def __init__(self, batches: int = BATCHES, make: Callable[[int], pa.RecordBatch] = batch_of) -> None:
        self.asked = 0
        self.closed = 0
        self._batches = batches
        self._make = make

    def __next__(self) -> pa.RecordBatch:
        if self.asked == self._batches:
            raise StopIteration
        self.asked += 1
        return self._make(self.asked - 1)

    def close(self) -> None:
        self.closed += 1


def lines_of(at: int) -> pa.RecordBatch:
    return pa.record_batch({"line": pc.binary_join_element_wise(_TEXTS, str(at), "\n", "")})


def start(source: Source, format_: Format | None) -> ByteStream:
    """Encode *source*; None stands for lines that the query made."""
    return encode_lines(source) if format_ is None else encode(batch_of(0).schema, source, format_)


# Arrow's buffers point to the pool that they are from, so that it must outlive them.
COUNTING_POOL = pa.proxy_memory_pool(pa.default_memory_pool())


@pytest.fixture
def counted() -> Iterator[None]:
    """Count what Arrow and Python allocate."""
    usual = pa.default_memory_pool()
    pa.set_memory_pool(COUNTING_POOL)
    tracemalloc.start(1)
    yield
    tracemalloc.stop()
    pa.set_memory_pool(usual)


def most_bytes_held(chunks: Iterator[Piece], keep: list[Piece] | None = None) -> tuple[int, int]:
    """Consume *chunks*; return the most bytes that were held at any time meanwhile, and the bytes of all chunks.

    Arrow's part is looked at after each chunk, Python's is exact.
    """
    gc.collect()
    tracemalloc.reset_peak()
    python_before = tracemalloc.get_traced_memory()[0]
    arrow_before = COUNTING_POOL.bytes_allocated()
    arrow_peak = total = 0
    for chunk in chunks:
        total += len(chunk)
        if keep is not None:
            keep.append(chunk)
        arrow_peak = max(arrow_peak, COUNTING_POOL.bytes_allocated() - arrow_before)
    return arrow_peak + tracemalloc.get_traced_memory()[1] - python_before, total


def bound_bytes(format_: Format | None) -> int:
    """Parquet holds a row group, the others a slice and a chunk."""
    return 16_000_000 if format_ is Format.PARQUET else 5_000_000


@pytest.mark.usefixtures("counted")
@pytest.mark.parametrize("format_", [*Format, None])
def test_two_million_rows_hold_a_few_megabytes(format_: Format | None) -> None:
    source = Source(make=batch_of if format_ is not None else lines_of)
    held, total = most_bytes_held(start(source, format_))
    assert source.asked == BATCHES
    assert total > 9_000_000
    assert held < bound_bytes(format_)


@pytest.mark.usefixtures("counted")
def test_the_measure_notices_an_answer_that_is_kept() -> None:
    kept: list[Piece] = []
    held, total = most_bytes_held(start(Source(), Format.ARROW), kept)
    assert held > total > bound_bytes(Format.PARQUET)


@pytest.mark.usefixtures("counted")
def test_the_measure_notices_batches_that_are_kept() -> None:
    kept: list[pa.RecordBatch] = []

    def make(at: int) -> pa.RecordBatch:
        kept.append(batch_of(at))
        return kept[-1]

    held, total = most_bytes_held(start(Source(make=make), Format.PARQUET))
    assert held > bound_bytes(Format.PARQUET) > total


@pytest.mark.parametrize("format_", [*Format, None])
def test_chunks_are_neither_tiny_nor_huge(format_: Format | None) -> None:
    sizes = [len(chunk) for chunk in start(Source(20, batch_of if format_ is not None else lines_of), format_)]
    assert max(sizes) <= (LARGE_CHUNK_BYTES_MAX if format_ is Format.ARROW else CHUNK_BYTES_MAX)
    assert min(sizes) > 0
    total = sum(sizes)
    assert len(sizes) < 16 + total / 65_536


@pytest.mark.parametrize("rows", [1, 100])
def test_many_small_batches_become_few_chunks(rows: int) -> None:
    whole = batch_of(0)
    source = Source(3_000, lambda at: whole.slice(at, rows))
    sizes = [len(chunk) for chunk in encode(batch_of(0).schema, source, Format.NDJSON)]
    assert len(sizes) < 25 + sum(sizes) / 65_536


@pytest.mark.parametrize("format_", [*Format, None])
def test_the_first_rows_leave_with_the_first_batches(format_: Format | None) -> None:
    source = Source(make=batch_of if format_ is not None else lines_of)
    stream = start(source, format_)
    next(stream)
    assert source.asked <= 1
    sent = 0
    while sent < 10_000:
        sent += len(next(stream))
    assert source.asked <= 2
    stream.close()


@pytest.mark.parametrize("format_", [*Format, None])
def test_a_chunk_in_parts_has_the_same_bytes(format_: Format | None) -> None:
    def source() -> Source:
        return Source(20, batch_of if format_ is not None else lines_of)

    stream = start(source(), format_)
    in_parts = list(iter(stream.next_parts, None))
    assert [b"".join(parts) for parts in in_parts] == [bytes(chunk) for chunk in start(source(), format_)]


def test_chunks_of_arrow_are_whole_messages_of_about_half_a_mebibyte() -> None:
    rows = 200_003
    whole = pa.record_batch(
        {
            "n": pa.array([None if at % 3 == 0 else at for at in range(rows)], pa.int64()),
            "text": pa.array([None if at % 7 == 0 else f"text {at}" for at in range(rows)]),
        }
    )
    chunks = list(encode(whole.schema, iter([whole.slice(5)]), Format.ARROW))
    assert all(chunk[:4] == b"\xff\xff\xff\xff" for chunk in chunks)
    assert pa.ipc.open_stream(b"".join(chunks)).read_all().equals(pa.Table.from_batches([whole.slice(5)]))
    messages = list(pa.ipc.open_stream(b"".join(chunks)))
    assert all(one.nbytes <= ARROW_MESSAGE_BYTES * 1.1 for one in messages)
    assert len(messages) <= 1 + whole.nbytes / (ARROW_MESSAGE_BYTES * 0.8)


def test_a_value_larger_than_a_chunk_is_cut() -> None:
    batch = pa.record_batch({"x": pa.array(["\0" * 3_000_000, "y"])})
    chunks = list(encode(batch.schema, iter([batch]), Format.NDJSON))
    assert b"".join(chunks) == b'{"x":"' + rb"\u0000" * 3_000_000 + b'"}\n{"x":"y"}\n'
    assert max(map(len, chunks)) == CHUNK_BYTES_MAX


@pytest.mark.usefixtures("counted")
def test_a_long_word_that_many_rows_name_is_not_written_out_at_once() -> None:
    rows = 400
    word = pa.DictionaryArray.from_arrays(pa.array([0] * rows, pa.int8()), pa.array(["w" * 200_000]))
    batch = pa.record_batch({"x": word, "l": pa.ListArray.from_arrays(pa.array(range(rows + 1), pa.int32()), word)})
    held, total = most_bytes_held(encode(batch.schema, iter([batch]), Format.NDJSON))
    assert total > 2 * 200_000 * rows
    assert held < 40_000_000


@pytest.mark.parametrize("format_", [*Format, None])
def test_closing_early_closes_the_source_once(format_: Format | None) -> None:
    source = Source(make=batch_of if format_ is not None else lines_of)
    stream = start(source, format_)
    next(stream)
    stream.close()
    stream.close()
    assert source.closed == 1
    assert source.asked < BATCHES
    with pytest.raises(StopIteration):
        next(stream)


@pytest.mark.parametrize("format_", [*Format, None])
def test_closing_before_the_first_chunk_closes_the_source(format_: Format | None) -> None:
    source = Source()
    with start(source, format_):
        pass
    assert (source.closed, source.asked) == (1, 0)


@pytest.mark.parametrize("format_", [*Format, None])
def test_the_end_closes_the_source(format_: Format | None) -> None:
    source = Source(2, batch_of if format_ is not None else lines_of)
    assert b"".join(start(source, format_))
    assert source.closed == 1


@pytest.mark.parametrize("format_", [*Format, None])
def test_an_error_of_the_source_is_raised_and_closes_it(format_: Format | None) -> None:
    def fail(at: int) -> pa.RecordBatch:
        if at == 1:
            raise ConnectionError("the query was stopped")
        return batch_of(at) if format_ is not None else lines_of(at)

    source = Source(make=fail)
    with pytest.raises(ConnectionError, match="was stopped"):
        for _ in start(source, format_):
            pass
    assert source.closed == 1


def test_a_generator_is_closed_like_any_source() -> None:
    finished: list[str] = []

    def generate() -> Iterator[pa.RecordBatch]:
        try:
            yield batch_of(0)
            yield batch_of(1)
        finally:
            finished.append("closed")

    stream = encode(batch_of(0).schema, generate(), Format.NDJSON)
    next(stream)
    assert finished == []
    stream.close()
    assert finished == ["closed"]


def test_a_query_of_duckdb_ends_when_its_answer_is_closed() -> None:
    with duckdb.connect() as connection:
        reader = connection.execute("SELECT range AS n FROM range(100000000)").to_arrow_reader(20_000)
        stream = encode(reader.schema, reader, Format.ARROW)
        next(stream)
        stream.close()
        with pytest.raises(ValueError, match="closed"):
            reader.read_next_batch()
        assert connection.execute("SELECT 42").fetchall() == [(42,)]


def test_lines_must_be_texts() -> None:
    for wrong in (
        pa.record_batch({"line": pa.array(["a", None])}),
        pa.record_batch({"line": pa.array(["a"]), "other": pa.array(["b"])}),
    ):
        with pytest.raises(ValueError, match="lines are one column"):
            b"".join(encode_lines(iter([wrong])))


def test_lines_leave_as_they_are_after_the_header() -> None:
    batches = [pa.record_batch({"line": pa.array(["zero\n", "one\n", "", "two\n"]).slice(1)})]
    large = [pa.record_batch({"line": pa.array(["zero\n", "one\n", "two\n"], pa.large_string()).slice(1)})]
    assert b"".join(encode_lines(iter(batches), header=b"head\n")) == b"head\none\ntwo\n"
    assert b"".join(encode_lines(iter(large))) == b"one\ntwo\n"
    assert b"".join(encode_lines(iter([]))) == b""
