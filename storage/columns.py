"""The accepted actions of one submission as columns, in the form in which the journal keeps them.

A submission is decoded once, when it arrives. What is kept is what every later step needs and nothing that has to be
parsed again: fixed-width columns as little-endian arrays, the properties' exact texts one after the other with their
lengths, promoted values typed. Turning any number of submissions into Arrow is then joining buffers.
"""

from __future__ import annotations

import datetime
import itertools
import json
import sys
import zlib
from array import array
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from storage.batch_columns import BATCH_USER, batch_to_table, count_rows, decode_batch
from storage.errors import CorruptData
from storage.schema import TIMESTAMP, ActionSchema, TableColumns

FORMAT_VERSION: Final = 1
_CHECKSUM_BYTES: Final = 4

# From here on NumPy is faster than an array of the standard library.
_NUMPY_BYTES_MIN: Final = 64

_DAY_US: Final = 86_400_000_000
_TIME_US_MAX: Final = 253_402_300_799_999_999
_PYTHON_TYPES: Final[Mapping[pa.DataType, type]] = {
    pa.float64(): float,
    pa.int64(): int,
    pa.string(): str,
    pa.bool_(): bool,
}

if sys.byteorder != "little":
    raise ImportError("the journal's columns are little-endian; a big-endian machine is not supported")


class StoredColumns(msgspec.Struct, array_like=True, gc=False):
    """The columns of n actions.

    Attributes:
        format_version: of this layout.
        times_us: n × int64, microseconds since the epoch.
        utc_offsets_minutes: n × int16.
        type_names: the types that `type_codes` index.
        type_codes: n × uint16.
        properties_lengths: n × int32, bytes of each properties text.
        properties: the texts, UTF-8, one after the other.
        promoted: type code → column name → a value or null for each action of that type, in their order.
    """

    format_version: int
    times_us: bytes
    utc_offsets_minutes: bytes
    type_names: tuple[str, ...]
    type_codes: bytes
    properties_lengths: bytes
    properties: bytes
    promoted: dict[int, dict[str, list[Any]]]


_encoder: Final = msgspec.msgpack.Encoder()
_decoder: Final = msgspec.msgpack.Decoder(StoredColumns)


def encode_columns(
    *,
    times_us: Sequence[int],
    utc_offsets_minutes: Sequence[int],
    type_names: tuple[str, ...],
    type_codes: Sequence[int],
    properties_lengths: Sequence[int],
    properties: bytes,
    promoted: Mapping[int, Mapping[str, Sequence[Any]]],
) -> bytes:
    """Encode the columns of one submission for the journal, with a checksum at their end."""
    columns = _encoder.encode(
        (
            FORMAT_VERSION,
            array("q", times_us).tobytes(),
            array("h", utc_offsets_minutes).tobytes(),
            type_names,
            array("H", type_codes).tobytes(),
            array("i", properties_lengths).tobytes(),
            properties,
            promoted,
        )
    )
    return columns + zlib.crc32(columns).to_bytes(_CHECKSUM_BYTES, "little")


def _check_row(row: JournalRow) -> None:
    given = row_checksum(row.first_position, row.last_position, row.received_at_us, row.user_id, row.session_id)
    if row.checksum not in (None, given):
        raise ValueError("the checksum of the row does not match: the journal's file is damaged")


def row_checksum(first: int, last: int, received_at_us: int, user_id: str, session_id: str | None) -> int:
    """Sum up what a row of the journal holds beside its payload, which has a checksum of its own."""
    return zlib.crc32(f"{first} {last} {received_at_us} {user_id}\0{session_id}".encode("utf-8", "surrogatepass"))


