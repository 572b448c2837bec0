"""`actionlake status`: the figures of a store, for people and for programs."""

from __future__ import annotations

import time
from typing import Any

import click
import msgspec

from storage.erasure_records import pending_erasures
from storage.lake import Lake
from storage.locks import FileLock
from storage.maintenance.last_runs import last_runs
from storage.maintenance.planning import CompactionLimits, plan_compaction
from storage.maintenance.table_log import system_now_ms
from storage.maintenance.vacuum import look
from storage.store import Store


def describe_status(store: Store) -> dict[str, Any]:
    """Collect the figures; works beside a running service."""
    status = store.status()
    journal = status.journal
    oldest = status.oldest_received_at_us
    now_ms = system_now_ms()
    due = plan_compaction(store.read_view().files, CompactionLimits(), now_ms=now_ms)
    plan = look(Lake(store.paths.table, store.schema), store.journal, now_ms=now_ms, grace_ms=0)
    removable = [*plan.removed, *plan.orphans]
    with store.journal.reading() as execute:
        erasures = pending_erasures(execute)
    asked_us = min((one.requested_at_us for one in erasures), default=None)
    return {
        "table": str(store.paths.table),
        "version": status.version,
        "files": status.files,
        "rows": status.rows,
        "bytes": status.bytes,
        "journal": journal.id,
        "head": journal.head,
        "watermark": status.watermark,
        "journal_depth": journal.head - status.watermark,
        "journal_age_s": 0.0 if oldest is None else round(max(0.0, time.time() - oldest / 1_000_000), 1),
        "journal_bytes": status.journal_file_bytes,
        "dead_letters": status.dead_letters + status.rejects,
        "dead_letters_in_journal": status.dead_letters,
        "rejects_files": status.rejects_files,
        "rejects_bytes": status.rejects_bytes,
        "filtered_files": status.shortcuts.filtered_files,
        "history_rows": status.shortcuts.copied_rows,
        "history_runs": status.shortcuts.runs,
        "history_bytes": status.shortcuts.runs_bytes,
        "erasures_pending": len(erasures),
        "erasures_age_s": 0.0 if asked_us is None else round(max(0.0, time.time() - asked_us / 1_000_000), 1),
        "files_to_compact": sum(len(one.files) for one in due.rewrites),
        "removable_files": len(removable),
        "removable_bytes": sum(one.size_bytes for one in removable),
        **{f"last_{kind}": run for kind, run in last_runs(store.paths).items()},
        "last_holder": FileLock(store.paths.service_lock).holder(),
    }


_LABELS = {
    "table": "table",
    "version": "table version",
    "files": "data files",
    "rows": "rows in the table",
    "bytes": "bytes in the table",
    "journal": "journal",
    "head": "last position",
    "watermark": "watermark",
    "journal_depth": "rows in the journal only",
    "journal_age_s": "age of the oldest of them, s",
    "journal_bytes": "bytes of the journal's files",
    "dead_letters": "dead letters",
    "dead_letters_in_journal": "of them in the journal only",
    "rejects_files": "files of the table of rejects",
    "rejects_bytes": "bytes of these files",
    "filtered_files": "data files whose users are known",
    "history_rows": "rows copied for histories",
    "history_runs": "runs of these copies",
    "history_bytes": "bytes of these copies",
    "erasures_pending": "erasures of users under way",
    "erasures_age_s": "age of the oldest of them, s",
    "files_to_compact": "data files to be compacted",
    "removable_files": "files that wait to be removed",
    "removable_bytes": "bytes of these files",
    "last_compaction": "last compaction",
    "last_retention": "last days expired",
    "last_vacuum": "last vacuum",
    "last_holder": "last held by",
}


def print_status(figures: dict[str, Any], *, as_json: bool) -> None:
    """Print the figures as aligned lines, or as JSON."""
    if as_json:
        click.echo(msgspec.json.encode(figures).decode())
        return
    width = max(map(len, _LABELS.values()))
    for name, label in _LABELS.items():
        value = figures[name]
        if isinstance(value, dict):
            value = " ".join(f"{key}={figure:.0f}" for key, figure in value.items())
        click.echo(f"{label:<{width}}  {value:,}" if isinstance(value, int) else f"{label:<{width}}  {value}")
