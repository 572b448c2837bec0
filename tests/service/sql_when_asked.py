"""In the forked services of tests, the processes for SQL start when the first query comes: most tests send none.

Those of a service that a test starts itself start with it, see `prepared` in `tests.faults.server_process`.
"""

from __future__ import annotations

import threading
from typing import Final

from queries.sql.cancellation import Cancellation
from queries.sql.request import SqlRequest
from queries.sql.result import SqlResult
from service.sql import SqlService

_NEVER_ASKED: Final = "the service ended before it was asked for SQL"


def start_sql_when_asked() -> None:
    """Have the service that this process, or one forked from it, becomes wait with its processes for SQL."""
    start, run, close = SqlService._start, SqlService.run, SqlService.close
    asked, needless = threading.Event(), threading.Event()

    def start_when_asked(service: SqlService) -> None:
        asked.wait()
        if needless.is_set():
            service._failure = _NEVER_ASKED
            service._started.set()
        else:
            start(service)

    def run_and_start(service: SqlService, request: SqlRequest, cancellation: Cancellation | None = None) -> SqlResult:
        asked.set()
        return run(service, request, cancellation)

    async def close_unless_needless(service: SqlService) -> None:
        if not asked.is_set():
            needless.set()
            asked.set()
        await close(service)

    SqlService._start = start_when_asked  # type: ignore[method-assign, assignment]
    SqlService.run = run_and_start  # type: ignore[method-assign, assignment]
    SqlService.close = close_unless_needless  # type: ignore[method-assign, assignment]
