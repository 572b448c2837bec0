"""Ordering rows by one number gives the order that the columns give, and is left where one number does not do."""

from __future__ import annotations

import random
import subprocess
import sys
from collections.abc import Callable

import pyarrow as pa
import pyarrow.compute as pc
import pytest

from storage.data_files import sort_rows, sort_rows_and_let_go
from storage.schema import TIMESTAMP
from storage.store import Store
from tests.storage.building import DAY_US, flush, in_lake, put, through

_USERS = ["u1", "u10", "u2", "ü", "\U0001f600", "Z", "z", ""]
_ORDER = [(name, "ascending") for name in ("date", "type", "user_id", "time", "position")]


def _rows(count: int, *, days: int, seed: int, shuffled: bool = False) -> pa.Table:
    choose = random.Random(seed)
    # Few different times, so that rows of one user share one.
    times = [choose.randrange(days) * DAY_US + choose.randrange(20) for _ in range(count)]
    positions = sorted(choose.sample(range(10 * count), count))
    if shuffled:
        choose.shuffle(positions)
    return pa.table(
        {
            "date": pa.array([time // DAY_US for time in times], pa.int32()).view(pa.date32()),
            "type": pa.array([choose.choice(["view", "click", "navigate"]) for _ in range(count)], pa.string()),
            "user_id": pa.array([choose.choice(_USERS) for _ in range(count)], pa.string()),
            "time": pa.array(times, pa.int64()).view(TIMESTAMP),
            "position": pa.array(positions, pa.int64()),
        }
    )


def _chunked() -> pa.Table:
    first, last = _rows(1000, days=3, seed=1), _rows(500, days=3, seed=3)
    last = last.set_column(4, "position", pa.array(range(100_000, 100_500), pa.int64()))
    return pa.concat_tables([first, first.slice(0, 0), last])


def _far_apart() -> pa.Table:
    """More partitions, users and microseconds than 63 bits can number."""
    days = [0, 2_000_000]
    return pa.table(
        {
            "date": pa.array(days * 500, pa.int32()).view(pa.date32()),
            "type": ["view", "click"] * 500,
            "user_id": [f"u{n % 97}" for n in range(1000)],
            "time": pa.array([day * DAY_US for day in days] * 500, pa.int64()).view(TIMESTAMP),
            "position": pa.array(range(1000), pa.int64()),
        }
    )


@pytest.mark.parametrize(
    "make",
    [
        pytest.param(lambda: _rows(5000, days=4, seed=5), id="as a flush has them"),
        pytest.param(lambda: _rows(1, days=1, seed=6), id="one row"),
        pytest.param(lambda: _rows(0, days=1, seed=7), id="none"),
        pytest.param(lambda: _rows(3000, days=4, seed=8, shuffled=True), id="positions in disorder"),
        pytest.param(_chunked, id="in several chunks"),
        pytest.param(_far_apart, id="far apart"),
    ],
)
def test_the_order_is_that_of_the_columns(make: Callable[[], pa.Table]) -> None:
    rows = make()
    assert sort_rows(rows).equals(rows.take(pc.sort_indices(rows, _ORDER)))


# Twenty columns of 2 MB beside those that are sorted by; prints the most that Arrow had of them, in tables.
_MOST_HELD = """
import pyarrow as pa
from storage.data_files import sort_rows, sort_rows_and_let_go

rows = 20_000
keys = {"date": pa.array([0] * rows, pa.int32()).view(pa.date32()), "type": ["view"] * rows, "user_id": ["u"] * rows}
times = pa.array(range(rows, 0, -1), pa.int64()).view(pa.timestamp("us", tz="UTC"))
columns = {**keys, "time": times, "position": pa.array(range(rows), pa.int64())}
for number in range(20):
    columns[f"wide_{number}"] = pa.array([b"x" * 100] * rows, pa.binary(100))
unsorted = [pa.table(columns)]
del keys, times, columns
once = pa.total_allocated_bytes()
ordered = {sort}
print(pa.default_memory_pool().max_memory() / once)
"""


def _most_held(sort: str) -> float:
    done = subprocess.run([sys.executable, "-c", _MOST_HELD.replace("{sort}", sort)], capture_output=True, check=True)
    return float(done.stdout)


def test_a_table_that_is_let_go_is_never_held_twice() -> None:
    assert _most_held("sort_rows_and_let_go(unsorted)") < 1.25
    assert _most_held("sort_rows(unsorted[0])") > 1.9, "the control"


def test_a_flush_holds_the_unsorted_rows_nowhere_else(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    holders: list[int] = []

    def counted(unsorted: list[pa.Table]) -> pa.Table:
        # One is the list, the other the argument itself.
        holders.append(sys.getrefcount(unsorted[0]))
        return sort_rows_and_let_go(unsorted)

    monkeypatch.setattr("storage.flush.sort_rows_and_let_go", counted)
    put(store, 3)
    flush(store)
    assert holders == [2]
    assert in_lake(store) == through(3)
