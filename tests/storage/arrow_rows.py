"""Arrow streams as clients send them, for the tests of the bulk route."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import pyarrow as pa

from storage.arrow_batches import ArrowParser
from storage.clock import system_now_us
from storage.submission import ParsedBody, SubmissionLimits
from tests.storage.building import SCHEMA

PARSER: Final = ArrowParser(SCHEMA, SubmissionLimits(), body_bytes_max=1 << 24, rows_max=100_000)
TIME: Final = pa.timestamp("us", "UTC")
# 2024-03-01T12:00:00Z
FIRST_US: Final = 1_709_294_400_000_000


def stream_of(*tables: pa.Table, compression: str | None = None) -> bytes:
    """One stream; each table is at least one record batch of it."""
    sink = pa.BufferOutputStream()
    options = pa.ipc.IpcWriteOptions(compression=compression)
    with pa.ipc.new_stream(sink, tables[0].schema, options=options) as writer:
        for table in tables:
            writer.write_table(table)
    return bytes(sink.getvalue())


def rows(count: int = 3, **columns: Any) -> pa.Table:
    """Good rows, of all types in turn and three users; *columns* replace or add to theirs, None takes one away."""
    types = ["CLICK", "view", "Navigate"]
    properties = ['{"locationX": 52, "locationY": 1.10}', '{"viewedId": "é"}', '{"pageFrom": "/a", "pageTo": "/b"}']
    made: dict[str, Any] = {
        "user_id": pa.array([f"u{n % 3}" for n in range(count)], pa.string()),
        "session_id": pa.array([None if n % 2 else "s" for n in range(count)], pa.string()),
        "time": pa.array([FIRST_US + n for n in range(count)], TIME),
        "utc_offset_minutes": pa.array([n % 3 * -60 for n in range(count)], pa.int16()),
        "type": pa.array([types[n % 3] for n in range(count)], pa.string()),
        "properties": pa.array([properties[n % 3] for n in range(count)], pa.string()),
    }
    made |= columns
    return pa.table({name: values for name, values in made.items() if values is not None})


def parse(*tables: pa.Table, compression: str | None = None) -> ParsedBody:
    """Parse one stream of tables."""
    return PARSER.parse(stream_of(*tables, compression=compression), now_us=system_now_us())


def codes(parsed: ParsedBody) -> Mapping[int | None, str]:
    """Index → code of what was rejected."""
    return {one.index: one.code for one in parsed.rejections}


def texts(*values: str | None) -> pa.StringArray:
    """A column of texts."""
    return pa.array(values, pa.string())
