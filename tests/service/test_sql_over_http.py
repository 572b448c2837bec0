"""POST /api/sql answers one SELECT over everything acknowledged, and says what is wrong with any other."""

from __future__ import annotations

import io
import json
import threading
import time
from collections.abc import Iterator
from typing import Any

import httpx
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.machine_delay import machine_delay
from tests.service.running_service import RunningService, action, running_service, submission
from tests.service.test_submissions_over_http import problem

TIMEOUT_S = 2


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningService]:
    """Five users on two days, the last one in the journal only."""
    flags = (
        "--sql-workers",
        "2",
        "--sql-timeout-ms-max",
        str(TIMEOUT_S * 1000),
        "--sql-memory-bytes-max",
        str(256 * 1024 * 1024),
    )
    with running_service(tmp_path_factory.mktemp("sql") / "data", *flags) as service:
        for number in range(5):
            if number == 4:
                service.flush()
            for day in (1, 2):
                time_ = f"2023-04-0{day}T10:00:00Z"
                sent = [action(time_, "CLICK", locationX=number), action(time_, "VIEW", viewedId=f"=v{number}")]
                service.submit(submission(f"user-{number}", *sent))
        yield service


def sql(service: RunningService, text: str, query: str = "", **body: Any) -> httpx.Response:
    """Ask; and again where a busy machine made the query too late for its limit, or has not got a worker yet."""
    deadline = time.monotonic() + 180
    while True:
        answer = service.client.post(f"/api/sql{query}", json={"sql": text, **body})
        if answer.status_code not in (408, 503) or time.monotonic() > deadline:
            return answer


def rows(response: httpx.Response) -> list[dict[str, Any]]:
    assert response.status_code == 200, response.text
    found: list[dict[str, Any]] = response.json()["rows"]
    return found


def test_rows_columns_and_statistics_are_answered(served: RunningService) -> None:
    response = sql(served, "SELECT type, count(*) AS n FROM actions GROUP BY type ORDER BY type")
    body = response.json()
    assert body["columns"] == [{"name": "type", "type": "VARCHAR"}, {"name": "n", "type": "BIGINT"}]
    assert body["rows"] == [{"type": "click", "n": 10}, {"type": "view", "n": 10}]
    statistics = body["statistics"]
    assert statistics["scannedFiles"] == statistics["totalFiles"] == 4
    assert statistics["scannedBytes"] > 0
    assert statistics["elapsedMs"] > 0
    assert response.headers["actionlake-scanned-bytes"] == str(statistics["scannedBytes"])


def test_hot_rows_parameters_and_views_are_there(served: RunningService) -> None:
    assert rows(sql(served, "SELECT location_x FROM clicks WHERE user_id = ? LIMIT 1", parameters=["user-4"])) == [
        {"location_x": 4.0}
    ]
    named = sql(served, "SELECT count(*) AS n FROM actions WHERE user_id = $u", parameters={"u": "user-1"})
    assert rows(named) == [{"n": 4}]
    assert rows(sql(served, "SELECT actions FROM sessions WHERE user_id = 'user-0'")) == [{"actions": 4}]
    daily = sql(served, "SELECT users FROM daily_activity WHERE type = 'view' ORDER BY date")
    assert rows(daily) == [{"users": 5}, {"users": 5}]
    names = {one["name"] for one in rows(sql(served, "SHOW TABLES"))}
    assert {"actions", "clicks", "views", "navigations", "sessions", "daily_activity"} <= names


def test_max_rows_cuts_exactly_and_says_so(served: RunningService) -> None:
    answer = sql(served, "SELECT * FROM actions", maxRows=3).json()
    assert len(answer["rows"]) == 3
    assert answer["statistics"]["truncated"] is True
    assert sql(served, "SELECT 1 AS one", maxRows=1).json()["statistics"]["truncated"] is False
    assert len(rows(sql(served, "SELECT * FROM range(20000)"))) == 10_000


