"""The operator's routes: flush, health and metrics."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any

import pyarrow as pa
from litestar import MediaType, Request, Response, get, post

from queries.engine import Engine
from queries.retrieval import footers_bytes
from service.clients import OPEN, needs
from service.keyring import Keyring
from service.live_settings import LiveSettings
from service.metrics import CONTENT_TYPE, Metrics, Reading
from service.problems import Problem
from storage.dead_letters import count_dead_letters, read_rejects_state
from storage.erasure_records import pending_erasures
from storage.errors import StoreError
from storage.free_memory import resident_bytes
from storage.share_book import ShareBook
from storage.store import Store

_log = logging.getLogger("actionlake.service")


@post(
    "/api/flush",
    status_code=200,
    summary="Move everything acknowledged by now into the table",
    tags=["operation"],
    opt=needs("admin"),
)
async def flush(request: Request[Any, Any, Any]) -> dict[str, Any]:
    """Returns when the table holds, durably, everything that was acknowledged before the request."""
    media_type = request.headers.get("content-type", "").split(";")[0].strip().lower()
    if media_type not in ("", "application/json"):
        # A page's form can send a POST, but none without a content type of its own.
        raise Problem(415, "send no body, or application/json", headers={"accept": "application/json"})
    store: Store = request.app.state.store
    live: LiveSettings = request.app.state.live
    timeout_s = live.in_force.settings.flush_timeout_ms_max / 1000
    watermark = await asyncio.to_thread(store.flush, timeout_s=timeout_s)
    return {"status": "flushed", "watermark": watermark}


@get("/health/live", summary="The process answers", tags=["operation"], opt=needs(OPEN))
async def alive() -> dict[str, str]:
    """Say that the process is alive; says nothing about the store."""
    return {"status": "live"}


@get("/health/ready", summary="Submissions and retrievals are taken", tags=["operation"], opt=needs(OPEN))
async def ready(request: Request[Any, Any, Any]) -> Response[dict[str, Any]]:
    """200 while the store takes submissions and answers, 503 with the reason otherwise.

    A settings file that is wrong keeps nobody from being served, so that it is said here and changes no status.
    """
    live: LiveSettings = request.app.state.live
    store: Store = request.app.state.store
    keyring: Keyring = request.app.state.keyring
    if keyring.damage is not None:
        return Response({"status": "not ready", "reason": "the keys cannot be read; the log says why"}, status_code=503)
    try:
        store.check_writable()
        state = await asyncio.to_thread(store.journal.state)
    except StoreError as error:
        return Response({"status": "not ready", "reason": str(error)}, status_code=503)
    wrong = live.in_force.error
    valid = "valid" if wrong is None else f"invalid: {wrong}"
    return Response({"status": "ready", "journalDepth": state.depth, "configuration": valid})


@get("/metrics", summary="Prometheus metrics", tags=["operation"], media_type=MediaType.TEXT, opt=needs("retrieve"))
async def metrics(request: Request[Any, Any, Any]) -> Response[bytes]:
    """All metrics of the store, whichever worker is asked."""
    store: Store = request.app.state.store
    process_metrics: Metrics = request.app.state.metrics
    live: LiveSettings = request.app.state.live
    valid = Reading(
        "actionlake_configuration_valid",
        "0 while the settings file is wrong and therefore not followed",
        float(live.in_force.error is None),
    )
    failed = store.latch is not None and store.latch.reason is not None
    book: ShareBook = request.app.state.share_book
    in_flight = Reading(
        "actionlake_submissions_in_flight_bytes",
        "Bytes of submissions that are being read or wait for their commit, in all processes",
        book.in_flight_of_all(),
    )
    content = await asyncio.to_thread(
        lambda: process_metrics.render(
            [
                *_as_far_as_it_can_be_read(lambda: journal_readings(store)),
                *_as_far_as_it_can_be_read(lambda: shortcut_readings(store)),
                *_as_far_as_it_can_be_read(lambda: memory_readings(store, request.app.state.engine)),
                Reading("actionlake_store_failed", "1 after a failed write, until a restart", float(failed)),
                valid,
                in_flight,
            ]
        )
    )
    return Response(content, media_type=CONTENT_TYPE)


def _as_far_as_it_can_be_read(readings: Callable[[], list[Reading]]) -> list[Reading]:
    """What *readings* returns; nothing of it, and a line in the log, where the store cannot be read.

    The other metrics are wanted most when it cannot.
    """
    try:
        return readings()
    except (StoreError, OSError) as error:
        _log.error("some metrics are missing: %s", error)
        return []


def journal_readings(store: Store) -> list[Reading]:
    """Read the journal's depth, size and age, the rejects, and the latch."""
    state = store.journal.state()
    oldest = store.journal.oldest_received_at_us()
    now_us = store.options.now_us()
    age_s = 0.0 if oldest is None else max(0, now_us - oldest) / 1_000_000
    looked_at_us = store.leader_looked_at_us
    idle_s = 0.0 if looked_at_us is None else max(0, now_us - looked_at_us) / 1_000_000
    with store.journal.reading() as execute:
        rejects, letters = read_rejects_state(execute), count_dead_letters(execute)
        erasures = pending_erasures(execute)
    asked_us = min((one.requested_at_us for one in erasures), default=now_us)
    in_table = store.rejects.in_table()
    return [
        Reading("actionlake_journal_depth", "Actions that are in the journal only", state.depth),
        Reading("actionlake_journal_bytes", "Bytes of these actions in the journal", state.bytes),
        Reading("actionlake_journal_age_seconds", "Age of the oldest of them", age_s),
        Reading("actionlake_journal_head", "The last position that is taken", state.head),
        Reading("actionlake_keeper_seconds_since_look", "Seconds since the keeper looked at the journal", idle_s),
        Reading("actionlake_erasures_pending", "Erasures of users that are not done yet", len(erasures)),
        Reading("actionlake_erasures_age_seconds", "Age of the oldest of them", max(0, now_us - asked_us) / 1_000_000),
        Reading("actionlake_dead_letters", "Dead letters that are in the journal only", letters),
        Reading("actionlake_dead_letters_bytes", "Bytes of these dead letters in the journal", rejects.bytes),
        Reading(
            "actionlake_reject_marks", "Replays and drops that the table of rejects does not have yet", rejects.marks
        ),
        Reading("actionlake_rejects_rows", "Rejects in the table of rejects, replayed ones included", in_table.rows),
        Reading("actionlake_rejects_files", "Data files of the table of rejects", in_table.files),
        Reading("actionlake_rejects_table_bytes", "Bytes of these files", in_table.bytes),
        Reading("actionlake_journal_log_bytes", "Size of the journal's write-ahead log", store.journal.wal_bytes()),
        Reading(
            "actionlake_journal_drain_bytes_per_second",
            "Bytes of the journal that the last flushes moved in a second of their work",
            store.drained_bytes_per_s,
        ),
    ]


