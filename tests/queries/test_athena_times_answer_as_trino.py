"""Dates, times, intervals and time zones have the values that Trino gives them."""

from __future__ import annotations

import calendar
import datetime
import itertools
import random

import pytest

from tests.queries.athena_answers import error_of, rows, value

INTERVALS = [
    ("date '2012-08-08' + interval '2' day", "2012-08-10"),
    ("timestamp '2012-08-08 01:00' + interval '29' hour", "2012-08-09 06:00:00.000"),
    ("timestamp '2012-10-31 01:00' + interval '1' month", "2012-11-30 01:00:00.000"),
    ("interval '2' day + interval '3' hour", "2 03:00:00.000"),
    ("interval '3' year + interval '5' month", "3-5"),
    ("date '2012-08-08' - interval '2' day", "2012-08-06"),
    ("timestamp '2012-10-31 01:00' - interval '1' month", "2012-09-30 01:00:00.000"),
    ("interval '2' day - interval '3' hour", "1 21:00:00.000"),
    ("interval '3' year - interval '5' month", "2-7"),
    ("time '01:00' + interval '3' hour", "04:00:00.000"),
    ("time '01:00' - interval '3' hour", "22:00:00.000"),
    ("interval '1' day * 2", "2 00:00:00.000"),
    ("interval '3' hour / 2", "0 01:30:00.000"),
    ("2 * interval '1' month", "0-2"),
    ("-interval '1' day", "-1 00:00:00.000"),
    ("date '2020-01-31' + interval '1' month", "2020-02-29"),
    ("to_milliseconds(interval '1' day)", "86400000"),
    ("interval '1 02:03:04.5' day to second", "1 02:03:04.500"),
    ("interval '2-3' year to month", "2-3"),
    ("interval '-1' day", "-1 00:00:00.000"),
    ("interval '90' minute", "0 01:30:00.000"),
    ("date '2012-08-08' + interval '48' hour", "2012-08-10"),
    ("day(interval '50' hour)", "2"),
    ("hour(interval '50' hour)", "2"),
    ("minute(interval '90' second)", "1"),
    ("second(interval '90.5' second)", "30"),
    ("millisecond(interval '90.5' second)", "500"),
    ("hour(-interval '50' hour)", "-2"),
    ("year(interval '15' month)", "1"),
    ("month(-interval '15' month)", "-3"),
    ("extract(day from interval '50' hour)", "2"),
]

FORMATS = [
    ("to_unixtime(timestamp '2020-01-01 00:00 +05:30')", "1.577817E9"),
    ("from_unixtime(0)", "1970-01-01 00:00:00.000 UTC"),
    ("from_unixtime(1.5)", "1970-01-01 00:00:01.500 UTC"),
    ("from_unixtime(1593561600, 'Asia/Tokyo')", "2020-07-01 09:00:00.000 Asia/Tokyo"),
    ("from_unixtime(0, 5, 30)", "1970-01-01 05:30:00.000 +05:30"),
    ("to_unixtime(timestamp '1970-01-01 00:00:01.5')", "1.5"),
    ("to_iso8601(date '2020-05-11')", "2020-05-11"),
    ("to_iso8601(timestamp '2020-05-11 11:15:05.055')", "2020-05-11T11:15:05.055"),
    ("to_iso8601(timestamp '2020-05-11 11:15:05.055 UTC')", "2020-05-11T11:15:05.055Z"),
    ("to_iso8601(timestamp '2020-05-11 11:15:05.055 America/New_York')", "2020-05-11T11:15:05.055-04:00"),
    ("from_iso8601_timestamp('2020-05-11')", "2020-05-11 00:00:00.000 UTC"),
    ("from_iso8601_timestamp('2020-05-11T11:15:05')", "2020-05-11 11:15:05.000 UTC"),
    ("from_iso8601_timestamp('2020-05-11T11:15:05.055+01:00')", "2020-05-11 11:15:05.055 +01:00"),
    ("from_iso8601_timestamp('2020-05-11T11:15:05.055Z')", "2020-05-11 11:15:05.055 UTC"),
    ("from_iso8601_date('2020-05-11')", "2020-05-11"),
    ("from_iso8601_date('2020-W10')", "2020-03-02"),
    ("from_iso8601_date('2020-123')", "2020-05-02"),
    ("date_format(timestamp '2022-10-20 05:10:00', '%m-%d-%Y %H')", "10-20-2022 05"),
    (
        (
            "date_format(timestamp '2022-10-20 05:10:03.5', "
            "'%Y-%m-%d %H:%i:%s.%f %p %W %M %j %e %c %k %l %T %r %% %a %b %y')"
        ),
        "2022-10-20 05:10:03.500000 AM Thursday October 293 20 10 5 5 05:10:03 05:10:03 AM % Thu Oct 22",
    ),
    ("date_format(date '2022-10-20', '%Y')", "2022"),
    ("date_parse('2022/10/20/05', '%Y/%m/%d/%H')", "2022-10-20 05:00:00.000"),
    ("date_parse('05', '%H')", "1970-01-01 05:00:00.000"),
    ("date_parse('69', '%y')", "2069-01-01 00:00:00.000"),
    ("date_parse('70', '%y')", "1970-01-01 00:00:00.000"),
    ("date_parse('2022-10-20 05:06:07.123', '%Y-%m-%d %H:%i:%s.%f')", "2022-10-20 05:06:07.123"),
    ("format_datetime(timestamp '2022-10-20 05:10:03.123', 'yyyy-MM-dd''T''HH:mm:ss.SSS')", "2022-10-20T05:10:03.123"),
    ("format_datetime(timestamp '2022-10-20 15:10:03.123', 'EEEE, d MMM yy h:mm a')", "Thursday, 20 Oct 22 3:10 PM"),
    ("parse_datetime('2020-01-02 03:04', 'yyyy-MM-dd HH:mm')", "2020-01-02 03:04:00.000 UTC"),
    ("parse_datetime('2020-01-02 03:04 +0100', 'yyyy-MM-dd HH:mm Z')", "2020-01-02 02:04:00.000 UTC"),
    ("format_datetime(timestamp '2020-01-01 00:00 America/New_York', 'HH:mm')", "00:00"),
]

