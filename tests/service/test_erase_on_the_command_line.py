"""`actionlake erase` works on a folder that nobody serves, and beside a service, which then does the work."""

from __future__ import annotations

import json
import threading
from pathlib import Path

import pytest

from service.commands.erase import _watch
from service.settings import Settings
from storage.locks import FileLock
from storage.opening import lock_and_recover
from storage.paths import StorePaths
from tests.service.command_line import actionlake
from tests.service.running_service import action, running_service, submission
from tests.storage.building import SCHEMA, put, store_in
from tests.storage.erasing import fill, users
from tests.storage.what_is_left import traces

USER = "cli/user-77ab0e"


def _erase(folder: Path, *more: str, fails: bool = False) -> str:
    done = actionlake("erase", USER, "--data", folder, *more)
    assert (done.returncode != 0) == fails, done.stderr
    return done.stdout + done.stderr


@pytest.fixture
def timeouts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Queries end soon, so that nobody waits for them."""
    for name in ("RETRIEVE_TIMEOUT_MS_MAX", "SQL_TIMEOUT_MS_MAX", "ERASURE_GRACE_MS"):
        monkeypatch.setenv(f"ACTIONLAKE_{name}", "200")


@pytest.mark.usefixtures("timeouts")
def test_on_a_folder_that_nobody_serves(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    assert "there is no store" in _erase(folder, fails=True)
    with store_in(folder) as store:
        fill(store, USER)
    told = _erase(folder, "--dry-run")
    assert "files=4 rows=80 journal_rows=7 rejects=6" in told
    assert traces(folder, USER)
    told = _erase(folder)
    assert "status=done files=4 rows=80" in told
    assert "backups made before are not covered" in told
    assert traces(folder, USER) == []
    with store_in(folder) as store:
        assert users(store) == ["someone-else"]


@pytest.mark.usefixtures("timeouts")
def test_what_was_only_recorded_is_done_by_the_next_service(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    with store_in(folder) as store:
        put(store, 3, user=USER)
        store.flush_here()
    assert "status=pending" in _erase(folder, "--no-wait")
    assert json.loads(actionlake("status", "--json", "--data", folder).stdout)["erasures_pending"] == 1
    with store_in(folder) as store:
        assert users(store) == []
    assert traces(folder, USER)
    with running_service(folder) as service:
        service.submit(submission("someone-else", action()))
        told = _erase(folder)
        assert "status=done" in told
        assert all(one["status"] == "done" for one in service.client.get("/api/erasures").json()["erasures"])
        assert traces(folder, USER) == []


def test_who_waits_for_a_service_holds_up_no_other(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    with store_in(folder) as store:
        made = store.erase(USER)
    paths = StorePaths.of(folder)
    service, _ = lock_and_recover(paths, SCHEMA, holder="a service")
    seen: list[object] = []
    waiting = threading.Thread(target=lambda: seen.append(_watch(Settings(data=str(folder)), made.id)))
    waiting.start()
    # As the next service does, before it recovers the folder.
    with FileLock(paths.workers_lock) as workers:
        workers.acquire_within("the next service", timeout_s=180)
    waiting.join(0.5)
    assert waiting.is_alive()
    service.release()
    waiting.join(180)
    assert [getattr(one, "finished_at_us", 0) for one in seen] == [None]
