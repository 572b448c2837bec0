"""Fixtures of the tests of queries."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from queries.athena import AthenaApi, WorkGroup
from tests.queries.athena_engine import SCHEMA, DuckDBEngine
from tests.queries.athena_server import AthenaEndpoint, serve


@pytest.fixture(scope="module")
def athena_endpoint(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AthenaEndpoint]:
    """The Athena API over HTTP, with the rows of `athena_engine.action_rows` in its table."""
    api = AthenaApi(
        engine=DuckDBEngine(),
        state_folder=tmp_path_factory.mktemp("athena"),
        schema=lambda: SCHEMA,
        work_groups=[WorkGroup("tiny", scanned_bytes_max=1)],
    )
    with serve(api) as endpoint:
        yield endpoint
    api.close()