def test_values_arrive_as_duckdb_has_them(served: RunningService) -> None:
    """Above all those that its plain Arrow cannot hold: they came without their zone, negative, or as bytes."""
    expressions = {
        "time": "TIMETZ '12:34:56+05:30'",
        "unsigned": f"{2**128 - 1}::UHUGEINT",
        "signed": f"{2**127 - 1}::HUGEINT",
        "bits": "'101'::BIT",
        "json": """'{"a": 1}'::JSON""",
        "uuid": "'00112233-4455-6677-8899-aabbccddeeff'::UUID",
        "flag": "[true, NULL]",
        "row": "row(1, 'x')",
    }
    text = "SELECT " + ", ".join(f"{sql} AS {name}" for name, sql in expressions.items())
    assert rows(sql(served, text)) == [
        {
            "time": "12:34:56+05:30",
            "unsigned": 2**128 - 1,
            "signed": 2**127 - 1,
            "bits": "101",
            "json": {"a": 1},
            "uuid": "00112233-4455-6677-8899-aabbccddeeff",
            "flag": [True, None],
            "row": {"": 1, "_1": "x"},
        }
    ]


@pytest.mark.parametrize("format_", ["arrow", "parquet"])
def test_a_number_that_a_format_cannot_hold_is_400_and_no_broken_stream(served: RunningService, format_: str) -> None:
    refused = sql(served, f"SELECT {2**127 - 1}::HUGEINT AS n", f"?format={format_}")
    assert "more than 38 digits" in problem(refused, 400)["detail"]


def test_every_format_holds_the_same_rows(served: RunningService) -> None:
    text = "SELECT user_id, viewed_id, location_x FROM actions ORDER BY ALL"
    wanted = rows(sql(served, text))
    assert [json.loads(line) for line in sql(served, text, "?format=ndjson").text.splitlines()] == wanted
    assert pa.ipc.open_stream(sql(served, text, "?format=arrow").content).read_all().to_pylist() == wanted
    assert pq.read_table(io.BytesIO(sql(served, text, "?format=parquet").content)).to_pylist() == wanted
    assert "'=v1" in sql(served, text, "?format=csv").text
    assert "'=v1" not in sql(served, text, "?format=csv&csvRaw=true").text


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("SELECT user_id, date FROM actions WHERE user_id = 'nobody'", ["user_id", "date"]),
        ("SELECT i, repeat('x', 20) AS text FROM range(50000) t(i)", ["i", "text"]),
        ("SELECT sum(i) AS sum FROM range(10) t(i)", ["sum"]),
        ("SELECT 1 AS a, 2 AS a", ["a", "a_1"]),
    ],
)
def test_an_arrow_answer_is_whole_whether_or_not_it_is_passed_on_as_it_is(
    served: RunningService, text: str, names: list[str]
) -> None:
    answer = sql(served, text, "?format=arrow", maxRows=100_000).content
    lines = sql(served, text, "?format=ndjson", maxRows=100_000).text.splitlines()
    with pa.ipc.open_stream(answer) as stream:
        table = stream.read_all()
    table.validate(full=True)
    assert (table.schema.names, table.num_rows) == (names, len(lines))
    assert answer.endswith(b"\xff\xff\xff\xff\0\0\0\0")


@pytest.mark.parametrize(
    ("text", "body", "words"),
    [
        ("", {}, []),
        ("   ", {}, []),
        ("SELEKT 1", {}, ["SELEKT"]),
        ("SELECT usr_id FROM actions", {}, ["user_id"]),
        ("SELECT 1; SELECT 2", {}, ["one"]),
        ("INSERT INTO actions SELECT * FROM actions", {}, []),
        ("SELECT ?", {}, []),
        ("SELECT ?", {"parameters": [1, 2]}, []),
        ("SELECT * FROM read_text('/etc/passwd')", {}, ["read_text"]),
        ("SELECT 1", {"maxRows": 0}, []),
        ("SELECT 1", {"maxRows": 1_000_001}, ["1000000"]),
        ("SELECT 1", {"unknown": 1}, ["unknown"]),
        ("SELECT 1", {"parameters": 5}, []),
        ("SELECT ?", {"parameters": [json.loads("[" * 500 + "]" * 500)]}, ["64"]),
        ("SELECT '" + "x" * 999_991 + "'", {}, ["999999"]),
    ],
)
def test_a_wrong_query_is_400_and_says_why(
    served: RunningService, text: str, body: dict[str, Any], words: list[str]
) -> None:
    answer = problem(sql(served, text, **body), 400)
    for word in words:
        assert word in json.dumps(answer)


