"""Actions come back as they were sent: DuckDB's texts of them equal those of a plain implementation in Python."""

from __future__ import annotations

import csv
import datetime
import io
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import duckdb
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from queries.action_rows import (
    CSV_HEADER,
    action_columns_sql,
    action_csv_sql,
    action_json_sql,
    action_stream_sql,
    time_text_sql,
)
from queries.formats import Format, encode, encode_lines
from storage.schema import ActionSchema
from tests.queries.spreadsheets import ALIKE, BEFORE_SIGNS, defused

UTC = datetime.UTC
EPOCH = datetime.datetime(1970, 1, 1, tzinfo=UTC)
OFFSET_MINUTES_MAX = 23 * 60 + 59
MICROSECOND = datetime.timedelta(microseconds=1)


@dataclass(frozen=True)
class Action:
    user_id: str
    session_id: str | None
    local: datetime.datetime
    utc_offset_minutes: int
    type: str
    properties: str

    @property
    def time_us(self) -> int:
        return (self.local.replace(tzinfo=UTC) - EPOCH) // MICROSECOND - self.utc_offset_minutes * 60_000_000

    @property
    def time_text(self) -> str:
        """What RFC 3339 says, written by Python."""
        fraction = self.local.microsecond
        timespec = "seconds" if fraction == 0 else "milliseconds" if fraction % 1000 == 0 else "microseconds"
        text = self.local.isoformat(timespec=timespec)
        if self.utc_offset_minutes == 0:
            return f"{text}Z"
        hours, minutes = divmod(abs(self.utc_offset_minutes), 60)
        return f"{text}{'-' if self.utc_offset_minutes < 0 else '+'}{hours:02d}:{minutes:02d}"


def table_of(actions: Sequence[Action]) -> pa.Table:
    instants = pa.array([one.time_us for one in actions], pa.int64()).view(pa.timestamp("us", tz="UTC"))
    return pa.table(
        {
            "user_id": pa.array([one.user_id for one in actions], pa.string()),
            "session_id": pa.array([one.session_id for one in actions], pa.string()),
            "time": instants,
            "utc_offset_minutes": pa.array([one.utc_offset_minutes for one in actions], pa.int16()),
            "type": pa.array([one.type for one in actions], pa.string()),
            "properties": pa.array([one.properties for one in actions], pa.string()),
        }
    )


@pytest.fixture(scope="module")
def connection() -> Iterator[duckdb.DuckDBPyConnection]:
    with duckdb.connect() as connection:
        connection.execute("SET TimeZone = 'UTC'")
        yield connection


def select(connection: duckdb.DuckDBPyConnection, expression: str, actions: Sequence[Action]) -> list[str]:
    connection.register("actions", table_of(actions))
    sql = f"SELECT {expression} AS value FROM actions"
    result: list[str] = connection.execute(sql).to_arrow_table()["value"].to_pylist()
    connection.unregister("actions")
    return result


def action(**given_values: Any) -> Action:
    values: dict[str, Any] = {
        "user_id": "CBC123XYZ",
        "session_id": "XYZ456ABC",
        "local": datetime.datetime(2018, 10, 20, 21, 37, 28),
        "utc_offset_minutes": -360,
        "type": "click",
        "properties": '{"locationX": 52, "locationY": 11}',
    }
    return Action(**(values | given_values))