ZONES = [
    ("date_trunc('hour', timestamp '2020-01-01 05:10:00 UTC')", "2020-01-01 05:00:00.000 UTC"),
    ("date_add('day', -1, timestamp '2020-03-01 00:00:00 UTC')", "2020-02-29 00:00:00.000 UTC"),
    ("date_diff('hour', timestamp '2020-03-01 00:00:00 UTC', timestamp '2020-03-02 00:00:00 UTC')", "24"),
    ("timezone_hour(timestamp '2020-01-01 00:00 America/New_York')", "-5"),
    ("timezone_minute(timestamp '2020-01-01 00:00 +05:30')", "30"),
    ("hour(timestamp '2020-01-01 00:00 +05:30')", "0"),
    ("timestamp '2020-01-01 00:00 +05:30'", "2020-01-01 00:00:00.000 +05:30"),
    (
        "at_timezone(timestamp '2022-11-01 09:08:07.321', 'America/Los_Angeles')",
        "2022-11-01 02:08:07.321 America/Los_Angeles",
    ),
    (
        "with_timezone(timestamp '2022-11-01 09:08:07.321', 'America/Los_Angeles')",
        "2022-11-01 09:08:07.321 America/Los_Angeles",
    ),
    ("timezone(timestamp '2024-01-01 12:00:00 Asia/Tokyo')", "Asia/Tokyo"),
    ("current_timezone()", "UTC"),
    ("now() > timestamp '2020-01-01 00:00 UTC'", "true"),
    ("timestamp '2024-01-01 00:00 UTC' > timestamp '2023-01-01 00:00'", "true"),
    ("date '2024-01-01' < timestamp '2024-01-01 01:00 UTC'", "true"),
    ("timestamp '2024-01-01 00:00 +01:00' = timestamp '2023-12-31 23:00 UTC'", "true"),
    (
        "with_timezone(timestamp '2022-11-01 09:08:07.321', 'America/Los_Angeles')",
        "2022-11-01 09:08:07.321 America/Los_Angeles",
    ),
    (
        "case when true then timestamp '2020-01-01 00:00 +01:00' else timestamp '2020-01-01 00:00 UTC' end",
        "2019-12-31 23:00:00.000 UTC",
    ),
]

