from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.service.running_service import RunningService, running_service


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningService]:
    """One service for all tests of a module; each test uses users of its own."""
    with running_service(tmp_path_factory.mktemp("service") / "data") as running:
        yield running