whole_seconds = st.datetimes(datetime.datetime(1970, 1, 2), datetime.datetime(9999, 12, 31, 23, 59, 59)).map(
    lambda one: one.replace(microsecond=0)
)
fractions = st.just(0) | st.integers(0, 999).map(lambda one: one * 1000) | st.integers(0, 999_999)
locals_ = st.builds(lambda whole, fraction: whole.replace(microsecond=fraction), whole_seconds, fractions)
offsets = st.just(0) | st.integers(-OFFSET_MINUTES_MAX, OFFSET_MINUTES_MAX)
texts = st.text(max_size=8) | st.text(alphabet="\0\x1f\x7f\"\\/,\r\n\t=+-@'a\u2028😀", max_size=8)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=4,
)
property_texts = st.builds(
    lambda value, indent, ascii_, line_end: json.dumps(value, indent=indent, ensure_ascii=ascii_).replace(
        "\n", line_end
    ),
    st.dictionaries(texts, json_values, max_size=3),
    st.none() | st.integers(0, 2),
    st.booleans(),
    st.sampled_from(["\n", "\r\n", "\r"]),
)
actions_ = st.builds(
    Action,
    user_id=texts,
    session_id=st.none() | texts,
    local=locals_,
    utc_offset_minutes=offsets,
    type=st.from_regex(r"[a-z0-9_-]{1,64}", fullmatch=True),
    properties=property_texts,
)


@pytest.mark.parametrize(
    ("local", "offset", "text"),
    [
        ("2018-10-20T21:37:28", -360, "2018-10-20T21:37:28-06:00"),
        ("2018-10-20T21:37:28", 0, "2018-10-20T21:37:28Z"),
        ("2018-10-20T21:37:28.500000", 330, "2018-10-20T21:37:28.500+05:30"),
        ("2018-10-20T21:37:28.123456", 0, "2018-10-20T21:37:28.123456Z"),
        ("2018-10-20T21:37:28.000001", -30, "2018-10-20T21:37:28.000001-00:30"),
        ("1970-01-01T00:00:00", 0, "1970-01-01T00:00:00Z"),
        ("1969-12-31T23:59:00.999000", -1, "1969-12-31T23:59:00.999-00:01"),
        ("9999-12-31T23:59:59.999999", 0, "9999-12-31T23:59:59.999999Z"),
        ("9999-12-31T23:59:59", 1439, "9999-12-31T23:59:59+23:59"),
        ("2000-02-29T00:00:00", -1439, "2000-02-29T00:00:00-23:59"),
    ],
)
def test_a_time_is_written_with_its_offset(
    connection: duckdb.DuckDBPyConnection, local: str, offset: int, text: str
) -> None:
    one = action(local=datetime.datetime.fromisoformat(local), utc_offset_minutes=offset)
    assert one.time_text == text
    assert select(connection, time_text_sql(), [one]) == [text]


@settings(max_examples=50, deadline=None)
@given(st.lists(actions_, min_size=1, max_size=20))
def test_times_equal_the_reference(connection: duckdb.DuckDBPyConnection, actions: list[Action]) -> None:
    assert select(connection, time_text_sql(), actions) == [one.time_text for one in actions]


@settings(max_examples=60, deadline=None)
@given(st.lists(actions_, min_size=1, max_size=10))
@example([action(properties='{"a":\r\n [1,\n2]}'), action(user_id="\0", session_id='"\\\n')])
def test_json_holds_what_was_sent(connection: duckdb.DuckDBPyConnection, actions: list[Action]) -> None:
    rows = select(connection, action_json_sql(), actions)
    lines = select(connection, action_json_sql(one_line=True), actions)
    for row, line, one in zip(rows, lines, actions, strict=True):
        head, _, tail = row.partition(',"properties":')
        parsed = json.loads(row)
        assert list(parsed) == ["userId", "sessionId", "time", "type", "properties"]
        assert parsed["userId"] == one.user_id
        assert parsed["sessionId"] == one.session_id
        assert parsed["time"] == one.time_text
        assert parsed["type"] == one.type.upper()
        assert row.endswith(f',"properties":{one.properties}}}')
        assert head.startswith('{"userId":"')
        assert tail
        assert "\n" not in line
        assert "\r" not in line
        assert json.loads(line) == parsed
        assert line == row.replace("\r", " ").replace("\n", " ")


