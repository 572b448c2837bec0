"""Times are read as RFC 3339 with an offset and at most six fraction digits, and as nothing else."""

from __future__ import annotations

import datetime
import re

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from storage.times import parse_time, parse_times

_EPOCH = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)
_MICROSECOND = datetime.timedelta(microseconds=1)
_RFC3339 = re.compile(r"\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d:\d\d(\.\d{1,6})?([Zz]|[+-]\d\d:\d\d)", re.ASCII)


@st.composite
def written_times(draw: st.DrawFn) -> tuple[str, datetime.datetime]:
    """An instant, and one of the ways to write it."""
    offset = draw(st.integers(-1439, 1439))
    local = draw(st.datetimes(datetime.datetime(1, 1, 1), datetime.datetime(9999, 12, 31, 23, 59, 59, 999999)))
    digits = draw(st.integers(0, 6))
    local = local.replace(microsecond=local.microsecond // 10 ** (6 - digits) * 10 ** (6 - digits))
    fraction = f".{local.microsecond:06}"[: digits + 1] if digits else ""
    zone = f"{'-' if offset < 0 else '+'}{abs(offset) // 60:02}:{abs(offset) % 60:02}"
    if offset == 0:
        zone = draw(st.sampled_from(["Z", "z", "+00:00", "-00:00"]))
    text = f"{local:%H:%M:%S}{fraction}{zone}"
    text = f"{local.year:04}-{local:%m-%d}{draw(st.sampled_from('Tt '))}{text}"
    aware = local.replace(tzinfo=datetime.timezone(datetime.timedelta(minutes=offset)))
    return text, aware


@given(written_times())
@settings(max_examples=400, deadline=None)
def test_a_time_is_the_instant_that_datetime_says(written: tuple[str, datetime.datetime]) -> None:
    text, moment = written
    offset = moment.utcoffset()
    assert offset is not None
    # Counted without going through UTC, where the years 1 and 9999 would leave datetime's range.
    time_us = (moment.replace(tzinfo=datetime.UTC) - _EPOCH - offset) // _MICROSECOND
    assert parse_time(text) == (time_us, offset // datetime.timedelta(minutes=1))
    assert parse_times([text]) == ([time_us], [offset // datetime.timedelta(minutes=1)])


@given(st.lists(written_times(), min_size=1, max_size=6))
@settings(max_examples=100, deadline=None)
def test_many_times_at_once_are_the_same_as_each_alone(written: list[tuple[str, datetime.datetime]]) -> None:
    texts = [text for text, _ in written]
    alone = [parse_time(text) for text in texts]
    assert parse_times(texts) == ([one[0] for one in alone], [one[1] for one in alone])
    for times in (3, 40):
        same = [texts[0]] * times
        assert parse_times(same) == ([alone[0][0]] * times, [alone[0][1]] * times)
        assert parse_times(texts * times) == ([one[0] for one in alone] * times, [one[1] for one in alone] * times)


@given(st.text(alphabet="0123456789-+:.TtZz \n٣²", min_size=15, max_size=34) | st.text(max_size=30))
@example("2024-03-01T11:00:00Z\n2024-03-01T11:00:00Z")
@example("2024-03-01T11:00:0٣Z")
@settings(max_examples=400, deadline=None)
def test_what_is_not_rfc_3339_is_refused(text: str) -> None:
    if not _RFC3339.fullmatch(text):
        with pytest.raises(ValueError, match=r"\w"):
            parse_time(text)
        with pytest.raises(ValueError, match=r"\w"):
            parse_times([text])
        with pytest.raises(ValueError, match=r"\w"):
            parse_times([text, "2024-03-01T11:00:00Z"])
        with pytest.raises(ValueError, match=r"\w"):
            parse_times([*["2024-03-01T11:00:00Z"] * 40, text])
        with pytest.raises(ValueError, match=r"\w"):
            parse_times([text] * 40)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("2024-03-01T11:00:00", "offset is missing"),
        ("2024-03-01T11:00:00.5", "offset is missing"),
        ("2024-03-01", "not an RFC 3339"),
        ("", "not an RFC 3339"),
        ("2024-03-01T11:00:00+0530", "offset must be"),
        ("2024-03-01T11:00:00+05", "offset must be"),
        ("2024-03-01T11:00:00+05:30:00", "offset must be"),
        ("2024-03-01T11:00:00 Z", "offset must be"),
        ("2024-03-01T11:00:00UTC", "offset must be"),
        ("2024-03-01T11:00:00+24:00", "does not exist"),
        ("2024-03-01T11:00:00+05:60", "does not exist"),
        ("2024-03-01T24:00:00Z", "24"),
        ("2024-03-01T25:00:00Z", "hour"),
        ("2024-03-01T11:60:00Z", "minute"),
        ("2016-12-31T23:59:60Z", "leap"),
        ("2024-03-01T11:00:61Z", "second"),
        ("2023-02-29T11:00:00Z", "day"),
        ("2024-13-01T11:00:00Z", "month"),
        ("0000-01-01T00:00:00Z", "year"),
        ("0000-12-31T23:30:00-01:00", "year"),
        ("2024-03-01T11:00:00.1234567Z", "six fraction digits"),
        ("2024-03-01T11:00:00,5Z", "offset must be"),
        ("2024-W09-5T11:00:00Z", "not an RFC 3339"),
        ("2024-061T11:00:00Z", "not an RFC 3339"),
        ("20240301T110000Z", "not an RFC 3339"),
        (" 2024-03-01T11:00:00Z", "not an RFC 3339"),
        ("2024-03-01_11:00:00Z", "not an RFC 3339"),
        ("+2024-03-01T11:00:00Z", "not an RFC 3339"),
    ],
)
def test_the_message_says_what_is_wrong(text: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        parse_time(text)
    wrong_last = ["2024-03-01T11:00:00Z"] * 40 + [text]
    for many in ([text], [text] * 3, ["2024-03-01T11:00:00Z", text], [text] * 40, wrong_last):
        with pytest.raises(ValueError, match=r"\w"):
            parse_times(many)


def test_the_offset_is_kept_and_zero_is_zero_however_written() -> None:
    assert parse_time("2018-10-20T21:37:28-06:00") == (1_540_093_048_000_000, -360)
    assert {parse_time(f"1970-01-01T00:00:00{zone}") for zone in ("Z", "z", "+00:00", "-00:00")} == {(0, 0)}
    assert parse_time("1970-01-01T00:00:00.000001-00:01") == (60_000_001, -1)


def test_any_number_of_different_offsets_fills_no_memory() -> None:
    for minutes in range(-1439, 1440):
        sign, rest = ("-", -minutes) if minutes < 0 else ("+", minutes)
        assert parse_time(f"2024-03-01T11:00:00{sign}{rest // 60:02}:{rest % 60:02}")[1] == minutes
