"""Every value that a query can give is written exactly, in JSON, NDJSON and CSV, however it is nested."""

from __future__ import annotations

import base64
import csv
import datetime
import io
import json
import math
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from queries.formats import Format, distinct_names, encode, sql_type_name
from queries.formats.array_parts import text_bytes
from queries.formats.few_rows import few_objects
from queries.formats.json_text import json_objects

UTC = datetime.UTC


@pytest.fixture(scope="module")
def connection() -> Iterator[duckdb.DuckDBPyConnection]:
    with duckdb.connect() as connection:
        connection.execute("SET TimeZone = 'UTC'")
        connection.execute("SET arrow_lossless_conversion = true")
        yield connection


def encoded(connection: duckdb.DuckDBPyConnection, sql: str, format_: Format) -> str:
    reader = connection.execute(sql).to_arrow_reader(1000)
    return b"".join(encode(reader.schema, reader, format_)).decode()


# expression, JSON text, CSV cell, name of the type
VALUES = [
    ("42", "42", "42", "INTEGER"),
    ("'-9223372036854775808'::BIGINT", "-9223372036854775808", "-9223372036854775808", "BIGINT"),
    ("18446744073709551615::UBIGINT", "18446744073709551615", "18446744073709551615", "UBIGINT"),
    (f"{2**127 - 1}::HUGEINT", str(2**127 - 1), str(2**127 - 1), "HUGEINT"),
    (f"({-(2**127)})::HUGEINT", str(-(2**127)), str(-(2**127)), "HUGEINT"),
    (f"{2**128 - 1}::UHUGEINT", str(2**128 - 1), str(2**128 - 1), "UHUGEINT"),
    (f"'{10**60}'::BIGNUM", str(10**60), str(10**60), "BIGNUM"),
    (f"'-{10**60}'::BIGNUM", str(-(10**60)), str(-(10**60)), "BIGNUM"),
    ("0::BIGNUM", "0", "0", "BIGNUM"),
    ("1.10::DECIMAL(10,2)", "1.10", "1.10", "DECIMAL(10,2)"),
    ("(-0.01)::DECIMAL(4,2)", "-0.01", "-0.01", "DECIMAL(4,2)"),
    ("0.0000000001::DECIMAL(30,10)", "0.0000000001", "0.0000000001", "DECIMAL(30,10)"),
    ("0::DECIMAL(30,10)", "0.0000000000", "0.0000000000", "DECIMAL(30,10)"),
    ("0.1::DOUBLE", "0.1", "0.1", "DOUBLE"),
    ("1e300::DOUBLE", "1e+300", "1e+300", "DOUBLE"),
    ("0.1::FLOAT", "0.1", "0.1", "FLOAT"),
    ("'nan'::DOUBLE", "null", "nan", "DOUBLE"),
    ("'inf'::FLOAT", "null", "inf", "FLOAT"),
    ("'-inf'::DOUBLE", "null", "-inf", "DOUBLE"),
    ("true", "true", "true", "BOOLEAN"),
    ("NULL::BOOLEAN", "null", '""', "BOOLEAN"),
    ("''", '""', '""', "VARCHAR"),
    ("'it''s \"x\", \\'", '"it\'s \\"x\\", \\\\"', '"it\'s ""x"", \\"', "VARCHAR"),
    ("'a' || chr(0) || chr(31) || chr(127)", '"a\\u0000\\u001f\x7f"', "a\0\x1f\x7f", "VARCHAR"),
    ("chr(10) || 'x' || chr(9)", '"\\nx\\t"', '"\'\nx\t"', "VARCHAR"),
    ("'ü€😀'", '"ü€😀"', "ü€😀", "VARCHAR"),
    ("'\\x00\\xFF'::BLOB", '"AP8="', "AP8=", "BLOB"),
    ("'101'::BIT", '"101"', "101", "BIT"),
    ("'00000000000'::BIT", '"00000000000"', "00000000000", "BIT"),
    (
        "'00112233-4455-6677-8899-aabbccddeeff'::UUID",
        '"00112233-4455-6677-8899-aabbccddeeff"',
        "00112233-4455-6677-8899-aabbccddeeff",
        "UUID",
    ),
    ("DATE '2018-10-20'", '"2018-10-20"', "2018-10-20", "DATE"),
    ("DATE '0044-03-15 (BC)'", '"-000043-03-15"', "-000043-03-15", "DATE"),
    ("DATE '12345-02-28'", '"+012345-02-28"', "+012345-02-28", "DATE"),
    ("DATE '0000-12-31'", '"0000-12-31"', "0000-12-31", "DATE"),
    ("DATE 'infinity'", '"infinity"', "infinity", "DATE"),
    ("TIME '21:37:28'", '"21:37:28"', "21:37:28", "TIME"),
    ("TIME '21:37:28.5'", '"21:37:28.500"', "21:37:28.500", "TIME"),
    ("TIME '24:00:00'", '"24:00:00"', "24:00:00", "TIME"),
    ("TIMETZ '12:00:01.5+05:30'", '"12:00:01.500+05:30"', "12:00:01.500+05:30", "TIME WITH TIME ZONE"),
    ("TIMETZ '12:00:01-15:59:59'", '"12:00:01-15:59:59"', "12:00:01-15:59:59", "TIME WITH TIME ZONE"),
    (
        "TIMESTAMPTZ '2018-10-20 21:37:28-06'",
        '"2018-10-21T03:37:28Z"',
        "2018-10-21T03:37:28Z",
        "TIMESTAMP WITH TIME ZONE",
    ),
    (
        "TIMESTAMPTZ '1969-12-31 23:59:59.999999+00'",
        '"1969-12-31T23:59:59.999999Z"',
        "1969-12-31T23:59:59.999999Z",
        "TIMESTAMP WITH TIME ZONE",
    ),
    ("TIMESTAMPTZ '-infinity'", '"-infinity"', "-infinity", "TIMESTAMP WITH TIME ZONE"),
    (
        "TIMESTAMP '10000-01-01 00:00:00.25'",
        '"+010000-01-01T00:00:00.250"',
        "+010000-01-01T00:00:00.250",
        "TIMESTAMP",
    ),
    ("TIMESTAMP_S '2018-10-20 21:37:28'", '"2018-10-20T21:37:28"', "2018-10-20T21:37:28", "TIMESTAMP_S"),
    ("TIMESTAMP_MS '2018-10-20 21:37:28.120'", '"2018-10-20T21:37:28.120"', "2018-10-20T21:37:28.120", "TIMESTAMP_MS"),
    ("TIMESTAMP_NS 'infinity'", '"infinity"', "infinity", "TIMESTAMP_NS"),
    ("TIMESTAMP_NS '-infinity'", '"-infinity"', "-infinity", "TIMESTAMP_NS"),
    (
        "TIMESTAMP_NS '2018-10-20 21:37:28.123456789'",
        '"2018-10-20T21:37:28.123456789"',
        "2018-10-20T21:37:28.123456789",
        "TIMESTAMP_NS",
    ),
    (
        "INTERVAL '1 year 2 months 3 days 04:05:06.789'",
        '"P14M3DT4H5M6.789S"',
        "P14M3DT4H5M6.789S",
        "INTERVAL",
    ),
    ("INTERVAL '-1 months' + INTERVAL '90 seconds'", '"P-1MT1M30S"', "P-1MT1M30S", "INTERVAL"),
    ("INTERVAL '-1500 milliseconds'", '"PT-1.5S"', "PT-1.5S", "INTERVAL"),
    ("INTERVAL '0 days'", '"PT0S"', "PT0S", "INTERVAL"),
    ("'x'::ENUM('x', '\"')", '"x"', "x", "ENUM"),
    ("[1, NULL, 3]", "[1,null,3]", '"[1,null,3]"', "INTEGER[]"),
    ("[]::INTEGER[]", "[]", "[]", "INTEGER[]"),
    ("[1, 2]::INTEGER[2]", "[1,2]", '"[1,2]"', "INTEGER[2]"),
    ("[['a'], NULL, []]", '[["a"],null,[]]', '"[[""a""],null,[]]"', "VARCHAR[][]"),
    ("{'a': 1, 'b': {'c d': NULL}}", '{"a":1,"b":{"c d":null}}', None, 'STRUCT(a INTEGER, b STRUCT("c d" INTEGER))'),
    ("map {'k\"': 1, 'l': NULL}", '{"k\\"":1,"l":null}', None, "MAP(VARCHAR, INTEGER)"),
    ("map {1.5::DECIMAL(2,1): 'x'}", '{"1.5":"x"}', None, "MAP(DECIMAL(2,1), VARCHAR)"),
    ("map {DATE '2018-10-20': 1}", '{"2018-10-20":1}', None, "MAP(DATE, INTEGER)"),
    ("map {[1, 2]: 1}", '{"[1,2]":1}', None, "MAP(INTEGER[], INTEGER)"),
    ("map {}::MAP(INTEGER, INTEGER)", "{}", "{}", "MAP(INTEGER, INTEGER)"),
    ("[(2)::HUGEINT, NULL]", "[2,null]", None, "HUGEINT[]"),
    ("union_value(k := 1)", "1", "1", "UNION(k INTEGER)"),
    ("union_value(k := '=1')", '"=1"', None, "UNION(k VARCHAR)"),
    ("'{\"a\": 1.10}'::JSON", '{"a": 1.10}', '"{""a"": 1.10}"', "JSON"),
    ("('[1,' || chr(10) || '2]')::JSON", "[1, 2]", None, "JSON"),
    ("('{\"a\":' || chr(13) || chr(10) || '2}')::JSON", '{"a":  2}', None, "JSON"),
    ("'[1,]'::JSON", '"[1,]"', None, "JSON"),
    ("'{\"a\": NaN}'::JSON", '"{\\"a\\": NaN}"', None, "JSON"),
    ("'-1'::JSON", "-1", "-1", "JSON"),
    ("NULL", "null", '""', "INTEGER"),
]


