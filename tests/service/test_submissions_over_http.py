"""POST /api/submitlogs keeps what is right, names what is not, and answers 200 only for what is durable and visible."""

from __future__ import annotations

import gzip
import http.client
import json
import zlib
from typing import Any

import pytest
import zstandard

from tests.service.running_service import RunningService, action, submission


def problem(response: Any, status: int) -> dict[str, Any]:
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    body: dict[str, Any] = response.json()
    assert body["status"] == status
    assert {"type", "title", "detail"} <= body.keys()
    return body


def test_a_submission_is_answered_and_visible_to_the_next_retrieval(service: RunningService) -> None:
    sent = submission("visible", action(locationX=52, locationY=11), action(type_="view", viewedId="A"))
    response = service.submit(sent)
    assert response.status_code == 200
    assert response.json() == {"status": "submitted", "accepted": 2, "rejected": []}
    logs = service.retrieve(userId="visible").json()["logs"]
    assert logs == [
        {
            "userId": "visible",
            "sessionId": "s-1",
            "time": "2018-10-20T21:37:28-06:00",
            "type": "CLICK",
            "properties": {"locationX": 52, "locationY": 11},
        },
        {
            "userId": "visible",
            "sessionId": "s-1",
            "time": "2018-10-20T21:37:28-06:00",
            "type": "VIEW",
            "properties": {"viewedId": "A"},
        },
    ]


def test_wrong_actions_are_named_and_the_others_kept(service: RunningService) -> None:
    sent = submission(
        "partial",
        action(),
        action(type_="swipe"),
        action("2018-10-20T21:37:28"),
        action("1969-12-31T23:59:59Z"),
        {"time": "2018-10-20T21:37:28Z", "type": "VIEW", "properties": [1]},
        action(big="x" * 70_000),
        "no action",  # type: ignore[arg-type]
    )
    answer = service.submit(sent).json()
    assert answer["accepted"] == 1
    assert [(one["index"], one["code"]) for one in answer["rejected"]] == [
        (1, "unknown_type"),
        (2, "bad_time"),
        (3, "time_out_of_range"),
        (4, "bad_properties"),
        (5, "too_large"),
        (6, "bad_action"),
    ]
    assert all(one["message"] for one in answer["rejected"])
    assert len(service.retrieve(userId="partial").json()["logs"]) == 1


def test_a_submission_whose_actions_are_all_wrong_is_answered_200(service: RunningService) -> None:
    response = service.submit(submission("all-wrong", action(type_="x")))
    assert response.status_code == 200
    assert response.json()["accepted"] == 0


def test_ndjson_keeps_the_right_lines_and_names_the_wrong_ones(service: RunningService) -> None:
    lines = [
        json.dumps(submission("nd-1", action())),
        "not json",
        "",
        json.dumps(submission("nd-2", action(), action(type_="x"))),
        '{"userId": 5}',
    ]
    answer = service.submit("\r\n".join(lines).encode(), content_type="application/x-ndjson").json()
    assert answer["accepted"] == 2
    assert [(one["line"], one["index"], one["code"]) for one in answer["rejected"]] == [
        (2, None, "bad_envelope"),
        (4, 1, "unknown_type"),
        (5, None, "bad_envelope"),
    ]
    assert len(service.retrieve(userId="nd-2").json()["logs"]) == 1


