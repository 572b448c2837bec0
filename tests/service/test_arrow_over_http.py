"""The bulk route over HTTP: rows of an Arrow stream are durable, visible, kept once, and wrong ones are named."""

from __future__ import annotations

from typing import Any

import httpx
import pyarrow as pa
import zstandard

from service.submissions import ARROW
from tests.service.running_service import RunningService
from tests.service.test_submissions_over_http import problem
from tests.storage.arrow_rows import rows, stream_of


def send(service: RunningService, body: bytes, **headers: str) -> httpx.Response:
    """POST a stream."""
    return service.submit(body, content_type=ARROW, **headers)


def of_user(user: str, count: int = 3, **columns: Any) -> pa.Table:
    """Good rows of one user."""
    return rows(count, user_id=pa.array([user] * count), **columns)


def test_rows_are_visible_before_and_after_a_flush(service: RunningService) -> None:
    response = send(service, stream_of(of_user("bulk-1", 30), compression="lz4"))
    assert (response.status_code, response.json()) == (200, {"status": "submitted", "accepted": 30, "rejected": []})
    logs = service.retrieve_all(userId="bulk-1")
    assert len(logs) == 30
    assert logs[0]["properties"] == {"locationX": 52, "locationY": 1.10}
    assert (logs[1]["type"], logs[1]["time"]) == ("VIEW", "2024-03-01T11:00:00.000001-01:00")
    service.flush()
    assert service.retrieve_all(userId="bulk-1") == logs


def test_what_is_retrieved_as_arrow_may_be_sent_again(service: RunningService) -> None:
    send(service, stream_of(of_user("bulk-2", 10)))
    got = service.retrieve(userId="bulk-2", format="arrow")
    again = send(service, got.content)
    assert (again.status_code, again.json()["accepted"]) == (200, 10)
    logs = service.retrieve_all(userId="bulk-2")
    assert logs[::2] == logs[1::2]


def test_the_same_key_stores_once(service: RunningService) -> None:
    body = stream_of(of_user("bulk-3"))
    packed = zstandard.ZstdCompressor().compress(body)
    first = send(service, body, idempotency_key="bulk")
    again = send(service, packed, idempotency_key="bulk", content_encoding="zstd")
    assert first.content == again.content
    assert len(service.retrieve_all(userId="bulk-3")) == 3
    problem(send(service, stream_of(of_user("bulk-3", 4)), idempotency_key="bulk"), 422)


def test_wrong_rows_are_named_and_the_others_kept(service: RunningService) -> None:
    response = send(service, stream_of(of_user("bulk-4", type=pa.array(["click", "hover", "view"]))))
    assert response.status_code == 200
    answer = response.json()
    assert (answer["accepted"], [(one["index"], one["code"]) for one in answer["rejected"]]) == (
        2,
        [(1, "unknown_type")],
    )
    assert len(service.retrieve_all(userId="bulk-4")) == 2


def test_what_is_no_stream_of_the_tables_columns_is_a_problem(service: RunningService) -> None:
    problem(send(service, b"nonsense"), 400)
    answer = send(service, stream_of(of_user("bulk-5", color=pa.array(["red"] * 3))))
    problem(answer, 400)
    assert answer.json()["errors"][0]["parameter"] == "color"
    assert not service.retrieve_all(userId="bulk-5")
