"""A worker has exactly the hot rows of the snapshot at hand, though only what it has not yet is sent to it."""

from __future__ import annotations

import random
from collections.abc import Iterator

import pyarrow as pa
import pytest

from queries.sql import SqlRequest, TableView
from queries.sql.handover import HotReceiver, HotSender
from tests.queries.sql_tables import SCHEMA, Sandbox, as_table, make_rows, sandbox, write_table

_COUNT = "SELECT count(*), sum(position) FROM actions WHERE journal = 'hot'"


def _rows(first: int, count: int) -> pa.Table:
    """Rows as the store decodes them from the journal: a batch of memory of its own."""
    return pa.table(
        {
            "position": pa.array(range(first, first + count), pa.int64()),
            "text": pa.array(map(str, range(count)), pa.string()),
        }
    )


def _handed_over(sender: HotSender, receiver: HotReceiver, table: pa.Table) -> tuple[pa.Table, int]:
    """What the worker makes of a table, and how many bytes were sent for it."""
    message, payload = sender.encode(table)
    return receiver.decode(message, payload), len(payload)


def test_any_sequence_of_tables_arrives_as_it_is() -> None:
    """Appended to, trimmed, combined, replaced, seen again: as the store does it, and in any other order."""
    chance = random.Random(7)
    for _ in range(20):
        sender, receiver = HotSender(), HotReceiver()
        table, seen = _rows(0, 0), [_rows(0, 3)]
        for _ in range(40):
            match chance.randrange(7):
                case 0 | 1 | 2:
                    table = pa.concat_tables([table, _rows(chance.randrange(1000), chance.randrange(5))])
                case 3:
                    table = table.slice(chance.randrange(table.num_rows + 1))
                case 4:
                    table = table.combine_chunks()
                case 5:
                    # The old memory is free now, and its addresses may come again with other rows.
                    table = _rows(chance.randrange(1000), chance.randrange(50))
                case _:
                    table = chance.choice(seen)
            if chance.random() < 0.3:
                seen.append(table)
            arrived, _ = _handed_over(sender, receiver, table)
            assert arrived.to_pylist() == table.to_pylist()
            assert arrived.schema == table.schema


def test_only_what_is_new_is_sent() -> None:
    sender, receiver = HotSender(), HotReceiver()
    table = _rows(0, 10_000)
    _, whole = _handed_over(sender, receiver, table)
    _, nothing = _handed_over(sender, receiver, table)
    _, little = _handed_over(sender, receiver, pa.concat_tables([table, _rows(10_000, 5)]))
    assert nothing < 1_000 < 100_000 < whole
    assert little < 2_000
    sender.forget()
    assert _handed_over(sender, HotReceiver(), table)[1] == whole


def test_the_same_rows_elsewhere_in_memory_are_sent_again() -> None:
    sender, receiver = HotSender(), HotReceiver()
    _handed_over(sender, receiver, _rows(0, 1_000))
    arrived, size = _handed_over(sender, receiver, _rows(0, 1_000))
    assert size > 10_000
    assert arrived.num_rows == 1_000


def test_rows_that_lie_where_others_lay_before_are_not_taken_for_them() -> None:
    sender, receiver = HotSender(), HotReceiver()
    for number in range(300):
        arrived, _ = _handed_over(sender, receiver, _rows(number, 50))
        assert arrived["position"][0].as_py() == number


def test_windows_of_the_same_length_are_told_apart() -> None:
    sender, receiver = HotSender(), HotReceiver()
    table = _rows(0, 100)
    for start in (0, 10, 3, 50, 0):
        arrived, _ = _handed_over(sender, receiver, table.slice(start, 20))
        assert arrived["position"].to_pylist() == list(range(start, start + 20))


@pytest.fixture(scope="module")
def sql(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sandbox]:
    table = write_table(tmp_path_factory.mktemp("table") / "actions", make_rows(days=1, per_file=2))
    with sandbox(table, tmp_path_factory.mktemp("temp"), workers=2) as one:
        yield one


def test_every_worker_sees_each_snapshot_as_it_grows_and_is_flushed(sql: Sandbox) -> None:
    rows = make_rows(days=2, per_file=40, journal="hot")
    hot = as_table([])
    for step in range(24):
        hot = pa.concat_tables([hot, as_table(rows[step * 10 : step * 10 + 10])])
        if step % 5 == 4:
            hot = hot.slice(7)
        view = TableView(sql.table.files, hot, SCHEMA.table_schema)
        first = sql.pool.run(SqlRequest(_COUNT), view)
        # While the first holds one worker, the other one answers.
        second = sql.ask(_COUNT, view=view)
        with first:
            assert pa.Table.from_batches(list(first), first.schema).to_pylist() == second.table.to_pylist()
        positions = [row["position"] for row in hot.select(["position"]).to_pylist()]
        assert second.rows == [(len(positions), sum(positions))]
