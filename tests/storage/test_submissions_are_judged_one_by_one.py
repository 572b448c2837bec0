"""A right envelope keeps its right actions and rejects the others, each with a code; a wrong envelope keeps nothing."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from storage.columns import JournalRow, rows_to_table
from storage.schema import DEFAULT_ACTION_TYPES, ActionSchema
from storage.submission import (
    REJECTION_CODES,
    InvalidSubmission,
    ParsedBody,
    SubmissionLimits,
    SubmissionParser,
    SubmissionTooLarge,
)

NOW_US = 1_709_294_400_000_000  # 2024-03-01T12:00:00Z
LIMITS = SubmissionLimits(
    body_bytes_max=2_000_000, actions_max=1_000, properties_bytes_max=200_000, id_bytes_max=16, depth_max=64
)
SCHEMA = ActionSchema({**DEFAULT_ACTION_TYPES, "plain": ()})
TIME = "2024-03-01T11:00:00Z"


def parse(text: bytes | str, limits: SubmissionLimits = LIMITS) -> ParsedBody:
    raw = text.encode() if isinstance(text, str) else text
    return SubmissionParser(SCHEMA, limits).parse_json(raw, now_us=NOW_US)


def submission(*actions: str, user: str = '"u1"', more: str = "") -> str:
    """A body out of the texts of its actions."""
    return f'{{"userId": {user}, "actions": [{", ".join(actions)}]{more}}}'


def action(*, time: str = f'"{TIME}"', kind: str = '"click"', properties: str = "{}") -> str:
    return f'{{"time": {time}, "type": {kind}, "properties": {properties}}}'


GOOD = action(properties='{"good": 1}')


def kept(parsed: ParsedBody) -> list[dict[str, Any]]:
    """What is accepted, as rows of the table."""
    rows, position = [], 1
    for one in parsed.submissions:
        rows.append(JournalRow(position, position + one.actions - 1, NOW_US, one.user_id, one.session_id, one.payload))
        position += one.actions
    table: list[dict[str, Any]] = rows_to_table(rows, "j", SCHEMA).to_pylist()
    return table


def codes(parsed: ParsedBody) -> list[tuple[int | None, str]]:
    return [(one.index, one.code) for one in parsed.rejections]


# Every code


@pytest.mark.parametrize(
    ("wrong", "code"),
    [
        (action(kind='"scroll"'), "unknown_type"),
        (action(kind='""'), "unknown_type"),
        (action(kind='"click "'), "unknown_type"),
        (action(kind='"' + "x" * 1000 + '"'), "unknown_type"),
        (action(kind="5"), "bad_action"),
        (action(kind="null"), "bad_action"),
        (f'{{"time": "{TIME}"}}', "bad_action"),
        ('{"type": "click"}', "bad_time"),
        (action(time="null"), "bad_time"),
        (action(time="1709290800"), "bad_time"),
        (action(time='"yesterday"'), "bad_time"),
        (action(time='"2024-03-01T11:00:00"'), "bad_time"),
        (action(time='"2024-03-01T11:00:00+0530"'), "bad_time"),
        (action(time='"2024-02-29T24:00:00Z"'), "bad_time"),
        (action(time='"2016-12-31T23:59:60Z"'), "bad_time"),
        (action(time='"2024-03-01T11:00:00.1234567Z"'), "bad_time"),
        (action(time='"2024-02-30T11:00:00Z"'), "bad_time"),
        (action(time='"0001-01-01T00:00:00Z"'), "time_out_of_range"),
        (action(time='"0001-01-01T00:00:00+23:59"'), "time_out_of_range"),
        (action(time='"9999-12-31T23:59:59Z"'), "time_out_of_range"),
        (action(time='"9999-12-31T23:59:59.999999-23:59"'), "time_out_of_range"),
        (action(time='"1969-12-31T23:59:59.999999Z"'), "time_out_of_range"),
        (action(time='"2024-03-02T12:00:00.000001Z"'), "time_out_of_range"),
        (action(properties="[]"), "bad_properties"),
        (action(properties="5"), "bad_properties"),
        (action(properties='"{}"'), "bad_properties"),
        (action(properties="true"), "bad_properties"),
        (action(kind='"plain"', properties="5"), "bad_properties"),
        (action(kind='"plain"', properties='"{}"'), "bad_properties"),
        (action(properties='{"a": "\\ud800"}'), "bad_properties"),
        (action(properties='{"a": "\\udc00\\ud800"}'), "bad_properties"),
        (action(properties='{"\\uDFFF": 1}'), "bad_properties"),
        (action(properties='{"a": "' + "x" * 200_000 + '"}'), "too_large"),
        (action(kind='"\\ud800"'), "bad_action"),
        ('{"time": "\\ud800", "type": "click"}', "bad_action"),
        ("5", "bad_action"),
        ("null", "bad_action"),
        ('"click"', "bad_action"),
        ("[]", "bad_action"),
        ("{}", "bad_action"),
        (action(properties='{"a": "' + "\\ud800" * 20_000 + '"}'), "bad_properties"),
    ],
)
def test_a_wrong_action_is_rejected_with_its_code_and_the_others_are_kept(wrong: str, code: str) -> None:
    parsed = parse(submission(GOOD, wrong, GOOD))
    assert codes(parsed) == [(1, code)]
    (rejection,) = parsed.rejections
    assert rejection.code in REJECTION_CODES
    assert rejection.original.decode() == wrong, "kept as it was sent"
    assert rejection.message
    assert len(rejection.message) < 300
    assert (rejection.user_id, rejection.line) == ("u1", None)
    assert [row["properties"] for row in kept(parsed)] == ['{"good": 1}'] * 2
    assert parsed.accepted == 2


@pytest.mark.parametrize(
    "right",
    [
        action(time='"1970-01-01T00:00:00Z"'),
        action(time='"1969-12-31T19:00:00-05:00"'),
        action(time='"2024-03-02T12:00:00Z"'),
        action(time='"2024-03-02T17:30:00+05:30"'),
        action(kind='"CLICK"'),
        action(kind='"cLiCk"'),
        action(kind='"\\u0063lick"'),
        action(properties="null"),
        f'{{"type": "view", "time": "{TIME}"}}',
        f'{{"unknown": [{{}}], "type": "view", "time": "{TIME}"}}',
        action(properties=' { "a" : 1.10 } '),
    ],
)
def test_what_is_right_is_kept(right: str) -> None:
    assert codes(parse(submission(right))) == []
    assert parse(submission(right)).accepted == 1


@pytest.mark.parametrize("before", ["7", '{"type": "click"}', action(kind='"x"')])
def test_a_lone_surrogate_is_found_whatever_is_wrong_before_it(before: str) -> None:
    """The parser gives up at the first thing that is wrong, which need not be the surrogate."""
    parsed = parse(submission(before, action(), action(properties='{"a": "\\ud800"}')))
    assert [index for index, _ in codes(parsed)] == [0, 2]
    assert codes(parsed)[1] == (2, "bad_properties")
    assert parsed.accepted == 1


@pytest.mark.parametrize(
    "kind", ["cl\u017fck", "clic\u212a", "cl\u0131ck", "CL\u0130CK", "navi\u200bgate", "ｃｌｉｃｋ"]
)
def test_letters_that_only_look_like_a_type_are_no_type(kind: str) -> None:
    assert codes(parse(submission(action(kind=json.dumps(kind))))) == [(0, "unknown_type")]
    assert codes(parse(submission(action(kind=json.dumps(kind, ensure_ascii=False))))) == [(0, "unknown_type")]


def test_many_spellings_of_unknown_types_fill_no_memory() -> None:
    parser = SubmissionParser(SCHEMA, LIMITS)
    for n in range(2_000):
        parser.parse_json(submission(action(kind=f'"t{n}"')).encode(), now_us=NOW_US)
    assert len(parser.type_codes) == 4


# Kept exactly as it was sent


@pytest.mark.parametrize(
    "properties",
    [
        "{}",
        '{"a": 1.10}',
        '{ "a" :\t1 ,\n"b":[ ] }',
        '{"a": "\\u0000", "\\u0000": 1}',
        '{"a": "\\ud83d\\ude00 😀 \\/ \\\\ud800"}',
        '{"n": ' + "9" * 5_000 + "}",
        '{"n": -' + "9" * 5_000 + "}",
        '{"n": 1e999, "m": 0.' + "1" * 400 + "}",
        '{"a": 1, "a": 2}',
        '{"a": "\x7f"}',
        '{"n": 9007199254740993}',
        '{"locationX": ' + "9" * 5_000 + "}",
        '{"locationX": 1e999}',
    ],
)
def test_properties_are_kept_as_the_text_that_was_sent(properties: str) -> None:
    (row,) = kept(parse(submission(action(properties=properties))))
    assert row["properties"] == properties
    two = kept(parse(submission(action(properties=properties), "5", GOOD)))
    assert [one["properties"] for one in two] == [properties, '{"good": 1}'], "the slow path keeps it just so"


def test_of_a_name_given_twice_the_last_counts() -> None:
    twice = f'{{"time": "x", "type": "x", "properties": 5, "time": "{TIME}", "type": "view", "properties": {{"a": 1}}}}'
    body = f'{{"userId": "first", "actions": [5], "userId": "last", "actions": [{twice}]}}'
    (row,) = kept(parse(body))
    assert (row["user_id"], row["type"], row["properties"]) == ("last", "view", '{"a": 1}')
    (row,) = kept(parse(submission(action(properties='{"locationX": 1, "locationX": 2}'))))
    assert row["location_x"] == 2.0


def test_users_and_sessions_are_kept_as_text() -> None:
    body = '{"userId": "a\\u0000b\\u00e9😀", "sessionId": "", "actions": [' + GOOD + "]}"
    (row,) = kept(parse(body))
    assert (row["user_id"], row["session_id"]) == ("a\0bé😀", "")
    (row,) = kept(parse(submission(GOOD, more=', "sessionId": null')))
    assert row["session_id"] is None


# Envelopes that keep nothing


@pytest.mark.parametrize(
    ("body", "parameter"),
    [
        (b"", None),
        (b" ", None),
        (b"{", None),
        (b"null", None),
        (b"5", None),
        (b"[]", None),
        (b'"text"', None),
        (b"{}", "userId"),
        (b'{"actions": []}', "userId"),
        (b'{"userId": "u"}', "actions"),
        (b'{"userId": "", "actions": []}', "userId"),
        (b'{"userId": null, "actions": []}', "userId"),
        (b'{"userId": 5, "actions": []}', "userId"),
        (b'{"userId": "u", "actions": {}}', "actions"),
        (b'{"userId": "u", "actions": null}', "actions"),
        (b'{"userId": "u", "actions": "[]"}', "actions"),
        (b'{"userId": "u", "sessionId": 5, "actions": []}', "sessionId"),
        (b'{"userId": "\\ud800", "actions": []}', "userId"),
        (b'{"userId": "u", "sessionId": "\\udfff", "actions": []}', "sessionId"),
        (b'\xef\xbb\xbf{"userId": "u", "actions": []}', None),
        (b'{"userId": "\xff", "actions": []}', None),
        (b'{"userId": "\xed\xa0\x80", "actions": []}', None),
        (b'{"userId": "\xc0\xae", "actions": []}', None),
        (b'{"userId": "u", "actions": []} trailing', None),
        (b'{"userId": "u", "actions": []}{"userId": "u", "actions": []}', None),
        (b"{'userId': 'u', 'actions': []}", None),
        (b'{"userId": "u", "actions": [],}', None),
        (b'{"userId": "u" "actions": []}', None),
        (b'{"userId": "tab\there", "actions": []}', None),
        (b'{"userId": "u", "actions": [], "other": NaN}', None),
        (b'{"userId": "u", "actions": [], "other": Infinity}', None),
        (b'{"userId": "u", "actions": [], "other": 01}', None),
        (b'{"userId": "u", "actions": [], "other": "\\x41"}', None),
        ('{"userId": "u", "actions": []}'.encode("utf-16"), None),
        (submission(action(properties='{"a": NaN}')).encode(), None),
        (submission(action(properties='{"a": 1.}')).encode(), None),
        (submission(action(properties='{"a": "\x00"}')).encode(), None),
        (submission(action(properties='{"a": "\\ud800"}')).encode() + b"}", None),
    ],
)
def test_a_body_that_is_no_submission_is_refused_as_a_whole(body: bytes, parameter: str | None) -> None:
    with pytest.raises(InvalidSubmission) as caught:
        parse(body)
    assert caught.value.parameter == parameter
    assert not isinstance(caught.value, SubmissionTooLarge)
    assert str(caught.value)
    line = SubmissionParser(SCHEMA, LIMITS).parse_ndjson(b"\n" + submission(GOOD).encode(), now_us=NOW_US)
    assert line.accepted == 1


@pytest.mark.parametrize(
    ("body", "parameter"),
    [
        (submission(GOOD, more=', "x": "' + "x" * 2_000_000 + '"'), None),
        (submission(*["5"] * 1_001), "actions"),
        (submission(*[GOOD] * 1_001), "actions"),
        (submission(GOOD, user='"' + "u" * 17 + '"'), "userId"),
        (submission(GOOD, user='"ééééééééé"'), "userId"),
        (submission(GOOD, more=', "sessionId": "' + "s" * 17 + '"'), "sessionId"),
        (submission("5", more=', "sessionId": "' + "s" * 17 + '"'), "sessionId"),
    ],
)
def test_a_body_over_its_limits_is_refused_as_a_whole(body: str, parameter: str | None) -> None:
    with pytest.raises(SubmissionTooLarge) as caught:
        parse(body)
    assert caught.value.parameter == parameter


def test_what_just_fits_the_limits_is_kept() -> None:
    assert (
        parse(submission(*[GOOD] * 1_000, user='"éééééééé"', more=', "sessionId": "' + "s" * 16 + '"')).accepted
        == 1_000
    )
    text = '{"a": "' + "x" * (200_000 - 9) + '"}'
    assert len(text) == 200_000
    assert parse(submission(action(properties=text))).accepted == 1
    body = submission(GOOD)
    assert parse(body + " " * (2_000_000 - len(body))).accepted == 1


# Depth: the envelope is level 1, the list of actions 2, an action 3, its properties 4


def nested(levels: int, bracket: str = "[") -> str:
    if bracket == "[":
        return "[" * levels + "]" * levels
    return '{"a":' * (levels - 1) + "{}" + "}" * (levels - 1)


@pytest.mark.parametrize("bracket", ["[", "{"])
@pytest.mark.parametrize("levels", [59, 60, 61, 500, 900, 5_000, 100_000])
@pytest.mark.parametrize("others", ["none", "good", "without properties", "numbers"])
def test_the_depth_of_properties_is_bounded_whatever_stands_beside_them(bracket: str, levels: int, others: str) -> None:
    """Level 64 is the last one allowed. Many shallow neighbours must not lend a deep one their brackets."""
    deep = action(properties=f'{{"a": {nested(levels, bracket)}}}')
    beside = {
        "none": [],
        "good": [GOOD] * 700,
        "without properties": [f'{{"time": "{TIME}", "type": "click"}}'] * 700,
        "numbers": ["5"] * 700,
    }[others]
    body = submission(*beside, deep)
    if levels <= 60:
        rejected = 700 if others == "numbers" else 0
        parsed = parse(body)
        assert parsed.accepted == len(beside) + 1 - rejected
        assert len(parsed.rejections) == rejected
        return
    with pytest.raises(InvalidSubmission, match="deeper than 64 levels"):
        parse(body)


@pytest.mark.parametrize("levels", [61, 62, 63, 64, 100, 100_000])
@pytest.mark.parametrize("place", ["envelope", "action", "instead of an action"])
def test_depth_counts_in_what_is_ignored_too(levels: int, place: str) -> None:
    body = {
        "envelope": submission(GOOD, more=f', "x": {nested(levels)}'),
        "action": submission(f'{{"time": "{TIME}", "type": "click", "x": {nested(levels)}}}'),
        "instead of an action": submission(GOOD, nested(levels)),
    }[place]
    deepest = {"envelope": 63, "action": 61, "instead of an action": 62}[place]
    if levels <= deepest:
        assert parse(body).accepted == 1
    else:
        with pytest.raises(InvalidSubmission, match="deeper than 64 levels"):
            parse(body)


def test_brackets_in_strings_are_no_depth() -> None:
    properties = '{"a": "' + "[{" * 500 + '\\"[[[' + '"}'
    assert parse(submission(action(properties=properties))).accepted == 1
    assert parse(submission(action(properties=properties), "5")).accepted == 1


# NDJSON


def test_each_line_is_a_submission_and_a_wrong_one_does_not_touch_the_others() -> None:
    lines = [
        submission(GOOD, user='"first"').encode(),
        b"",
        b"  \t\r",
        b"not json",
        b'{"userId": 5, "actions": []}',
        submission(GOOD, action(kind='"scroll"'), user='"second"').encode() + b"\r",
        b'{"userId": "\xff", "actions": []}',
        b'{"userId": "' + b"u" * 17 + b'", "actions": []}',
        submission(action(properties='{"a":' + "[" * 100 + "]" * 100 + "}")).encode(),
        submission().encode(),
        submission(GOOD, user='"last"').encode(),
    ]
    parsed = SubmissionParser(SCHEMA, LIMITS).parse_ndjson(b"\n".join(lines), now_us=NOW_US)
    assert [one.user_id for one in parsed.submissions] == ["first", "second", "last"]
    assert [(one.line, one.index, one.code) for one in parsed.rejections] == [
        (4, None, "bad_envelope"),
        (5, None, "bad_envelope"),
        (6, 1, "unknown_type"),
        (7, None, "bad_envelope"),
        (8, None, "too_large"),
        (9, None, "bad_envelope"),
    ]
    assert parsed.rejections[0].original == b"not json"
    assert "userId" in parsed.rejections[1].message
    assert parsed.rejections[2].user_id == "second"


@pytest.mark.parametrize("body", [b"", b"\n\n", b" \r\n\t\n"])
def test_ndjson_without_any_line_is_refused(body: bytes) -> None:
    with pytest.raises(InvalidSubmission):
        SubmissionParser(SCHEMA, LIMITS).parse_ndjson(body, now_us=NOW_US)


def test_ndjson_over_the_limit_is_refused_as_a_whole() -> None:
    with pytest.raises(SubmissionTooLarge):
        SubmissionParser(SCHEMA, LIMITS).parse_ndjson(b"\n" * 2_000_001, now_us=NOW_US)


@pytest.mark.parametrize("wrong", [b"{}\n", b'{"userId": "u", "actions": [0, 0, 0, 0, 0]}\n'])
def test_ndjson_with_too_much_that_is_wrong_is_refused_as_a_whole(wrong: bytes) -> None:
    """Each is kept and told: a small body of nothing else would take everybody's time."""
    parser = SubmissionParser(SCHEMA, SubmissionLimits(rejections_max=20))
    right = submission(action()).encode() + b"\n"
    lines = 20 // max(1, wrong.count(b"0"))
    assert len(parser.parse_ndjson(right + wrong * lines, now_us=NOW_US).rejections) == 20
    with pytest.raises(InvalidSubmission, match=r"more than 20 .* in line 2"):
        parser.parse_ndjson(right + wrong * (lines + 1), now_us=NOW_US)


