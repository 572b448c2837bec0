"""Rows of an Arrow stream are judged as actions of a JSON body are, each by itself; what is no stream is refused."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from storage.arrow_batches import REJECTIONS_MAX, ArrowParser
from storage.arrow_messages import MalformedStream, decompressed_bytes
from storage.clock import system_now_us
from storage.columns import JournalRow, rows_to_table
from storage.journal_records import Append
from storage.rejects import RejectsFilter
from storage.store import Store
from storage.submission import InvalidSubmission, ParsedBody, SubmissionLimits, SubmissionTooLarge
from tests.storage.arrow_rows import FIRST_US, PARSER, codes, parse, rows, stream_of, texts
from tests.storage.building import PARSER as JSON_PARSER
from tests.storage.building import SCHEMA


def stored(parsed: ParsedBody) -> list[dict[str, Any]]:
    """What is in the table of it, without what the store adds."""
    journal_rows: list[JournalRow] = []
    position = 1
    for one in parsed.submissions:
        last = position + one.actions - 1
        journal_rows.append(JournalRow(position, last, 5, one.user_id, one.session_id, one.payload))
        position = last + 1
    table = rows_to_table(journal_rows, "j", SCHEMA)
    assert table["position"].to_pylist() == list(range(1, position))
    table.validate(full=True)
    return list(table.drop_columns(["position", "received_at", "journal"]).to_pylist())


def as_json(table: pa.Table) -> list[dict[str, Any]]:
    """The same rows, stored by way of a JSON body each."""
    found: list[dict[str, Any]] = []
    for row in table.to_pylist():
        action = {"time": row["time"].isoformat(), "type": row["type"]}
        envelope = json.dumps({"userId": row["user_id"], "sessionId": row["session_id"], "actions": [action]})
        body = envelope.replace('"}]', f'", "properties": {row["properties"]}' + "}]").encode()
        found += stored(JSON_PARSER.parse_json(body, now_us=system_now_us()))
    return found


@pytest.mark.parametrize("compression", [None, "lz4", "zstd"])
def test_rows_are_stored_as_the_same_actions_from_json_are(compression: str | None) -> None:
    sent = rows(50, utc_offset_minutes=None)
    parsed = parse(sent, compression=compression)
    assert not parsed.rejections
    assert stored(parsed) == as_json(sent)


def test_batches_of_a_stream_and_chunks_of_the_journal_keep_the_order() -> None:
    parsed = parse(rows(9_000), rows(1), rows(9_000))
    assert [one.actions for one in parsed.submissions] == [8_192, 8_192, 1_617]
    wanted = [f"u{n % 3}" for n in range(9_000)]
    assert [row["user_id"] for row in stored(parsed)] == [*wanted, "u0", *wanted]


def _dictionaries(table: pa.Table) -> pa.Table:
    names = ("user_id", "session_id", "type", "properties")
    return pa.table({n: table[n].dictionary_encode() if n in names else table[n] for n in table.column_names})


def _cast(type_: pa.DataType) -> Callable[[pa.Table], pa.Table]:
    def cast(table: pa.Table) -> pa.Table:
        return pa.table(
            {n: table[n].cast(type_) if pa.types.is_string(table[n].type) else table[n] for n in table.column_names}
        )

    return cast


@pytest.mark.parametrize("change", [_dictionaries, _cast(pa.large_string()), _cast(pa.string_view())])
def test_texts_may_be_long_views_or_dictionaries(change: Callable[[pa.Table], pa.Table]) -> None:
    assert stored(parse(change(rows(20)))) == stored(parse(rows(20)))
    # Dictionaries may differ from batch to batch.
    assert stored(parse(change(rows(20)), change(rows(7)))) == stored(parse(rows(20), rows(7)))


@pytest.mark.parametrize(("unit", "factor"), [("s", 10**6), ("ms", 10**3), ("us", 1), ("ns", 1)])
def test_times_may_have_any_unit_and_zone(unit: str, factor: int) -> None:
    times = [FIRST_US // factor * (1000 if unit == "ns" else 1) + n * 1000 for n in range(3)]
    parsed = parse(rows(time=pa.array(times, pa.timestamp(unit, "America/Chicago"))))
    assert not parsed.rejections
    step = {"s": 10**9, "ms": 10**6, "us": 1000, "ns": 1}[unit]
    assert [int(row["time"].timestamp() * 10**6 + 0.5) for row in stored(parsed)] == [
        FIRST_US + n * step for n in range(3)
    ]


def test_each_wrong_row_is_named_with_its_code_and_the_others_are_kept() -> None:
    ahead = system_now_us() + 2 * 86_400_000_000
    good = rows(20).to_pydict()
    wrong: list[tuple[str, Any, str]] = [
        ("user_id", None, "bad_action"),
        ("user_id", "", "bad_action"),
        ("user_id", "é" * 129, "too_large"),
        ("session_id", "s" * 257, "too_large"),
        ("type", "hover", "unknown_type"),
        ("type", None, "unknown_type"),
        ("type", "clic\u212a", "unknown_type"),
        ("time", None, "bad_time"),
        ("time", -1, "time_out_of_range"),
        ("time", ahead, "time_out_of_range"),
        ("utc_offset_minutes", 1440, "bad_time"),
        ("utc_offset_minutes", -1440, "bad_time"),
        ("properties", "[1]", "bad_properties"),
        ("properties", '{"a": nul}', "bad_properties"),
        ("properties", '{"a": 1', "bad_properties"),
        ("properties", '{"a": 1}, {"b": 2}', "bad_properties"),
        ("properties", '{"a": "\\ud800"}', "bad_properties"),
        ("properties", '{"a": "' + "x" * 65_536 + '"}', "too_large"),
        ("properties", '{"a":' * 70 + "1" + "}" * 70, "bad_properties"),
    ]
    good["time"] = [FIRST_US] * 20
    for index, (column, value, _) in enumerate(wrong):
        good[column][index] = value
    sent = rows(20, **{n: pa.array(v, rows().schema.field(n).type) for n, v in good.items()})
    parsed = parse(sent)
    assert codes(parsed) == {index: code for index, (_, _, code) in enumerate(wrong)}
    assert parsed.accepted == 1
    assert all(isinstance(json.loads(one.original), dict) for one in parsed.rejections)
    assert all(one.message for one in parsed.rejections)


def test_what_is_rejected_is_kept_as_an_action() -> None:
    (one,) = parse(rows(1, type=pa.array(["hover"]), utc_offset_minutes=pa.array([-360], pa.int16()))).rejections
    assert (one.index, one.line, one.user_id, one.session_id) == (0, None, "u0", "s")
    assert json.loads(one.original) == {
        "time": "2024-03-01T06:00:00-06:00",
        "type": "hover",
        "properties": {"locationX": 52, "locationY": 1.10},
    }


def test_times_finer_than_a_microsecond_are_bad() -> None:
    times = pa.array([FIRST_US * 1000, FIRST_US * 1000 + 1, FIRST_US * 1000 + 1000], pa.timestamp("ns", "UTC"))
    assert codes(parse(rows(time=times))) == {1: "bad_time"}


def test_texts_that_are_json_only_together_are_rejected() -> None:
    """Joined by commas, these three texts are a list of three objects."""
    crossing = texts('{"a": [1', "2]}", '{"b": 1}, {"c": 2}')
    assert codes(parse(rows(type=pa.array(["click"] * 3), properties=crossing))) == dict.fromkeys(
        range(3), "bad_properties"
    )
    crossing = texts('{"a": {"b": [{}', '{}]}}, {"c": {}}')
    assert set(codes(parse(rows(2, type=pa.array(["click"] * 2), properties=crossing)))) == {0, 1}


def test_white_space_around_properties_goes_and_missing_ones_are_empty() -> None:
    sent = rows(properties=texts(' \n{"viewedId": "x"}\t', None, '{"a" : 1 }'))
    assert [row["properties"] for row in stored(parse(sent))] == ['{"viewedId": "x"}', "{}", '{"a" : 1 }']
    assert [row["properties"] for row in stored(parse(rows(2, properties=None)))] == ["{}", "{}"]


def test_columns_that_may_be_absent_and_null() -> None:
    parsed = parse(rows(2, session_id=None, utc_offset_minutes=None, properties=pa.nulls(2)))
    assert [(r["session_id"], r["utc_offset_minutes"], r["properties"]) for r in stored(parsed)] == [
        (None, 0, "{}")
    ] * 2
    assert stored(parse(rows(2, session_id=pa.nulls(2), utc_offset_minutes=pa.nulls(2, pa.int64()))))
    assert codes(parse(rows(2, user_id=pa.nulls(2)))) == {0: "bad_action", 1: "bad_action"}


def test_promoted_values_come_from_the_properties_alone() -> None:
    sent = rows(
        4,
        type=pa.array(["click", "click", "click", "view"]),
        properties=texts('{"locationX": "52"}', '{"locationX": 52, "locationY": true}', "{}", '{"locationX": 1}'),
        location_x=pa.array([7.0] * 4),
    )
    assert [row["location_x"] for row in stored(parse(sent))] == [None, 52.0, None, None]


def test_rows_read_from_the_table_may_be_sent_as_they_are() -> None:
    first = parse(rows(30))
    journal_rows = [JournalRow(1, 30, 5, "", None, first.submissions[0].payload)]
    table = rows_to_table(journal_rows, "j", SCHEMA)
    again = parse(table)
    assert stored(again) == stored(first)


@pytest.mark.parametrize(
    ("table", "parameter"),
    [
        (rows(user_id=None), "user_id"),
        (rows(time=None), "time"),
        (rows(type=None), "type"),
        (rows(color=pa.array(["red"] * 3)), "color"),
        (rows(time=pa.array([1, 2, 3], pa.timestamp("us"))), "time"),
        (rows(time=pa.array(["2024-03-01T12:00:00Z"] * 3)), "time"),
        (rows(user_id=pa.array([1, 2, 3])), "user_id"),
        (rows(type=pa.array([b"click"] * 3)), "type"),
        (rows(properties=pa.array([{"a": 1}] * 3)), "properties"),
        (rows(utc_offset_minutes=pa.array([0.0] * 3)), "utc_offset_minutes"),
        (
            pa.table([rows()[n] for n in ("user_id", "time", "type", "type")], ["user_id", "time", "type", "type"]),
            "type",
        ),
    ],
)
def test_a_stream_with_other_columns_is_refused_as_a_whole(table: pa.Table, parameter: str) -> None:
    with pytest.raises(InvalidSubmission) as refused:
        parse(table)
    assert refused.value.parameter == parameter


@pytest.mark.parametrize(
    "body", [b"", b"{}", b"ARROW1\0\0", b"\xff\xff\xff\xff", stream_of(rows())[:-200], stream_of(rows()) * 2]
)
def test_what_is_no_stream_is_refused(body: bytes) -> None:
    with pytest.raises(InvalidSubmission):
        PARSER.parse(body, now_us=system_now_us())


def test_no_rows_are_no_rows() -> None:
    assert parse(rows(0)) == ParsedBody((), ())


def test_limits_hold_for_the_stream() -> None:
    small = ArrowParser(SCHEMA, SubmissionLimits(), body_bytes_max=100_000, rows_max=100)
    with pytest.raises(SubmissionTooLarge, match="rows"):
        small.parse(stream_of(rows(60), rows(60)), now_us=system_now_us())
    with pytest.raises(SubmissionTooLarge, match="body"):
        small.parse(stream_of(rows(3_000)), now_us=system_now_us())


def test_what_decompresses_beyond_the_limit_is_refused_before_it_is() -> None:
    zeros = rows(properties=texts(*['{"a": "' + "0" * 8_000_000 + '"}'] * 3))
    body = stream_of(zeros, compression="zstd")
    assert len(body) < 100_000 < 24_000_000 < decompressed_bytes(body)
    with pytest.raises(SubmissionTooLarge, match="decompressed"):
        PARSER.parse(body, now_us=system_now_us())


def test_what_is_named_often_is_refused_where_it_would_be_too_large() -> None:
    """A dictionary, or views, of one long text are short to send."""
    long = "{" + '"a": "' + "x" * 60_000 + '"}'
    properties = pa.DictionaryArray.from_arrays(pa.array([0] * 1_000, pa.int8()), pa.array([long]))
    body = stream_of(rows(1_000, properties=properties))
    assert len(body) < 200_000
    with pytest.raises(SubmissionTooLarge):
        PARSER.parse(body, now_us=system_now_us())


def test_too_many_wrong_rows_refuse_the_stream() -> None:
    n = REJECTIONS_MAX + 1
    with pytest.raises(InvalidSubmission, match="more than"):
        parse(rows(n, type=pa.array(["hover"] * n)))


_WHOLE = {
    "plain": stream_of(rows(40), rows(3)),
    "lz4": stream_of(rows(40), compression="lz4"),
    "dictionaries": stream_of(_dictionaries(rows(40)), _dictionaries(rows(3))),
    "views": stream_of(_cast(pa.string_view())(rows(40))),
}


@settings(max_examples=400, deadline=None)
@given(
    kind=st.sampled_from(sorted(_WHOLE)),
    flips=st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(1, 255)), min_size=1, max_size=4),
)
@example(kind="dictionaries", flips=[(0.10857339567069892, 128)])  # The name of a time zone is no text.
def test_bytes_that_were_changed_are_refused_or_judged(kind: str, flips: list[tuple[float, int]]) -> None:
    """Whatever is in it, a body is kept, judged or refused: no other error, and what is kept can be read."""
    body = bytearray(_WHOLE[kind])
    for place, change in flips:
        body[int(place * len(body))] ^= change
    try:
        parsed = PARSER.parse(bytes(body), now_us=system_now_us())
    except InvalidSubmission:
        return
    assert len(stored(parsed)) == parsed.accepted


def test_a_view_in_the_place_of_a_null_is_not_followed() -> None:
    """Arrow's validation passes it over, and a cast reads wherever it points to: out of the process."""
    body = bytearray(_WHOLE["views"])
    # Found by chance: a null's view is of a text that is no longer within it, in a buffer that there is not.
    body[2867] ^= 20
    body[2027] ^= 255
    parsed = PARSER.parse(bytes(body), now_us=system_now_us())
    assert parsed.accepted + len(parsed.rejections) == 40
    assert len(stored(parsed)) == parsed.accepted


