"""The table's upkeep as the settings want it, and who is told of it."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from storage.maintenance.compaction import CompactionResult
from storage.maintenance.options import MaintenanceOptions
from storage.maintenance.planning import CompactionLimits
from storage.maintenance.retention import RetentionResult, RetentionRules
from storage.maintenance.vacuum import VacuumResult

if TYPE_CHECKING:
    from service.metrics import Metrics
    from service.settings import Settings

_log = logging.getLogger("actionlake.maintenance")


def compaction_limits(settings: Settings) -> CompactionLimits:
    """The limits of compaction by the settings."""
    return CompactionLimits(
        file_bytes_max=settings.compact_file_bytes_max,
        files_spare=settings.compact_files_spare,
        rest_ms=settings.compact_rest_ms,
    )


def retention_rules(settings: Settings) -> RetentionRules:
    """How long actions are kept by the settings."""
    return RetentionRules(
        {name.lower(): days for name, days in settings.retention_days.items()}, settings.retention_days_default
    )


def maintenance_options(settings: Settings, metrics_: Metrics | None) -> MaintenanceOptions:
    """How the table is kept by the settings; *metrics_* are told of what is done."""

    def on_compaction(result: CompactionResult) -> None:
        _log.info(
            "compacted partitions=%d files_before=%d files_after=%d rows=%d bytes=%d seconds=%.3f",
            result.partitions, result.files_removed, result.files_added, result.rows, result.bytes_added,
            result.seconds,
        )  # fmt: skip
        if metrics_ is not None:
            metrics_.compacted_files.inc(result.files_removed)
            metrics_.compacted_rows.inc(result.rows)
            metrics_.compacted_bytes.inc(result.bytes_added)
            metrics_.compaction_seconds.observe(result.seconds)

    def on_vacuum(result: VacuumResult) -> None:
        _log.info("vacuumed files=%d bytes=%d", result.files, result.bytes)
        if metrics_ is not None:
            metrics_.vacuumed_files.inc(result.files)
            metrics_.vacuumed_bytes.inc(result.bytes)

    def on_retention(result: RetentionResult) -> None:
        _log.info("expired partitions=%d files=%d rows=%d", result.partitions, result.files, result.rows)
        if metrics_ is not None:
            metrics_.expired_rows.inc(result.rows)

    return MaintenanceOptions(
        compaction=compaction_limits(settings),
        compaction_memory_bytes_max=settings.compact_memory_bytes_max,
        vacuum_grace_ms=settings.vacuum_grace_ms,
        retention=retention_rules(settings),
        on_compaction=on_compaction,
        on_vacuum=on_vacuum,
        on_retention=on_retention,
    )
