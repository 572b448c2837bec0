"""A query that takes too much is stopped within a second of its limit and says which; the next one is answered."""

from __future__ import annotations

import contextlib
import dataclasses
import threading
import time
from collections.abc import Iterator

import pytest

from queries.sql import (
    Cancellation,
    SqlCancelled,
    SqlError,
    SqlLimits,
    SqlRequest,
    SqlResult,
    SqlTimeout,
    SqlTooLarge,
)
from storage.errors import Overloaded
from tests.machine_delay import MachineDelay, machine_delay
from tests.queries.sql_tables import Sandbox, make_rows, sandbox, write_table
from tests.storage.building import eventually

TIMEOUT_S = 0.4
GRACE_S = 1.0
PATIENT_TIMEOUT_S = 60.0
# A busy machine may make even a small query too slow for the limit.
ANSWERED_WITHIN_S = 120.0
LIMITS = SqlLimits(
    memory_bytes_max=128 << 20,
    threads=2,
    temp_bytes_max=32 << 20,
    timeout_s=TIMEOUT_S,
    result_bytes_max=4 << 20,
    rows_max=300_000,
)

ENDLESS = [
    "SELECT count(*) FROM range(1000000) a, range(1000000) b",
    "SELECT count(*) FROM actions a, actions b, actions c, actions d, actions e",
    "WITH RECURSIVE t(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM t) SELECT count(*) FROM t",
    "WITH RECURSIVE t(n) AS (SELECT 1 UNION ALL SELECT n FROM t) SELECT * FROM t",
    "SELECT sum(hash(i)) FROM range(100000000000) t(i)",
    "SELECT levenshtein(repeat('a', 100000), repeat('b', 100000))",
    "SELECT list_reduce(range(30000000), lambda a, b: a + b)",
    "SELECT count(*) FROM range(100000) t(i) WHERE regexp_matches(repeat('ab', 5000) || i, '(a|b|ab)*c')",
    "SELECT i FROM range(100000000000) t(i) WHERE i < 0",
    "EXPLAIN ANALYZE SELECT count(*) FROM range(1000000) a, range(1000000) b",
    "SELECT * FROM actions WHERE position = (SELECT count(*) FROM range(1000000) a, range(1000000) b)",
]
TOO_LARGE = [
    ("SELECT list(i) FROM range(1000000000) t(i)", {"memory_bytes_max"}),
    ("SELECT array_agg(repeat('x', 10000)) FROM range(1000000)", {"memory_bytes_max"}),
    ("SELECT repeat('x', 3000000000)", {"memory_bytes_max"}),
    ("SELECT list_sum(range(1000000000))", {"memory_bytes_max"}),
    ("SELECT unnest(range(4000000000))", {"memory_bytes_max"}),
    ("SELECT string_agg(repeat('x', 1000), ',') FROM range(10000000)", {"memory_bytes_max"}),
    ("SELECT reservoir_quantile(position, 0.5, 2000000000) FROM actions", {"memory_bytes_max"}),
    ("SELECT hash(i) AS h FROM range(40000000) t(i) ORDER BY h", {"temp_bytes_max", "memory_bytes_max"}),
    ("SELECT repeat('x', 1000) FROM range(100000)", {"result_bytes_max"}),
    ("SELECT * FROM range(10000000)", {"rows_max", "result_bytes_max"}),
    ("SELECT 1 FROM range(10000000)", {"rows_max"}),
]


@pytest.fixture(scope="module")
def delay() -> Iterator[MachineDelay]:
    with machine_delay() as measured:
        yield measured


@pytest.fixture(scope="module")
def patient(sql: Sandbox, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sandbox]:
    """The same limits, but time enough to reach each of them on a busy machine."""
    limits = dataclasses.replace(LIMITS, timeout_s=PATIENT_TIMEOUT_S)
    with sandbox(sql.table, tmp_path_factory.mktemp("patient"), limits, workers=2) as one:
        yield one


