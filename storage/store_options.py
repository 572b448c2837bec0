"""How a store behaves: everything about it that follows the settings, and whom it tells what it does."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

from storage.clock import system_now_us
from storage.flush import FlushLimits, FlushResult
from storage.maintenance.options import MaintenanceOptions
from storage.rejects_flush import RejectsLimits
from storage.shortcuts import ShortcutLimits


@dataclass(frozen=True, slots=True)
class StoreOptions:
    """How a store behaves; see the settings of the same names.

    Attributes:
        erasure_grace_ms: how long queries may go on that began before a user's files were rewritten.
        forget_user: removes what is kept of an erased user outside of the store's own files; called again if it fails.
        on_flush: called for each commit to the lake, in the leader's thread: once it is durable, and before anybody
            who asked for a flush is told that it is done.
        on_flush_error: called for each failed attempt.
        on_chore_error: called with the chore's name when upkeep of the table failed; it is tried again.
    """

    flush: FlushLimits = field(default_factory=FlushLimits)
    rejects: RejectsLimits = field(default_factory=RejectsLimits)
    shortcuts: ShortcutLimits = field(default_factory=ShortcutLimits)
    maintenance: MaintenanceOptions = field(default_factory=MaintenanceOptions)
    journal_bytes_max: int = 1 << 30
    disk_free_bytes_min: int = 0
    idempotency_retention_hours: int = 72
    idempotency_bytes_max: int = 268_435_456
    now_us: Callable[[], int] = system_now_us
    erasure_grace_ms: int = 60_000
    forget_user: Callable[[str], None] = lambda _: None
    on_flush: Callable[[FlushResult], None] = lambda _: None
    on_flush_error: Callable[[BaseException], None] = lambda _: None
    on_chore_error: Callable[[str, BaseException], None] = lambda _name, _error: None

    def flush_limits(self) -> FlushLimits:
        """When the journal is flushed: one that may hold less than a flush is flushed before it is full."""
        return replace(self.flush, bytes_max=max(1, min(self.flush.bytes_max, self.journal_bytes_max // 2)))

    def rejects_limits(self) -> RejectsLimits:
        """When dead letters are moved: before they take more than their part of the journal."""
        return replace(self.rejects, bytes_max=max(1, min(self.rejects.bytes_max, self.journal_bytes_max // 4)))