@pytest.mark.parametrize(
    ("body", "parameter"),
    [
        (b"", None),
        (b"not json", None),
        (b"[]", None),
        (b"null", None),
        (b"{}", "userId"),
        (b'{"userId": "", "actions": []}', "userId"),
        (b'{"userId": 7, "actions": []}', "userId"),
        (b'{"userId": "u"}', "actions"),
        (b'{"userId": "u", "actions": {}}', "actions"),
        (b'{"userId": "u", "sessionId": [], "actions": []}', "sessionId"),
        (b'{"userId": "bad-\xff", "actions": []}', None),
        (b'{"userId": "\\ud800", "actions": []}', "userId"),
        (b'{"userId": "u", "actions": [{"properties": NaN}]}', None),
        (b"[" * 100_000, None),
        (b'{"userId": "u", "actions": [{"properties": ' + b'{"a":' * 100 + b"1" + b"}" * 100 + b"}]}", "actions[0]"),
    ],
)
def test_a_wrong_envelope_is_400_and_keeps_nothing(service: RunningService, body: bytes, parameter: str | None) -> None:
    before = service.metric("actionlake_journal_head")
    answer = problem(service.submit(body), 400)
    if parameter is not None:
        assert answer["errors"][0]["parameter"] == parameter
    assert service.metric("actionlake_journal_head") == before


def test_limits_of_a_body_are_413(service: RunningService) -> None:
    problem(service.submit(b" " * 10_000_001), 413)
    problem(service.submit(submission("many", *[action()] * 10_001)), 413)
    answer = problem(service.submit(submission("u" * 257, action())), 413)
    assert answer["errors"][0]["parameter"] == "userId"
    assert service.submit(submission("é" * 128, *[action()] * 3)).status_code == 200


def test_a_chunked_body_is_bounded_as_well(service: RunningService) -> None:
    connection = http.client.HTTPConnection(service.url.removeprefix("http://"))
    connection.request(
        "POST",
        "/api/submitlogs",
        body=iter([b" " * 1_000_000] * 11),
        headers={"content-type": "application/json"},
        encode_chunked=True,
    )
    assert connection.getresponse().status == 413
    connection.close()


def test_compressed_bodies_are_taken(service: RunningService) -> None:
    body = json.dumps(submission("compressed", action())).encode()
    assert service.submit(gzip.compress(body), content_encoding="gzip").json()["accepted"] == 1
    assert (
        service.submit(gzip.compress(body[:9]) + gzip.compress(body[9:]), content_encoding="gzip").json()["accepted"]
        == 1
    )
    assert service.submit(zstandard.compress(body), content_encoding="zstd").json()["accepted"] == 1
    assert len(service.retrieve(userId="compressed").json()["logs"]) == 3


@pytest.mark.parametrize(
    ("body", "encoding", "status"),
    [
        (gzip.compress(bytes(40_000_000), 1), "gzip", 413),
        (zstandard.compress(bytes(40_000_000)), "zstd", 413),
        (zstandard.ZstdCompressor(write_content_size=False).compress(bytes(40_000_000)), "zstd", 413),
        (b"not gzip", "gzip", 400),
        (gzip.compress(b"{}", mtime=0)[:-9], "gzip", 400),
        (zstandard.compress(b'{"userId": "u"}')[:-3], "zstd", 400),
        (zlib.compress(b"{}"), "deflate", 415),
        (b"{}", "br", 415),
    ],
)
def test_damaged_and_exploding_bodies_are_refused(
    service: RunningService, body: bytes, encoding: str, status: int
) -> None:
    problem(service.submit(body, content_encoding=encoding), status)


def test_other_content_types_and_methods_are_refused(service: RunningService) -> None:
    problem(service.submit(b"{}", content_type="text/plain"), 415)
    problem(service.submit(b"{}", content_type=""), 415)
    response = service.client.put("/api/submitlogs", content=b"{}")
    problem(response, 405)
    assert response.headers["allow"] == "POST"


def test_the_same_key_and_body_stores_once(service: RunningService) -> None:
    sent = submission("idempotent", action(), action(type_="x"))
    first = service.submit(sent, idempotency_key="k-1")
    again = service.submit(sent, idempotency_key="k-1")
    assert first.status_code == again.status_code == 200
    assert first.json() == again.json()
    assert len(service.retrieve(userId="idempotent").json()["logs"]) == 1
    zipped = service.submit(gzip.compress(json.dumps(sent).encode()), content_encoding="gzip", idempotency_key="k-1")
    assert zipped.json() == first.json()
    other = problem(service.submit(submission("idempotent", action()), idempotency_key="k-1"), 422)
    assert other["errors"][0]["parameter"] == "Idempotency-Key"
    assert len(service.retrieve(userId="idempotent").json()["logs"]) == 1