@pytest.fixture(scope="module")
def sql(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sandbox]:
    table = write_table(tmp_path_factory.mktemp("table") / "actions", make_rows(days=2, per_file=100))
    with sandbox(table, tmp_path_factory.mktemp("temp"), LIMITS, workers=2, wait_s_max=10.0) as one:
        yield one


def _read_slowly(result: SqlResult) -> None:
    for _ in result:
        time.sleep(0.01)


def _answer(sql: Sandbox, statement: str) -> list[tuple[object, ...]]:
    """The rows of a small query, asked again where a busy machine made even that too slow for the limit."""
    deadline = time.monotonic() + ANSWERED_WITHIN_S
    while time.monotonic() < deadline:
        # One that ended late was killed, and the next worker may be slow to come.
        with contextlib.suppress(SqlTimeout, Overloaded):
            return sql.ask(statement).rows
    return sql.ask(statement).rows


def _begun(sql: Sandbox, statement: str) -> SqlResult:
    """An answer of which the first rows have come, asked for again where even they were too slow for the limit."""
    deadline = time.monotonic() + ANSWERED_WITHIN_S
    while True:
        try:
            result = sql.pool.run(SqlRequest(statement), sql.view)
            next(result)
        except (SqlTimeout, Overloaded):
            assert time.monotonic() < deadline
        else:
            return result


@pytest.mark.parametrize("statement", ENDLESS)
def test_an_endless_query_is_stopped_at_its_time_limit(sql: Sandbox, delay: MachineDelay, statement: str) -> None:
    def ask() -> None:
        began = time.monotonic()
        with pytest.raises(SqlTimeout) as raised:
            sql.ask(statement)
        assert time.monotonic() - began >= TIMEOUT_S
        assert (raised.value.limit, raised.value.timeout_s) == ("timeout_s", TIMEOUT_S)
        assert "timeout_s" in str(raised.value)

    assert delay.seconds(ask) < TIMEOUT_S + GRACE_S
    assert _answer(sql, "SELECT count(*) FROM actions") == [(600,)]


@pytest.mark.parametrize(("statement", "limits"), TOO_LARGE)
def test_a_query_that_needs_too_much_names_the_limit(patient: Sandbox, statement: str, limits: set[str]) -> None:
    with pytest.raises(SqlTooLarge) as raised:
        patient.ask(statement)
    assert raised.value.limit in limits
    assert raised.value.value == getattr(LIMITS, raised.value.limit)
    assert raised.value.limit in str(raised.value)
    assert patient.ask("SELECT count(*) FROM actions").rows == [(600,)]


def test_a_reader_that_does_not_read_is_cut_off_too(sql: Sandbox) -> None:
    with _begun(sql, "SELECT repeat('x', 50) FROM range(1000000)") as result:
        time.sleep(2 * TIMEOUT_S)
        with pytest.raises(SqlTimeout):
            list(result)
    assert _answer(sql, "SELECT 1") == [(1,)]


def test_an_answer_that_nobody_reads_holds_no_more_than_a_few_batches(patient: Sandbox) -> None:
    """Back-pressure: the worker waits, and does not get to the row that would end the query with an error."""
    statement = "SELECT CASE WHEN n = 250000 THEN error('too far') ELSE repeat('x', 200) END FROM range(300000) t(n)"
    with patient.pool.run(SqlRequest(statement), patient.view) as result:
        first = next(result)
        time.sleep(0.2)
        second = next(result)
        assert first.num_rows == 2048, "the first rows do not wait for others"
        assert second.num_rows * 200 < 2 * 1024 * 1024, "later ones travel in messages of a bounded size"
    assert patient.ask("SELECT 1").rows == [(1,)]


def test_closing_an_answer_early_stops_the_query(patient: Sandbox, delay: MachineDelay) -> None:
    # More queries than there are workers, each of which would run for a minute.
    for _ in range(4):
        result = patient.pool.run(SqlRequest("SELECT i FROM range(100000000000) t(i)"), patient.view)
        next(result)
        assert delay.seconds(result.close) < GRACE_S
    assert patient.ask("SELECT 1").rows == [(1,)]
    result = patient.pool.run(SqlRequest("SELECT 1"), patient.view)
    result.close()
    result.close()
    assert list(result) == []


