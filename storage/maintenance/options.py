"""How a store's table is kept; see the settings of the same names."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from storage.maintenance.compaction import CompactionResult
from storage.maintenance.planning import CompactionLimits
from storage.maintenance.retention import RetentionResult, RetentionRules
from storage.maintenance.vacuum import GRACE_MS_DEFAULT, VacuumResult


@dataclass(frozen=True, slots=True)
class MaintenanceOptions:
    """What upkeep does, and who is told of it.

    Attributes:
        compaction: see there.
        compaction_memory_bytes_max: of the process that compacts.
        vacuum_grace_ms: how long a file stays that the table no longer names; longer than any query and flush.
        retention: see there.
        checkpoint_commits: versions after which the table's log gets a checkpoint.
        on_compaction, on_vacuum, on_retention: called after each step, in the caretaker's or a helping thread.
    """

    compaction: CompactionLimits = field(default_factory=CompactionLimits)
    compaction_memory_bytes_max: int = 512 * 1024 * 1024
    vacuum_grace_ms: int = GRACE_MS_DEFAULT
    retention: RetentionRules = field(default_factory=RetentionRules)
    checkpoint_commits: int = 32
    on_compaction: Callable[[CompactionResult], None] = lambda _: None
    on_vacuum: Callable[[VacuumResult], None] = lambda _: None
    on_retention: Callable[[RetentionResult], None] = lambda _: None