@pytest.mark.parametrize(("expression", "json_text", "csv_cell", "type_name"), VALUES, ids=[one[0] for one in VALUES])
def test_a_value_of_sql_is_written(
    connection: duckdb.DuckDBPyConnection, expression: str, json_text: str, csv_cell: str | None, type_name: str
) -> None:
    query = f"SELECT {expression} AS x"
    assert encoded(connection, query, Format.NDJSON) == f'{{"x":{json_text}}}\n'
    batch = next(connection.execute(query).to_arrow_reader(1000))
    by_kernels = json_objects(batch.columns, ["x"], before="", after="\n")
    assert bytes(text_bytes(by_kernels)).decode() == f'{{"x":{json_text}}}\n'
    wanted = f'{{"columns":[{{"name":"x","type":{json.dumps(type_name)}}}],"rows":[{{"x":{json_text}}}]}}'
    assert encoded(connection, query, Format.JSON) == wanted
    assert json.loads(wanted)["columns"][0]["type"] == type_name
    if csv_cell is not None:
        assert encoded(connection, query, Format.CSV) == f"x\r\n{csv_cell}\r\n"


@pytest.mark.parametrize("expression", [one[0] for one in VALUES])
def test_nulls_beside_a_value_stay_nulls(connection: duckdb.DuckDBPyConnection, expression: str) -> None:
    query = (
        f"SELECT * FROM (SELECT NULL AS x, 1 AS n UNION ALL SELECT {expression}, 2 UNION ALL SELECT NULL, 3) ORDER BY n"
    )
    rows = [json.loads(line) for line in encoded(connection, query, Format.NDJSON).splitlines()]
    assert [row["n"] for row in rows] == [1, 2, 3]
    assert rows[0]["x"] is None
    assert rows[2]["x"] is None
    cells = list(csv.reader(io.StringIO(encoded(connection, query, Format.CSV), newline="")))
    assert cells[1][0] == cells[3][0] == ""


