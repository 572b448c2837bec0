"""Every type of value is printed as Athena prints it, and every column is described with all that clients read."""

from __future__ import annotations

import datetime
import decimal
import math
import struct
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from queries.athena.result_columns import column_info, hive_type
from queries.athena.types import (
    BIGINT,
    BOOLEAN,
    DATE,
    DOUBLE,
    INTEGER,
    VARBINARY,
    VARCHAR,
    TrinoType,
    array,
    map_of,
)
from queries.athena.types import (
    decimal as decimal_type,
)
from queries.athena.values import double_text, texts
from tests.queries.athena_answers import answer

DOUBLES = [
    (0.0, "0.0"), (-0.0, "-0.0"), (1.0, "1.0"), (100.0, "100.0"), (0.1, "0.1"), (1 / 3, "0.3333333333333333"),
    (1e-3, "0.001"), (9.99e-4, "9.99E-4"), (9999999.0, "9999999.0"), (1e7, "1.0E7"), (1.5e10, "1.5E10"),
    (12345678.9, "1.23456789E7"), (1e21, "1.0E21"),
    (1.7976931348623157e308, "1.7976931348623157E308"),
    (-2.5, "-2.5"), (-1e-5, "-1.0E-5"), (123456.789, "123456.789"), (math.nan, "NaN"), (math.inf, "Infinity"),
    (-math.inf, "-Infinity"),
]  # fmt: skip


@pytest.mark.parametrize(("number", "text"), DOUBLES)
def test_doubles_are_printed_as_java_prints_them(number: float, text: str) -> None:
    assert texts(pa.array([number]), DOUBLE) == [text]


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_the_text_of_a_double_is_that_double(number: float) -> None:
    text = double_text(number)
    assert struct.pack("d", float(text)) == struct.pack("d", number)
    mantissa = text.partition("E")[0].lstrip("-")
    assert mantissa.count(".") == 1
    assert mantissa[0].isdigit()
    assert mantissa[-1].isdigit()
    assert ("E" in text) == (number != 0 and not 1e-3 <= abs(number) < 1e7)


@given(st.dates())
def test_dates_are_printed_in_iso_8601(day: datetime.date) -> None:
    assert texts(pa.array([day]), DATE) == [day.isoformat()]


@given(st.datetimes(min_value=datetime.datetime(1, 1, 2), max_value=datetime.datetime(9999, 12, 30)))
def test_timestamps_have_three_digits_or_the_six_that_they_need(moment: datetime.datetime) -> None:
    digits = "milliseconds" if moment.microsecond % 1000 == 0 else "microseconds"
    expected = moment.isoformat(" ", digits)
    assert texts(pa.array([moment], pa.timestamp("us")), TrinoType("timestamp", precision=6)) == [expected]
    zoned = TrinoType("timestamp with time zone", precision=6)
    assert texts(pa.array([moment], pa.timestamp("us", "UTC")), zoned) == [f"{expected} UTC"]


VALUES: list[tuple[str, str | None, str]] = [
    ("true", "true", "boolean"),
    ("cast(-5 as tinyint)", "-5", "tinyint"),
    ("cast(5 as real) / 3", "1.6666666", "float"),
    ("cast(1.1 as real)", "1.1", "float"),
    ("1.10", "1.10", "decimal"),
    ("-0.05", "-0.05", "decimal"),
    ("decimal '12345678901234567890123456789012345678'", "12345678901234567890123456789012345678", "decimal"),
    ("'a, b'", "a, b", "varchar"),
    ("x'00ff10'", "00 ff 10", "varbinary"),
    ("x''", "", "varbinary"),
    ("date '2024-02-29'", "2024-02-29", "date"),
    ("time '01:02:03'", "01:02:03.000", "time"),
    ("timestamp '2024-01-02 03:04:05'", "2024-01-02 03:04:05.000", "timestamp"),
    ("timestamp '2024-01-02 03:04:05.123456'", "2024-01-02 03:04:05.123456", "timestamp"),
    ("timestamp '2024-01-02 03:04:05.12 UTC'", "2024-01-02 03:04:05.120 UTC", "timestamp with time zone"),
    ("timestamp '2024-07-02 03:04 Asia/Tokyo'", "2024-07-02 03:04:00.000 Asia/Tokyo", "timestamp with time zone"),
    ("timestamp '2024-07-02 03:04:05 -03:30'", "2024-07-02 03:04:05.000 -03:30", "timestamp with time zone"),
    ("interval '-1 02:03:04.005' day to second", "-1 02:03:04.005", "interval day to second"),
    ("interval '3' year - interval '5' month", "2-7", "interval year to month"),
    ("array[1.5e0, null, nan()]", "[1.5, null, NaN]", "array"),
    ("array['a, b', '']", "[a, b, ]", "array"),
    ("array[array[date '2024-01-01'], null]", "[[2024-01-01], null]", "array"),
    ("map(array['k', 'l'], array[true, null])", "{k=true, l=null}", "map"),
    ("map(array[1], array[array[x'0a']])", "{1=[0a]}", "map"),
    ("cast(row(1, null, 'x') as row(a bigint, b double, c varchar))", "{a=1, b=null, c=x}", "row"),
    ("row(1, timestamp '2024-01-02 03:04:05')", "{field0=1, field1=2024-01-02 03:04:05.000}", "row"),
    ("json '{\"b\": [1, null], \"a\": \"x\"}'", '{"b":[1,null],"a":"x"}', "json"),
    ("uuid '12151FD2-7586-11e9-8f9e-2a86e4085a59'", "12151fd2-7586-11e9-8f9e-2a86e4085a59", "uuid"),
    ("null", None, "unknown"),
]  # fmt: skip


