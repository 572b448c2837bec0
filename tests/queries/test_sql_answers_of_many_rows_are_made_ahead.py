"""An answer that is taken at once is made further ahead than others, which read no more than is soon asked for."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from queries.sql import SqlRequest
from tests.queries.sql_tables import Sandbox, make_rows, sandbox, write_table

_ALL = "SELECT * FROM actions"


@pytest.fixture(scope="module")
def sql(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sandbox]:
    table = write_table(tmp_path_factory.mktemp("table") / "actions", make_rows(days=20, per_file=1_000))
    with sandbox(table, tmp_path_factory.mktemp("temp")) as one:
        yield one


def _bytes_read_for_one_row(sql: Sandbox, *, taken_at_once: bool) -> int:
    with sql.pool.run(SqlRequest(_ALL, max_rows=1, taken_at_once=taken_at_once), sql.view) as result:
        assert sum(batch.num_rows for batch in result) == 1
        assert result.statistics is not None
        assert result.statistics.truncated
        return result.statistics.scanned_bytes


def test_only_what_is_taken_at_once_is_made_far_ahead(sql: Sandbox) -> None:
    size_bytes = sum(one.size_bytes for one in sql.table.files)
    # The first query learns the files' footers, and reads the ends of all of them.
    _, few, many, few_again = (
        _bytes_read_for_one_row(sql, taken_at_once=at_once) for at_once in (False, False, True, False)
    )
    assert many > size_bytes * 0.6
    assert max(few, few_again) < size_bytes * 0.4, "the next query is not made as far ahead"


def test_an_answer_is_the_same_however_far_ahead_it_is_made(sql: Sandbox) -> None:
    answers = []
    for at_once in (False, True):
        with sql.pool.run(SqlRequest(_ALL, taken_at_once=at_once), sql.view) as result:
            answers.append(sorted(row["position"] for batch in result for row in batch.to_pylist()))
    assert answers[0] == answers[1] == sorted(row["position"] for row in sql.table.rows)
