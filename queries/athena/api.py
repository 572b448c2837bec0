"""The Athena API: its operations by name, each from a JSON object to a JSON object.

Results are managed by the service itself, as Athena's managed query results are: no answer names a location in S3,
and every client reads its rows through GetQueryResults.
"""

from __future__ import annotations

import hashlib
import json
import logging
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Final

from queries.athena import metadata
from queries.athena.catalog import CATALOG, DATABASE, DataCatalog, data_catalog
from queries.athena.engine import SqlEngine
from queries.athena.errors import (
    ApiError,
    InternalFailure,
    InvalidRequest,
    MalformedQuery,
    QueryError,
    ResourceNotFound,
)
from queries.athena.executions import Execution, History, State
from queries.athena.forgetting import HISTORY_FILE, RESULTS_FOLDER, WORKERS_FOLDER, forget
from queries.athena.liveness import WorkerLock
from queries.athena.paging import number_of, page_of, token_of
from queries.athena.plans import Plan, PreparedQueries, QueryContext, plan
from queries.athena.prepared import PreparedStatement, PreparedStatements
from queries.athena.prepared_operations import PreparedStatementOperations
from queries.athena.requests import Request
from queries.athena.results import Page, ResultFiles
from queries.athena.runner import Retention, Runner, failed
from queries.athena.statements import classify
from queries.athena.work_groups import PRIMARY, WorkGroup, chosen, named
from queries.views import view_statements
from storage.schema import ActionSchema

_logger = logging.getLogger(__name__)

_PAGE_ROWS_MAX: Final = 1000
_LIST_MAX: Final = 50
_TOKEN_CHARACTERS_MAX: Final = 128
_PARAMETER_CHARACTERS_MAX: Final = 1024
_DESCRIPTION_CHARACTERS_MAX: Final = 1024

Answer = dict[str, object]