def test_rows_far_down_a_large_batch_are_their_own(connection: duckdb.DuckDBPyConnection) -> None:
    """Batches are encoded in slices, and not everything in Arrow knows of its slice."""
    query = """
        SELECT i,
               i::HUGEINT AS hugeint,
               i::UHUGEINT AS uhugeint,
               [i::HUGEINT, NULL] AS hugeints,
               CASE WHEN i % 7 = 0 THEN union_value(n := i)::UNION(n BIGINT, t VARCHAR)
                    ELSE i::VARCHAR::UNION(n BIGINT, t VARCHAR) END AS choice,
               {'a': i, 'b': [i, i + 1]} AS struct,
               map {i::VARCHAR: i} AS map,
               [i, i]::BIGINT[2] AS pair,
               i % 3 = 0 AS flag,
               i::VARCHAR::JSON AS json,
               i::VARCHAR::BLOB AS blob,
               CASE WHEN i % 3 = 0 THEN NULL ELSE i::DECIMAL(18, 2) END AS decimal
        FROM (SELECT range AS i FROM range(30000))
    """
    reader = connection.execute(query).to_arrow_reader(30_000)
    lines = b"".join(encode(reader.schema, reader, Format.NDJSON)).splitlines()
    assert len(lines) == 30_000
    for i, line in enumerate(lines):
        assert json.loads(line) == {
            "i": i,
            "hugeint": i,
            "uhugeint": i,
            "hugeints": [i, None],
            "choice": i if i % 7 == 0 else str(i),
            "struct": {"a": i, "b": [i, i + 1]},
            "map": {str(i): i},
            "pair": [i, i],
            "flag": i % 3 == 0,
            "json": i,
            "blob": base64.b64encode(str(i).encode()).decode(),
            "decimal": None if i % 3 == 0 else i,
        }
    reader = connection.execute(query).to_arrow_reader(30_000)
    stream = b"".join(encode(reader.schema, reader, Format.PARQUET))
    table = pq.read_table(io.BytesIO(stream))
    assert table["hugeint"].to_pylist() == list(range(30_000))
    assert table["uhugeint"].to_pylist() == list(range(30_000))
    assert table["hugeints"].to_pylist() == [[i, None] for i in range(30_000)]
    assert table["choice"].to_pylist() == [str(i) if i % 7 == 0 else f'"{i}"' for i in range(30_000)]
    assert table["flag"].to_pylist() == [i % 3 == 0 for i in range(30_000)]


