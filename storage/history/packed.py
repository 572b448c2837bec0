"""The columns of a run's parts: nothing is in them that follows from something else there.

Only this package reads runs, so that their columns may differ from a data file's where that is smaller:

- `properties` is null where its text follows from the type and the promoted columns, which is told by making it again
  and comparing: see `Shape`.
- `time` is in milliseconds where all times of the part are whole ones.
- `journal` is told by the footer where all rows of the part have the same.
- Instead of `received_at` there is `received_after_us`, counted from `time`; null where the row was received together
  with the one before it in the row group.

Where a part's rows do not allow it (a null that is the row's own, texts too long to be made), a column is as in a data
file.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any, Final

import msgspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from storage.history.shapes import Shape, find_shapes, made_texts
from storage.schema import TIMESTAMP

# A user's rows are decoded with those of the users beside it: measured at 0.9 to 1.5 ms, 3.9 with five times as many.
ROW_GROUP_ROWS: Final = 4096
_NOTES_KEY: Final = b"actionlake"
_RECEIVED: Final = "received_at"
_RECEIVED_AFTER: Final = "received_after_us"
_TIME_MS: Final = pa.timestamp("ms", tz="UTC")
_US_A_MS: Final = 1000
# Below this share of different values a dictionary is smaller than texts one after the other.
_REPEATED_SHARE: Final = 0.25
_QUICK_LEVEL: Final = 1
_TIGHT_LEVEL: Final = 15

# Texts are made for all rows of a part at once, in one array of Arrow's, which holds 2 GiB.
_MADE_BYTES_MAX: Final = 1 << 30


class CopyDamaged(Exception):
    """A file of a run is not what the manifest says."""


class Notes(msgspec.Struct, frozen=True):
    """What a part's footer tells of its columns.

    Attributes:
        shapes: of the texts that are to be made.
        journal: of all rows; None where there is a column of it.
    """

    shapes: dict[str, Shape]
    journal: str | None


_decoder: Final = msgspec.json.Decoder(Notes)


def pack(rows: pa.Table, *, row_group_rows: int = ROW_GROUP_ROWS) -> tuple[pa.Table, Notes]:
    """Return rows as a part holds them, and what its footer is to tell.

    Args:
        rows: all of the part, in its order, with all columns of the table but the date.
        row_group_rows: how they are written; each row group can be unpacked by itself.
    """
    shapes = find_shapes(rows) if not rows["properties"].null_count else {}
    if rows.nbytes + rows.num_rows * max((one.length for one in shapes.values()), default=0) > _MADE_BYTES_MAX:
        shapes = {}
    if shapes:
        differs = pc.not_equal(rows["properties"], made_texts(rows, shapes))
        # Where no text can be made the comparison is null, and the text stays as well.
        own = pc.if_else(pc.coalesce(differs, True), rows["properties"], pa.scalar(None, pa.string()))
        rows = _with(rows, "properties", own)
    times: npt.NDArray[np.int64] = rows["time"].cast(pa.int64()).to_numpy()
    if not rows[_RECEIVED].null_count:
        received: npt.NDArray[np.int64] = rows[_RECEIVED].cast(pa.int64()).to_numpy()
        together = np.zeros(len(times), np.bool_)
        together[1:] = received[1:] == received[:-1]
        together[::row_group_rows] = False
        place = rows.column_names.index(_RECEIVED)
        rows = rows.set_column(place, _RECEIVED_AFTER, pa.array(received - times, mask=together))
    if not (times % _US_A_MS).any():
        rows = _with(rows, "time", rows["time"].cast(_TIME_MS))
    journals = pc.unique(rows["journal"])
    journal = journals[0].as_py() if len(journals) == 1 else None
    return rows if journal is None else rows.drop_columns("journal"), Notes(shapes, journal)


def footer_metadata(notes: Notes) -> dict[bytes, bytes]:
    """Write what a footer is to tell."""
    return {_NOTES_KEY: msgspec.json.encode(notes)}


def _with(rows: pa.Table, name: str, column: pa.ChunkedArray) -> pa.Table:
    return rows.set_column(rows.column_names.index(name), name, column)


def writing_options(packed: pa.Table, *, tight: bool) -> dict[str, Any]:
    """Tell pyarrow's writer how to encode and compress the columns of a part; *tight* for parts that stay."""
    first = packed.slice(0, ROW_GROUP_ROWS)
    encodings = {one.name: _encoding(first[one.name], one) for one in packed.schema}
    return {
        "compression": "zstd",
        "compression_level": _TIGHT_LEVEL if tight else _QUICK_LEVEL,
        "column_encoding": {name: one for name, one in encodings.items() if one is not None},
        "use_dictionary": [name for name, one in encodings.items() if one is None],
        "write_page_checksum": True,
    }