FIELDS = [
    ("day_of_month(date '2024-02-29')", "29"),
    ("day_of_year(date '2024-02-29')", "60"),
    ("week_of_year(date '2021-01-03')", "53"),
    ("year_of_week(date '2021-01-03')", "2020"),
    ("localtimestamp <= current_timestamp", "true"),
    ("year(date '2020-05-06')", "2020"),
    ("quarter(date '2021-05-01')", "2"),
    ("month(date '2021-05-01')", "5"),
    ("week(date '2021-01-01')", "53"),
    ("day(date '2021-05-07')", "7"),
    ("day_of_week(date '2024-01-07')", "7"),
    ("dow(date '2024-01-01')", "1"),
    ("doy(date '2024-12-31')", "366"),
    ("yow(date '2021-01-01')", "2020"),
    ("hour(timestamp '2020-01-01 05:06:07.891')", "5"),
    ("minute(timestamp '2020-01-01 05:06:07.891')", "6"),
    ("second(timestamp '2020-01-01 05:06:07.891')", "7"),
    ("millisecond(timestamp '2020-01-01 05:06:07.891')", "891"),
    ("extract(day_of_week from date '2024-01-07')", "7"),
    ("extract(year from timestamp '2022-10-20 05:10:00')", "2022"),
]

DATES = [
    ("date '2020-03-02' - date '2020-03-01'", "1 00:00:00.000"),
    ("timestamp '2020-03-02 00:00:00' - timestamp '2020-02-01 12:00:00.5'", "29 11:59:59.500"),
    ("date_trunc('day' , timestamp '2022-10-20 05:10:00')", "2022-10-20 00:00:00.000"),
    ("date_trunc('month', date '2022-10-20')", "2022-10-01"),
    ("date_trunc('week', timestamp '2001-08-22 03:04:05.321')", "2001-08-20 00:00:00.000"),
    ("date_trunc('quarter', timestamp '2001-08-22 03:04:05.321')", "2001-07-01 00:00:00.000"),
    ("date_trunc('day', timestamp '2020-01-01 23:10:00 America/New_York')", "2020-01-01 00:00:00.000 America/New_York"),
    ("date_add('second', 86, timestamp '2020-03-01 00:00:00')", "2020-03-01 00:01:26.000"),
    ("date_add('hour', 9, timestamp '2020-03-01 00:00:00')", "2020-03-01 09:00:00.000"),
    ("date_add('month', 1, date '2020-01-31')", "2020-02-29"),
    ("date_add('week', 1, date '2020-01-31')", "2020-02-07"),
    ("date_add('quarter', 1, date '2020-01-31')", "2020-04-30"),
    ("date_add('millisecond', 5, timestamp '2020-01-01 00:00:00.000')", "2020-01-01 00:00:00.005"),
    ("date_diff('second', timestamp '2020-03-01 00:00:00', timestamp '2020-03-02 00:00:00')", "86400"),
    ("date_diff('day', date '2020-03-01', date '2020-03-02')", "1"),
    ("date_diff('millisecond', timestamp '2020-06-01 12:30:45.000', timestamp '2020-06-02 12:30:45.123')", "86400123"),
    ("date_diff('month', date '2020-01-31', date '2020-02-29')", "1"),
    ("date_diff('day', timestamp '2020-01-01 23:00:00', timestamp '2020-01-02 01:00:00')", "0"),
    ("date_diff('week', date '2020-01-01', date '2020-01-14')", "1"),
    ("date_diff('year', date '2020-03-01', date '2021-02-28')", "0"),
    ("date_diff('day', date '2020-01-02', timestamp '2020-01-01 00:00:00')", "-1"),
    ("last_day_of_month(date '2020-02-05')", "2020-02-29"),
    ("last_day_of_month(timestamp '2021-02-05 10:00:00')", "2021-02-28"),
    ("date('2020-01-02')", "2020-01-02"),
    ("date(timestamp '2020-01-02 10:00:00')", "2020-01-02"),
    ("current_date = date(now())", "true"),
    ("localtimestamp < timestamp '2100-01-01 00:00'", "true"),
    ("current_timestamp(6) > date '2020-01-01'", "true"),
    ("date '2024-01-01' = timestamp '2024-01-01 00:00:00'", "true"),
]

FAILURES = [
    ("date '2012-08-08' - interval '1' hour", "INVALID_FUNCTION_ARGUMENT", "Cannot add hour, minutes or seconds"),
    ("timestamp '2020-01-01 24:00:00'", "INVALID_FUNCTION_ARGUMENT", "24:00:00"),
    ("time '24:00:00'", "INVALID_LITERAL", "24:00:00"),
    ("from_iso8601_timestamp('2020-01-01T24:00')", "INVALID_LITERAL", "24:00"),
    ("date_add('hour', 1, date '2020-01-01')", "INVALID_FUNCTION_ARGUMENT", "'hour' is not a valid DATE field"),
    (
        "date_format(timestamp '2022-10-20 05:10:00', '%w')",
        "INVALID_FUNCTION_ARGUMENT",
        "%w not supported in date format string",
    ),
    (
        "date_parse('x', '%Y')",
        "INVALID_FUNCTION_ARGUMENT",
        'Could not parse string "x" according to format specifier "%Y"\nx\n^\nError: Expected a number',
    ),
]


