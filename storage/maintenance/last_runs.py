"""What upkeep did last, in one small file a kind, for whoever asks, also after a restart and from another process."""

from __future__ import annotations

import os
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Final

import msgspec

from storage.maintenance.table_log import system_now_ms
from storage.paths import StorePaths

if TYPE_CHECKING:
    from storage.maintenance.compaction import CompactionResult
    from storage.maintenance.retention import RetentionResult
    from storage.maintenance.vacuum import VacuumResult

KINDS: Final = ("compaction", "retention", "vacuum")


def record_run(paths: StorePaths, kind: str, result: CompactionResult | RetentionResult | VacuumResult) -> None:
    """Note the figures of a run that has just ended. Nothing relies on them, so that they are not synced.

    Raises:
        OSError: they could not be written.
    """
    path = paths.last_run(kind)
    fresh = path.with_name(f"{path.name}.{os.getpid()}")
    fresh.write_bytes(msgspec.json.encode({"ended_at_ms": system_now_ms(), **asdict(result)}))
    fresh.replace(path)


def last_runs(paths: StorePaths) -> dict[str, dict[str, Any] | None]:
    """Kind → the figures of its last run that did something, None if there was none.

    Raises:
        OSError, ValueError: a note cannot be read.
    """
    runs: dict[str, dict[str, Any] | None] = {}
    for kind in KINDS:
        try:
            runs[kind] = msgspec.json.decode(paths.last_run(kind).read_bytes(), type=dict[str, Any])
        except FileNotFoundError:
            runs[kind] = None
    return runs