def _encoding(column: pa.ChunkedArray, field: pa.Field) -> str | None:
    """The encoding of a column; None for a dictionary."""
    if field.name == "position":
        return "DELTA_BINARY_PACKED"
    if field.name == "user_id":
        return "PLAIN"
    if pa.types.is_string(field.type):
        different = pc.count_distinct(column, mode="only_valid").as_py()
        return None if different <= _REPEATED_SHARE * (len(column) - column.null_count) else "DELTA_LENGTH_BYTE_ARRAY"
    if field.type in (TIMESTAMP, _TIME_MS, pa.float64(), pa.int64()):
        # The leading bytes of numbers, each beside those of its neighbours, are nearly all that can be made smaller.
        return "BYTE_STREAM_SPLIT"
    return "PLAIN" if pa.types.is_boolean(field.type) else None


def notes_of(metadata: Mapping[bytes, bytes] | None) -> Notes:
    """Read what a footer tells.

    Raises:
        CopyDamaged: it tells nothing, or something else.
    """
    try:
        return _decoder.decode((metadata or {})[_NOTES_KEY])
    except (KeyError, msgspec.DecodeError) as error:
        raise CopyDamaged(f"a footer does not tell how the part is packed: {error}") from error


def us_of_times(stored: pa.Schema) -> int:
    """How many microseconds the unit of a part's `time` is, which its statistics are in."""
    return 1 if stored.field("time").type == TIMESTAMP else _US_A_MS


def stored_columns(
    wanted: Sequence[str], stored: Collection[str], notes: Notes, *, action_type: str | None = None
) -> list[str]:
    """The columns of a part that are to be read for those that are *wanted*, which it has.

    Args:
        wanted: as a data file has them.
        stored: that the part has.
        notes: of the part.
        action_type: rows of no other type are wanted.
    """
    needed = dict.fromkeys(wanted)
    if "properties" in needed and notes.shapes:
        needed["type"] = None
        for type_, shape in notes.shapes.items():
            if action_type in (None, type_):
                needed |= dict.fromkeys(shape.columns)
    if _RECEIVED in needed and _RECEIVED not in stored:
        del needed[_RECEIVED]
        needed |= dict.fromkeys(("time", _RECEIVED_AFTER))
    if notes.journal is not None:
        needed.pop("journal", None)
    return list(needed)


def unpack_times(read: pa.Table) -> pa.Table:
    """Give whole row groups, as they were read, `time` and `received_at` as a data file has them.

    Raises:
        CopyDamaged: they begin with a row that was received together with another.
    """
    if read.schema.field("time").type != TIMESTAMP:
        read = _with(read, "time", read["time"].cast(TIMESTAMP))
    if _RECEIVED_AFTER in read.column_names:
        # Null where a row came with the one before it; the first row of a row group never is.
        received = pc.fill_null_forward(pc.add(read["time"].cast(pa.int64()), read[_RECEIVED_AFTER]))
        if received.null_count:
            raise CopyDamaged("a row group begins with a row that follows another")
        place = read.column_names.index(_RECEIVED_AFTER)
        read = read.set_column(place, _RECEIVED, received.cast(TIMESTAMP))
    return read


def unpack_journal(rows: pa.Table, notes: Notes) -> pa.Table:
    """Give some rows their `journal` where the footer tells it."""
    if notes.journal is None:
        return rows
    return rows.append_column("journal", pa.repeat(pa.scalar(notes.journal, pa.string()), rows.num_rows))


def unpack_properties(rows: pa.Table, notes: Notes) -> pa.Table:
    """Give some rows, of which `unpack_times` has had all, the texts of `properties` where these are to be made.

    Raises:
        CopyDamaged: a text cannot be made.
    """
    if not notes.shapes or "properties" not in rows.column_names or not rows["properties"].null_count:
        return rows
    texts = made_texts(rows, notes.shapes)
    if rows["properties"].null_count < rows.num_rows:
        texts = pc.coalesce(rows["properties"], texts)
    if texts.null_count:
        raise CopyDamaged("a part has rows without properties")
    return _with(rows, "properties", texts)