@pytest.mark.parametrize(
    "names", [["a", "a", "A", "a_1", "a"], ["a_1", "a", "a"], ["Ä", "ä"], ["x", "X", "x_1", "X_1", "x_2"], ["", ""]]
)
def test_names_are_made_distinct_as_duckdb_does(names: list[str]) -> None:
    columns = ", ".join(f'''{at} AS "{name or " "}"''' for at, name in enumerate(names))
    named = [name or " " for name in names]
    with duckdb.connect() as connection:
        assert distinct_names(named) == list(connection.execute(f"SELECT {columns}").df().columns)


@given(st.lists(st.text(alphabet="aAbB_12", max_size=4), max_size=12))
def test_distinct_names_are_distinct(names: list[str]) -> None:
    result = distinct_names(names)
    assert len({one.lower() for one in result}) == len(names)
    assert [one.lower().startswith(name.lower()) for one, name in zip(result, names, strict=True)] == [True] * len(
        names
    )


def test_equal_names_become_members_and_columns_of_their_own(connection: duckdb.DuckDBPyConnection) -> None:
    query = """SELECT 1 AS a, 2 AS a, 3 AS "q""uote" """
    assert encoded(connection, query, Format.NDJSON) == '{"a":1,"a_1":2,"q\\"uote":3}\n'
    assert encoded(connection, query, Format.CSV) == 'a,a_1,"q""uote"\r\n1,2,3\r\n'


