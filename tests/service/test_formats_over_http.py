"""A retrieval in every format holds the same rows in the same order, and stops when nobody reads it."""

from __future__ import annotations

import csv
import datetime
import http.client
import io
import json
import random
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from queries.file_index import RetrievalFilter
from queries.formats import Format
from queries.streaming import plan_slices
from storage.data_files import DataFile
from tests.service.running_service import RunningService, action, running_service, submission
from tests.service.test_submissions_over_http import problem

DAYS = 12


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningService]:
    """A service whose rows lie in files of several days, with the newest in the journal only."""
    with running_service(tmp_path_factory.mktemp("formats") / "data") as service:
        for half in range(2):
            for day in range(1, DAYS + 1):
                times = [f"2023-04-{day:02d}T{hour:02d}:00:00.5+02:00" for hour in range(0, 24, 2)]
                sent = [action(t, "CLICK" if n % 2 else "VIEW", n=n, text='a "b",\n=1') for n, t in enumerate(times)]
                service.submit(submission(f"=user,{half}", *sent, session=None if half else "s"))
            if half == 0:
                service.flush()
        yield service


def get(service: RunningService, format_: str, **parameters: Any) -> bytes:
    response = service.client.get("/api/retrievelogs", params={"format": format_, **parameters})
    assert response.status_code == 200, response.text
    assert response.headers["content-type"].startswith(Format(format_).media_type)
    assert int(response.headers["actionlake-total-files"]) > 0
    return response.content


@pytest.mark.parametrize("order", ["asc", "desc"])
@pytest.mark.parametrize("filters", [{"userId": "=user,0"}, {"logType": "click"}, {"logType": "view", "limit": 5}])
def test_all_formats_hold_what_json_holds(filled: RunningService, filters: dict[str, Any], order: str) -> None:
    asked = {**filters, "order": order}
    wanted = filled.retrieve(**asked).json()["logs"]
    assert wanted
    assert [json.loads(line) for line in get(filled, "ndjson", **asked).splitlines()] == wanted
    lines = list(csv.DictReader(io.StringIO(get(filled, "csv", csvRaw="true", **asked).decode(), newline="")))
    assert [
        {**one, "sessionId": one["sessionId"] or None, "properties": json.loads(one["properties"])} for one in lines
    ] == [{**one} for one in wanted]
    arrow = pa.ipc.open_stream(get(filled, "arrow", **asked)).read_all()
    parquet = get(filled, "parquet", **asked)
    for table in (arrow, pq.read_table(io.BytesIO(parquet)), pl.read_parquet(parquet).to_arrow()):
        assert table["user_id"].to_pylist() == [one["userId"] for one in wanted]
        assert [json.loads(text) for text in table["properties"].to_pylist()] == [one["properties"] for one in wanted]
    assert str(arrow.schema.field("time").type) == "timestamp[us, tz=UTC]"
    assert pd.read_parquet(io.BytesIO(parquet))["type"].tolist() == [one["type"].lower() for one in wanted]
    assert pl.read_ipc_stream(get(filled, "arrow", **asked)).height == len(wanted)


def test_formulas_are_defused_unless_asked_otherwise(filled: RunningService) -> None:
    defused = get(filled, "csv", userId="=user,0", limit=1)
    assert next(csv.DictReader(io.StringIO(defused.decode())))["userId"] == "'=user,0"
    raw = get(filled, "csv", userId="=user,0", limit=1, csvRaw="true")
    assert next(csv.DictReader(io.StringIO(raw.decode())))["userId"] == "=user,0"


def test_accept_chooses_and_nothing_is_an_empty_answer(filled: RunningService) -> None:
    response = filled.client.get("/api/retrievelogs?userId=nobody", headers={"accept": "application/x-ndjson"})
    assert (response.status_code, response.content) == (200, b"")
    assert pa.ipc.open_stream(get(filled, "arrow", userId="nobody")).read_all().num_rows == 0
    assert pq.read_table(io.BytesIO(get(filled, "parquet", userId="nobody"))).num_rows == 0
    assert get(filled, "csv", userId="nobody") == b"userId,sessionId,time,type,properties\r\n"


