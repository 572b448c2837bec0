"""Without keys only programs on this machine get in; health, metrics and the OpenAPI page tell what is so.

So does the system of the processes of a service, which have loaded nothing that they can do without.
"""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from service.submissions import MEDIA_TYPES
from tests.service.running_service import ACTIONLAKE, RunningService, action, running_service, submission
from tests.service.test_submissions_over_http import problem
from tests.storage.building import eventually

ROUTES = ["/health/live", "/api/retrievelogs?userId=u", "/metrics", "/schema", "/nothing"]


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example", "169.254.169.254", "10.0.0.1:80", ""])
@pytest.mark.parametrize("route", ROUTES)
def test_a_host_that_is_not_loopback_is_421(service: RunningService, host: str, route: str) -> None:
    problem(service.client.get(route, headers={"host": host}), 421)


@pytest.mark.parametrize("host", ["localhost", "localhost:1234", "127.0.0.1", "127.1.2.3:80", "[::1]:80", "LOCALHOST"])
def test_loopback_names_are_let_in(service: RunningService, host: str) -> None:
    assert service.client.get("/health/live", headers={"host": host}).status_code == 200


@pytest.mark.parametrize("origin", ["http://evil.example", "null", "http://localhost:1", "https://127.0.0.1"])
def test_pages_of_another_origin_are_403(service: RunningService, origin: str) -> None:
    problem(service.client.get("/health/live", headers={"origin": origin}), 403)
    response = service.submit(submission("u", action()), origin=origin)
    problem(response, 403)
    assert not [name for name in response.headers if name.startswith("access-control")]


def test_the_services_own_page_is_let_in(service: RunningService) -> None:
    assert service.client.get("/health/live", headers={"origin": service.url}).status_code == 200


def test_a_form_cannot_post(service: RunningService) -> None:
    for type_ in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data"):
        problem(service.submit(submission("u", action()), content_type=type_), 415)
        for route in ("/api/sql", "/api/flush"):
            problem(service.client.post(route, content=b"{}", headers={"content-type": type_}), 415)


def test_an_address_that_is_not_loopback_is_refused_without_insecure(tmp_path: Path) -> None:
    done = subprocess.run(
        [ACTIONLAKE, "serve", "--data", str(tmp_path / "data"), "--host", "192.0.2.1", "--port", "0"],
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )
    assert done.returncode != 0
    assert "--insecure" in done.stderr
    assert not (tmp_path / "data").exists()


def test_insecure_serves_any_host(tmp_path: Path) -> None:
    with running_service(tmp_path / "data", "--insecure") as service:
        assert service.client.get("/health/live", headers={"host": "any.example"}).status_code == 200


def test_unknown_routes_and_methods_are_problems(service: RunningService) -> None:
    problem(service.client.get("/api/nothing"), 404)
    problem(service.client.delete("/api/retrievelogs"), 405)


def test_health_says_live_and_ready(service: RunningService) -> None:
    assert service.client.get("/health/live").json() == {"status": "live"}
    assert service.client.get("/health/ready").json()["status"] == "ready"


