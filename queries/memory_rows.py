"""A page whose rows are all in memory already: chosen by Arrow and written by Python, without a query.

DuckDB needs 4 to 5 ms to plan and run the query that turns a hundred rows into JSON texts; this takes half of one.
The texts are the same, byte for byte, as those of `queries.action_rows`; a test compares them.
"""

from __future__ import annotations

import json
import re
from typing import Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from queries.file_index import RetrievalFilter
from queries.sources import Order, PageBounds

# Beyond these DuckDB is faster.
MEMORY_ROWS_MAX: Final = 300_000
TEXTS_MAX: Final = 2_001
_quoted: Final = json.encoder.encode_basestring
# Control characters whose number has a letter in it, and no escape of their own.
_IN_CAPITALS: Final = re.compile("[\x0b\x0e\x0f\x1a-\x1f]")


def page_rows(memory: pa.Table, asked: RetrievalFilter, page: PageBounds) -> pa.Table:
    """Choose the rows of a page, and put them into its order.

    Args:
        memory: rows with the columns of `queries.retrieval.ROW_COLUMNS` at least; perhaps more rows than are asked for.
        asked: which rows.
        page: the order, how many rows at the most, and the row that they follow.
    """
    keep = wanted_among(memory, asked)
    if asked.action_type is not None:
        keep = _both(keep, pc.equal(memory["type"], asked.action_type))
    if page.beyond is not None:
        keep = _both(keep, _following(memory, page.order, page.beyond))
    return _first_in_order(memory if keep is None else memory.filter(keep), page)


def wanted_among(rows: pa.Table, asked: RetrievalFilter) -> pa.ChunkedArray | None:
    """Tell which rows are of the users and the time that are asked for; None where all are.

    Args:
        rows: with `time`, and with `user_id` where that is asked for.
        asked: which rows; its type is no matter.
    """
    keep = None
    if asked.user_id is not None:
        keep = pc.equal(rows["user_id"], asked.user_id)
    if asked.user_prefix is not None:
        keep = _both(keep, pc.starts_with(rows["user_id"], asked.user_prefix))
    if asked.from_us is not None or asked.to_us is not None:
        times = rows["time"].cast(pa.int64())
        if asked.from_us is not None:
            keep = _both(keep, pc.greater_equal(times, asked.from_us))
        if asked.to_us is not None:
            keep = _both(keep, pc.less_equal(times, asked.to_us))
    return keep


def _both(one: pa.ChunkedArray | None, other: pa.ChunkedArray) -> pa.ChunkedArray:
    return other if one is None else pc.and_(one, other)


def _following(rows: pa.Table, order: Order, beyond: tuple[int, str, int]) -> pa.ChunkedArray:
    time_us, journal, position = beyond
    times = rows["time"].cast(pa.int64())
    after = pc.greater if order == "asc" else pc.less
    same_journal = pc.and_(pc.equal(rows["journal"], journal), after(rows["position"], position))
    same_time = pc.and_(pc.equal(times, time_us), pc.or_(after(rows["journal"], journal), same_journal))
    return pc.or_(after(times, time_us), same_time)


def _first_in_order(rows: pa.Table, page: PageBounds) -> pa.Table:
    """The first rows by time, journal and position; those of copies come ordered by it, mostly, which is soon seen."""
    ascending = page.order == "asc"
    times = _numbers(rows["time"].cast(pa.int64()))
    if np.all(times[1:] > times[:-1]):
        rows = rows.slice(0, page.rows) if ascending else rows.slice(max(0, len(times) - page.rows))
        return rows if ascending else rows.take(np.arange(rows.num_rows - 1, -1, -1))
    if len(times) > page.rows:
        # Sorting by three columns is for the rows that can be among the first.
        at = page.rows - 1 if ascending else len(times) - page.rows
        last = np.partition(times, at)[at]
        rows = rows.filter(pa.array(times <= last if ascending else times >= last))
    direction = "ascending" if ascending else "descending"
    by = [("time", direction), ("journal", direction), ("position", direction)]
    return rows.take(pc.sort_indices(rows, by).slice(0, page.rows))


def json_texts(rows: pa.Table) -> list[str]:
    """The JSON text of each row."""
    users, sessions, types = (rows[name].to_pylist() for name in ("user_id", "session_id", "type"))
    # Few users, sessions and types are in many rows.
    texts = _all_quoted({*users, *sessions} - {None}) | {None: "null"}
    in_capitals = {type_: quoted(type_.upper()) for type_ in {*types}}
    return [
        f'{{"userId":{texts[user]},"sessionId":{texts[session]},'
        f'"time":"{time}","type":{in_capitals[type_]},"properties":{properties}}}'
        for user, session, time, type_, properties in zip(
            users, sessions, time_texts(rows), types, rows["properties"].to_pylist(), strict=True
        )
    ]


def _all_quoted(texts: set[str]) -> dict[str | None, str]:
    """Each text as a JSON string; looked at together first, since hardly any has something to be escaped."""
    together = "".join(texts)
    if together.isprintable() and '"' not in together and "\\" not in together:
        return {text: f'"{text}"' for text in texts}
    return {text: quoted(text) for text in texts}


def quoted(text: str) -> str:
    """A JSON string, with escapes in capitals as DuckDB writes them."""
    if _IN_CAPITALS.search(text) is None:
        return str(_quoted(text))
    return '"' + "".join(_escaped(one) for one in text) + '"'


def _escaped(character: str) -> str:
    if _IN_CAPITALS.match(character):
        return f"\\u{ord(character):04X}"
    return str(_quoted(character))[1:-1]


def time_texts(rows: pa.Table) -> list[str]:
    """The times as they were submitted: zero as `Z`; of a second no, 3 or 6 digits, the fewest that hold it.

    All at once: a date made by Python takes as long as all the rest of a row.
    """
    times = _numbers(rows["time"].cast(pa.int64()))
    offsets = _numbers(rows["utc_offset_minutes"]).astype(np.int64)
    local = np.datetime_as_string((times + offsets * 60_000_000).view("datetime64[us]"))
    fractions = times % 1_000_000
    lengths = np.where(fractions == 0, 19, np.where(fractions % 1000 == 0, 23, 26))
    zones = {offset: _zone(offset) for offset in np.unique(offsets).tolist()}
    return [
        f"{text[:length]}{zones[offset]}"
        for text, length, offset in zip(local.tolist(), lengths.tolist(), offsets.tolist(), strict=True)
    ]


def _zone(offset_minutes: int) -> str:
    if not offset_minutes:
        return "Z"
    hours, minutes = divmod(abs(offset_minutes), 60)
    return f"{'-' if offset_minutes < 0 else '+'}{hours:02d}:{minutes:02d}"


def _numbers(column: pa.ChunkedArray) -> npt.NDArray[np.int64]:
    numbers: npt.NDArray[np.int64] = column.to_numpy()
    return numbers
