"""How the settings shape the table's upkeep."""

from __future__ import annotations

from service.settings import Settings
from storage.maintenance.planning import CompactionLimits


def compaction_limits(settings: Settings) -> CompactionLimits:
    """The limits of compaction by the settings."""
    return CompactionLimits(
        file_bytes_max=settings.compact_file_bytes_max,
        files_spare=settings.compact_files_spare,
        rest_ms=settings.compact_rest_ms,
    )
