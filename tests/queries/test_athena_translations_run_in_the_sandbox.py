"""What the dialect makes of Athena's SQL passes the guard of the SQL sandbox, and has the same values there."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pyarrow as pa
import pytest

from queries.athena.dialect import Translation, translate
from queries.athena.errors import QueryError
from queries.athena.failures import failure
from queries.athena.macros import MACROS
from queries.athena.values import texts
from queries.sql import SqlPool, SqlRequest, TableView
from storage.errors import InvalidInput
from tests.queries import test_athena_collections_answer_as_trino as collections
from tests.queries import test_athena_numbers_answer_as_trino as numbers
from tests.queries import test_athena_queries_answer_as_trino as queries
from tests.queries import test_athena_text_answers_as_trino as text
from tests.queries import test_athena_times_answer_as_trino as times
from tests.queries.athena_answers import Row, catalog
from tests.queries.athena_engine import SCHEMA, action_rows, actions_table

FAMILIES: dict[str, Sequence[tuple[str, str | None]]] = {
    "strings": text.STRINGS,
    "formats": text.FORMATS,
    "regular expressions": text.REGULAR_EXPRESSIONS,
    "urls": text.URLS,
    "bytes": text.BYTES,
    "types": numbers.TYPES,
    "bits": numbers.BITS,
    "arithmetic": numbers.ARITHMETIC,
    "casts": numbers.CASTS,
    "comparisons": numbers.COMPARISONS,
    "intervals": times.INTERVALS,
    "time formats": times.FORMATS,
    "time zones": times.ZONES,
    "fields of times": times.FIELDS,
    "dates": times.DATES,
    "rows": collections.ROWS,
    "arrays": collections.ARRAYS,
    "maps": collections.MAPS,
    "lambdas": collections.LAMBDAS,
    "json": collections.JSON,
}
BATCH = 40


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SqlPool]:
    folder = tmp_path_factory.mktemp("sandbox")
    (folder / "data").mkdir()
    (folder / "temp").mkdir()
    with SqlPool(
        data_folder=folder / "data", temp_folder=folder / "temp", schema=SCHEMA, workers=1, macros=MACROS
    ) as made:
        yield made


def _run(pool: SqlPool, translation: Translation) -> list[Row]:
    view = TableView(files=(), hot=actions_table(), schema=SCHEMA.table_schema)
    try:
        with pool.run(SqlRequest(translation.sql), view) as result:
            table = pa.Table.from_batches(list(result), result.schema)
    except InvalidInput as error:
        raise failure(str(error)) from error
    cells = [texts(data, column.type) for data, column in zip(table.columns, translation.columns, strict=True)]
    return list(zip(*cells, strict=True))


@pytest.mark.parametrize("family", FAMILIES)
def test_expressions_have_the_same_values_in_the_sandbox(pool: SqlPool, family: str) -> None:
    cases = FAMILIES[family]
    for start in range(0, len(cases), BATCH):
        batch = cases[start : start + BATCH]
        translation = translate("SELECT " + ", ".join(expression for expression, _ in batch), catalog())
        [found] = _run(pool, translation)
        for (expression, expected), value in zip(batch, found, strict=True):
            assert value == expected, expression


@pytest.mark.parametrize(("query", "expected"), [(query, expected) for query, expected, _ in queries.QUERIES])
def test_queries_have_the_same_rows_in_the_sandbox(pool: SqlPool, query: str, expected: list[Row]) -> None:
    assert _run(pool, translate(query, catalog())) == expected


def test_the_table_its_views_and_its_partitions_are_read_in_the_sandbox(pool: SqlPool) -> None:
    actions = action_rows()
    for source, count in {
        "actions": len(actions),
        "clicks": sum(row["type"] == "click" for row in actions),
        '"actions$partitions"': len({(row["date"], row["type"]) for row in actions}),
        "information_schema.tables where table_name = 'actions'": 1,
    }.items():
        assert _run(pool, translate(f"select count(*) from {source}", catalog())) == [(str(count),)]


@pytest.mark.parametrize(
    ("expression", "code"),
    [(expression, code) for expression, code, _ in [*text.FAILURES, *collections.FAILURES] if code != "NOT_SUPPORTED"],
)
def test_failures_are_the_same_in_the_sandbox(pool: SqlPool, expression: str, code: str) -> None:
    with pytest.raises(QueryError) as raised:
        _run(pool, translate(f"select {expression}", catalog()))
    assert raised.value.code == code