def test_wrong_choices_are_refused(filled: RunningService) -> None:
    assert problem(filled.retrieve(userId="u", format="xml"), 400)["errors"][0]["parameter"] == "format"
    problem(filled.client.get("/api/retrievelogs?userId=u", headers={"accept": "image/png"}), 406)
    problem(filled.retrieve(userId="u", format="csv", cursor="x"), 400)
    problem(filled.retrieve(userId="u", format="csv", csvRaw="perhaps"), 400)
    problem(filled.retrieve(format="csv"), 400)


def test_explain_shows_each_step_of_pruning(filled: RunningService) -> None:
    answer = filled.retrieve(
        userId="=user,0", logType="view", fromTime="2023-04-05T00:00:00Z", toTime="2023-04-05T23:00:00Z", explain="true"
    ).json()
    steps = [one["files"] for one in answer["explain"]["files"]]
    assert steps[0] > steps[1] >= steps[2] >= steps[3] == 1
    assert answer["explain"]["rowGroups"]["rowGroups"] == 1
    assert answer["explain"]["hotRows"] == 12 * DAYS
    assert answer["explain"]["rowGroups"]["totalRowGroups"] == steps[-2]
    nobody = filled.retrieve(userId="zzz", explain="true").json()["explain"]
    # Footers are read of the files that are left before: all of them, or none once their filters have been made.
    before, after = (one["files"] for one in nobody["files"][-2:])
    assert before in {0, nobody["files"][0]["files"]}
    assert after == nobody["rowGroups"]["rowGroups"] == 0
    assert nobody["rowGroups"]["totalRowGroups"] == before


def test_a_client_that_goes_away_stops_the_stream(filled: RunningService, tmp_path: Path) -> None:
    for _ in range(100):  # More than may be under way at once: each must have been given back.
        connection = http.client.HTTPConnection(filled.url.removeprefix("http://"))
        connection.request("GET", "/api/retrievelogs?logType=click&format=ndjson")
        connection.getresponse().read(10)
        connection.close()
    deadline = time.monotonic() + 120
    while filled.retrieve(logType="click", format="ndjson").status_code != 200:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert "Traceback" not in filled.log()


def test_slices_cover_all_time_once_and_name_every_file_that_can_hold_it() -> None:
    rnd = random.Random(7)
    day_us = 86_400_000_000
    for _ in range(200):
        files: list[DataFile] = []
        for _ in range(rnd.randrange(0, 12)):
            day = rnd.randrange(19_000, 19_006)
            low = day * day_us + rnd.randrange(day_us)
            high = rnd.randrange(low, (day + 1) * day_us)
            date = datetime.date(1970, 1, 1) + datetime.timedelta(days=day)
            files.append(DataFile(f"f{len(files)}", 1, rnd.randrange(1, 5_000), date, "click", low, high + 1000))
        asked = RetrievalFilter()
        if rnd.random() < 0.5:
            bounds = sorted(rnd.randrange(18_999 * day_us, 19_007 * day_us) for _ in range(2))
            asked = RetrievalFilter(None, None, bounds[0], bounds[1])
            files = [f for f in files if f.time_max_us >= bounds[0] and f.time_min_us <= bounds[1]]
        rows_max = rnd.choice([500, 3_000, 10_000])
        slices = plan_slices(files, asked, rows_max=rows_max)
        # Each file is read once, and a slice of several days has no more rows than it may.
        assert sum(len(one.files) for one in slices) == len(files)
        for one in slices:
            assert sum(file.rows for file in one.files) <= rows_max or len({file.date for file in one.files}) == 1
        for before, after in pairwise(slices):
            assert after.from_us == before.to_us + 1
        if asked.from_us is not None:
            assert (slices[0].from_us, slices[-1].to_us) == (asked.from_us, asked.to_us)
        else:
            assert slices[0].from_us == 0
            assert slices[-1].to_us > 19_010 * day_us
        for one in slices:
            for file in files:
                overlaps = file.time_min_us <= one.to_us and file.time_max_us - 1000 >= one.from_us
                assert not overlaps or file in one.files