@settings(deadline=None)
@given(body=st.binary(max_size=200), place=st.integers(0, 600))
def test_any_bytes_have_a_size_or_none(body: bytes, place: int) -> None:
    whole = _WHOLE["lz4"]
    for one in (body, whole[:place] + body + whole[place + len(body) :]):
        try:
            assert decompressed_bytes(one) >= 0
        except MalformedStream:
            continue


def test_the_size_is_what_arrow_takes() -> None:
    for compression in (None, "lz4", "zstd"):
        body = stream_of(rows(5_000), compression=compression)
        with pa.ipc.open_stream(body) as reader:
            taken = reader.read_all().nbytes
        assert taken <= decompressed_bytes(body) <= taken * 1.1 + 1_000


def test_whoever_may_send_for_some_users_only_is_asked_about_each() -> None:
    """Also about those whose rows would be rejected, and before anything is kept."""

    def refuse(users: Iterable[str | None]) -> None:
        assert sorted(users, key=str) == [None, "u0", "u1"]
        raise PermissionError

    users = pa.array(["u0", "u1", None, "u0"])
    with pytest.raises(PermissionError):
        PARSER.parse(stream_of(rows(4, user_id=users)), now_us=system_now_us(), check_users=refuse)


@pytest.mark.parametrize("type_", [pa.uint64(), pa.uint32(), pa.uint16(), pa.int64(), pa.int32()])
def test_an_offset_may_be_as_large_as_its_type(type_: pa.DataType) -> None:
    most = (1 << (type_.bit_width - (1 if pa.types.is_signed_integer(type_) else 0))) - 1
    parsed = parse(rows(3, utc_offset_minutes=pa.array([most, 1439, 1440], type_)))
    assert codes(parsed) == {0: "bad_time", 2: "bad_time"}


def test_an_offset_that_does_not_exist_is_not_made_up_by_a_replay(store: Store) -> None:
    parsed = parse(rows(2, utc_offset_minutes=pa.array([5000, 0], pa.int32())))
    store.append([Append(parsed.submissions, parsed.rejections, b"")])
    (one,) = parsed.rejections
    assert b'"2024-03-01T12:00:00"' in one.original
    assert b'"utc_offset_minutes":5000' in one.original
    replayed = store.decisions().replay(RejectsFilter(), JSON_PARSER, limit=9)
    assert (replayed.replayed, [still.code for still in replayed.still_rejected]) == (0, ["bad_time"])


def test_rejections_come_in_order_of_their_rows() -> None:
    """Those whose JSON is wrong are found after those that are wrong at a glance."""
    wrong = texts('{"a": [1', "2]}", "{}", "{", "null")
    assert list(codes(parse(rows(5, properties=wrong)))) == [0, 1, 3, 4]
