"""An Arrow IPC stream from a client → accepted rows and rejected ones. Does no I/O.

The columns are the table's: `user_id`, `time` and `type`, and where there are any `session_id`, `utc_offset_minutes`
and `properties`. What the store itself decides (`date`, `received_at`, `journal`, `position`) and what it derives
from the properties (promoted columns) is passed over, so that rows read from the table may be sent as they are; any
other column is refused, since its values would be lost.

A stream that is none is refused as a whole. Rows are judged one by one, by the rules and with the codes of
`storage.submission`. The common case, in which all rows are right, is checked column by column.
"""

from __future__ import annotations

import datetime
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Final

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from storage.arrow_messages import MalformedStream, decompressed_bytes
from storage.batch_columns import BATCH_USER, encode_batch
from storage.nesting import exceeds_depth
from storage.promotion import NotAllJson, Promotion
from storage.schema import RESERVED_COLUMNS, ActionSchema
from storage.submission import (
    LEVELS_OF_PROPERTIES,
    InvalidSubmission,
    ParsedBody,
    Rejection,
    Submission,
    SubmissionLimits,
    SubmissionTooLarge,
)

# Rows that are checked at once, and lie in one row of the journal: one call of the JSON parser holds the interpreter's
# lock for a millisecond or two with so many.
CHUNK_ROWS: Final = 8_192
# More wrong rows than this are a mistake in the program that sent them, not in the rows.
REJECTIONS_MAX: Final = 10_000

_REQUIRED: Final = ("user_id", "time", "type")
_OPTIONAL: Final = ("session_id", "utc_offset_minutes", "properties")
_OFFSET_MINUTES_MAX: Final = 23 * 60 + 59
_UNITS_PER_SECOND: Final = {"s": 1, "ms": 1_000, "us": 1_000_000, "ns": 1_000_000_000}
_JSON_SPACE: Final = " \t\r\n"
_TEXT_COLUMNS: Final = ("user_id", "session_id", "properties")

CheckUsers = Callable[[Iterable[str | None]], None]

_decode_object: Final = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode


@dataclass(frozen=True, slots=True)
class _Rows:
    """The columns of a stream, each one array of the same length, as far as they could be brought to one form.

    Attributes:
        types: a dictionary of texts.
        type_codes: int16, null where the type is unknown.
        times_us: int64; null where the time is missing, out of range or finer than a microsecond.
        times: as they were sent.
        offsets: int16; null where it does not exist.
        sent_offsets: as they were sent; those of `offsets` where none were.
        properties: `{}` where there were none.
    """

    users: pa.Array
    sessions: pa.Array
    types: pa.Array
    type_codes: pa.Array
    times_us: pa.Array
    times: pa.Array
    offsets: pa.Array
    sent_offsets: pa.Array
    properties: pa.Array

    def __len__(self) -> int:
        return len(self.times)

    def part(self, take: Callable[[pa.Array], pa.Array]) -> _Rows:
        """Some of the rows: *take* is applied to each column."""
        return _Rows(*(take(getattr(self, name)) for name in _Rows.__slots__))