@pytest.mark.parametrize(("expression", "expected"), [*INTERVALS, *FORMATS, *ZONES, *FIELDS, *DATES])
def test_an_expression_has_trinos_value(expression: str, expected: str | None) -> None:
    assert value(expression) == expected


@pytest.mark.parametrize(("expression", "code", "message"), FAILURES)
def test_an_expression_fails_with_trinos_error(expression: str, code: str, message: str) -> None:
    error = error_of(f"SELECT {expression}")
    assert error.code == code
    assert message in error.message


# A call with one argument that is NULL is NULL.
NULL_CALLS = [
    "date_add('day', 1, cast(null as date))",
    "date_add('day', cast(null as bigint), date '2020-01-01')",
    "date_diff('day', cast(null as date), date '2020-01-01')",
    "date_trunc('month', cast(null as timestamp))",
    "year(cast(null as date))",
    "day_of_week(cast(null as date))",
    "cast(null as date) + interval '1' day",
    "from_unixtime(cast(null as double))",
    "to_unixtime(cast(null as timestamp))",
    "to_iso8601(cast(null as timestamp))",
    "from_iso8601_timestamp(cast(null as varchar))",
    "from_iso8601_date(cast(null as varchar))",
    "date_format(cast(null as timestamp), '%Y')",
    "date_parse(cast(null as varchar), '%Y')",
    "format_datetime(cast(null as timestamp), 'yyyy')",
    "parse_datetime(cast(null as varchar), 'yyyy')",
    "last_day_of_month(cast(null as date))",
    "cast(null as timestamp) at time zone 'Asia/Tokyo'",
    "cast(null as date) - date '2020-01-01'",
]


@pytest.mark.parametrize("expression", NULL_CALLS)
def test_null_in_is_null_out(expression: str) -> None:
    assert value(expression) is None


def _joda_months(start: datetime.datetime, end: datetime.datetime) -> int:
    """Whole months between two moments as Joda-Time counts them: always from the earlier one."""
    if end < start:
        return -_joda_months(end, start)
    months = (end.year - start.year) * 12 + end.month - start.month
    return months - 1 if _plus_months(start, months) > end else months


def _plus_months(moment: datetime.datetime, months: int) -> datetime.datetime:
    year, month = divmod(moment.year * 12 + moment.month - 1 + months, 12)
    day = min(moment.day, calendar.monthrange(year, month + 1)[1])
    return moment.replace(year=year, month=month + 1, day=day)


def test_date_diff_counts_whole_units() -> None:
    chooser = random.Random(20240102)
    month_ends = [datetime.datetime(y, m, calendar.monthrange(y, m)[1], 12) for y in (2019, 2020) for m in range(1, 13)]
    moments = month_ends + [
        datetime.datetime(2020, 1, 1) + datetime.timedelta(seconds=chooser.randrange(-(10**8), 10**8))
        for _ in range(40)
    ]
    pairs = list(itertools.product(chooser.sample(moments, 24), repeat=2))
    values = ", ".join(f"({i}, timestamp '{a}', timestamp '{b}')" for i, (a, b) in enumerate(pairs))
    units = ("second", "minute", "hour", "day", "week", "month", "quarter", "year")
    counts = ", ".join(f"date_diff('{unit}', a, b)" for unit in units)
    found = rows(f"select {counts} from (values {values}) t(i, a, b) order by i")
    for (start, end), row in zip(pairs, found, strict=True):
        seconds, months = round((end - start).total_seconds()), _joda_months(start, end)
        whole = [int(seconds / size) for size in (1, 60, 3600, 86_400, 604_800)]
        assert row == tuple(map(str, [*whole, months, int(months / 3), int(months / 12)])), (start, end)


@pytest.mark.parametrize("unit", ["second", "minute", "hour", "day", "week", "month", "quarter", "year"])
def test_truncation_and_addition_agree_with_extraction(unit: str) -> None:
    start = f"date_trunc('{unit}', time)"
    outside = f"{start} > time or date_add('{unit}', 1, {start}) <= time"
    assert rows(f"select count(*) from actions where {outside}") == [("0",)]