def test_another_thread_cancels_a_query_that_has_not_answered_yet(patient: Sandbox, delay: MachineDelay) -> None:
    cancellation = Cancellation()
    running = threading.Event()
    ended: list[BaseException] = []

    def ask() -> None:
        running.set()
        try:
            patient.ask("SELECT count(*) FROM range(1000000) a, range(1000000) b", cancellation=cancellation)
        except SqlCancelled as error:
            ended.append(error)

    asking = threading.Thread(target=ask)
    asking.start()
    running.wait()
    time.sleep(0.1)

    def cancel() -> None:
        cancellation.cancel()
        asking.join()

    assert delay.seconds(cancel) < GRACE_S
    assert ended
    assert patient.ask("SELECT 1").rows == [(1,)]


def test_another_thread_cancels_an_answer_on_its_way(patient: Sandbox) -> None:
    with patient.pool.run(SqlRequest("SELECT i FROM range(100000000000) t(i)"), patient.view) as result:
        next(result)
        timer = threading.Timer(0.05, result.cancel)
        timer.start()
        with pytest.raises(SqlCancelled):
            _read_slowly(result)
        timer.join()
    assert patient.ask("SELECT 1").rows == [(1,)]


def test_a_query_cancelled_before_it_began_does_not_begin(sql: Sandbox) -> None:
    cancellation = Cancellation()
    cancellation.cancel()
    with pytest.raises(SqlCancelled):
        sql.ask("SELECT 1", cancellation=cancellation)


def test_more_queries_than_may_wait_are_turned_away_and_the_others_answered(sql: Sandbox) -> None:
    table = sql.table
    folder = table.folder.parent / "busy"
    folder.mkdir()
    limits = dataclasses.replace(LIMITS, timeout_s=PATIENT_TIMEOUT_S)
    with sandbox(table, folder, limits, workers=1, waiting_max=1, wait_s_max=0.1) as busy:
        with busy.pool.run(SqlRequest("SELECT i FROM range(100000000000) t(i)"), busy.view) as holding:
            next(holding)
            with pytest.raises(Overloaded, match=r"0\.1 s"):
                busy.ask("SELECT 1")
        assert _answer(busy, "SELECT 1") == [(1,)]
    with (
        sandbox(table, folder, limits, workers=1, waiting_max=0) as busy,
        busy.pool.run(SqlRequest("SELECT i FROM range(100000000000) t(i)"), busy.view) as holding,
    ):
        next(holding)
        with pytest.raises(Overloaded, match="wait for one of 1 workers"):
            busy.ask("SELECT 1")


def test_runaways_and_small_queries_at_once(sql: Sandbox) -> None:
    """One worker is kept busy by runaways; the other goes on answering."""
    stop = threading.Event()
    stopped: list[type[BaseException]] = []

    def run_away() -> None:
        while not stop.is_set():
            try:
                sql.ask("SELECT count(*) FROM range(1000000) a, range(1000000) b")
            except SqlTimeout as error:
                stopped.append(type(error))
            except Overloaded:
                # The other worker is asked all the time, and the place of one that was killed may be empty for long.
                continue

    runaway = threading.Thread(target=run_away)
    runaway.start()
    try:
        eventually(lambda: len(sql.pool.worker_pids(idle=True)) < len(sql.pool.worker_pids()))
        answers = [_answer(sql, "SELECT count(*) FROM actions WHERE date = '2024-01-02'") for _ in range(50)]
    finally:
        stop.set()
        runaway.join()
    assert answers == [[(300,)]] * 50
    assert stopped


def test_wrong_sql_is_told_apart_from_a_runaway(patient: Sandbox) -> None:
    with pytest.raises(SqlError):
        patient.ask("SELECT repeat('x', 1000000) + 1 FROM range(100)")
