"""The store as the settings want it: where it is, how it behaves, and what submissions may hold."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final

from service.maintenance import maintenance_options
from storage.arrow_batches import ArrowParser
from storage.flush import FlushLimits, FlushResult
from storage.paths import StorePaths
from storage.schema import ActionSchema
from storage.shortcuts import ShortcutLimits
from storage.store_options import StoreOptions
from storage.submission import SubmissionLimits

if TYPE_CHECKING:
    from service.metrics import Metrics
    from service.settings import Settings

# Three gain little over two, and take 60 MB more of the keeper.
_BACKLOG_COMMITS: Final = 2

_log = logging.getLogger("actionlake.service")


def store_paths(settings: Settings) -> StorePaths:
    """Where the settings put the store."""
    return StorePaths.of(settings.data, settings.state)


def submission_limits(settings: Settings) -> SubmissionLimits:
    """The limits of a submission by the settings."""
    return SubmissionLimits(
        body_bytes_max=settings.submit_body_bytes_max,
        actions_max=settings.submit_actions_max,
        properties_bytes_max=settings.action_properties_bytes_max,
        id_bytes_max=settings.id_bytes_max,
        depth_max=settings.json_depth_max,
        time_ahead_us_max=settings.time_ahead_ms_max * 1000,
    )


def arrow_parser(settings: Settings, schema: ActionSchema) -> ArrowParser:
    """What judges Arrow streams by the settings."""
    return ArrowParser(
        schema,
        submission_limits(settings),
        body_bytes_max=settings.submit_arrow_bytes_max,
        rows_max=settings.submit_arrow_rows_max,
    )


def store_options(settings: Settings, metrics_: Metrics | None = None) -> StoreOptions:
    """How the store behaves by the settings; *metrics_* are told of flushes."""

    def on_flush(result: FlushResult) -> None:
        _log.info(
            "flushed rows=%d files=%d bytes=%d version=%d seconds=%.3f",
            result.rows, result.files, result.bytes, result.version, result.seconds,
        )  # fmt: skip
        if metrics_ is not None:
            metrics_.flush_seconds.observe(result.seconds)
            metrics_.flushed_rows.inc(result.rows)
            metrics_.flushed_files.inc(result.files)
            metrics_.flushed_bytes.inc(result.bytes)
            if result.rejected:
                metrics_.rejected.labels("unflushable").inc(result.rejected)

    def on_flush_error(error: BaseException) -> None:
        if metrics_ is not None:
            metrics_.flush_errors.labels(type(error).__name__).inc()

    def on_chore_error(chore: str, _: BaseException) -> None:
        if metrics_ is not None:
            metrics_.chore_errors.labels(chore).inc()

    return StoreOptions(
        flush=FlushLimits(
            interval_ms_max=settings.flush_interval_ms_max,
            rows_max=settings.flush_rows_max,
            bytes_max=settings.flush_bytes_max,
            partitions_max=settings.flush_partitions_max,
            backlog_commits=_BACKLOG_COMMITS,
        ),
        shortcuts=ShortcutLimits(
            user_filters_bytes_max=settings.user_filters_bytes_max,
            history_bytes_share_max=settings.history_bytes_share_max,
            history_rest_s=settings.history_rest_ms / 1000,
        ),
        journal_bytes_max=settings.journal_bytes_max,
        disk_free_bytes_min=settings.disk_free_bytes_min,
        idempotency_retention_hours=settings.idempotency_retention_hours,
        idempotency_bytes_max=settings.idempotency_bytes_max,
        # No query that is allowed to run outlasts it.
        erasure_grace_ms=max(settings.erasure_grace_ms, settings.retrieve_timeout_ms_max, settings.sql_timeout_ms_max),
        forget_user=lambda user_id: _forget_user(store_paths(settings), user_id),
        maintenance=maintenance_options(settings, metrics_),
        on_flush=on_flush,
        on_flush_error=on_flush_error,
        on_chore_error=on_chore_error,
    )


def _forget_user(paths: StorePaths, user_id: str) -> None:
    """Remove what the service keeps of a user beside the store itself."""
    from queries.athena.forgetting import forget_in

    forget_in(paths.state, user_id)
