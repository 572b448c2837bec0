"""An Athena on your own machine: Amazon Athena's API and its SQL, over the table of actions.

    AthenaApi.handle(operation, payload) ──► statements ──► plans ──► dialect ──► SqlEngine ──► results, executions

`dialect` turns Trino's SQL into DuckDB's; `macros` are the functions that DuckDB needs for it. `api` knows the
operations, `executions` and `results` keep what was asked and answered, `sigv4` tells who asks. Nothing here knows
HTTP: a service hands over the operation's name and the JSON object of its body.
"""

from queries.athena.api import AthenaApi
from queries.athena.engine import EngineError, EngineResult, QueryCancelled, ScanLimitExceeded, SqlEngine
from queries.athena.errors import ApiError, QueryError, UntranslatableError
from queries.athena.macros import MACROS
from queries.athena.runner import Retention
from queries.athena.work_groups import WorkGroup

__all__ = [
    "MACROS",
    "ApiError",
    "AthenaApi",
    "EngineError",
    "EngineResult",
    "QueryCancelled",
    "QueryError",
    "Retention",
    "ScanLimitExceeded",
    "SqlEngine",
    "UntranslatableError",
    "WorkGroup",
]
