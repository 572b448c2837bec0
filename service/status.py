"""`actionlake status`: the figures of a store, for people and for programs."""

from __future__ import annotations

import time
from typing import Any

import click
import msgspec

from storage.locks import FileLock
from storage.store import Store


def describe_status(store: Store) -> dict[str, Any]:
    """Collect the figures; works beside a running service."""
    status = store.status()
    journal = status.journal
    oldest = status.oldest_received_at_us
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
        click.echo(f"{label:<{width}}  {value:,}" if isinstance(value, int) else f"{label:<{width}}  {value}")
