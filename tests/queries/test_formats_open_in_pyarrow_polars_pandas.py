"""pyarrow, Polars and pandas open the Arrow and Parquet answers, and find the values that the query gave."""

from __future__ import annotations

import datetime
import io
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import duckdb
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from queries.formats import Format, TooManyDigits, encode
from queries.formats.encoding import (
    ROW_GROUP_BYTES_MAX,
    ROW_GROUP_ROWS_FIRST,
    ROW_GROUP_ROWS_MAX,
    SLICE_BYTES_MAX,
    SLICE_ROWS_MAX,
)
from queries.formats.portable import portable_array, portable_type
from queries.formats.scalar_text import interval_text

BINARY = (Format.ARROW, Format.PARQUET)
UTC = datetime.UTC


@pytest.fixture(params=[False, True], ids=["default", "lossless"])
def connection(request: pytest.FixtureRequest) -> Iterator[duckdb.DuckDBPyConnection]:
    with duckdb.connect() as connection:
        connection.execute("SET TimeZone = 'UTC'")
        connection.execute(f"SET arrow_lossless_conversion = {request.param}")
        yield connection


def answer(connection: duckdb.DuckDBPyConnection, sql: str, format_: Format) -> bytes:
    reader = connection.execute(sql).to_arrow_reader(1000)
    return b"".join(encode(reader.schema, reader, format_))


def in_pyarrow(data: bytes, format_: Format) -> pa.Table:
    return pa.ipc.open_stream(data).read_all() if format_ is Format.ARROW else pq.read_table(io.BytesIO(data))


def in_polars(data: bytes, format_: Format) -> pl.DataFrame:
    return pl.read_ipc_stream(io.BytesIO(data)) if format_ is Format.ARROW else pl.read_parquet(io.BytesIO(data))


def in_pandas(data: bytes, format_: Format) -> pd.DataFrame:
    return pa.ipc.open_stream(data).read_pandas() if format_ is Format.ARROW else pd.read_parquet(io.BytesIO(data))


# expression, value in Python
VALUES: dict[str, tuple[str, Any]] = {
    "integer": ("42", 42),
    "bigint": ("'-9223372036854775808'::BIGINT", -(2**63)),
    "hugeint": (f"{10**38 - 1}::HUGEINT", Decimal(10**38 - 1)),
    "hugeint_negative": ("(-5)::HUGEINT", Decimal(-5)),
    "uhugeint": (f"{10**30}::UHUGEINT", Decimal(10**30)),
    "decimal": ("1.10::DECIMAL(10,2)", Decimal("1.10")),
    "double": ("0.1::DOUBLE", 0.1),
    "boolean": ("true", True),
    "text": ("'ü' || chr(0) || chr(10)", "ü\0\n"),
    "bytes": ("'\\x00\\xFF'::BLOB", b"\0\xff"),
    "uuid": ("'00112233-4455-6677-8899-aabbccddeeff'::UUID", "00112233-4455-6677-8899-aabbccddeeff"),
    "json": ("'{\"a\": 1.10}'::JSON", '{"a": 1.10}'),
    "date": ("DATE '2018-10-20'", datetime.date(2018, 10, 20)),
    "time": ("TIME '21:37:28.5'", datetime.time(21, 37, 28, 500_000)),
    "instant": ("TIMESTAMPTZ '2018-10-20 21:37:28-06'", datetime.datetime(2018, 10, 21, 3, 37, 28, tzinfo=UTC)),
    "local": ("TIMESTAMP '2018-10-20 21:37:28'", datetime.datetime(2018, 10, 20, 21, 37, 28)),
    "interval": ("INTERVAL '1 month 2 days'", "P1M2D"),
    "union": ("union_value(k := 1)", "1"),
    "word": ("'x'::ENUM('x', 'y')", "x"),
    "list": ("[1, NULL]", [1, None]),
    "array": ("[1, 2]::INTEGER[2]", [1, 2]),
    "struct": ("{'a': 1, 'b': ['x']}", {"a": 1, "b": ["x"]}),
    "map": ("map {'k': 1}", [("k", 1)]),
    "list_of_intervals": ("[INTERVAL '1 day', NULL]", ["P1D", None]),
    "struct_of_hugeints": ("{'h': 7::HUGEINT, 'u': union_value(k := 'x')}", {"h": Decimal(7), "u": '"x"'}),
    "map_of_intervals": ("map {1: INTERVAL '1 day'}", [(1, "P1D")]),
    "list_of_arrays": ("[[1, 2]::INTEGER[2], NULL]", [[1, 2], None]),
}