class JournalRow(msgspec.Struct, gc=False):
    """One submission as it lies in the journal: positions `first_position` to `last_position`, both included.

    Where `user_id` is `BATCH_USER`, it is a batch of many users instead, and the payload has them.
    """

    first_position: int
    last_position: int
    received_at_us: int
    user_id: str
    session_id: str | None
    payload: bytes
    checksum: int | None = None

    @property
    def actions(self) -> int:
        """How many actions the row holds."""
        return self.last_position - self.first_position + 1

    @property
    def is_batch(self) -> bool:
        """Whether the payload is that of `storage.batch_columns`."""
        return self.user_id == BATCH_USER


def payload_to_table(
    payload: bytes, schema: ActionSchema | TableColumns, *, user_id: str | None, session_id: str | None
) -> pa.Table:
    """Turn one payload, of which nothing else is known, into rows; *user_id* None stands for a batch of many users.

    `journal` and `position` of the rows say nothing: positions begin at 1.

    Raises:
        CorruptData: as `rows_to_table`.
    """
    try:
        if user_id is None:
            count = count_rows(payload)
        else:
            count = len(_decoder.decode(memoryview(payload)[:-_CHECKSUM_BYTES]).times_us) // 8
    except (msgspec.DecodeError, pa.ArrowException, ValueError, OSError, StopIteration) as error:
        raise CorruptData(f"the payload does not decode: {error}") from error
    row = JournalRow(1, count, 0, BATCH_USER if user_id is None else user_id, session_id, payload)
    return rows_to_table([row], "", schema)


def rows_to_table(rows: Iterable[JournalRow], journal: str, schema: ActionSchema | TableColumns) -> pa.Table:
    """Turn journal rows into one Arrow table with all columns of `schema.table_schema`, in order of position.

    Promoted columns that the schema no longer knows are left out; those that it knows and a row lacks are null.

    Raises:
        CorruptData: a payload does not decode, its columns disagree on their length, or hold what no action can.
            The message names the positions of all *rows*.
    """
    given = list(rows)
    try:
        tables: list[pa.Table] = []
        for is_batch, run in itertools.groupby(given, lambda row: row.is_batch):
            if is_batch:
                tables += [_batch_to_table(row, journal, schema) for row in run]
            else:
                tables.append(_to_table(list(run), journal, schema))
        return pa.concat_tables(tables) if tables else schema.table_schema.empty_table()
    except MemoryError:
        # It says nothing about the rows, though Arrow's own is an ArrowException as well.
        raise
    except (pa.ArrowException, ValueError, OverflowError) as error:
        where = f"journal {journal}, positions {given[0].first_position} to {given[-1].last_position}"
        raise CorruptData(f"{where}: {error}") from error


def _batch_to_table(row: JournalRow, journal: str, schema: ActionSchema | TableColumns) -> pa.Table:
    try:
        _check_row(row)
        batch = decode_batch(row.payload, rows=row.actions)
        _require_times(batch.column("time"))
    except (pa.ArrowException, ValueError, KeyError, OSError, StopIteration) as error:
        if isinstance(error, MemoryError):
            raise
        where = f"journal {journal}, positions {row.first_position} to {row.last_position}"
        raise CorruptData(f"{where}: {error}") from error
    return batch_to_table(
        batch, first_position=row.first_position, received_at_us=row.received_at_us, journal=journal, schema=schema
    )


def _require_times(time: pa.Array) -> None:
    """Raise ValueError for a time that would not fit a partition's name."""
    if time.null_count or pc.min(time).as_py() < 0 or pc.max(time).as_py() > _TIME_US_MAX:
        raise ValueError("a time is outside the years 1970 to 9999")