class AthenaApi:
    """The operations of the API. One a process; several processes may share a state folder.

    Args:
        engine: runs the translated queries.
        state_folder: for `athena.sqlite` and `athena/`; made if it is not there.
        schema: the table's schema as it is now; asked for at each query.
        views: DuckDB's SELECT of each view by its name, for a schema.
        work_groups: beside `primary`, which is always there.
        retention: how long results and history are kept.
        concurrency_max: queries of this process at once.
        queue_max: queries of this process that may wait; one more is refused with TooManyRequestsException.
        poll_wait_s: how long GetQueryExecution waits for a query of this process that is about to end, so that a
            client which asks once and then sleeps finds a short query ended.
        clock: the time in seconds since the epoch.

    Raises:
        OSError, sqlite3.Error: the state folder cannot be used.
        ValueError: two work groups have one name.
    """

    def __init__(
        self,
        *,
        engine: SqlEngine,
        state_folder: Path,
        schema: Callable[[], ActionSchema],
        views: Callable[[ActionSchema], Mapping[str, str]] = view_statements,
        work_groups: Iterable[WorkGroup] = (),
        retention: Retention | None = None,
        concurrency_max: int = 4,
        queue_max: int = 100,
        poll_wait_s: float = 0.1,
        clock: Callable[[], float] = time.time,
    ) -> None:
        retention = retention or Retention()
        self._groups = named(work_groups)
        self._schema = schema
        self._views = views
        self._clock = clock
        self._poll_wait_s = poll_wait_s
        self._catalog_lock = threading.Lock()
        self._catalog: tuple[ActionSchema, DataCatalog] | None = None
        state_folder.mkdir(parents=True, exist_ok=True)
        self._lock = WorkerLock(state_folder / WORKERS_FOLDER)
        self._history = History(state_folder / HISTORY_FILE)
        self._created_at = self._history.created_at(clock())
        self._prepared = PreparedStatements(self._history)
        self._results = ResultFiles(state_folder / RESULTS_FOLDER, bytes_max=retention.results_bytes_max)
        self._runner = Runner(
            engine=engine,
            history=self._history,
            results=self._results,
            lock=self._lock,
            clock=clock,
            concurrency_max=concurrency_max,
            queue_max=queue_max,
            retention=retention,
        )
        self._runner.bury_all()
        self._operations: dict[str, Callable[[Request], Answer]] = {
            "StartQueryExecution": self._start_query_execution,
            "GetQueryExecution": self._get_query_execution,
            "BatchGetQueryExecution": self._batch_get_query_execution,
            "GetQueryResults": self._get_query_results,
            "GetQueryRuntimeStatistics": self._get_query_runtime_statistics,
            "StopQueryExecution": self._stop_query_execution,
            "ListQueryExecutions": self._list_query_executions,
            "GetWorkGroup": self._get_work_group,
            "ListWorkGroups": self._list_work_groups,
            "ListDataCatalogs": metadata.list_data_catalogs,
            "GetDataCatalog": metadata.get_data_catalog,
            "ListDatabases": metadata.list_databases,
            "GetDatabase": metadata.get_database,
            "ListTableMetadata": lambda r: metadata.list_table_metadata(r, self.catalog(), self._created_at),
            "GetTableMetadata": lambda r: metadata.get_table_metadata(r, self.catalog(), self._created_at),
            **PreparedStatementOperations(self._prepared, self._groups, clock).by_name(),
        }

    def handle(self, operation: str, payload: dict[str, object]) -> tuple[int, Answer]:
        """Answer one request. May block for `poll_wait_s`, so it belongs in a thread.

        Args:
            operation: what stands after `AmazonAthena.` in the header `X-Amz-Target`.
            payload: the body.

        Returns:
            the HTTP status and the body of the answer; errors are answers too.
        """
        answer = self._operations.get(operation)
        if answer is None:
            return 400, {
                "__type": "UnknownOperationException",
                "Message": f"The operation {operation} is not supported",
            }
        try:
            return 200, answer(Request(operation, payload))
        except ApiError as error:
            return error.http_status, error.body()
        except Exception as error:
            _logger.exception("an operation of the Athena API failed", extra={"operation": operation})
            failure = InternalFailure(f"{operation} failed: {type(error).__name__}")
            return failure.http_status, failure.body()

    def catalog(self) -> DataCatalog:
        """The tables and views as they are now."""
        schema = self._schema()
        with self._catalog_lock:
            if self._catalog is None or self._catalog[0] != schema:
                self._catalog = schema, data_catalog(schema, self._views(schema))
            return self._catalog[1]

    def forget(self, text: str) -> int:
        """Remove what history and results may tell of *text*, such as the id of a user who was erased.

        Returns and raises as `forgetting.forget`.
        """
        return forget(self._history, self._results, text, self._lock.is_alive)

    def close(self) -> None:
        """Stop the queries of this process and let go of the state folder."""
        self._runner.close()
        self._history.close()
        self._lock.release()

    # Query executions.

    def _start_query_execution(self, request: Request) -> Answer:
        request.only(
            "QueryString", "ClientRequestToken", "QueryExecutionContext", "ResultConfiguration", "WorkGroup",
            "ExecutionParameters", "ResultReuseConfiguration", "EngineConfiguration",
        )  # fmt: skip
        text = request.text("QueryString")
        group = chosen(self._groups, request.optional_text("WorkGroup"))
        parameters = tuple(request.texts("ExecutionParameters", most=_PARAMETER_CHARACTERS_MAX))
        context = request.part("QueryExecutionContext")
        catalog_name = context.optional_text("Catalog") or CATALOG
        database = context.optional_text("Database") or DATABASE
        _check_result_configuration(request.part("ResultConfiguration"))
        token = request.optional_text("ClientRequestToken", characters_max=_TOKEN_CHARACTERS_MAX)
        digest = _digest([text, group.name, parameters, catalog_name.lower(), database.lower()])
        if token is not None and (earlier := self._history.by_token(token)) is not None:
            return {"QueryExecutionId": _same_request(earlier, digest).id}
        self._runner.reserve()
        submitted_at = self._clock()
        planned, error = self._plan(text, group, parameters, catalog_name, database)
        execution = Execution(
            id=str(uuid.uuid4()),
            token=token,
            request=digest,
            work_group=group.name,
            query=text,
            parameters=parameters,
            database=database,
            catalog=catalog_name,
            statement_type=planned.statement_type if planned is not None else "DML",
            substatement_type=planned.substatement_type if planned is not None else "",
            owner=self._lock.worker_id,
            submitted_at=submitted_at,
            planning_ms=round((self._clock() - submitted_at) * 1000),
        )
        if error is not None:
            execution = failed(execution, error, self._clock())
        kept = self._history.add(execution)
        if kept.id != execution.id:
            return {"QueryExecutionId": _same_request(kept, digest).id}
        if planned is not None:
            self._runner.submit(execution, planned, group)
        return {"QueryExecutionId": execution.id}

    def _plan(
        self, text: str, group: WorkGroup, parameters: tuple[str, ...], catalog_name: str, database: str
    ) -> tuple[Plan, None] | tuple[None, QueryError]:
        try:
            context = QueryContext(catalog_name, database)
            return plan(classify(text), self.catalog(), self._prepared_of(group), parameters, context), None
        except MalformedQuery as error:
            raise InvalidRequest(error.message_with_place, athena_error_code="MALFORMED_QUERY") from None
        except QueryError as error:
            return None, error
        except ResourceNotFound as error:
            return None, QueryError("NOT_FOUND", str(error))
        except InvalidRequest as error:
            return None, QueryError("INVALID_PREPARED_STATEMENT", str(error))

    def _prepared_of(self, group: WorkGroup) -> PreparedQueries:
        def create(name: str, query: str) -> None:
            self._prepared.create(PreparedStatement(name, query, group.name, "", self._clock()))

        return PreparedQueries(
            get=lambda name: self._prepared.get(group.name, name).query,
            create=create,
            delete=lambda name: self._prepared.delete(group.name, name),
        )

    def _execution(self, request: Request) -> Execution:
        """The execution that a request names, as it is now.

        Raises:
            InvalidRequest: there is none.
        """
        execution_id = request.text("QueryExecutionId")
        execution = self._history.get(execution_id)
        if execution is None:
            raise InvalidRequest(f"QueryExecution {execution_id} was not found")
        return self._runner.bury(execution)

    def _get_query_execution(self, request: Request) -> Answer:
        request.only("QueryExecutionId")
        execution = self._execution(request)
        if not execution.state.is_final and self._poll_wait_s > 0:
            self._runner.wait(execution.id, self._poll_wait_s)
            execution = self._execution(request)
        return {"QueryExecution": execution.details()}

    def _batch_get_query_execution(self, request: Request) -> Answer:
        request.only("QueryExecutionIds")
        wanted = request.texts("QueryExecutionIds", most=_LIST_MAX)
        if not wanted:
            raise InvalidRequest("QueryExecutionIds is required by BatchGetQueryExecution")
        found = {e.id: self._runner.bury(e) for e in self._history.get_many(wanted)}
        missing = [
            {"QueryExecutionId": i, "ErrorCode": "INVALID_INPUT", "ErrorMessage": f"QueryExecution {i} was not found"}
            for i in wanted
            if i not in found
        ]
        return {
            "QueryExecutions": [found[i].details() for i in wanted if i in found],
            "UnprocessedQueryExecutionIds": missing,
        }

    def _get_query_results(self, request: Request) -> Answer:
        request.only("QueryExecutionId", "NextToken", "MaxResults", "QueryResultType")
        if request.optional_text("QueryResultType") not in (None, "DATA_ROWS"):
            raise InvalidRequest("QueryResultType must be DATA_ROWS")
        count = request.whole("MaxResults", least=1, most=_PAGE_ROWS_MAX, default=_PAGE_ROWS_MAX)
        execution = self._execution(request)
        if execution.state is not State.SUCCEEDED:
            finished = (
                "Query did not finish successfully. Final query state"
                if execution.state.is_final
                else "Query has not yet finished. Current state"
            )
            raise InvalidRequest(f"{finished}: {execution.state}")
        if execution.result_bytes is None:
            raise _gone(execution)
        kind = f"results {execution.id}"
        offset = number_of(request.optional_text("NextToken"), kind)
        try:
            page, header = self._page(execution.id, offset, count)
        except FileNotFoundError:
            raise _gone(execution) from None
        rows = [_data(row) for row in page.rows]
        if header:
            rows.insert(0, _data([column.name for column in page.columns]))
        metadata_of_result = {"ColumnInfo": [column.info for column in page.columns]}
        answer: Answer = {"UpdateCount": 0, "ResultSet": {"Rows": rows, "ResultSetMetadata": metadata_of_result}}
        end = (offset or 0) + len(page.rows)
        return {**answer, "NextToken": token_of(kind, str(end))} if end < page.rows_total else answer

    def _page(self, execution_id: str, offset: int | None, count: int) -> tuple[Page, bool]:
        """A page of rows, and whether the names of the columns come before it."""
        page = self._results.page(execution_id, offset or 0, count)
        if offset is not None or not page.has_header:
            return page, False
        return Page(page.columns, page.rows[: count - 1], page.rows_total, page.has_header), True

    def _get_query_runtime_statistics(self, request: Request) -> Answer:
        request.only("QueryExecutionId")
        execution = self._execution(request)
        size = {"OutputRows": execution.rows, "OutputBytes": execution.result_bytes or 0}
        stage = {"StageId": 0, "State": str(execution.state), "ExecutionTime": execution.engine_ms, **size}
        statistics = {
            "Timeline": execution.timeline(),
            "Rows": {"InputBytes": execution.scanned_bytes, **size},
            "OutputStage": {**stage, "InputBytes": execution.scanned_bytes},
        }
        return {"QueryRuntimeStatistics": statistics}

    def _stop_query_execution(self, request: Request) -> Answer:
        request.only("QueryExecutionId")
        execution = self._execution(request)
        if not execution.state.is_final:
            self._runner.stop(execution)
        return {}

    def _list_query_executions(self, request: Request) -> Answer:
        request.only("NextToken", "MaxResults", "WorkGroup")
        group = chosen(self._groups, request.optional_text("WorkGroup"))
        count = request.whole("MaxResults", least=0, most=_LIST_MAX, default=_LIST_MAX) or _LIST_MAX
        before = number_of(request.optional_text("NextToken"), request.operation)
        found = self._history.list_ids(group.name, before, count + 1)
        answer: Answer = {"QueryExecutionIds": [execution_id for _, execution_id in found[:count]]}
        if len(found) <= count:
            return answer
        return {**answer, "NextToken": token_of(request.operation, str(found[count - 1][0]))}

    # Work groups.

    def _get_work_group(self, request: Request) -> Answer:
        request.only("WorkGroup")
        return {"WorkGroup": chosen(self._groups, request.text("WorkGroup")).details(self._created_at)}

    def _list_work_groups(self, request: Request) -> Answer:
        request.only("NextToken", "MaxResults")
        ordered = [self._groups[PRIMARY], *(g for name, g in sorted(self._groups.items()) if name != PRIMARY)]
        page, token = page_of(ordered, request, at_most=_LIST_MAX)
        answer: Answer = {"WorkGroups": [group.summary(self._created_at) for group in page]}
        return {**answer, "NextToken": token} if token is not None else answer


def _check_result_configuration(configuration: Request) -> None:
    """A location for results is not needed and not used; what would change how they are kept is refused.

    Raises:
        InvalidRequest: the configuration asks for encryption or access rights of objects in S3.
    """
    configuration.only("OutputLocation", "EncryptionConfiguration", "ExpectedBucketOwner", "AclConfiguration")
    for name in ("EncryptionConfiguration", "AclConfiguration"):
        if configuration.payload.get(name):
            raise InvalidRequest(
                f"ResultConfiguration.{name} is not supported: results are kept by the service, not in Amazon S3"
            )


def _digest(request: object) -> str:
    return hashlib.sha256(json.dumps(request).encode()).hexdigest()


def _same_request(earlier: Execution, digest: str) -> Execution:
    if earlier.request != digest:
        raise InvalidRequest("Idempotent parameters do not match")
    return earlier


def _gone(execution: Execution) -> InvalidRequest:
    return InvalidRequest(f"The results of {execution.id} are no longer kept; run the query again")


def _data(row: Iterable[str | None]) -> dict[str, object]:
    """A row as the API sends it: NULL is an empty object."""
    return {"Data": [{} if value is None else {"VarCharValue": value} for value in row]}
