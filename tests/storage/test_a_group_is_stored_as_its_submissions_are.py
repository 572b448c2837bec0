"""Submissions parsed together become the very rows that each of them becomes alone, and nothing wrong is among them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from storage.columns import JournalRow, rows_to_table
from storage.journal_records import Append
from storage.submission import InvalidSubmission, Submission, SubmissionLimits, SubmissionParser
from storage.submission_groups import GROUP_BYTES_MIN, Group, GroupParser
from tests.storage.building import FIRST_DAY, PARSER, SCHEMA, body, flusher, full_table, positions, store_in, through

NOW_US = 1_900_000_000_000_000
TIMES = [
    "2024-03-01T12:00:00Z",
    "2024-03-01T12:00:00.5z",
    "2024-03-01t23:59:59.999999-11:30",
    "2024-03-02 00:00:00+05:30",
    "1970-01-01T00:00:00-00:00",
]
PROPERTIES = [
    {},
    {"locationX": 5, "locationY": 1.5},
    {"locationX": "5", "viewedId": "A\u00e9\U0001f600", "pageFrom": "x"},
    {"viewedId": None, "pageTo": 'b\\"', "deep": {"a": [1, [2, {}]]}},
    {"pageFrom": "a", "pageTo": "b", "locationY": 10**30},
]

good_actions = st.fixed_dictionaries(
    {"time": st.sampled_from(TIMES), "type": st.sampled_from(["CLICK", "view", "Navigate"])},
    optional={"properties": st.sampled_from(PROPERTIES), "ignored": st.integers()},
)
wrong_actions = st.sampled_from(
    [
        {"time": "2024-03-01T12:00:00", "type": "click"},
        {"time": "2024-03-01T12:00:00Z", "type": "swipe"},
        {"time": "2100-03-01T12:00:00Z", "type": "click"},
        {"time": "1969-12-31T23:59:59Z", "type": "click"},
        {"time": TIMES[0], "type": "click", "properties": [1]},
        {"time": TIMES[0], "type": "click", "properties": None},
        {"time": TIMES[0], "type": "click", "properties": {"x": "y" * 300}},
        {"type": "click"},
        "no action",
    ]
)
LIMITED = SubmissionParser(SCHEMA, SubmissionLimits(properties_bytes_max=250, actions_max=20))


def sent(user: Any, session: Any, actions: Sequence[Any], ascii_only: bool) -> bytes:
    text = json.dumps({"userId": user, "sessionId": session, "actions": actions}, ensure_ascii=ascii_only)
    return text.encode()


def bodies_of(actions: st.SearchStrategy[Any]) -> st.SearchStrategy[list[bytes]]:
    ids = st.sampled_from(["u1", "u2", "\u00fcser", "\U0001f600"])
    one = st.builds(sent, ids, st.none() | ids, st.lists(actions, min_size=1, max_size=6), st.booleans())
    return st.lists(one, min_size=1, max_size=6)


@pytest.fixture(autouse=True)
def _however_small() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("storage.submission_groups.GROUP_BYTES_MIN", 0)
        yield


def rows(submissions: Sequence[Submission]) -> pa.Table:
    """All rows, as the journal gives them back."""
    made, position = [], 1
    for one in submissions:
        made.append(JournalRow(position, position + one.actions - 1, 5, one.user_id, one.session_id, one.payload))
        position += one.actions
    return rows_to_table(made, "j", SCHEMA).combine_chunks()


def together(bodies: Sequence[bytes], parser: SubmissionParser = LIMITED) -> Group | None:
    return GroupParser(parser).parse(bodies, now_us=NOW_US)


def alone(one: bytes) -> list[Submission] | None:
    """What a body is by itself, None unless all of it is right."""
    try:
        parsed = LIMITED.parse_json(one, now_us=NOW_US)
    except InvalidSubmission:
        return None
    return None if parsed.rejections else list(parsed.submissions)


@given(bodies_of(good_actions))
@settings(max_examples=80, deadline=None)
def test_what_is_right_is_the_same_rows(bodies: list[bytes]) -> None:
    group = together(bodies)
    assert group is not None
    expected = [one for text in bodies for one in alone(text) or []]
    assert group.actions == {place: one.actions for place, one in enumerate(expected)}
    assert rows([group.submission]).equals(rows(expected))


@given(bodies_of(good_actions | wrong_actions))
@settings(max_examples=80, deadline=None)
def test_whatever_is_wrong_is_left_to_be_judged_alone(bodies: list[bytes]) -> None:
    group = together(bodies)
    judged = {place: alone(text) for place, text in enumerate(bodies)}
    if group is None:
        # Properties of null are right, though unusual.
        unusual = any(b'"properties": null' in text for text in bodies)
        assert unusual or None in judged.values(), "nothing was wrong"
        return
    expected = [judged[place] for place in group.actions]
    assert None not in expected, "what is wrong is in the group"
    assert rows([group.submission]).equals(rows([one for made in expected for one in made or []]))


@pytest.mark.parametrize(
    "unusual",
    [
        b"",
        b"no json",
        b"[]",
        b'{"userId": "u", "actions": [1',
        b"\xff" + body([{"time": TIMES[0], "type": "click"}]),
        body([]),
        body([{"time": TIMES[0], "type": "click"}], user=""),
        body([{"time": TIMES[0], "type": "click"}], user="u" * 300),
        body([{"time": TIMES[0], "type": "click"}] * 21),
        b'{"userId": "\\ud800", "actions": [{"time": "2024-03-01T12:00:00Z", "type": "click"}]}',
        body([{"time": TIMES[0], "type": "click", "properties": {"a": json.loads("[" * 70 + "]" * 70)}}]),
    ],
)
def test_a_body_that_is_unusual_as_a_whole_does_not_keep_the_others_from_their_group(unusual: bytes) -> None:
    right = body([{"time": one, "type": "click", "properties": {"locationX": 1}} for one in TIMES])
    group = together([right, unusual, right])
    assert group is not None
    assert group.actions == {0: 5, 2: 5}
    assert rows([group.submission]).equals(rows((alone(right) or []) * 2))


def test_nothing_and_little_are_no_group(monkeypatch: pytest.MonkeyPatch) -> None:
    assert together([]) is None
    monkeypatch.setattr("storage.submission_groups.GROUP_BYTES_MIN", GROUP_BYTES_MIN)
    one = body([{"time": TIMES[0], "type": "click"}])
    assert together([one]) is None
    assert together([one] * (GROUP_BYTES_MIN // len(one) + 1)) is not None


def test_a_group_is_durable_read_and_flushed_like_submissions(folder: Path) -> None:
    bodies = [
        body([{"time": FIRST_DAY.isoformat(), "type": "view", "properties": {"viewedId": str(n)}}] * 3, user=f"u{n}")
        for n in range(4)
    ]
    group = together(bodies, PARSER)
    assert group is not None
    with store_in(folder) as store:
        store.append([Append((group.submission,), (), b"", requests=4)])
        assert positions(store) == through(12)
        before = full_table(store.read_view(), SCHEMA.file_schema.names).combine_chunks()
        assert before["user_id"].to_pylist() == [f"u{n}" for n in range(4) for _ in range(3)]
        flusher(store).flush(12)
        assert store.read_view().hot.num_rows == 0
        assert full_table(store.read_view(), SCHEMA.file_schema.names).combine_chunks().equals(before)
