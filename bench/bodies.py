"""The submissions that every opponent is sent: realistic, distinct, and the same for all."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta, timezone
from typing import Any, Final

import msgspec
import pyarrow as pa

USERS: Final = 200_000
STREAM_SCHEMA: Final = pa.schema(
    {
        "user_id": pa.string(),
        "session_id": pa.string(),
        "time": pa.timestamp("us", "UTC"),
        "utc_offset_minutes": pa.int16(),
        "type": pa.string(),
        "properties": pa.string(),
    }
)
_POOL_ACTIONS: Final = 1_000_000
_POOL_BODIES_MIN: Final = 1_000
_POOL_BODIES_MAX: Final = 20_000

_SECONDS_BETWEEN_ACTIONS: Final = 8.0
_SECONDS_UNTIL_SENT: Final = 300.0
_LATE_SHARE: Final = 0.01
_LATE_DAYS_MAX: Final = 2.0

_OFFSETS_MINUTES: Final = (0, 0, 0, 60, 120, 330, 540, -180, -300, -360, -480)
_PAGES: Final = ("home", "communities", "inventory", "floor-plans", "pricing", "contact", "search", "account")


class _Action(msgspec.Struct):
    time: datetime
    type: str
    properties: msgspec.Raw


class _Submission(msgspec.Struct):
    userId: str
    sessionId: str
    actions: list[_Action]


def pool_size(actions_per_request: int) -> int:
    """How many distinct bodies are made: about a million actions in all, within 1,000 to 20,000 bodies."""
    return min(_POOL_BODIES_MAX, max(_POOL_BODIES_MIN, _POOL_ACTIONS // actions_per_request))


def make_bodies(*, actions_per_request: int, count: int, seed: int, base_time_s: int) -> list[bytes]:
    """Make *count* JSON submissions of *actions_per_request* actions each.

    The same arguments give the same bytes. A submission is of one user, drawn by Zipf's law from 200,000, and of one
    session; its actions lie some seconds apart and end some minutes before *base_time_s* (seconds since 1970), one
    submission in a hundred up to two days before. The three types carry their own properties, times carry offsets.
    """
    # Not for secrets: the same seed must give the same bodies.
    source = random.Random(seed * 1_000_003 + actions_per_request)
    users = _zipf_users(source)
    return [_submission(source, next(users), actions_per_request, base_time_s).encode() for _ in range(count)]


def make_streams(*, rows_per_stream: int, count: int, seed: int, base_time_s: int) -> list[bytes]:
    """Make *count* Arrow streams of *rows_per_stream* rows each: the same actions, of many users in a stream."""
    per_user = 20
    users = -(-rows_per_stream * count // per_user)
    bodies = make_bodies(actions_per_request=per_user, count=users, seed=seed, base_time_s=base_time_s)
    columns: dict[str, list[Any]] = {name: [] for name in STREAM_SCHEMA.names}
    decode = msgspec.json.Decoder(_Submission).decode
    for body in bodies:
        submission = decode(body)
        columns["user_id"] += [submission.userId] * per_user
        columns["session_id"] += [submission.sessionId] * per_user
        for action in submission.actions:
            columns["time"].append(action.time)
            offset = action.time.utcoffset()
            assert offset is not None, "every body's times have offsets"
            columns["utc_offset_minutes"].append(offset // timedelta(minutes=1))
            columns["type"].append(action.type)
            columns["properties"].append(bytes(action.properties).decode())
    table = pa.table(columns, schema=STREAM_SCHEMA)
    return [_stream(table.slice(start * rows_per_stream, rows_per_stream)) for start in range(count)]


def _stream(table: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return bytes(sink.getvalue())


def _zipf_users(source: random.Random) -> Iterator[int]:
    cumulative = list(itertools.accumulate(1 / rank for rank in range(1, USERS + 1)))
    while True:
        yield from source.choices(range(USERS), cum_weights=cumulative, k=1024)


def _submission(source: random.Random, user: int, actions: int, base_time_s: int) -> str:
    ago_s = source.expovariate(1 / _SECONDS_UNTIL_SENT)
    if source.random() < _LATE_SHARE:
        ago_s += source.uniform(0, _LATE_DAYS_MAX * 86_400)
    end = datetime.fromtimestamp(base_time_s, UTC) - timedelta(seconds=ago_s)
    gaps_s = [source.expovariate(1 / _SECONDS_BETWEEN_ACTIONS) for _ in range(actions)]
    time = (end - timedelta(seconds=sum(gaps_s))).astimezone(
        timezone(timedelta(minutes=source.choice(_OFFSETS_MINUTES)))
    )
    with_milliseconds = source.random() < 0.5
    parts = []
    for gap_s in gaps_s:
        time += timedelta(seconds=gap_s)
        text = time.isoformat(timespec="milliseconds" if with_milliseconds else "seconds")
        parts.append(f'{{"time":"{text}",{_type_with_properties(source)}}}')
    session = f"{source.getrandbits(64):016x}"
    return f'{{"userId":"u-{user:06d}","sessionId":"{session}","actions":[{",".join(parts)}]}}'


def _type_with_properties(source: random.Random) -> str:
    draw = source.random()
    if draw < 0.45:
        x, y = int(draw * 4_000), source.getrandbits(10)
        return f'"type":"CLICK","properties":{{"locationX":{x},"locationY":{y}}}'
    if draw < 0.8:
        return f'"type":"VIEW","properties":{{"viewedId":"{source.getrandbits(36):09X}"}}'
    page_from, page_to = source.choice(_PAGES), source.choice(_PAGES)
    return f'"type":"NAVIGATE","properties":{{"pageFrom":"{page_from}","pageTo":"{page_to}"}}'