@pytest.mark.parametrize(("expression", "text", "name"), VALUES)
def test_a_value_and_its_type_are_printed_as_athena_prints_them(expression: str, text: str | None, name: str) -> None:
    translation, [row] = answer(f"SELECT {expression} AS a")
    assert row == (text,)
    assert column_info("a", translation.columns[0].type)["Type"] == name


INFOS: list[tuple[TrinoType, dict[str, Any]]] = [
    (VARCHAR, {"Type": "varchar", "Precision": 2147483647, "Scale": 0, "CaseSensitive": True}),
    (TrinoType("varchar", precision=3), {"Type": "varchar", "Precision": 3, "Scale": 0, "CaseSensitive": True}),
    (INTEGER, {"Type": "integer", "Precision": 10, "Scale": 0, "CaseSensitive": False}),
    (BIGINT, {"Type": "bigint", "Precision": 19, "Scale": 0, "CaseSensitive": False}),
    (DOUBLE, {"Type": "double", "Precision": 17, "Scale": 0, "CaseSensitive": False}),
    (BOOLEAN, {"Type": "boolean", "Precision": 0, "Scale": 0, "CaseSensitive": False}),
    (decimal_type(10, 2), {"Type": "decimal", "Precision": 10, "Scale": 2, "CaseSensitive": False}),
    (TrinoType("timestamp", precision=3), {"Type": "timestamp", "Precision": 3, "Scale": 0, "CaseSensitive": False}),
    (array(INTEGER), {"Type": "array", "Precision": 0, "Scale": 0, "CaseSensitive": False}),
]


@pytest.mark.parametrize(("kind", "expected"), INFOS)
def test_a_column_is_described_with_every_field(kind: TrinoType, expected: dict[str, Any]) -> None:
    fixed = {
        "CatalogName": "hive", "SchemaName": "", "TableName": "", "Name": "n", "Label": "n", "Nullable": "UNKNOWN",
    }  # fmt: skip
    assert column_info("n", kind) == {**fixed, **expected}


HIVE_TYPES = [
    (VARCHAR, "string"), (INTEGER, "int"), (TrinoType("real"), "float"), (VARBINARY, "binary"),
    (TrinoType("timestamp with time zone", precision=6), "timestamp"), (decimal_type(5, 1), "decimal(5,1)"),
    (array(map_of(VARCHAR, INTEGER)), "array<map<string,int>>"),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "name"), HIVE_TYPES)
def test_the_data_catalog_names_types_as_hive_does(kind: TrinoType, name: str) -> None:
    assert hive_type(kind) == name


def test_decimals_keep_their_zeros_and_have_no_exponent() -> None:
    numbers = [decimal.Decimal("0.00"), decimal.Decimal("1E+3").quantize(decimal.Decimal("0.01"))]
    assert texts(pa.array(numbers, pa.decimal128(10, 2)), decimal_type(10, 2)) == ["0.00", "1000.00"]


@given(st.integers(-719_528, 10**7), st.integers(0, 86_400_000 - 1))
def test_moments_outside_of_pythons_years_are_printed(day: int, millisecond: int) -> None:
    date = str(np.datetime64(day, "D"))
    assert texts(pa.array([day], pa.int32()).cast(pa.date32()), DATE) == [date]
    moment = pa.array([day * 86_400_000_000 + millisecond * 1000], pa.int64()).cast(pa.timestamp("us"))
    clock = str(np.datetime64(millisecond, "ms")).partition("T")[2]
    assert texts(moment, TrinoType("timestamp", precision=6)) == [f"{date} {clock}"]