def test_json_carries_the_types_and_statistics_that_it_is_given(connection: duckdb.DuckDBPyConnection) -> None:
    told: list[str] = []

    def statistics() -> dict[str, int]:
        told.append("asked")
        return {"scannedBytes": 7}

    reader = connection.execute("SELECT range AS n FROM range(3)").to_arrow_reader(1000)
    stream = encode(
        reader.schema,
        reader,
        Format.JSON,
        column_types=["MY TYPE"],
        statistics=statistics,
    )
    assert next(stream) == b'{"columns":[{"name":"n","type":"MY TYPE"}],"rows":['
    assert told == []
    rest = b"".join(stream)
    assert told == ["asked"]
    assert rest == b'{"n":0},{"n":1},{"n":2}],"statistics":{"scannedBytes":7}}'


def test_no_rows_are_an_answer_too(connection: duckdb.DuckDBPyConnection) -> None:
    query = "SELECT 1 AS a, 'x' AS b WHERE false"
    assert json.loads(encoded(connection, query, Format.JSON))["rows"] == []
    assert encoded(connection, query, Format.NDJSON) == ""
    assert encoded(connection, query, Format.CSV) == "a,b\r\n"


def test_a_type_that_no_query_gives_is_refused() -> None:
    views = pa.record_batch({"x": pa.array([[1]], pa.list_view(pa.int32()))})
    for format_ in (Format.JSON, Format.NDJSON, Format.CSV):
        with pytest.raises(TypeError, match="list_view"):
            b"".join(encode(views.schema, iter([views]), format_))
    with pytest.raises(TypeError):
        sql_type_name(pa.list_view(pa.int32()))
    with pytest.raises(ValueError, match="without columns"):
        encode(pa.schema([]), iter([]), Format.JSON)


# Any array of any type, against an implementation in plain Python

_SCALARS: list[tuple[pa.DataType, st.SearchStrategy[Any]]] = [
    (pa.int64(), st.integers(-(2**63), 2**63 - 1)),
    (pa.uint8(), st.integers(0, 255)),
    (pa.bool_(), st.booleans()),
    (pa.float64(), st.floats()),
    (pa.float32(), st.floats(width=32)),
    (pa.string(), st.text()),
    (pa.large_string(), st.text()),
    (pa.string_view(), st.text()),
    (pa.binary(), st.binary(max_size=20)),
    (pa.decimal128(20, 8), st.decimals(-(10**11), 10**11, places=8)),
    (pa.decimal128(10, 0), st.decimals(-(10**9), 10**9, places=0)),
    (pa.date32(), st.dates()),
    (pa.time64("us"), st.times()),
    (pa.time32("s"), st.times().map(lambda one: one.replace(microsecond=0))),
    (pa.timestamp("us"), st.datetimes()),
    (pa.timestamp("us", tz="UTC"), st.datetimes(timezones=st.just(UTC))),
    (pa.timestamp("ms", tz="UTC"), st.datetimes(timezones=st.just(UTC)).map(lambda one: one.replace(microsecond=7000))),
    (pa.dictionary(pa.int8(), pa.string()), st.text(max_size=2)),
]


def _nested(inner: st.SearchStrategy[tuple[pa.DataType, st.SearchStrategy[Any]]]) -> st.SearchStrategy[Any]:
    lists = inner.map(lambda one: (pa.list_(one[0]), st.lists(st.none() | one[1], max_size=3)))
    arrays = inner.map(lambda one: (pa.list_(one[0], 2), st.lists(st.none() | one[1], min_size=2, max_size=2)))
    structs = st.lists(inner, min_size=1, max_size=3).map(
        lambda members: (
            pa.struct([pa.field(f"m{at}", one[0]) for at, one in enumerate(members)]),
            st.fixed_dictionaries({f"m{at}": st.none() | one[1] for at, one in enumerate(members)}),
        )
    )
    maps = inner.map(
        lambda one: (
            pa.map_(pa.string(), one[0]),
            st.dictionaries(st.text(max_size=3), st.none() | one[1], max_size=3).map(lambda kept: list(kept.items())),
        )
    )
    return lists | arrays | structs | maps