def shortcut_readings(store: Store) -> list[Reading]:
    """Read how much of the table can be found by user without opening its files."""
    status = store.shortcut_status()
    return [
        Reading("actionlake_filtered_files", "Data files whose users are known", status.filtered_files),
        Reading("actionlake_history_rows", "Rows of the table that are copied, arranged by user", status.copied_rows),
        Reading("actionlake_history_runs", "Runs that these copies are in", status.runs),
        Reading("actionlake_history_bytes", "Bytes of these runs", status.runs_bytes),
    ]


def memory_readings(store: Store, engine: Engine) -> list[Reading]:
    """Read what the worker that answers has in memory, and those parts of it that grow with the table and its use."""
    status = store.shortcut_status()
    footers = engine.footers_bytes + footers_bytes() + status.footers_bytes
    return [
        Reading(
            "actionlake_worker_resident_bytes",
            "Memory of the worker that answers, libraries included",
            resident_bytes() or 0,
        ),
        Reading("actionlake_worker_footers_bytes", "About what it keeps of footers of data files and copies", footers),
        Reading("actionlake_worker_filters_bytes", "What it keeps of filters of users", status.filters_bytes),
        Reading("actionlake_worker_hot_rows_bytes", "What the hot rows that it read last take", store.hot_bytes),
        Reading("actionlake_worker_arrow_bytes", "What Arrow has allocated", pa.total_allocated_bytes()),
    ]