def _to_table(rows: Sequence[JournalRow], journal: str, schema: ActionSchema | TableColumns) -> pa.Table:
    run_ends = array("q")
    users: list[str] = []
    sessions: list[str | None] = []
    received = array("q")
    firsts = array("q")
    times: list[bytes] = []
    offsets: list[bytes] = []
    codes: list[bytes] = []
    lengths: list[bytes] = []
    properties: list[bytes] = []
    promoted = _PromotedColumns(schema)
    type_names: dict[tuple[str, ...], int] = {}
    dictionary: list[str] = []
    n = 0
    for row in rows:
        try:
            _check_row(row)
            columns = _decode(row)
        except (msgspec.DecodeError, ValueError) as error:
            where = f"journal {journal}, positions {row.first_position} to {row.last_position}"
            raise CorruptData(f"{where}: {error}") from error
        base = type_names.get(columns.type_names)
        if base is None:
            base = type_names[columns.type_names] = len(dictionary)
            dictionary.extend(columns.type_names)
        n += row.last_position - row.first_position + 1
        run_ends.append(n)
        users.append(row.user_id)
        sessions.append(row.session_id)
        received.append(row.received_at_us)
        firsts.append(row.first_position)
        times.append(columns.times_us)
        offsets.append(columns.utc_offsets_minutes)
        codes.append(columns.type_codes if base == 0 else _shifted(columns.type_codes, base))
        lengths.append(columns.properties_lengths)
        properties.append(columns.properties)
        promoted.add(columns, base)
    time = _fixed(pa.int64(), b"".join(times), n)
    _require_times(time)
    ends = pa.array(run_ends, pa.int64())
    type_index = _fixed(pa.uint16(), b"".join(codes), n).cast(pa.int32())
    arrays: dict[str, pa.Array] = {
        "date": pc.divide(time, _DAY_US).cast(pa.int32()).view(pa.date32()),
        "type": pa.DictionaryArray.from_arrays(type_index, pa.array(dictionary, pa.string())).cast(pa.string()),
        "user_id": _repeated(ends, pa.array(users, pa.string())),
        "session_id": _repeated(ends, pa.array(sessions, pa.string())),
        "time": time.view(TIMESTAMP),
        "utc_offset_minutes": _fixed(pa.int16(), b"".join(offsets), n),
        "properties": _texts(b"".join(lengths), b"".join(properties), n),
        "received_at": _repeated(ends, pa.array(received, pa.int64())).view(TIMESTAMP),
        "journal": pa.repeat(pa.scalar(journal), n),
        "position": _positions(firsts, run_ends),
    }
    arrays.update(promoted.arrays(type_index))
    return pa.table([arrays[name] for name in schema.table_schema.names], schema=schema.table_schema)


def action_text(row: dict[str, Any]) -> bytes:
    """A row of the table `actions` as the JSON text of an action, as a client sends it."""
    zone = datetime.timezone(datetime.timedelta(minutes=row["utc_offset_minutes"]))
    time = row["time"].astimezone(zone).isoformat()
    return b'{"time":%b,"type":%b,"properties":%b}' % (
        json.dumps(time).encode(),
        json.dumps(row["type"]).encode(),
        row["properties"].encode(),
    )


class _PromotedColumns:
    """Gathers promoted values type by type, and scatters them over the rows of these types at the end."""

    def __init__(self, schema: ActionSchema | TableColumns) -> None:
        self._fields = schema.promoted_fields
        self._names = frozenset(field.name for field in schema.promoted_fields)
        # Dictionary index of a type → column → values, in order of the rows of that type; what they hold so far.
        self._values: dict[int, dict[str, list[Any]]] = {}
        self._counts: dict[int, int] = {}

    def add(self, columns: StoredColumns, base: int) -> None:
        for code, given in columns.promoted.items():
            count = len(next(iter(given.values()))) if given else _count(columns.type_codes, code)
            values = self._values.setdefault(base + code, {})
            before = self._counts.get(base + code, 0)
            for name, new in given.items():
                if name in self._names:
                    held = values.setdefault(name, [])
                    # A column that the type promotes only since then: null for the actions before.
                    if len(held) < before:
                        held.extend([None] * (before - len(held)))
                    held.extend(new)
            self._counts[base + code] = before + count

    def arrays(self, type_index: pa.Array) -> dict[str, pa.Array]:
        arrays = {field.name: pa.nulls(len(type_index), field.type) for field in self._fields}
        types = {field.name: field.type for field in self._fields}
        for index, values in self._values.items():
            of_type = pc.equal(type_index, index)
            for name, held in values.items():
                held.extend([None] * (self._counts[index] - len(held)))
                new = _promoted(held, types[name])
                if new.null_count < len(new):
                    arrays[name] = pc.replace_with_mask(arrays[name], of_type, new)
        return arrays