def test_no_actions_at_all_is_a_submission_that_keeps_nothing() -> None:
    parsed = parse(submission())
    assert (parsed.accepted, parsed.submissions, parsed.rejections) == (0, (), ())


# Both ways of reading say the same

_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
_PROPERTIES = st.dictionaries(
    st.text(max_size=6) | st.sampled_from(["locationX", "locationY", "viewedId", "pageFrom"]), _JSON, max_size=4
)
_TIMES = st.sampled_from(
    ["2024-03-01T11:00:00Z", "2024-03-01T11:00:00.5+01:00", "1999-12-31 23:59:59.999999-00:30", "2024-02-29t00:00:00z"]
)
_GOOD = st.fixed_dictionaries(
    {"time": _TIMES, "type": st.sampled_from(["click", "View", "NAVIGATE"])}, optional={"properties": _PROPERTIES}
)


@given(st.lists(_GOOD, min_size=1, max_size=6), st.booleans())
@settings(max_examples=150, deadline=None)
def test_the_fast_way_and_the_careful_way_keep_the_same(actions: list[dict[str, Any]], ascii_only: bool) -> None:
    """The same good actions alone, which takes the fast way, and beside a wrong one, which takes the careful one."""
    envelope = {"userId": "u", "sessionId": None}
    alone = parse(json.dumps(envelope | {"actions": actions}, ensure_ascii=ascii_only))
    beside = parse(json.dumps(envelope | {"actions": [*actions, 5]}, ensure_ascii=ascii_only))
    assert codes(alone) == []
    assert codes(beside) == [(len(actions), "bad_action")]
    assert kept(alone) == kept(beside)
    assert [json.loads(row["properties"]) for row in kept(alone)] == [one.get("properties", {}) for one in actions]


@given(st.binary(max_size=60) | _JSON.map(lambda value: json.dumps(value).encode()))
@settings(max_examples=300, deadline=None)
def test_any_bytes_are_kept_or_refused_and_nothing_else(body: bytes) -> None:
    try:
        parsed = parse(body)
    except InvalidSubmission:
        return
    assert parsed.accepted + len(parsed.rejections) == len(json.loads(body)["actions"])


@given(
    st.lists(
        st.fixed_dictionaries({}, optional={"time": _TIMES | _JSON, "type": _JSON, "properties": _JSON}) | _JSON,
        max_size=5,
    )
)
@settings(max_examples=200, deadline=None)
def test_whatever_the_actions_are_each_is_kept_or_rejected_once(actions: list[Any]) -> None:
    parsed = parse(json.dumps({"userId": "u", "actions": actions}))
    rejected = [one.index for one in parsed.rejections if one.index is not None]
    assert rejected == sorted(set(rejected))
    assert len(rejected) == len(parsed.rejections)
    assert parsed.accepted + len(rejected) == len(actions)
    assert len(kept(parsed)) == parsed.accepted
