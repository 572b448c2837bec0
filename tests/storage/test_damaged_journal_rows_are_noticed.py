"""A flipped bit in a journal row is an error that names the place, never a wrong answer."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from storage.columns import JournalRow, rows_to_table
from storage.errors import CorruptData
from storage.schema import ActionSchema
from storage.submission import SubmissionLimits, SubmissionParser

SCHEMA = ActionSchema()
BODY = (
    b'{"userId": "u", "actions": [{"time": "2023-01-05T00:00:00Z", "type": "CLICK", "properties": {"locationX": 3.5}},'
    b' {"time": "2023-01-05T00:00:01-06:00", "type": "VIEW", "properties": {"viewedId": "abc"}}]}'
)
PAYLOAD = SubmissionParser(SCHEMA, SubmissionLimits()).parse_json(BODY, now_us=2 * 10**15).submissions[0].payload


def read(payload: bytes) -> int:
    return int(rows_to_table([JournalRow(1, 2, 1, "u", None, payload)], "j", SCHEMA).num_rows)


def test_an_undamaged_row_is_read() -> None:
    assert read(PAYLOAD) == 2


@given(place=st.integers(0, len(PAYLOAD) - 1), bit=st.integers(0, 7))
def test_every_flipped_bit_is_noticed(place: int, bit: int) -> None:
    damaged = bytearray(PAYLOAD)
    damaged[place] ^= 1 << bit
    with pytest.raises(CorruptData, match="positions 1 to 2"):
        read(bytes(damaged))


@given(length=st.integers(0, len(PAYLOAD) - 1))
def test_every_cut_is_noticed(length: int) -> None:
    with pytest.raises(CorruptData):
        read(PAYLOAD[:length])
