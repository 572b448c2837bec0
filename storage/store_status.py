"""What `actionlake status` tells of a store."""

from __future__ import annotations

from dataclasses import dataclass

from storage.journal_records import JournalState
from storage.shortcuts import ShortcutStatus


@dataclass(frozen=True, slots=True)
class StoreStatus:
    """The figures; of rejects, those in the journal's database (`dead_letters`) and in the table."""

    version: int
    watermark: int
    files: int
    rows: int
    bytes: int
    journal: JournalState
    journal_file_bytes: int
    oldest_received_at_us: int | None
    dead_letters: int
    rejects: int
    rejects_files: int
    rejects_bytes: int
    shortcuts: ShortcutStatus
