"""Submissions that came at one moment, parsed together: those that are right become one batch of the journal.

Whatever is unusual about a body, or about any action of the group, is left to `SubmissionParser`, which judges action
by action. What is stored is the same either way. Parsed one by one, a submission of 100 actions costs half as much
again as a tenth of one of 1,000, and each is a row of its own to insert, read, decode and delete.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import pyarrow as pa

from storage.batch_columns import BATCH_USER, encode_batch
from storage.submission import Envelope, Submission, SubmissionParser, Unusual, UsualColumns

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
        envelopes: list[Envelope] = []
        actions: dict[int, int] = {}
        for place, body in enumerate(bodies):
            envelope = self._parser.usual_envelope(body)
            if envelope is not None and envelope.actions:
                envelopes.append(envelope)
                actions[place] = len(envelope.actions)
        try:
            columns = self._parser.usual_columns(
                list(itertools.chain.from_iterable(envelope.actions for envelope in envelopes)), now_us
            )
        except Unusual:
            return None
        payload = encode_batch(self._batch(envelopes, columns))
        return Group(Submission(BATCH_USER, None, len(columns.times_us), payload), actions)

    def _batch(self, envelopes: Sequence[Envelope], columns: UsualColumns) -> pa.RecordBatch:
        n = len(columns.times_us)
        whose = pa.array(np.repeat(np.arange(len(envelopes)), [len(one.actions) for one in envelopes]))
        ends = np.zeros(n + 1, np.int32)
        np.cumsum(columns.lengths, out=ends[1:])
        texts = pa.StringArray.from_buffers(n, pa.py_buffer(ends), pa.py_buffer(columns.properties))
        codes = pa.array(np.array(columns.type_codes, np.int16))
        return pa.record_batch(
            {
                "user_id": pa.array([one.userId for one in envelopes], pa.string()).take(whose),
                "session_id": pa.array([one.sessionId for one in envelopes], pa.string()).take(whose),
                "time": pa.array(np.array(columns.times_us, np.int64)),
                "utc_offset_minutes": pa.array(np.array(columns.offsets, np.int16)),
                "type": pa.DictionaryArray.from_arrays(codes, self._types),
                "properties": texts,
                **self._parser.promotion.arrays_of_raws(columns.type_codes, columns.raws),
            }
        )