def _decode(row: JournalRow) -> StoredColumns:
    encoded = memoryview(row.payload)[:-_CHECKSUM_BYTES]
    if zlib.crc32(encoded).to_bytes(_CHECKSUM_BYTES, "little") != row.payload[-_CHECKSUM_BYTES:]:
        raise ValueError("the checksum does not match: the journal's file is damaged")
    columns = _decoder.decode(encoded)
    n = row.actions
    if columns.format_version != FORMAT_VERSION:
        raise ValueError(f"payload format {columns.format_version} is not {FORMAT_VERSION}")
    widths = (
        (columns.times_us, 8),
        (columns.utc_offsets_minutes, 2),
        (columns.type_codes, 2),
        (columns.properties_lengths, 4),
    )
    if any(len(buffer) != width * n for buffer, width in widths):
        raise ValueError("the columns disagree on their length")
    for code, given in columns.promoted.items():
        count = _count(columns.type_codes, code)
        if any(len(values) != count for values in given.values()):
            raise ValueError("the promoted columns disagree with the types on their length")
    return columns


def _count(type_codes: bytes, code: int) -> int:
    if len(type_codes) < _NUMPY_BYTES_MIN:
        return array("H", type_codes).count(code)
    return int(np.count_nonzero(np.frombuffer(type_codes, np.uint16) == code))


def _promoted(values: list[Any], type_: pa.DataType) -> pa.Array:
    """Make promoted values an array; what an earlier configuration promoted with another type becomes null."""
    try:
        return pa.array(values, type_)
    except (pa.ArrowInvalid, pa.ArrowTypeError):
        exact = _PYTHON_TYPES[type_]
        return pa.array([value if type(value) is exact else None for value in values], type_)


def _shifted(codes: bytes, base: int) -> bytes:
    return array("H", [code + base for code in array("H", codes)]).tobytes()


def _fixed(type_: pa.DataType, buffer: bytes, n: int) -> pa.Array:
    return pa.Array.from_buffers(type_, n, [None, pa.py_buffer(buffer)])


def _positions(firsts: array[int], run_ends: array[int]) -> pa.Array:
    """Number the rows of runs, each from its own first position on."""
    ends = np.frombuffer(run_ends, np.int64)
    lengths = np.diff(ends, prepend=0)
    # What a row's place has to be moved by is the same for a whole run.
    moved = np.frombuffer(firsts, np.int64) - (ends - lengths)
    return pa.array(np.arange(ends[-1]) + np.repeat(moved, lengths))


def _repeated(run_ends: pa.Array, values: pa.Array) -> pa.Array:
    return pc.run_end_decode(pa.RunEndEncodedArray.from_arrays(run_ends, values))


def _texts(lengths: bytes, texts: bytes, n: int) -> pa.Array:
    ends = pc.cumulative_sum(_fixed(pa.int32(), lengths, n).cast(pa.int64()))
    total = ends[-1].as_py()
    if total != len(texts):
        raise ValueError(f"the properties texts hold {len(texts)} bytes where their lengths say {total}")
    offsets = pa.concat_arrays([pa.array([0], pa.int64()), ends])
    array_ = pa.Array.from_buffers(pa.large_string(), n, [None, offsets.buffers()[1], pa.py_buffer(texts)])
    # Lengths below zero, or texts that are no UTF-8, would do their damage in whoever reads the file.
    array_.validate(full=True)
    return array_.cast(pa.string())
