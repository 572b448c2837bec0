"""`create_app`: the only place where the parts are put together."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.metadata import version
from typing import Any, Final

from litestar import Litestar, Request, Response
from litestar.enums import ScopeType
from litestar.exceptions import HTTPException
from litestar.types import ASGIApp, Receive, Send
from litestar.types import Scope as AsgiScope

from queries.athena.api import AthenaApi
from queries.athena.macros import MACROS
from queries.athena.runner import Retention
from queries.athena.work_groups import WorkGroup
from queries.engine import Engine, EngineLimits
from queries.sql import SqlLimits, SqlPool
from service.access import is_loopback, send_problem
from service.admission import Admission, AdmissionLimits
from service.athena import AthenaService, SandboxEngine, athena
from service.clients import check_scope, client_of, declared_needs
from service.configuration import configuration
from service.connections import BoundedProtocol, ConnectionLimits
from service.cors import Cors
from service.erasures import erase_user, erase_user_by_body, get_erasure, list_erasures
from service.gate import Gate
from service.keyring import Keyring
from service.live_settings import LiveSettings
from service.logs import use_log_level
from service.metrics import Metrics
from service.openapi import add_plain_routes, assets_router, describe_access, openapi_config
from service.openapi_operations import complete_operations
from service.operations import alive, flush, metrics, ready
from service.problems import MEDIA_TYPE, Problem, problem_of
from service.processors import processors_allowed
from service.rejects import drop_rejected_logs, rejected_logs, replay_rejected_logs
from service.retrieval_endpoint import RetrieveEndpoint
from service.retrievals import RetrievalLimits, Retrievals
from service.settings import Settings
from service.sources import HANDED_OVER_VARIABLE, SUPERVISED_VARIABLE
from service.sql import SqlAnswerLimits, SqlService, log_lost_worker, run_sql
from service.store_settings import arrow_parser, store_options, store_paths, submission_limits
from service.submissions import SubmitEndpoint
from storage.absent_modules import do_without
from storage.access_keys import KeyFile, Scope
from storage.clock import system_now_us
from storage.errors import StoreError
from storage.free_memory import GivingBack, forget_soon
from storage.group_commit import SWITCH_INTERVAL_S
from storage.opening import join_store
from storage.store import Store
from storage.submission import SubmissionParser

# The routes that are plain ASGI, each with its method and the scope it needs; those of the framework say theirs.
PLAIN_ROUTES: Final[dict[str, tuple[str, Scope]]] = {
    "/api/submitlogs": ("POST", "submit"),
    "/api/submitlogs/": ("POST", "submit"),
    "/api/retrievelogs": ("GET", "retrieve"),
    "/api/retrievelogs/": ("GET", "retrieve"),
}
# Queries that wait for a worker each hold a thread meanwhile.
_SQL_WAITING_THREADS: Final = 16
# A client that polls holds one for a tenth of a second.
_ATHENA_THREADS: Final = 32

# Less than `lock_and_recover` waits for the workers of an earlier service.
ORPHAN_END_S_MAX: Final = 5.0

_log = logging.getLogger("actionlake.service")


def retrieval_limits(settings: Settings) -> RetrievalLimits:
    """The limits of a retrieval by the settings."""
    return RetrievalLimits(
        limit_default=min(settings.retrieve_limit_default, settings.retrieve_limit_max),
        limit_max=settings.retrieve_limit_max,
        timeout_ms_max=settings.retrieve_timeout_ms_max,
        stream_timeout_s=settings.stream_timeout_s,
        concurrency_max=settings.retrieve_concurrency_max,
    )


def sql_answer_limits(settings: Settings) -> SqlAnswerLimits:
    """The limits of a SQL answer by the settings."""
    return SqlAnswerLimits(
        rows_default=min(settings.sql_rows_default, settings.sql_rows_max),
        json_rows_max=settings.sql_rows_max,
        stream_timeout_s=settings.stream_timeout_s,
    )


def admission_limits(settings: Settings) -> AdmissionLimits:
    """What submissions may be let in by the settings."""
    return AdmissionLimits(
        pending_bytes_max=settings.submit_pending_bytes_max,
        journal_bytes_max=settings.journal_bytes_max,
        client_requests_per_s_max=settings.client_requests_per_s_max,
        client_bytes_per_s_max=settings.client_bytes_per_s_max,
    )


def connection_limits(settings: Settings) -> ConnectionLimits:
    """The limits of connections by the settings."""
    return ConnectionLimits(
        connections_max=settings.connections_max,
        head_timeout_s=settings.head_timeout_ms_max / 1000,
        body_timeout_s=settings.submit_body_timeout_ms_max / 1000,
        answer_timeout_s=settings.answer_timeout_ms_max / 1000,
    )


def sql_share_min(settings: Settings, *, processors: float) -> float:
    """For which share of the time queries that last run at least; all of it where they leave a processor anyway."""
    threads = settings.workers * settings.sql_workers * settings.sql_threads
    return settings.sql_share_min if threads >= processors else 1.0


class _Service:
    """What one process holds while it serves."""

    def __init__(self, settings: Settings, metrics_: Metrics) -> None:
        # The group commit's thread and the event loop hand the interpreter's lock to and fro.
        sys.setswitchinterval(SWITCH_INTERVAL_S)
        paths = store_paths(settings)
        self.store: Store = join_store(paths, settings.action_schema(), store_options(settings))
        query_temp = paths.state / "query-temp"
        query_temp.mkdir(exist_ok=True)
        self.engine = Engine(
            EngineLimits(
                memory_bytes_max=settings.query_memory_bytes_max,
                threads=settings.query_threads,
            ),
            query_temp / "duckdb",
        )
        self.retrievals = Retrievals(
            self.store,
            self.engine,
            metrics_,
            retrieval_limits(settings),
        )
        self.retrieve = RetrieveEndpoint(self.retrievals)
        self.sql = SqlService(
            self.store,
            SqlPool(
                data_folder=paths.table,
                temp_folder=paths.state / "sql-temp",
                schema=self.store.schema,
                limits=SqlLimits(
                    memory_bytes_max=settings.sql_memory_bytes_max,
                    threads=settings.sql_threads,
                    temp_bytes_max=settings.sql_temp_bytes_max,
                    timeout_s=settings.sql_timeout_ms_max / 1000,
                ),
                workers=settings.sql_workers,
                when_idle=settings.sql_when_idle,
                acknowledged=self.store.acknowledged,
                share_min=sql_share_min(settings, processors=processors_allowed()),
                macros=MACROS,
                on_worker_lost=log_lost_worker,
            ),
            metrics_,
            sql_answer_limits(settings),
            threads_max=settings.sql_workers + _SQL_WAITING_THREADS,
        )
        self.athena = AthenaService(
            AthenaApi(
                engine=SandboxEngine(self.sql),
                state_folder=paths.state,
                schema=lambda: self.store.schema,
                work_groups=[
                    WorkGroup(name, one.scanned_bytes_max) for name, one in settings.athena_work_groups.items()
                ],
                retention=Retention(
                    result_hours=settings.athena_results_retention_hours,
                    results_bytes_max=settings.athena_results_bytes_max,
                ),
            ),
            threads_max=_ATHENA_THREADS,
        )
        self._metrics = metrics_
        self.book = self.store.open_share_book()
        self.submit = SubmitEndpoint(
            self.store,
            SubmissionParser(self.store.schema, submission_limits(settings)),
            arrow_parser(settings, self.store.schema),
            metrics_,
            admission=Admission(self.store, self.book, admission_limits(settings), self._note_refusal),
            now_us=system_now_us,
        )

        forget_soon()
        self._giving_back = GivingBack()

    def _note_refusal(self, reason: str) -> None:
        self._metrics.over_share.labels(reason).inc()

    def use(self, settings: Settings) -> bool:
        """Put other values of the live settings into force, all at once; see `LiveSettings.follow`.

        Requests under way end with what they began with.

        Raises:
            StoreError: the store does not take them; nothing was changed.
        """
        schema = settings.action_schema()
        if not self.store.use(schema, store_options(settings)):
            return False
        self.submit.use(
            SubmissionParser(self.store.schema, submission_limits(settings)),
            arrow_parser(settings, self.store.schema),
            admission_limits(settings),
        )
        BoundedProtocol.limits = connection_limits(settings)
        self.retrievals.limits = retrieval_limits(settings)
        self.sql.limits = sql_answer_limits(settings)
        use_log_level(settings.log_level)
        return True

    async def close(self) -> None:
        """Commit what waits, and finish what runs; the keeper flushes what is left."""
        await asyncio.to_thread(self._giving_back.stop)
        await asyncio.to_thread(self.submit.close)
        await self.retrievals.close()
        await self.athena.close()
        await self.sql.close()
        self.engine.close()
        await asyncio.to_thread(self.store.close, flush=False)
        self.book.close()


def create_app(live: LiveSettings) -> Gate:
    """Build the service over a store that a supervisor holds and has recovered (`storage.opening.lock_and_recover`)."""
    settings = live.in_force.settings
    BoundedProtocol.limits = connection_limits(settings)
    metrics_ = Metrics()
    running: list[_Service] = []
    keyring = Keyring(KeyFile(store_paths(settings)), required=not settings.insecure and not is_loopback(settings.host))

    @asynccontextmanager
    async def lifespan(app: Litestar) -> AsyncIterator[None]:
        service = _Service(settings, metrics_)
        running.append(service)
        app.state.update(
            {
                "store": service.store,
                "engine": service.engine,
                "sql": service.sql,
                "athena": service.athena,
                "metrics": metrics_,
                "parser": lambda: service.submit.parser,
                "live": live,
                "share_book": service.book,
                "keyring": keyring,
            }
        )
        live.follow(service.use)
        watcher = asyncio.create_task(_stop_with_parent())
        try:
            yield
        finally:
            watcher.cancel()
            await asyncio.to_thread(live.stop)
            await service.close()

    app = Litestar(
        [
            run_sql,
            athena,
            rejected_logs,
            replay_rejected_logs,
            drop_rejected_logs,
            flush,
            configuration,
            alive,
            ready,
            metrics,
            assets_router,
            erase_user,
            erase_user_by_body,
            get_erasure,
            list_erasures,
        ],
        lifespan=[lifespan],
        openapi_config=openapi_config(version("actionlake")),
        exception_handlers={Exception: _answer_error},
        guards=[check_scope],
        logging_config=None,
    )
    add_plain_routes(app.openapi_schema)
    complete_operations(app.openapi_schema)
    routes = declared_needs(app, PLAIN_ROUTES)
    describe_access(app.openapi_schema, routes)

    async def plain_routes_first(scope: AsgiScope, receive: Receive, send: Send) -> None:
        # The hot paths do not go through the framework's routing, which costs as much as parsing a submission.
        if scope["type"] != ScopeType.HTTP or (plain := PLAIN_ROUTES.get(scope["path"])) is None:
            await app(scope, receive, send)
            return
        need = plain[1]
        try:
            client_of(scope).require(need)
        except Problem as problem:
            if need == "submit":
                metrics_.submissions.labels(str(problem.status)).inc()
            await send_problem(send, problem)
            return
        endpoint = running[0].submit if need == "submit" else running[0].retrieve
        await endpoint(scope, receive, send)

    cors = Cors(lambda: live.in_force.settings.cors_allowed_origins)
    return Gate(plain_routes_first, keyring, cors, insecure=settings.insecure, routes=routes)


def app_from_environ() -> ASGIApp:
    """Build the service from what the supervisor handed over, as a worker process does."""
    from service.logs import configure_logging

    do_without("pandas")
    live = LiveSettings.take_over(os.environ[HANDED_OVER_VARIABLE], now_us=system_now_us)
    settings = live.in_force.settings
    configure_logging(settings.log_level, settings.log_format)
    return create_app(live)


def _answer_error(_: Request[Any, Any, Any], error: Exception) -> Response[bytes]:
    if isinstance(error, HTTPException):
        problem = Problem(error.status_code, error.detail, headers=dict(error.headers or {}))
    else:
        problem = problem_of(error)
    if problem.status >= 500 and not isinstance(error, StoreError | Problem):
        _log.error("a request failed unexpectedly", exc_info=error)
    return Response(problem.body(), status_code=problem.status, media_type=MEDIA_TYPE, headers=dict(problem.headers))


async def _stop_with_parent() -> None:
    """Stop when the supervisor is gone: its lock on the folder went with it, and the next service may come.

    That one waits for this process, so that requests under way have less time than at an ordinary end: what they were
    told is durable, and an answer that is cut off is seen to be.
    """
    parent = os.getppid()
    supervised = os.environ.get(SUPERVISED_VARIABLE) == str(parent)
    while supervised:
        await asyncio.sleep(0.2)
        if os.getppid() != parent:
            _log.error("the supervisor is gone; stopping")
            ending = threading.Timer(ORPHAN_END_S_MAX, os._exit, [1])
            ending.daemon = True
            ending.start()
            os.kill(os.getpid(), signal.SIGTERM)
            return