class ArrowParser:
    """Parses Arrow streams against one schema and one set of limits."""

    def __init__(self, schema: ActionSchema, limits: SubmissionLimits, *, body_bytes_max: int, rows_max: int) -> None:
        """Take the limits of an action from *limits*; those of a stream are *body_bytes_max* and *rows_max*."""
        self.schema = schema
        self.body_bytes_max = body_bytes_max
        self.rows_max = rows_max
        self._limits = limits
        self._names = tuple(schema.action_types)
        self._codes = {name: code for code, name in enumerate(self._names)}
        self._type_dictionary = pa.array(self._names, pa.string())
        self._promotion = Promotion(schema)
        self._passed_over = (RESERVED_COLUMNS | {one.name for one in schema.promoted_fields}) - {*_REQUIRED, *_OPTIONAL}

    def parse(self, body: bytes, *, now_us: int, check_users: CheckUsers | None = None) -> ParsedBody:
        """Parse one stream.

        Args:
            body: the stream, decompressed as far as its transport is concerned.
            now_us: the clock.
            check_users: is called with all users of the stream, each once, before anything is judged.

        Raises:
            SubmissionTooLarge: it has more bytes, when decompressed, or more rows than allowed.
            InvalidSubmission: it is no Arrow stream, a column is missing, unknown or of a wrong type, or more than
                `REJECTIONS_MAX` rows are wrong.
            Exception: what *check_users* raises.
        """
        table = self._read(body)
        submissions: list[Submission] = []
        rejections: list[Rejection] = []
        rows = self._rows(table, now_us)
        if check_users is not None:
            check_users(pc.unique(rows.users).to_pylist())
        for start in range(0, len(rows), CHUNK_ROWS):
            submission = self._judge(_slice(rows, start, CHUNK_ROWS), start, now_us, rejections)
            if submission is not None:
                submissions.append(submission)
        rejections.sort(key=lambda one: one.index or 0)
        return ParsedBody(tuple(submissions), tuple(rejections))

    # Reading

    def _read(self, body: bytes) -> pa.Table:
        """Read the columns that count, each whole and in one piece."""
        if len(body) > self.body_bytes_max:
            raise SubmissionTooLarge(f"the body is larger than {self.body_bytes_max} bytes")
        try:
            if decompressed_bytes(body) > self.body_bytes_max:
                raise SubmissionTooLarge(
                    f"the stream is larger than {self.body_bytes_max} bytes when it is decompressed"
                )
            with pa.ipc.open_stream(pa.py_buffer(body)) as reader:
                names = self._column_names(reader.schema)
                for name in names:
                    # The name of a time zone is decoded only when it is asked for, and may be no text.
                    getattr(reader.schema.field(name).type, "tz", None)
                batches: list[pa.RecordBatch] = []
                rows = 0
                for batch in reader:
                    rows += batch.num_rows
                    if rows > self.rows_max:
                        raise SubmissionTooLarge(f"the stream has more than {self.rows_max} rows")
                    chosen = batch.select(names)
                    chosen.validate(full=True)
                    batches.append(chosen)
                schema = pa.schema([reader.schema.field(name) for name in names])
            table = pa.Table.from_batches(batches, schema)
            if len(batches) > 1:
                table = table.unify_dictionaries().combine_chunks()
        except InvalidSubmission:
            raise
        except (pa.ArrowException, MalformedStream, OSError, ValueError, KeyError, OverflowError, MemoryError) as error:
            raise InvalidSubmission(f"the body is not an Arrow IPC stream: {error}") from error
        return table

    def _column_names(self, schema: pa.Schema) -> list[str]:
        names = schema.names
        for name in names:
            if names.count(name) > 1:
                raise InvalidSubmission("is there twice", parameter=name)
            if name not in _REQUIRED and name not in _OPTIONAL and name not in self._passed_over:
                raise InvalidSubmission("is no column of the table; send what it holds in properties", parameter=name)
        for name in _REQUIRED:
            if name not in names:
                raise InvalidSubmission("is missing", parameter=name)
        return [name for name in (*_REQUIRED, *_OPTIONAL) if name in names]

    def _rows(self, table: pa.Table, now_us: int) -> _Rows:
        n = table.num_rows

        def column(name: str) -> pa.Array | None:
            if name not in table.column_names:
                return None
            chunked = table[name]
            return chunked.chunk(0) if chunked.num_chunks == 1 else chunked.combine_chunks()

        times = column("time")
        users, sessions, properties = (self._texts(name, column(name), n) for name in _TEXT_COLUMNS)
        types = self._types(column("type"))
        sent_offsets = column("utc_offset_minutes")
        offsets = _offsets(sent_offsets, n)
        codes = [
            self._codes.get(name.lower()) if name and name.isascii() else None for name in types.dictionary.to_pylist()
        ]
        return _Rows(
            users=users,
            sessions=sessions,
            types=types,
            type_codes=pa.array(codes, pa.int16()).take(types.indices),
            times_us=self._times_us(times, now_us),
            times=times,
            offsets=offsets,
            sent_offsets=offsets if sent_offsets is None else sent_offsets,
            properties=pc.fill_null(properties, "{}"),
        )

    def _texts(self, name: str, column: pa.Array | None, n: int) -> pa.StringArray:
        """Bring a column of texts to `string`; null where it is absent.

        Raises:
            SubmissionTooLarge: it takes more than `body_bytes_max` bytes. A dictionary or a view may name one long
                text many times.
        """
        if column is None or pa.types.is_null(column.type):
            return pa.nulls(n, pa.string())
        type_ = column.type
        size = 0
        if pa.types.is_dictionary(type_) and _is_text(type_.value_type):
            column = pa.DictionaryArray.from_arrays(column.indices, _cast_texts(column.dictionary, pa.large_string()))
            lengths = pc.binary_length(column.dictionary).take(column.indices)
            size = pc.sum(lengths).as_py() or 0
        elif pa.types.is_string_view(type_):
            size = sum(view.as_buffer().size for view in column if view.is_valid)
        elif not _is_text(type_):
            raise InvalidSubmission(f"must be texts, and is {type_}", parameter=name)
        if size > self.body_bytes_max:
            raise SubmissionTooLarge(f"is larger than {self.body_bytes_max} bytes", parameter=name)
        return _cast_texts(column, pa.string())

    def _types(self, column: pa.Array) -> pa.DictionaryArray:
        if pa.types.is_dictionary(column.type) and _is_text(column.type.value_type):
            return column
        return self._texts("type", column, len(column)).dictionary_encode()

    def _times_us(self, times: pa.Array, now_us: int) -> pa.Array:
        type_ = times.type
        if not pa.types.is_timestamp(type_) or type_.tz is None:
            raise InvalidSubmission(f"must be a timestamp with a time zone, and is {type_}", parameter="time")
        per_second = _UNITS_PER_SECOND[type_.unit]
        latest = (now_us + self._limits.time_ahead_us_max) * per_second // 1_000_000
        units = times.view(pa.int64())
        kept = pc.and_(pc.greater_equal(units, 0), pc.less_equal(units, latest))
        if per_second > 1_000_000:
            whole = pc.divide(units, 1_000)
            return pc.if_else(pc.and_(kept, pc.equal(pc.multiply(whole, 1_000), units)), whole, None)
        return pc.multiply(pc.if_else(kept, units, None), 1_000_000 // per_second)

    # Judging

    def _judge(self, rows: _Rows, first: int, now_us: int, rejections: list[Rejection]) -> Submission | None:
        """Encode those of at most `CHUNK_ROWS` rows that are right; the others go to *rejections*."""
        indices: Sequence[int] = range(first, first + len(rows))
        suspect = self._suspects(rows)
        if suspect.true_count:
            rows, indices = self._without_wrong(rows, indices, suspect, now_us, rejections)
        try:
            promoted = self._promotion.arrays(rows.type_codes, rows.properties) if len(rows) else {}
        except NotAllJson:
            everyone = pa.array([True] * len(rows))
            rows, indices = self._without_wrong(rows, indices, everyone, now_us, rejections)
            promoted = self._promotion.arrays(rows.type_codes, rows.properties) if len(rows) else {}
        if not len(rows):
            return None
        batch = pa.record_batch(
            {
                "user_id": rows.users,
                "session_id": rows.sessions,
                "time": rows.times_us,
                "utc_offset_minutes": rows.offsets,
                "type": pa.DictionaryArray.from_arrays(rows.type_codes, self._type_dictionary),
                "properties": rows.properties,
                **promoted,
            }
        )
        return Submission(BATCH_USER, None, len(rows), encode_batch(batch))

    def _suspects(self, rows: _Rows) -> pa.BooleanArray:
        """Tell which rows have to be looked at one by one; those that are left out are right but for their JSON."""
        limits = self._limits
        texts = rows.properties
        user_bytes = pc.binary_length(rows.users)
        no_object = pc.invert(pc.starts_with(texts, "{"))
        flags = [
            pc.is_null(rows.type_codes),
            pc.is_null(rows.times_us),
            pc.is_null(rows.offsets),
            pc.or_(pc.equal(user_bytes, 0), pc.greater(user_bytes, limits.id_bytes_max)),
            pc.greater(pc.fill_null(pc.binary_length(rows.sessions), 0), limits.id_bytes_max),
            pc.greater(pc.binary_length(texts), limits.properties_bytes_max),
            no_object,
        ]
        # Counting brackets bounds the depth from above; each object has at least one.
        depth_max = limits.depth_max - LEVELS_OF_PROPERTIES
        if no_object.true_count or _brackets(texts) > len(texts) - 1 + depth_max:
            brackets = pc.add(pc.count_substring(texts, "{"), pc.count_substring(texts, "["))
            flags.append(pc.greater(brackets, depth_max))
        suspect = flags[0]
        for flag in flags[1:]:
            suspect = pc.or_(suspect, flag)
        return pc.fill_null(suspect, fill_value=True)

    def _without_wrong(
        self, rows: _Rows, indices: Sequence[int], suspect: pa.BooleanArray, now_us: int, rejections: list[Rejection]
    ) -> tuple[_Rows, Sequence[int]]:
        """Look at the suspect rows one by one; leave out those that are wrong, and correct what can be."""
        keep = [True] * len(rows)
        trimmed: dict[int, str] = {}
        for place in pc.indices_nonzero(suspect).to_pylist():
            text = rows.properties[place].as_py().strip(_JSON_SPACE)
            wrong = self._why(rows, place, text, now_us)
            if wrong is None:
                if text != rows.properties[place].as_py():
                    trimmed[place] = text
                continue
            keep[place] = False
            rejections.append(self._rejection(rows, place, indices[place], text, *wrong))
            if len(rejections) > REJECTIONS_MAX:
                raise InvalidSubmission(
                    f"more than {REJECTIONS_MAX} rows are wrong, the first at {rejections[0].index}:"
                    f" {rejections[0].message}"
                )
        if trimmed:
            texts = rows.properties.to_pylist()
            for place, text in trimmed.items():
                texts[place] = text
            rows = replace(rows, properties=pa.array(texts, pa.string()))
        mask = pa.array(keep)
        return rows.part(lambda column: column.filter(mask)), [i for i, kept in zip(indices, keep, strict=True) if kept]

    def _why(self, rows: _Rows, place: int, text: str, now_us: int) -> tuple[str, str] | None:
        """Return code and message for a row that is wrong, in the order in which `storage.submission` looks."""
        limits = self._limits
        if not rows.users[place].as_py():
            return "bad_action", "user_id is missing or empty"
        encoded = text.encode()
        for name, value, size_max in (
            ("user_id", rows.users[place].as_py().encode(), limits.id_bytes_max),
            ("session_id", (rows.sessions[place].as_py() or "").encode(), limits.id_bytes_max),
            ("properties", encoded, limits.properties_bytes_max),
        ):
            if len(value) > size_max:
                return "too_large", f"{name} has {len(value)} bytes; {size_max} are allowed"
        problem = _json_problem(encoded, limits.depth_max - LEVELS_OF_PROPERTIES)
        if problem is not None:
            return "bad_properties", problem
        if not rows.type_codes[place].is_valid:
            sent = rows.types[place].as_py()
            shown = repr(sent) if sent is None or len(sent) <= 64 else repr(sent[:64] + "…")
            return "unknown_type", f"{shown} is not one of {', '.join(self._names)}"
        return self._why_time(rows, place, now_us)

    def _why_time(self, rows: _Rows, place: int, now_us: int) -> tuple[str, str] | None:
        if not rows.offsets[place].is_valid:
            return "bad_time", f"utc_offset_minutes must lie within {_OFFSET_MINUTES_MAX} of 0"
        if rows.times_us[place].is_valid:
            return None
        time = rows.times[place]
        if not time.is_valid:
            return "bad_time", "time is missing"
        per_second = _UNITS_PER_SECOND[time.type.unit]
        if time.value < 0:
            return "time_out_of_range", "times before 1970-01-01T00:00:00Z are not kept"
        if time.value * 1_000_000 > (now_us + self._limits.time_ahead_us_max) * per_second:
            hours = self._limits.time_ahead_us_max // 3_600_000_000
            return "time_out_of_range", f"the time is more than {hours} hours ahead of the server's clock"
        return "bad_time", "finer than a microsecond; times are kept to the microsecond"

    def _rejection(self, rows: _Rows, place: int, index: int, text: str, code: str, message: str) -> Rejection:
        time = rows.times[place]
        offset = rows.offsets[place].as_py()
        per_second = _UNITS_PER_SECOND[time.type.unit]
        # A time without its offset where that does not exist: a replay must not make one up.
        action = {
            "time": None if not time.is_valid else _time_text(time.value, per_second, offset),
            **({} if offset is not None else {"utc_offset_minutes": rows.sent_offsets[place].as_py()}),
            "type": rows.types[place].as_py(),
            "properties": text if _json_problem(text.encode(), self._limits.depth_max) else msgspec.Raw(text.encode()),
        }
        user, session = rows.users[place].as_py(), rows.sessions[place].as_py()
        return Rejection(index, None, code, message, msgspec.json.encode(action), user, session)


def _cast_texts(texts: pa.Array, type_: pa.DataType) -> pa.Array:
    """Cast texts of any kind.

    What stands in the place of a null is not checked by Arrow, and a cast of views follows it all the same, out of the
    buffers and of the process. So there stand empty ones.
    """
    if pa.types.is_string_view(texts.type) and texts.null_count:
        valid = texts.is_valid().to_numpy(zero_copy_only=False)
        _, views, *buffers = texts.buffers()
        # Views have 16 bytes each, and all of them 0 stand for an empty text.
        end = texts.offset + len(texts)
        places = np.frombuffer(views, np.int64, count=2 * end).reshape(-1, 2)[texts.offset :].copy()
        places[~valid] = 0
        validity = pa.array(valid).buffers()[1]
        texts = pa.Array.from_buffers(texts.type, len(texts), [validity, pa.py_buffer(places), *buffers])
    return texts.cast(type_)


def _is_text(type_: pa.DataType) -> bool:
    return bool(pa.types.is_string(type_) or pa.types.is_large_string(type_) or pa.types.is_string_view(type_))


def _brackets(texts: pa.StringArray) -> int:
    """How many opening brackets there are in all texts together."""
    if not len(texts):
        return 0
    _, offsets, data = texts.buffers()
    first, last = (int(offset) for offset in memoryview(offsets).cast("i")[texts.offset :: len(texts)][:2])
    held = bytes(memoryview(data)[first:last])
    return held.count(b"{") + held.count(b"[")


def _offsets(column: pa.Array | None, n: int) -> pa.Array:
    """Offsets as int16: 0 where none was sent, null where it does not exist."""
    if column is None or pa.types.is_null(column.type):
        return pa.array([0], pa.int16()).take(pa.repeat(pa.scalar(0, pa.int8()), n))
    if not pa.types.is_integer(column.type):
        raise InvalidSubmission(f"must be whole minutes, and is {column.type}", parameter="utc_offset_minutes")
    minutes = pc.fill_null(column, pa.scalar(0, column.type))
    # Of the column's own type where that holds it, since no other may hold what was sent.
    limit = pa.scalar(_OFFSET_MINUTES_MAX, column.type if column.type.bit_width > 8 else pa.int16())
    within = pc.less_equal(minutes, limit)
    if pa.types.is_signed_integer(column.type):
        within = pc.and_(within, pc.greater_equal(minutes, -_OFFSET_MINUTES_MAX))
    return pc.if_else(within, minutes, None).cast(pa.int16())


def _slice(rows: _Rows, start: int, length: int) -> _Rows:
    return rows.part(lambda column: column.slice(start, length))


def _json_problem(text: bytes, depth_max: int) -> str | None:
    """Tell why a text is no JSON object of at most *depth_max* levels, or None."""
    if text.count(b"{") + text.count(b"[") > depth_max and exceeds_depth(text, depth_max):
        return "properties is nested too deep"
    try:
        _decode_object(text)
    except (msgspec.DecodeError, RecursionError) as error:
        return f"properties is not a JSON object: {error}"
    return None


def _time_text(units: int, per_second: int, offset_minutes: int | None) -> str:
    """Write a time as a client of JSON would have sent it, as far as a calendar has it; of UTC without an offset."""
    zone = datetime.timezone(datetime.timedelta(minutes=offset_minutes or 0))
    seconds, rest = divmod(units, per_second)
    try:
        at = datetime.datetime.fromtimestamp(seconds, zone)
    except (OverflowError, ValueError, OSError):
        return str(units)
    fraction = f"{rest:0{len(str(per_second)) - 1}d}".rstrip("0") if rest else ""
    text = at.replace(tzinfo=None).isoformat() + ("." + fraction if fraction else "")
    return text if offset_minutes is None else text + at.isoformat()[-6:]