@pytest.mark.parametrize("format_", BINARY)
@pytest.mark.parametrize("name", VALUES)
def test_each_type_opens_everywhere(connection: duckdb.DuckDBPyConnection, name: str, format_: Format) -> None:
    expression, value = VALUES[name]
    query = (
        f'SELECT x AS "{name}" FROM (SELECT NULL AS x, 1 AS n UNION ALL SELECT {expression}, 2'
        " UNION ALL SELECT NULL, 3) ORDER BY n"
    )
    data = answer(connection, query, format_)
    table = in_pyarrow(data, format_)
    assert table.to_pydict() == {name: [None, value, None]}
    frame = in_polars(data, format_)
    assert frame[name].null_count() == 2
    assert frame.height == 3
    if not isinstance(value, list | dict):
        assert frame[name][1] == value
    pandas_frame = in_pandas(data, format_)
    assert list(pandas_frame[name].isna()) == [True, False, True]


@pytest.mark.parametrize("format_", BINARY)
def test_the_types_stay_typed(connection: duckdb.DuckDBPyConnection, format_: Format) -> None:
    query = (
        "SELECT true AS b, 1::SMALLINT AS s, sum(range) AS total, now() AS t, DATE '2018-10-20' AS d, 0.5 AS f"
        " FROM range(3)"
    )
    frame = in_polars(answer(connection, query, format_), format_)
    assert frame.schema == {
        "b": pl.Boolean,
        "s": pl.Int16,
        "total": pl.Decimal(38, 0),
        "t": pl.Datetime("us", "UTC"),
        "d": pl.Date,
        "f": pl.Decimal(2, 1),
    }


@pytest.mark.parametrize("format_", BINARY)
def test_equal_names_are_columns_of_their_own(connection: duckdb.DuckDBPyConnection, format_: Format) -> None:
    data = answer(connection, "SELECT 1 AS a, 2 AS a, 3 AS A", format_)
    assert in_pyarrow(data, format_).to_pydict() == {"a": [1], "a_1": [2], "A_2": [3]}
    assert in_polars(data, format_).row(0) == (1, 2, 3)
    assert list(in_pandas(data, format_).columns) == ["a", "a_1", "A_2"]


@pytest.mark.parametrize("format_", BINARY)
def test_no_rows_open_too(connection: duckdb.DuckDBPyConnection, format_: Format) -> None:
    data = answer(connection, "SELECT 1 AS a, [INTERVAL '1 day'] AS b WHERE false", format_)
    assert in_pyarrow(data, format_).to_pydict() == {"a": [], "b": []}
    assert in_polars(data, format_).shape == (0, 2)
    assert in_pandas(data, format_).shape == (0, 2)


@pytest.mark.parametrize("format_", BINARY)
@pytest.mark.parametrize("number", [str(10**38), str(-(10**38))])
def test_too_many_digits_are_an_error_and_never_another_number(
    connection: duckdb.DuckDBPyConnection, format_: Format, number: str
) -> None:
    for expression in (f"'{number}'::HUGEINT", f"['{number}'::HUGEINT]"):
        with pytest.raises(TooManyDigits, match="more than 38 digits"):
            answer(connection, f"SELECT {expression} AS x", format_)


def test_too_many_digits_without_a_sign_are_an_error() -> None:
    with duckdb.connect() as connection:
        connection.execute("SET arrow_lossless_conversion = true")
        with pytest.raises(TooManyDigits, match="more than 38 digits"):
            answer(connection, f"SELECT {2**128 - 1}::UHUGEINT AS x", Format.PARQUET)


def test_a_struct_without_members_is_text() -> None:
    batch = pa.record_batch({"x": pa.array([{}, None], pa.struct([]))})
    for format_ in BINARY:
        data = b"".join(encode(batch.schema, iter([batch]), format_))
        assert in_pyarrow(data, format_).to_pydict() == {"x": ["{}", None]}


def test_an_unknown_extension_is_what_it_is_stored_as() -> None:
    opaque = pa.opaque(pa.int64(), "secret", "somebody")
    batch = pa.record_batch({"x": pa.ExtensionArray.from_storage(opaque, pa.array([1, None]))})
    data = b"".join(encode(batch.schema, iter([batch]), Format.ARROW))
    assert in_pyarrow(data, Format.ARROW).to_pydict() == {"x": [1, None]}


