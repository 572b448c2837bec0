"""Submissions that came at one moment, parsed together: those that are right become one batch of the journal.

Whatever is unusual about a body, or about any action of the group, is left to `SubmissionParser`, which judges action
by action. What is stored is the same either way. Parsed one by one, a submission of 100 actions costs half as much
again as a tenth of one of 1,000, and each is a row of its own to insert, read, decode and delete.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa

from storage.batch_columns import BATCH_USER, encode_batch
from storage.submission import Action, Envelope, InvalidSubmission, Submission, SubmissionParser, Unusual
from storage.times import parse_times_as_arrays

# A batch costs something of its own; this much together is worth it.
GROUP_BYTES_MIN: Final = 48 * 1024


@dataclass(frozen=True, slots=True)
class Group:
    """Bodies that are kept together.

    Attributes:
        submission: all their actions, body after body.
        actions: place of a body among those that were given → how many actions it has.
    """

    submission: Submission
    actions: Mapping[int, int]


class _Properties(NamedTuple):
    """The properties of all actions: as they were sent, and one after the other, each up to its place in `ends`."""

    raws: list[msgspec.Raw]
    joined: bytes
    ends: npt.NDArray[np.int32]


class GroupParser:
    """Parses bodies of JSON, one submission each, by the schema and the limits of a `SubmissionParser`."""

    def __init__(self, parser: SubmissionParser) -> None:
        self._parser = parser
        self._types = pa.array(parser.type_names, pa.string())

    def parse(self, bodies: Sequence[bytes], *, now_us: int) -> Group | None:
        """Put together what is right; a body that is not in the group has to be parsed alone.

        Returns:
            None if there is no group: they are not worth it, or one of their actions is not right.
        """
        if sum(map(len, bodies)) < GROUP_BYTES_MIN:
            return None
        envelopes: dict[int, Envelope] = {}
        for place, body in enumerate(bodies):
            envelope = self._parser.usual_envelope(body)
            if envelope is not None and envelope.actions:
                envelopes[place] = envelope
        properties = _properties(envelopes)
        if self._may_be_deep([bodies[place] for place in envelopes], properties):
            envelopes = {place: one for place, one in envelopes.items() if not self._is_deep(bodies[place], one)}
            properties = _properties(envelopes)
        if not envelopes:
            return None
        try:
            batch = self._batch(list(envelopes.values()), properties, now_us)
        except Unusual:
            return None
        actions = {place: len(one.actions) for place, one in envelopes.items()}
        return Group(Submission(BATCH_USER, None, batch.num_rows, encode_batch(batch)), actions)

    def _may_be_deep(self, bodies: Sequence[bytes], properties: _Properties) -> bool:
        """Count brackets: two of each body, and two of each action but one without properties, are expected."""
        # The two differ in one bit; no other character becomes one of them by it.
        characters = np.frombuffer(b"".join(bodies), np.uint8)
        brackets = int(np.count_nonzero((characters | (ord("{") ^ ord("["))) == ord("{")))
        empty = np.count_nonzero(np.diff(properties.ends) == len("{}"))
        expected = 2 * len(bodies) + 2 * len(properties.raws) - int(empty)
        return brackets > expected + self._parser.levels_spare

    def _is_deep(self, body: bytes, envelope: Envelope) -> bool:
        try:
            self._parser.check_depth(body, [action.properties for action in envelope.actions])
        except InvalidSubmission:
            return True
        return False

    def _batch(self, envelopes: Sequence[Envelope], properties: _Properties, now_us: int) -> pa.RecordBatch:
        """Check all actions, column by column, and make them rows; raises `Unusual` if any of them is not right."""
        actions = [action for one in envelopes for action in one.actions]
        self._check_properties(properties)
        code_of = self._parser.type_codes.__getitem__
        type_codes = np.fromiter([code_of(one.type) for one in actions], np.int16, len(actions))
        times_us, offsets = self._times(actions, now_us)
        whose = pa.array(np.repeat(np.arange(len(envelopes)), [len(one.actions) for one in envelopes]))
        return pa.record_batch(
            {
                "user_id": pa.array([one.userId for one in envelopes], pa.string()).take(whose),
                "session_id": pa.array([one.sessionId for one in envelopes], pa.string()).take(whose),
                "time": pa.array(times_us),
                "utc_offset_minutes": pa.array(offsets),
                "type": pa.DictionaryArray.from_arrays(pa.array(type_codes), self._types),
                "properties": pa.StringArray.from_buffers(
                    len(actions), pa.py_buffer(properties.ends), pa.py_buffer(properties.joined)
                ),
                **self._parser.promotion.arrays_of_raws(type_codes, properties.raws),
            }
        )

    def _check_properties(self, properties: _Properties) -> None:
        """Raise `Unusual` unless each is an object that is not too large."""
        begins = np.frombuffer(properties.joined, np.uint8)[properties.ends[:-1]]
        if np.diff(properties.ends).max() > self._parser.limits.properties_bytes_max or (begins != ord("{")).any():
            raise Unusual

    def _times(self, actions: Sequence[Action], now_us: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int16]]:
        try:
            times_us, offsets = parse_times_as_arrays([one.time for one in actions])
        except ValueError as error:
            raise Unusual from error
        if times_us.min() < 0 or times_us.max() > now_us + self._parser.limits.time_ahead_us_max:
            raise Unusual
        return times_us, offsets


def _properties(envelopes: Mapping[int, Envelope]) -> _Properties:
    raws = [action.properties for one in envelopes.values() for action in one.actions]
    ends = np.zeros(len(raws) + 1, np.int32)
    np.cumsum(np.fromiter(map(len, raws), np.int32, len(raws)), out=ends[1:])
    return _Properties(raws, b"".join(raws), ends)
