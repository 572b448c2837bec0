"""With keys every route lets in exactly those who have its scope, and a route that declares none is the admins'."""

from __future__ import annotations

import asyncio
import re
from typing import Any

import httpx
import pytest
from litestar import Litestar, get
from litestar.connection import ASGIConnection

from service.app import create_app
from service.clients import OPEN, Client, check_scope, declared_needs, set_client
from service.live_settings import LiveSettings
from service.problems import Problem
from service.sources import Sources
from storage.access_keys import SCOPES, NewKey, Scope
from tests.service.keys import KeyedService, now_us

# The framework's, about how the routes write their parameters; they are read when an application is made.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")

# What the contract says; routes that are not here must still declare something.
CONTRACT = {
    ("POST", "/api/submitlogs"): "submit",
    ("POST", "/api/submitlogs/"): "submit",
    ("GET", "/api/retrievelogs"): "retrieve",
    ("GET", "/api/rejectedlogs"): "retrieve",
    ("POST", "/api/rejectedlogs/replay"): "admin",
    ("POST", "/api/rejectedlogs/drop"): "admin",
    ("POST", "/api/sql"): "sql",
    ("POST", "/"): "sql",
    ("POST", "/api/flush"): "admin",
    ("GET", "/api/config"): "admin",
    ("GET", "/metrics"): "retrieve",
    ("GET", "/health/live"): OPEN,
    ("GET", "/health/ready"): OPEN,
    ("GET", "/schema"): OPEN,
}
ATHENA = ("POST", "/")


@pytest.fixture(scope="module")
def routes(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str], Any]:
    """What the service itself says of its routes."""
    folder = tmp_path_factory.mktemp("routes")
    sources = Sources.of(config=folder / "none.toml", environ={}, flags={"data": str(folder / "data")})
    return dict(create_app(LiveSettings(sources, sources.resolve(None), None, now_us=now_us)).routes)


@pytest.fixture(scope="module")
def by_scope(keyed: KeyedService) -> dict[Scope, NewKey]:
    return {scope: keyed.keys.create(scope) for scope in SCOPES}


def concrete(path: str) -> str:
    """The path of a route with something in the place of its parameters."""
    return re.sub(r"\{[^}]*\}", "x", path)


def judged(response: httpx.Response, route: tuple[str, str]) -> str:
    """What the service says of the sender: `unknown`, `lacks <scope>`, or `in`; checks how it says so."""
    if route == ATHENA and response.headers["content-type"] == "application/x-amz-json-1.1":
        name = response.json().get("__type")
        if name in ("MissingAuthenticationTokenException", "UnrecognizedClientException"):
            return "unknown"
        return "lacks sql" if name == "AccessDeniedException" else "in"
    if response.status_code not in (401, 403):
        assert response.status_code < 500, response.text
        return "in"
    assert response.headers["content-type"] == "application/problem+json"
    assert response.json()["status"] == response.status_code
    challenge = response.headers["www-authenticate"]
    assert challenge.startswith('Bearer realm="actionlake"')
    if response.status_code == 401:
        return "unknown"
    scope = response.json()["scope"]
    assert f'error="insufficient_scope", scope="{scope}"' in challenge
    assert f"lacks the scope {scope}" in response.json()["detail"]
    return f"lacks {scope}"


def test_every_route_declares_what_it_needs(routes: dict[tuple[str, str], Any]) -> None:
    assert [route for route, need in routes.items() if need is None] == []
    assert set(routes.values()) <= {*SCOPES, OPEN}
    assert {route: routes[route] for route in CONTRACT} == CONTRACT


def test_a_route_that_declares_nothing_is_noticed_and_is_the_admins() -> None:
    @get("/forgotten")
    async def forgotten() -> str:
        return "in"

    app = Litestar([forgotten], guards=[check_scope], openapi_config=None)
    assert declared_needs(app, {}) == {("GET", "/forgotten"): None}
    handler = app.routes[0].route_handlers[0]  # type: ignore[union-attr]

    def asked_by(*scopes: Scope) -> None:
        scope: Any = {"type": "http"}
        set_client(scope, Client("test", frozenset(scopes)))
        asyncio.run(check_scope(ASGIConnection(scope), handler))

    asked_by("admin")
    with pytest.raises(Problem, match="lacks the scope admin"):
        asked_by("submit", "retrieve", "sql")


@pytest.mark.parametrize("credential", ["none", "wrong", "shortened", "revoked", "expired", "basic", "twice", "signed"])
def test_nobody_gets_in_without_a_key_that_holds(
    keyed: KeyedService, routes: dict[tuple[str, str], Any], credential: str
) -> None:
    right = keyed.keys.all.key
    sent: list[str] = {
        "none": [],
        "wrong": [f"Bearer {right[:-1]}{'A' if right[-1] != 'A' else 'B'}"],
        "shortened": [f"Bearer {right[:-1]}"],
        "revoked": [f"Bearer {keyed.keys.revoked(*SCOPES).key}"],
        "expired": [f"Bearer {keyed.keys.create(*SCOPES, expired=True).key}"],
        "basic": [f"Basic {right}"],
        "twice": [f"Bearer {right}", f"Bearer {right}"],
        "signed": ["AWS4-HMAC-SHA256 Credential=a/20260101/r/athena/aws4_request, SignedHeaders=host, Signature=0"],
    }[credential]
    headers = [("authorization", one) for one in sent]
    for route, need in routes.items():
        if credential == "signed" and route == ATHENA:
            continue  # tests of signatures have a module of their own
        answer = keyed.client.request(route[0], concrete(route[1]), headers=headers)
        assert judged(answer, route) == ("in" if need == OPEN else "unknown"), route


@pytest.mark.parametrize("scope", SCOPES)
def test_a_key_opens_the_routes_of_its_scope_and_no_other(
    keyed: KeyedService, routes: dict[tuple[str, str], Any], by_scope: dict[Scope, NewKey], scope: Scope
) -> None:
    for route, need in routes.items():
        answer = keyed.call(route[0], concrete(route[1]), by_scope[scope])
        expected = "in" if need in (OPEN, scope) else f"lacks {need}"
        assert judged(answer, route) == expected, route


def test_a_key_of_all_scopes_opens_every_route(keyed: KeyedService, routes: dict[tuple[str, str], Any]) -> None:
    for route in routes:
        assert judged(keyed.call(route[0], concrete(route[1]), keyed.keys.all), route) == "in", route


def test_the_openapi_document_says_what_each_route_needs(
    keyed: KeyedService, routes: dict[tuple[str, str], Any]
) -> None:
    document = keyed.client.get("/schema/openapi.json").json()
    assert document["components"]["securitySchemes"]["bearer"]["scheme"] == "bearer"
    told = 0
    for (method, path), need in routes.items():
        operation = document["paths"].get(path, {}).get(method.lower())
        if operation is not None:
            told += 1
            assert operation.get("security", []) == ([] if need == OPEN else [{"bearer": [need]}]), path
            assert ("401" in operation["responses"]) is (need != OPEN)
    assert told >= 8