def test_metrics_count_what_happened(tmp_path: Path) -> None:
    with running_service(tmp_path / "data") as service:
        service.submit(submission("u", action(), action(), action(type_="x")))
        service.retrieve(userId="u")
        assert service.metric("actionlake_actions_submitted_total") == 3
        assert service.metric("actionlake_actions_accepted_total") == 2
        assert service.metric("actionlake_actions_rejected_total") == 1
        assert service.metric("actionlake_journal_depth") == 2
        assert service.metric("actionlake_journal_age_seconds") >= 0
        assert service.metric("actionlake_journal_commit_seconds_count") == 1
        assert service.metric("actionlake_retrieval_seconds_count") == 1
        hot_bytes = service.metric("actionlake_worker_hot_rows_bytes")
        assert service.metric("actionlake_worker_footers_bytes") == 0 < hot_bytes
        service.flush()
        service.retrieve(userId="u")
        assert service.metric("actionlake_journal_depth") == 0
        assert service.metric("actionlake_flushed_rows_total") == 2
        assert service.metric("actionlake_flush_seconds_count") == 1
        assert service.metric("actionlake_scanned_bytes_total") > 0
        assert service.client.get("/metrics").headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
        # Nothing is counted without the folder, which must not keep anybody from being told.
        service.data.rename(tmp_path / "gone")
        eventually(lambda: service.client.get("/health/ready").status_code == 503)
        assert service.client.post("/api/submitlogs", json=submission("u", action())).status_code == 503
        assert "actionlake_store_failed" in service.client.get("/metrics").text, service.log()
        assert service.metric("actionlake_worker_hot_rows_bytes") < hot_bytes
        footers, resident = (service.metric(f"actionlake_worker_{what}_bytes") for what in ("footers", "resident"))
        assert 0 < footers < resident


@pytest.fixture(scope="module")
def two_workers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningService]:
    """A service whose processes find all that is installed, pandas too."""
    folder = tmp_path_factory.mktemp("two_workers")
    with running_service(folder / "data", "--workers", "2", environ={"PYTHONPATH": ""}) as service:
        yield service


def test_metrics_are_the_whole_stores_with_several_workers(two_workers: RunningService) -> None:
    for _ in range(20):
        # A connection each, so that both workers get some.
        two_workers.client.post("/api/submitlogs", json=submission("u", action()), headers={"connection": "close"})
    for _ in range(6):
        response = two_workers.client.get("/metrics", headers={"connection": "close"})
        assert "actionlake_actions_accepted_total 20.0" in response.text


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="the system does not tell what a process has loaded")
def test_no_process_of_a_service_has_pandas(two_workers: RunningService) -> None:
    assert importlib.util.find_spec("pandas") is not None, "where there is none, nobody would have it"
    two_workers.submit(submission("p", action()))
    two_workers.flush()
    for _ in range(6):
        for asked in ("json", "arrow", "parquet", "csv"):
            parameters = {"userId": "p", "format": asked}
            answer = two_workers.client.get("/api/retrievelogs", params=parameters, headers={"connection": "close"})
            assert answer.status_code == 200, answer.text
    assert two_workers.client.post("/api/sql", json={"sql": "SELECT * FROM actions"}).status_code == 200
    loaded = loaded_libraries(two_workers)
    # The supervisor, its workers and the keeper; those for SQL may be read by root only.
    assert len([libraries for libraries in loaded.values() if "pyarrow" in libraries]) >= 4, "what is loaded is seen"
    assert not [pid for pid, libraries in loaded.items() if "pandas" in libraries]


def loaded_libraries(service: RunningService) -> dict[int, str]:
    """What each process of a service has of files in its memory, as far as this user may know."""
    loaded = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if os.getsid(int(folder.name)) == service.process.pid:
                loaded[int(folder.name)] = (folder / "maps").read_text()
        except (ProcessLookupError, FileNotFoundError, PermissionError):
            # One that has ended meanwhile, or of another user.
            continue
    return loaded


def test_the_openapi_page_needs_nothing_from_outside(service: RunningService) -> None:
    page = service.client.get("/schema", follow_redirects=True)
    assert page.status_code == 200
    assets = re.findall(r'(?:src|href)="([^"]+)"', page.text)
    assert len(assets) >= 4
    for asset in assets:
        assert asset.startswith("/schema/"), asset
        assert service.client.get(asset).status_code == 200
    document = service.client.get("/schema/openapi.json").json()
    assert {"/api/submitlogs", "/api/retrievelogs", "/api/sql", "/api/flush", "/metrics"} <= document["paths"].keys()
    submit = document["paths"]["/api/submitlogs"]["post"]
    assert submit["requestBody"]["content"].keys() == set(MEDIA_TYPES)
    assert {"200", "400", "413", "415", "422", "503", "507"} <= submit["responses"].keys()
