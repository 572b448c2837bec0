"""Actions as SQL expressions: what a retrieval selects, so that DuckDB makes the texts and no Python runs per row.

All expressions are over the columns of the table `actions` by their names, and for a connection whose TimeZone is UTC.
"""

from __future__ import annotations

from typing import Final

from queries.formats.media_types import Format
from queries.formats.spreadsheet_formulas import FORMULA_START, LINE_STARTS, SIGNS
from storage.schema import ActionSchema

CSV_HEADER: Final = b"userId,sessionId,time,type,properties\r\n"
_FORMULA_STARTS: Final = ", ".join(str(ord(one)) for one in SIGNS + LINE_STARTS)
# What stands between these is shown by all programs, and is nothing but itself.
_PLAIN: Final = (ord("!"), ord("~"))
_MUST_BE_QUOTED: Final = ("'\"'", "','", "chr(10)", "chr(13)")


def time_text_sql() -> str:
    """The RFC 3339 text of `time` with the offset that it was submitted with.

    The offset zero is `Z`; there are no, 3 or 6 digits of a second's fraction, the fewest that hold it.
    """
    local = "make_timestamp(epoch_us(time) + utc_offset_minutes::BIGINT * 60000000)"
    seconds = "%Y-%m-%dT%H:%M:%S"
    distance = "abs(utc_offset_minutes)"
    return (
        f"CASE WHEN epoch_us(time) % 1000000 = 0 THEN strftime({local}, '{seconds}')"
        f" WHEN epoch_us(time) % 1000 = 0 THEN strftime({local}, '{seconds}.%g')"
        f" ELSE strftime({local}, '{seconds}.%f') END"
        f" || CASE WHEN utc_offset_minutes = 0 THEN 'Z' ELSE"
        f" CASE WHEN utc_offset_minutes < 0 THEN '-' ELSE '+' END || lpad(({distance} // 60)::VARCHAR, 2, '0')"
        f" || ':' || lpad(({distance} % 60)::VARCHAR, 2, '0') END"
    )


def action_json_sql(*, one_line: bool = False) -> str:
    """The JSON text of an action: `{"userId":…,"sessionId":…,"time":…,"type":…,"properties":…}`.

    The text of `properties` is put in as it is stored. With *one_line* the line ends that it may hold between its
    tokens become spaces; inside a JSON string there are none.
    """
    return (
        f"'{{\"userId\":' || {_quoted_json('user_id')}"
        f" || ',\"sessionId\":' || coalesce({_quoted_json('session_id')}, 'null')"
        f' || \',"time":"\' || {time_text_sql()}'
        f' || \'","type":\' || {_quoted_json("upper(type)")}'
        f" || ',\"properties\":' || {_on_one_line('properties') if one_line else 'properties'} || '}}'"
    )


def action_csv_sql(*, raw: bool = False) -> str:
    """The line of CSV, without its end, of an action: the columns of `CSV_HEADER`.

    Null is an empty cell. Unless *raw*, a text that a spreadsheet would take for a formula has an apostrophe in front.
    """
    cells = (
        _csv_cell("user_id", raw=raw),
        _csv_cell("session_id", raw=raw),
        time_text_sql(),
        _csv_cell("upper(type)", raw=raw),
        _csv_cell("properties", raw=raw),
    )
    return " || ',' || ".join(f"({cell})" for cell in cells)


def action_columns_sql(schema: ActionSchema) -> str:
    """All columns of the table, typed as they are, for Arrow and Parquet."""
    return ", ".join(f'"{name}"' for name in schema.table_schema.names)


def action_stream_sql(format_: Format, schema: ActionSchema, *, csv_raw: bool = False) -> str:
    """What to select for a streamed retrieval.

    For NDJSON and CSV that is one column `line`, for `encode_lines` (CSV with `CSV_HEADER`); for Arrow and Parquet the
    typed columns, for `encode`.

    Raises:
        ValueError: JSON is answered in pages, of `action_json_sql`.
    """
    match format_:
        case Format.NDJSON:
            return f"{action_json_sql(one_line=True)} || chr(10) AS line"
        case Format.CSV:
            return f"{action_csv_sql(raw=csv_raw)} || chr(13) || chr(10) AS line"
        case Format.ARROW | Format.PARQUET:
            return action_columns_sql(schema)
        case Format.JSON:
            raise ValueError("JSON is not streamed")


def _quoted_json(expression: str) -> str:
    return f"json_quote({expression})::VARCHAR"


def _on_one_line(expression: str) -> str:
    # Looking first is four times as fast as replacing always.
    return (
        f"CASE WHEN contains({expression}, chr(10)) OR contains({expression}, chr(13))"
        f" THEN translate({expression}, chr(10) || chr(13), '  ') ELSE {expression} END"
    )


def _csv_cell(expression: str, *, raw: bool) -> str:
    quoted = f"replace({expression}, '\"', '\"\"') || '\"'"
    # Looking at one character first is many times as fast as a pattern.
    is_formula = (
        f"ord({expression}) IN ({_FORMULA_STARTS}) OR ord({expression}) NOT BETWEEN {_PLAIN[0]} AND {_PLAIN[1]}"
        f" AND regexp_matches({expression}, '{FORMULA_START}')"
    )
    defused = "" if raw else f" WHEN {is_formula} THEN '\"''' || {quoted}"
    needs_quotes = " OR ".join([f"contains({expression}, {one})" for one in _MUST_BE_QUOTED] + [f"{expression} = ''"])
    return (
        f"CASE WHEN {expression} IS NULL THEN ''{defused}"
        f" WHEN {needs_quotes} THEN '\"' || {quoted} ELSE {expression} END"
    )