def test_row_groups_have_the_wanted_size_and_parquet_is_compressed() -> None:
    rows = 400_000
    batch = pa.record_batch({"n": pa.array(range(rows), pa.int64())})
    parts = (batch.slice(start, 20_480) for start in range(0, rows, 20_480))
    data = b"".join(encode(batch.schema, parts, Format.PARQUET))
    metadata = pq.ParquetFile(io.BytesIO(data)).metadata
    sizes = [metadata.row_group(at).num_rows for at in range(metadata.num_row_groups)]
    assert sum(sizes) == rows
    assert ROW_GROUP_ROWS_FIRST - SLICE_ROWS_MAX <= sizes[0] <= ROW_GROUP_ROWS_FIRST
    assert all(ROW_GROUP_ROWS_MAX - SLICE_ROWS_MAX <= size <= ROW_GROUP_ROWS_MAX for size in sizes[1:-1])
    assert sizes[-1] <= ROW_GROUP_ROWS_MAX
    assert metadata.row_group(0).column(0).compression == "ZSTD"


def test_wide_rows_make_smaller_row_groups() -> None:
    batch = pa.record_batch({"x": pa.array([f"{at:07d}" * 10_000 for at in range(1_000)])})
    data = b"".join(encode(batch.schema, iter([batch]), Format.PARQUET))
    metadata = pq.ParquetFile(io.BytesIO(data)).metadata
    assert metadata.num_rows == 1_000
    row_groups_min = batch.nbytes / (ROW_GROUP_BYTES_MAX + SLICE_BYTES_MAX)
    assert row_groups_min <= metadata.num_row_groups <= 1 + batch.nbytes / ROW_GROUP_BYTES_MAX
    assert pq.read_table(io.BytesIO(data))["x"].to_pylist() == batch["x"].to_pylist()


# Columns that must be rebuilt, nested and sliced in any way

_LEAVES: list[tuple[pa.DataType, st.SearchStrategy[Any]]] = [
    (pa.int32(), st.integers(-5, 5)),
    (pa.string(), st.text(max_size=3)),
    (
        pa.month_day_nano_interval(),
        st.tuples(st.integers(-3, 3), st.integers(-3, 3), st.integers(-(10**10), 10**10)).map(pa.MonthDayNano),
    ),
]


def _nested(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    lists = inner.map(lambda one: (pa.list_(one[0]), st.lists(st.none() | one[1], max_size=3)))
    large = inner.map(lambda one: (pa.large_list(one[0]), st.lists(st.none() | one[1], max_size=3)))
    fixed = inner.map(lambda one: (pa.list_(one[0], 2), st.lists(st.none() | one[1], min_size=2, max_size=2)))
    structs = inner.map(
        lambda one: (
            pa.struct([("a", one[0]), ("b", pa.int8())]),
            st.fixed_dictionaries({"a": st.none() | one[1], "b": st.none() | st.integers(0, 9)}),
        )
    )
    maps = inner.map(
        lambda one: (
            pa.map_(pa.string(), one[0]),
            st.dictionaries(st.text(max_size=2), st.none() | one[1], max_size=3).map(lambda kept: list(kept.items())),
        )
    )
    return lists | large | fixed | structs | maps


def _interval_text(value: pa.MonthDayNano) -> str:
    return interval_text(value.months, value.days, value.nanoseconds)


def _expected(value: Any) -> Any:
    if isinstance(value, pa.MonthDayNano):
        return _interval_text(value)
    if isinstance(value, list):
        return [_expected(one) for one in value]
    if isinstance(value, dict):
        return {name: _expected(one) for name, one in value.items()}
    if isinstance(value, tuple):
        return (value[0], _expected(value[1]))
    return value


@st.composite
def _sliced(draw: st.DrawFn) -> pa.Array:
    data_type, values = draw(st.recursive(st.sampled_from(_LEAVES), _nested, max_leaves=3))
    whole = draw(st.lists(st.none() | values, min_size=1, max_size=6))
    start = draw(st.integers(0, len(whole) - 1))
    return pa.array(whole, data_type).slice(start, draw(st.integers(1, len(whole))))


@settings(max_examples=150, deadline=None)
@given(_sliced())
def test_rebuilt_columns_keep_their_values(array: pa.Array) -> None:
    rebuilt = portable_array(array)
    rebuilt.validate(full=True)
    assert rebuilt.type == portable_type(array.type)
    assert rebuilt.to_pylist() == [_expected(value) for value in array.to_pylist()]
