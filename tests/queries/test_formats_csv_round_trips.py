"""CSV reads back as it was with the standard library, and no text in it starts a formula."""

from __future__ import annotations

import csv
import io
import unicodedata
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from queries.formats import Format, encode
from queries.formats.spreadsheet_formulas import FORMULA_START, SIGNS_ALIKE
from tests.queries.spreadsheets import ALIKE, BEFORE_SIGNS, LINE_STARTS, SIGNS, defused

NASTY = st.text(alphabet="ab=+-@\t\r\n\",;'\0 ü😀" + BEFORE_SIGNS + ALIKE, max_size=8)


def csv_of(batch: pa.RecordBatch, *, raw: bool) -> str:
    return b"".join(encode(batch.schema, iter([batch]), Format.CSV, csv_raw=raw)).decode()


def read_back(text: str) -> list[list[str]]:
    return list(csv.reader(io.StringIO(text, newline=""), strict=True))


@settings(max_examples=120, deadline=None)
@given(st.lists(st.tuples(NASTY, NASTY | st.none()), max_size=5), st.tuples(NASTY, NASTY))
def test_texts_read_back_raw_and_defused(rows: list[tuple[str, str | None]], names: tuple[str, str]) -> None:
    schema = pa.schema([pa.field(f"{names[0]}1", pa.string()), pa.field(f"{names[1]}2", pa.string())])
    batch = pa.record_batch([pa.array([row[at] for row in rows], pa.string()) for at in (0, 1)], schema=schema)
    wanted = [[f"{names[0]}1", f"{names[1]}2"], *([a, b or ""] for a, b in rows)]
    assert read_back(csv_of(batch, raw=True)) == wanted
    assert read_back(csv_of(batch, raw=False)) == [[defused(cell) for cell in row] for row in wanted]


@settings(max_examples=100, deadline=None)
@given(st.lists(NASTY | st.none(), max_size=5))
def test_a_single_column_keeps_its_rows(values: list[str | None]) -> None:
    batch = pa.record_batch({"x": pa.array(values, pa.string())})
    assert read_back(csv_of(batch, raw=True)) == [["x"], *([value or ""] for value in values)]


@pytest.mark.parametrize("start", SIGNS + LINE_STARTS + ALIKE)
def test_each_start_of_a_formula_is_defused_wherever_a_text_comes_from(start: str) -> None:
    text = f"{start}1+1"
    batch = pa.record_batch(
        {
            text: pa.array([text]),
            "large": pa.array([text], pa.large_string()),
            "view": pa.array([text], pa.string_view()),
            "word": pa.array([text]).dictionary_encode(),
        }
    )
    header, row = read_back(csv_of(batch, raw=False))
    assert header[0] == f"'{text}"
    assert row == [f"'{text}"] * 4
    assert read_back(csv_of(batch, raw=True)) == [[text, "large", "view", "word"], [text] * 4]


@pytest.mark.parametrize("before", BEFORE_SIGNS)
def test_what_a_spreadsheet_strips_before_it_looks_does_not_help(before: str) -> None:
    texts = [f"{before}=1+1", f"{before}{before}+1", f"{before}a=1", before]
    batch = pa.record_batch({f"{before}=x": pa.array(texts)})
    header, *rows = read_back(csv_of(batch, raw=False))
    assert header == [f"'{before}=x"]
    assert rows == [[f"'{before}=1+1"], [f"'{before}{before}+1"], [f"{before}a=1"], [before]]
    assert read_back(csv_of(batch, raw=True)) == [[f"{before}=x"], *([one] for one in texts)]


def test_every_character_that_counts_as_a_sign_is_one() -> None:
    characters = [chr(code) for code in range(0x110000) if not 0xD800 <= code <= 0xDFFF]
    alike = {one for one in characters if unicodedata.normalize("NFKC", one)[:1] in set(SIGNS)}
    assert alike == set(SIGNS + SIGNS_ALIKE)
    found = pc.filter(pa.array(characters), pc.match_substring_regex(pa.array(characters), FORMULA_START))
    assert set(found.to_pylist()) == alike | set(LINE_STARTS)


def test_a_minus_sign_inside_a_text_and_at_a_number_is_left_alone() -> None:
    batch = pa.record_batch({"x": pa.array(["a-b", "5=5", "'=1", "{-1}", "\u00e9=1", "\u4e00+1"])})
    assert csv_of(batch, raw=False) == csv_of(batch, raw=True)


@pytest.mark.parametrize("name", ["sep=;", "SEP=,", "sep=\t", "sep="])
def test_a_name_that_excel_takes_for_the_separator_is_defused(name: str) -> None:
    alone = pa.record_batch({name: pa.array(["a;=1"])})
    assert read_back(csv_of(alone, raw=False)) == [[f"'{name}"], ["a;=1"]]
    assert read_back(csv_of(alone, raw=True))[0] == [name]
    beside = pa.record_batch({name: pa.array(["a"]), "b": pa.array(["c"])})
    assert read_back(csv_of(beside, raw=False))[0] == [name, "b"]


def test_base64_that_starts_with_a_plus_is_defused() -> None:
    batch = pa.record_batch({"x": pa.array([b"\xf8"])})
    assert csv_of(batch, raw=False) == "x\r\n'+A==\r\n"


def test_numbers_and_times_are_never_touched() -> None:
    with duckdb.connect() as connection:
        reader = connection.execute(
            "SELECT -1 AS i, -1.5::DOUBLE AS f, -2.50::DECIMAL(4,2) AS d, DATE '-infinity' AS t, '-3'::HUGEINT AS h"
        ).to_arrow_reader(10)
        text = b"".join(encode(reader.schema, reader, Format.CSV)).decode()
    assert text == "i,f,d,t,h\r\n-1,-1.5,-2.50,-infinity,-3\r\n"


def test_a_null_differs_from_an_empty_text() -> None:
    batch = pa.record_batch({"a": pa.array(["", None]), "b": pa.array([1, 2])})
    assert csv_of(batch, raw=False) == 'a,b\r\n"",1\r\n,2\r\n'


def test_duckdb_reads_it_back(tmp_path: Path) -> None:
    path = tmp_path / "answer.csv"
    with duckdb.connect() as connection:
        query = (
            "SELECT 'a,\"b' AS x, 'line' || chr(10) || 'break' AS y, NULL::VARCHAR AS z, 1.5 AS n"
            " UNION ALL SELECT '', 'q', 'z', 2.5"
        )
        reader = connection.execute(query).to_arrow_reader(10)
        with path.open("wb") as file:
            file.writelines(encode(reader.schema, reader, Format.CSV))
        rows = connection.execute(
            "SELECT * FROM read_csv(?, allow_quoted_nulls = false) ORDER BY n", [str(path)]
        ).fetchall()
    assert [(x, y, z, float(n)) for x, y, z, n in rows] == [('a,"b', "line\nbreak", None, 1.5), ("", "q", "z", 2.5)]