@pytest.mark.parametrize("key", ["", "x" * 256, "tab\there"])
def test_an_unusable_key_is_400(service: RunningService, key: str) -> None:
    problem(service.submit(submission("keyed", action()), idempotency_key=key), 400)


ODD_TEXTS = {
    "nul": '{"a": "x\\u0000y"}',
    "large integer": '{"n": 123456789012345678901234567890}',
    "5,000 digits": '{"n": ' + "9" * 5_000 + "}",
    "trailing zero": '{"n": 1.10, "m": 1e400}',
    "duplicate keys": '{"a": 1, "a": 2}',
    "astral": '{"a": "\\ud83d\\ude00 😀"}',
    "white space": '{ "a" :\n [ 1 ,\t2 ] }',
    "nested": '{"a": ' * 50 + "1" + "}" * 50,
    "control escapes": '{"a": "\\u001f\\b\\f\\n\\r\\t\\/\\\\\\""}',
    "line separators": '{"a": "\u2028\u2029"}',
    "wrong promoted type": '{"locationX": "52", "locationY": true}',
}


@pytest.mark.parametrize("name", ODD_TEXTS)
def test_odd_properties_come_back_as_they_were_sent_before_and_after_a_flush(
    service: RunningService, name: str
) -> None:
    text = ODD_TEXTS[name]
    user = f"odd {name}"
    one = f'{{"time": "2020-01-01T00:00:00Z", "type": "click", "properties": {text}}}'
    body = f'{{"userId": "{user}", "actions": [{one}]}}'
    assert service.submit(body.encode()).json()["accepted"] == 1
    assert text in service.retrieve(userId=user).text
    service.flush()
    assert text in service.retrieve(userId=user).text


@pytest.mark.parametrize(
    ("time", "code"),
    [
        ("2018-10-20T24:00:00Z", "bad_time"),
        ("2016-12-31T23:59:60Z", "bad_time"),
        ("2018-10-20T21:37:28+0530", "bad_time"),
        ("2018-10-20T21:37:28.1234567Z", "bad_time"),
        ("0001-01-01T00:00:00Z", "time_out_of_range"),
        ("9999-12-31T23:59:59Z", "time_out_of_range"),
        ("2018-02-30T00:00:00Z", "bad_time"),
        ("", "bad_time"),
    ],
)
def test_odd_times_are_named(service: RunningService, time: str, code: str) -> None:
    answer = service.submit(submission("odd-times", action(time))).json()
    assert [one["code"] for one in answer["rejected"]] == [code]


def test_a_lone_surrogate_rejects_only_its_action(service: RunningService) -> None:
    body = (
        b'{"userId": "surrogate", "actions": [{"time": "2020-01-01T00:00:00Z", "type": "view", "properties":'
        b' {"a": "\\udc00"}}, {"time": "2020-01-01T00:00:00Z", "type": "view"}]}'
    )
    answer = service.submit(body).json()
    assert answer["accepted"] == 1
    assert [(one["index"], one["code"]) for one in answer["rejected"]] == [(0, "bad_properties")]


def test_a_client_that_leaves_in_mid_body_does_no_harm(service: RunningService) -> None:
    connection = http.client.HTTPConnection(service.url.removeprefix("http://"))
    connection.putrequest("POST", "/api/submitlogs")
    connection.putheader("content-type", "application/json")
    connection.putheader("content-length", "1000")
    connection.endheaders()
    connection.send(b'{"userId": ')
    connection.close()
    assert service.submit(submission("after-leaving", action())).status_code == 200
    assert "Traceback" not in service.log()
