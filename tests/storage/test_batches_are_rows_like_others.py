"""Rows that came as an Arrow batch are durable, read, flushed and put aside like those of submissions, in order."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from storage.columns import JournalRow, rows_to_table
from storage.errors import CorruptData
from storage.flush import FlushLimits
from storage.journal_records import Append, IdempotencyConflict, IdempotencyKey
from storage.store import Store
from tests.storage.arrow_rows import FIRST_US, TIME, parse, rows
from tests.storage.building import SCHEMA, execute, flusher, full_table, positions, put, request, store_in, through

_PAYLOAD = parse(rows(5)).submissions[0].payload


def batch(count: int, *, key: IdempotencyKey | None = None, **columns: Any) -> Append:
    """A request of one Arrow stream with so many good rows."""
    parsed = parse(rows(count, **columns))
    return Append(parsed.submissions, parsed.rejections, b'{"accepted": %d}' % count, key)


def stored_rows(store: Store) -> pa.Table:
    """All columns that lie in files, of all rows, in order of position."""
    return full_table(store.read_view(), SCHEMA.file_schema.names).combine_chunks()


def _read(payload: bytes, rows_count: int = 5) -> int:
    return int(rows_to_table([JournalRow(1, rows_count, 1, "", None, payload)], "j", SCHEMA).num_rows)


def test_batches_and_submissions_share_commits_positions_and_reads(folder: Path) -> None:
    with store_in(folder) as store:
        store.append([request(2), batch(10_000), request(3), batch(1)])
        put(store, 4)
        assert positions(store) == through(10_010)
        users = stored_rows(store)["user_id"].to_pylist()
        assert users == ["u1"] * 2 + [f"u{n % 3}" for n in range(10_000)] + ["u1"] * 3 + ["u0"] + ["u1"] * 4
        before = stored_rows(store)
        flusher(store).flush(10_010)
        assert store.journal.state().depth == 0
        assert store.read_view().hot.num_rows == 0
        assert stored_rows(store).equals(before)
    with store_in(folder) as store:
        assert positions(store) == through(10_010)


def test_a_batch_that_is_in_the_lake_in_part_is_read_and_flushed_on(folder: Path) -> None:
    days = pa.array([FIRST_US + n % 40 * 86_400_000_000 for n in range(400)], TIME)
    with store_in(folder) as store:
        store.append([batch(400, time=days), request(1)])
        state = store.journal.state()
        one = flusher(store, limits=FlushLimits(partitions_max=7))
        one._flush_batch(state.id, 0, state.head)
        part = store.journal.state().trimmed_position
        assert 0 < part < 400
        assert positions(store) == through(401)
        one.flush(401)
        assert positions(store) == through(401)


def test_a_batch_is_kept_once_for_its_key(folder: Path) -> None:
    key, other = (IdempotencyKey.of("k", body) for body in (b"one", b"two"))
    with store_in(folder) as store:
        first, again, conflict = store.append([batch(5, key=key), batch(5, key=key), batch(6, key=other)])
        assert first == again
        assert isinstance(conflict, IdempotencyConflict)
        assert positions(store) == through(5)


def test_wrong_rows_are_dead_letters_of_the_same_commit(folder: Path) -> None:
    with store_in(folder) as store:
        store.append([batch(3, type=pa.array(["click", "hover", "view"]))])
        assert positions(store) == through(2)
        (letter,) = store.journal.read_dead_letters(limit=10)
        assert (letter["action_index"], letter["code"], letter["user_id"]) == (1, "unknown_type", "u1")


def test_a_batch_that_does_not_decode_does_not_block_the_rest(folder: Path) -> None:
    with store_in(folder) as store:
        store.append([request(2), batch(5), request(3)])
        damaged = bytearray(_PAYLOAD)
        damaged[len(damaged) // 2] ^= 1
        execute(store.paths.journal, "UPDATE submissions SET payload = ? WHERE user_id = ''", (bytes(damaged),))
        flusher(store).flush(10)
        assert positions(store) == [1, 2, 8, 9, 10]
        (letter,) = store.journal.read_dead_letters(limit=10)
        assert (letter["code"], letter["position"], letter["user_id"]) == ("unflushable", 3, None)


def test_an_undamaged_batch_is_read() -> None:
    assert _read(_PAYLOAD) == 5


@given(place=st.integers(0, len(_PAYLOAD) - 1), bit=st.integers(0, 7))
def test_every_flipped_bit_of_a_batch_is_noticed(place: int, bit: int) -> None:
    damaged = bytearray(_PAYLOAD)
    damaged[place] ^= 1 << bit
    with pytest.raises(CorruptData, match="positions 1 to 5"):
        _read(bytes(damaged))


@given(length=st.integers(0, len(_PAYLOAD) - 1))
def test_every_cut_of_a_batch_is_noticed(length: int) -> None:
    with pytest.raises(CorruptData):
        _read(_PAYLOAD[:length])


def test_a_batch_that_does_not_fill_its_positions_is_noticed() -> None:
    with pytest.raises(CorruptData, match="5 rows"):
        _read(_PAYLOAD, rows_count=6)


def test_a_batch_takes_no_more_memory_than_thrice_what_the_journal_counts() -> None:
    """A thousand times the same text would be next to nothing compressed, and pass every bound in bytes."""
    usual = parse(rows(1000)).submissions[0].payload
    text = '{"text": "%s"}' % ("x" * 1500)
    same = parse(rows(1000, properties=[text] * 1000)).submissions[0].payload
    assert len(usual) < 100_000
    assert len(same) > 1_500_000
    assert _read(same, 1000) == 1000
