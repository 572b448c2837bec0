from __future__ import annotations

from collections.abc import Iterator

import httpx
import pytest

from tests.service.keys import ALLOWED_ORIGIN, KeyedService, Keys, reached_at
from tests.service.running_service import RunningService, running_service


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningService]:
    """One service for all tests of a module; each test uses users of its own."""
    with running_service(tmp_path_factory.mktemp("service") / "data") as running:
        yield running


@pytest.fixture(scope="session")
def keyed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KeyedService]:
    """One service with keys for all modules; each test uses users of its own and makes the keys that it needs."""
    folder = tmp_path_factory.mktemp("keyed")
    config = folder / "keyed.toml"
    config.write_text(f'cors_allowed_origins = ["{ALLOWED_ORIGIN}"]\nlog_level = "debug"\n')
    keys = Keys(folder / "data")
    flags = ("--config", str(config), "--host", "0.0.0.0")  # noqa: S104
    with (
        running_service(folder / "data", *flags) as running,
        httpx.Client(base_url=reached_at(running), timeout=180) as client,
    ):
        yield KeyedService(running, keys, client)