TYPED = st.recursive(st.sampled_from(_SCALARS), _nested, max_leaves=4)


@st.composite
def sliced_arrays(draw: st.DrawFn) -> pa.Array:
    data_type, values = draw(TYPED)
    whole = draw(st.lists(st.none() | values, min_size=1, max_size=6))
    start = draw(st.integers(0, len(whole) - 1))
    return pa.array(whole, data_type).slice(start, draw(st.integers(1, len(whole))))


def reference_time(value: datetime.time | datetime.datetime) -> str:
    fraction = value.microsecond
    timespec = "seconds" if fraction == 0 else "milliseconds" if fraction % 1000 == 0 else "microseconds"
    return value.isoformat(timespec=timespec).replace("+00:00", "Z")


def assert_same(parsed: Any, value: Any, data_type: pa.DataType) -> None:
    """Compare what a JSON parser read with the value that was encoded."""
    if value is None or (pa.types.is_floating(data_type) and not math.isfinite(value)):
        assert parsed is None
    elif pa.types.is_map(data_type):
        assert list(parsed) == [key for key, _ in value]
        for key, item in value:
            assert_same(parsed[key], item, data_type.item_type)
    elif pa.types.is_struct(data_type):
        assert list(parsed) == list(value)
        for field in data_type:
            assert_same(parsed[field.name], value[field.name], field.type)
    elif isinstance(value, list):
        assert len(parsed) == len(value)
        for one, item in zip(parsed, value, strict=True):
            assert_same(one, item, data_type.value_type)
    elif isinstance(value, float):
        assert not isinstance(parsed, str)
        read_back = float(parsed)
        if pa.types.is_float32(data_type):
            read_back = pa.scalar(read_back, pa.float32()).as_py()
        assert read_back == value
    elif isinstance(value, bytes):
        assert base64.b64decode(parsed, validate=True) == value
    elif isinstance(value, datetime.datetime | datetime.time):
        assert parsed == reference_time(value)
    elif isinstance(value, datetime.date):
        assert parsed == value.isoformat()
    else:
        assert type(parsed) is type(value) or (isinstance(value, Decimal) and isinstance(parsed, int))
        assert parsed == value


@settings(max_examples=250, deadline=None)
@given(sliced_arrays())
def test_any_array_is_json_that_reads_back_the_same(array: pa.Array) -> None:
    batch = pa.record_batch({"x": array})
    lines = b"".join(encode(batch.schema, iter([batch]), Format.NDJSON)).split(b"\n")
    assert lines.pop() == b""
    values = array.to_pylist()
    assert len(lines) == len(values)
    # The other way of writing them, value by value or by Arrow's kernels, gives the same.
    names = ['%s"']
    few = few_objects([array], names, before=",", after="\n")
    assert few == bytes(text_bytes(json_objects([array], names, before=",", after="\n")))
    for line, value in zip(lines, values, strict=True):
        assert_same(json.loads(line, parse_float=Decimal)["x"], value, array.type)


@settings(max_examples=60, deadline=None)
@given(sliced_arrays())
def test_json_rows_are_the_ndjson_rows(array: pa.Array) -> None:
    batch = pa.record_batch({"x": array, "y": array})
    rows = b"".join(encode(batch.schema, iter([batch]), Format.NDJSON)).splitlines()
    document = b"".join(encode(batch.schema, iter([batch]), Format.JSON))
    assert document.endswith(b'"rows":[' + b",".join(rows) + b"]}")
    json.loads(document)