def test_every_character_is_escaped_as_json_wants_it(connection: duckdb.DuckDBPyConnection) -> None:
    characters = [chr(code) for code in range(0x110000) if not 0xD800 <= code <= 0xDFFF]
    ids = ["".join(characters[start : start + 256]) for start in range(0, len(characters), 256)]
    rows = select(connection, action_json_sql(), [action(user_id=one, session_id=one) for one in ids])
    for one, row in zip(ids, rows, strict=True):
        parsed = json.loads(row)
        assert parsed["userId"] == one
        assert parsed["sessionId"] == one


@settings(max_examples=60, deadline=None)
@given(st.lists(actions_, min_size=1, max_size=10), st.booleans())
@example([action(user_id="=1+1", session_id="", type="-x"), action(session_id=None)], False)
@example([action(user_id=f"{one}=1", session_id=f"{one}a") for one in BEFORE_SIGNS + ALIKE], False)
def test_csv_reads_back(connection: duckdb.DuckDBPyConnection, actions: list[Action], raw: bool) -> None:
    lines = select(connection, action_csv_sql(raw=raw), actions)
    text = CSV_HEADER.decode() + "".join(f"{line}\r\n" for line in lines)
    header, *rows = csv.reader(io.StringIO(text, newline=""), strict=True)
    assert header == ["userId", "sessionId", "time", "type", "properties"]

    def cell(value: str) -> str:
        return value if raw else defused(value)

    wanted = [
        [
            cell(one.user_id),
            cell(one.session_id or ""),
            one.time_text,
            cell(one.type.upper()),
            cell(one.properties),
        ]
        for one in actions
    ]
    assert rows == wanted


def test_a_missing_session_differs_from_an_empty_one_in_csv(connection: duckdb.DuckDBPyConnection) -> None:
    lines = select(connection, action_csv_sql(), [action(session_id=None), action(session_id="")])
    assert [line.split(",")[1] for line in lines] == ["", '""']


def full_table(actions: Sequence[Action], schema: ActionSchema) -> pa.Table:
    """The actions with all columns of the table, those that the texts do not need left null."""
    given_columns = table_of(actions)
    columns = [
        given_columns[field.name] if field.name in given_columns.schema.names else pa.nulls(len(actions), field.type)
        for field in schema.table_schema
    ]
    return pa.table(columns, schema=schema.table_schema)


def test_streams_of_actions_open_in_each_format(connection: duckdb.DuckDBPyConnection) -> None:
    schema = ActionSchema()
    actions = [action(user_id=f"user {at}", properties='{\n"a": 1}') for at in range(5_000)]
    connection.register("actions", full_table(actions, schema))

    def stream(format_: Format) -> bytes:
        sql = f"SELECT {action_stream_sql(format_, schema)} FROM actions"
        reader = connection.execute(sql).to_arrow_reader(2_048)
        if format_ in (Format.ARROW, Format.PARQUET):
            return b"".join(encode(reader.schema, reader, format_))
        return b"".join(encode_lines(reader, header=CSV_HEADER if format_ is Format.CSV else b""))

    lines = stream(Format.NDJSON).split(b"\n")
    assert lines.pop() == b""
    users = [one.user_id for one in actions]
    assert [json.loads(line)["userId"] for line in lines] == users
    rows = list(csv.DictReader(io.StringIO(stream(Format.CSV).decode(), newline="")))
    assert [row["userId"] for row in rows] == users
    assert {row["properties"] for row in rows} == {'{\n"a": 1}'}
    arrow = pa.ipc.open_stream(stream(Format.ARROW)).read_all()
    assert arrow.schema == schema.table_schema
    assert arrow["user_id"].to_pylist() == users
    parquet = stream(Format.PARQUET)
    assert pq.read_table(io.BytesIO(parquet)).schema == schema.table_schema
    assert pl.read_parquet(io.BytesIO(parquet))["user_id"].to_list() == users
    connection.unregister("actions")


def test_json_is_not_streamed() -> None:
    with pytest.raises(ValueError, match="not streamed"):
        action_stream_sql(Format.JSON, ActionSchema())
    assert action_columns_sql(ActionSchema()).startswith('"date", "type", "user_id"')
