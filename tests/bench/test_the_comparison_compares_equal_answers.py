"""A comparison is of contenders that give the same answers to the same questions, and ends when one does not."""

from __future__ import annotations

import sqlite3
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pytest

from bench.comparison.actions import ComparedActions
from bench.comparison.battery import ASKED
from bench.comparison.catalogue import ACTIONLAKE, BY_NAME, CONTENDERS
from bench.comparison.family import ContenderProcess
from bench.comparison.measuring import Effort, ask_warm, check_answers, figures_of, opened, percentile
from bench.comparison.preparation import PreparedData
from bench.comparison.questions import Question
from bench.comparison.workload import ratios_to_clickhouse
from bench.errors import BenchFailed
from tests.faults.effort import repetitions

TINY = ComparedActions(4_000, days=4)
# A comparison itself checks all answers before it times any; the short form leaves out servers that take long to start.
_ALL = bool(repetitions(suite=0, long=1))
_SLOW_TO_START = {"clickhouse", "clickhouse-by-time", "postgresql"}


@pytest.fixture(scope="module")
def contenders() -> Iterator[list[ContenderProcess]]:
    with tempfile.TemporaryDirectory(prefix="bench-compared-") as folder:
        # PostgreSQL runs as somebody else when these tests run as root, so that pytest's own folders are closed to it.
        Path(folder).chmod(0o755)
        data = PreparedData(Path(folder), TINY, still_s=0)
        entries = [one for one in CONTENDERS if one.absence() is None and (_ALL or one.name not in _SLOW_TO_START)]
        data.prepare(entries, lambda share, note: None)
        with opened(data, entries) as processes:
            yield processes


def test_everybody_who_is_installed_gives_the_same_answers_and_is_timed(contenders: list[ContenderProcess]) -> None:
    assert {"actionlake", "actionlake-in-process", "duckdb", "polars", "sqlite"} <= {
        one.entry.name for one in contenders
    }
    for asked in ASKED:
        questions = asked.questions(TINY)[:: max(1, len(asked.questions(TINY)) // 2)]
        asking = [one for one in contenders if one.answers(questions)]
        assert check_answers(asking, questions, lambda share: None) > 0, asked.name
        seconds = ask_warm(asking, questions[:1], Effort(warm_rounds=1, warm_s_max=0.01), lambda share: None)
        assert all(len(one) >= 1 and min(one) > 0 for one in seconds.values()), asked.name
    for one in contenders:
        assert one.sizes()["data_bytes"] > 10_000, one.entry.name


def test_another_answer_ends_the_comparison(contenders: list[ContenderProcess]) -> None:
    class Wrong(ContenderProcess):
        def rows(self, question: Question) -> list[tuple[Any, ...]]:
            return contenders[0].rows(question)[:-1]

    wrong = Wrong(BY_NAME["sqlite"], Path())
    questions = ASKED[0].questions(TINY)[:1]
    with pytest.raises(BenchFailed, match="the first that differs is row"):
        check_answers([contenders[0], wrong], questions, lambda share: None)


def test_a_contender_that_fails_ends_the_comparison(contenders: list[ContenderProcess]) -> None:
    with pytest.raises(BenchFailed, match="could not ask"):
        contenders[0].rows(Question("user", user="u-1", type="no such type"))


def test_what_is_whole_is_used_again_and_what_was_interrupted_is_made_anew(tmp_path: Path) -> None:
    data, sqlite = PreparedData(tmp_path, TINY, still_s=0), BY_NAME["sqlite"]
    told: list[str] = []
    data.prepare([sqlite], lambda share, note: told.append(note))
    assert any("SQLite" in note for note in told)
    database = data.folder_of(sqlite) / "actions.sqlite"
    made_ns = database.stat().st_mtime_ns
    assert data.is_ready([sqlite])
    told.clear()
    data.prepare([sqlite], lambda share, note: told.append(note))
    assert told == ["ready"]
    assert database.stat().st_mtime_ns == made_ns
    # As if it had been killed while it loaded.
    (data.folder / "sqlite.json").unlink()
    database.write_bytes(b"the beginning of a database")
    assert not data.is_ready([sqlite])
    data.prepare([sqlite], lambda share, note: None)
    assert sqlite3.connect(database).execute("SELECT count(*) FROM actions").fetchone() == (TINY.actions,)


def test_the_same_arguments_give_the_same_actions_each_once() -> None:
    first, again = ([one for pair in ComparedActions(400, days=4).tables() for one in pair] for _ in range(2))
    assert first == again
    positions = sorted(position for table in first for position in table["position"].to_pylist())
    assert positions == list(range(1, 401))


def test_actions_come_in_sessions_of_one_user_each_acknowledged_at_once_on_one_day() -> None:
    actions = pa.concat_tables([one for pair in ComparedActions(40_000, days=4).tables() for one in pair])
    assert actions.num_rows == 40_000
    sessions = actions.group_by("session_id").aggregate(
        [("user_id", "count_distinct"), ("date", "count_distinct"), ("received_at", "count_distinct"), ("time", "max")]
    )
    assert pc.max(sessions["user_id_count_distinct"]).as_py() == 1
    assert pc.max(sessions["date_count_distinct"]).as_py() == 1
    # The few of one user that begin within one second have one name, and are two requests.
    assert pc.mean(sessions["received_at_count_distinct"]).as_py() < 1.01
    assert 3.1 < actions.num_rows / sessions.num_rows < 3.5
    assert pc.all(pc.greater(actions["received_at"], actions["time"])).as_py()
    assert pc.equal(actions["date"], actions["time"].cast(pa.date32())).combine_chunks().true_count == 40_000


def test_figures_are_medians_and_percentiles_in_milliseconds() -> None:
    assert figures_of("a", [0.001, 0.002, 0.009], "warm") == {
        "a.warm_p50_ms": 2.0,
        "a.warm_p99_ms": 9.0,
        "a.warm_answers": 3.0,
    }
    assert percentile([float(value) for value in range(1, 201)], 0.99) == 198.0


def test_ratios_are_to_the_faster_and_to_the_smaller_clickhouse() -> None:
    figures = {
        f"{ACTIONLAKE.name}.warm_p50_ms": 4.0, f"{ACTIONLAKE.name}.data_bytes": 6.0,
        f"{ACTIONLAKE.name}.caches_bytes": 6.0, "clickhouse.warm_p50_ms": 8.0, "clickhouse.data_bytes": 12.0,
        "clickhouse-by-time.warm_p50_ms": 2.0, "clickhouse-by-time.data_bytes": 10.0,
    }  # fmt: skip
    assert ratios_to_clickhouse(figures) == {
        "to_clickhouse": 0.5,
        "to_clickhouse-by-time": 2.0,
        "to_faster_clickhouse": 2.0,
        "bytes_to_smaller_clickhouse": 0.6,
        "bytes_with_caches_to_smaller_clickhouse": 1.2,
    }
