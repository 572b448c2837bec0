"""With keys, pages of configured origins may use the service with a key of theirs, and no other reads an answer."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
import pytest

from service.cors import Cors
from tests.service.keys import ALLOWED_ORIGIN, KeyedService
from tests.service.running_service import action, submission

OTHER_ORIGIN = "https://evil.example"
ROUTES = ["/api/submitlogs", "/api/retrievelogs", "/api/sql", "/"]


def preflight(keyed: KeyedService, path: str, origin: str) -> httpx.Response:
    headers = {
        "origin": origin,
        "access-control-request-method": "POST",
        "access-control-request-headers": "authorization,content-type",
    }
    return keyed.client.options(path, headers=headers)


def cors_headers(response: httpx.Response) -> dict[str, str]:
    return {name: value for name, value in response.headers.items() if name.startswith("access-control-")}


@pytest.mark.parametrize("path", ROUTES)
def test_a_browser_is_told_what_a_page_of_an_allowed_origin_may_send(keyed: KeyedService, path: str) -> None:
    answer = preflight(keyed, path, ALLOWED_ORIGIN)
    assert answer.status_code == 204
    assert answer.headers["access-control-allow-origin"] == ALLOWED_ORIGIN
    assert "origin" in answer.headers["vary"]
    assert {"GET", "POST", "DELETE"} <= set(answer.headers["access-control-allow-methods"].split(", "))
    allowed = answer.headers["access-control-allow-headers"].split(", ")
    assert {"authorization", "content-type", "idempotency-key", "x-amz-target"} <= set(allowed)
    assert "access-control-allow-credentials" not in answer.headers


@pytest.mark.parametrize("path", ROUTES)
@pytest.mark.parametrize("origin", [OTHER_ORIGIN, "null", ALLOWED_ORIGIN + ".evil.example", "http://app.example"])
def test_a_browser_is_told_that_other_pages_may_send_nothing(keyed: KeyedService, path: str, origin: str) -> None:
    answer = preflight(keyed, path, origin)
    assert answer.status_code == 403
    assert cors_headers(answer) == {}


def test_an_allowed_page_reads_answers_and_refusals(keyed: KeyedService) -> None:
    for key in (keyed.keys.all, None):
        for path in ("/api/retrievelogs?userId=x", "/api/submitlogs", "/nothing"):
            answer = keyed.call("GET", path, key, headers={"origin": ALLOWED_ORIGIN})
            assert answer.headers["access-control-allow-origin"] == ALLOWED_ORIGIN, path
            assert "retry-after" in answer.headers["access-control-expose-headers"]
    sent = keyed.submit(submission("page", action("2004-01-01T00:00:00Z")), origin=ALLOWED_ORIGIN)
    assert (sent.status_code, sent.headers["access-control-allow-origin"]) == (200, ALLOWED_ORIGIN)


def test_another_page_reads_nothing_and_needs_a_key_as_well(keyed: KeyedService) -> None:
    answer = keyed.call("GET", "/api/retrievelogs?userId=x", keyed.keys.all, headers={"origin": OTHER_ORIGIN})
    assert cors_headers(answer) == {}
    simple = keyed.client.post(
        "/api/flush", headers={"origin": OTHER_ORIGIN, "content-type": "text/plain"}, content=b"{}"
    )
    assert simple.status_code == 401


def test_programs_get_no_cors_headers(keyed: KeyedService) -> None:
    answer = keyed.call("GET", "/health/live", None)
    assert cors_headers(answer) == {}
    assert "vary" not in answer.headers


def test_the_origins_are_those_configured_now_and_a_star_is_any() -> None:
    origins: list[str] = []
    cors = Cors(lambda: origins)
    assert not cors.allows(b"https://a.example")
    origins.append("https://a.example")
    assert cors.allows(b"https://a.example")
    assert not cors.allows(b"https://b.example")
    origins.append("*")
    assert cors.allows(b"https://b.example")
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    asyncio.run(cors.answer_preflight(send, b"https://b.example"))
    assert (b"access-control-allow-origin", b"https://b.example") in sent[0]["headers"]