def test_positions_and_suggestions_are_told(served: RunningService) -> None:
    answer = problem(sql(served, "SELECT usr_id FROM actions"), 400)
    assert answer["position"] == 7
    assert "user_id" in answer["suggestion"]


def test_a_body_that_is_no_json_object_is_refused(served: RunningService) -> None:
    problem(served.client.post("/api/sql", content=b"SELECT 1", headers={"content-type": "text/plain"}), 415)
    problem(served.client.post("/api/sql", content=b"SELECT 1", headers={"content-type": "application/json"}), 400)
    problem(served.client.post("/api/sql", json={}), 400)
    problem(served.client.post("/api/sql", json={"sql": "x" * 3_000_000}), 413)


def test_a_query_over_its_time_is_408_and_over_its_memory_413(served: RunningService) -> None:
    def ask() -> None:
        endless = {"sql": "SELECT count(*) FROM range(10000000) a, range(100000) b"}
        late = problem(served.client.post("/api/sql", json=endless), 408)
        assert late["limit"] == "timeout_s"

    with machine_delay() as delay:
        assert delay.seconds(ask) < TIMEOUT_S + 1
    large = problem(sql(served, "SELECT length(repeat('x', 2000000000 + range::INT)) AS n FROM range(3)"), 413)
    assert "limit" in large
    assert rows(sql(served, "SELECT 1 AS one")) == [{"one": 1}]


def test_submissions_go_on_while_queries_run_away(served: RunningService) -> None:
    runaways = [
        threading.Thread(
            target=lambda: httpx.post(
                f"{served.url}/api/sql",
                json={"sql": "SELECT sum(a.range) FROM range(1000000) a, range(100000) b"},
                timeout=180,
            )
        )
        for _ in range(4)
    ]
    for thread in runaways:
        thread.start()
    for number in range(20):
        assert served.submit(submission("meanwhile", action(n=number))).status_code == 200
    assert len(served.retrieve(userId="meanwhile").json()["logs"]) == 20
    for thread in runaways:
        thread.join()


def test_explain_shows_the_plan_and_what_was_pruned(served: RunningService) -> None:
    answer = sql(served, "SELECT * FROM actions WHERE date = '2023-04-01' AND type = 'click'", "?explain=true").json()
    assert [one["files"] for one in answer["explain"]["files"]][:2] == [4, 1]
    assert "PARQUET" in json.dumps(answer["rows"])


def test_answers_stay_right_while_rows_are_flushed(served: RunningService) -> None:
    wrong: list[int] = []
    right = 0
    stop = threading.Event()
    written = [0]

    def read() -> None:
        nonlocal right
        with httpx.Client(base_url=served.url, timeout=180) as client:
            while not (stop.is_set() and right):
                before = written[0]
                text = "SELECT count(*) AS n, count(DISTINCT properties) AS d FROM actions WHERE user_id = 'steady'"
                answer = client.post("/api/sql", json={"sql": text})
                if answer.status_code in (408, 503):  # On a machine that is very busy.
                    continue
                (row,) = answer.json()["rows"]
                if row["n"] == row["d"] and before <= row["n"] <= written[0] + 1:
                    right += 1
                else:
                    wrong.append(row["n"])

    reader = threading.Thread(target=read)
    reader.start()
    for number in range(60):
        served.submit(submission("steady", action(n=number)))
        written[0] += 1
        if number % 6 == 5:
            served.flush()
    stop.set()
    reader.join()
    assert wrong == []
    assert right
