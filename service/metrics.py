"""What `/metrics` tells, as Prometheus metrics, summed over all processes of a service."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest, values
from prometheus_client import multiprocess as prometheus_multiprocess
from prometheus_client.metrics_core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

MULTIPROCESS_VARIABLE: Final = "PROMETHEUS_MULTIPROC_DIR"
CONTENT_TYPE: Final = "text/plain; version=0.0.4"

# The kinds of metrics below, each in a file; enough room for a thousand values.
_KINDS: Final = ("counter", "histogram")
_FILE_BYTES: Final = 1 << 18

_FAST_S: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
_SLOW_S: Final = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)


def share_metrics(folder: Path) -> None:
    """Let this process, and those that it starts from now on, count into files of *folder*."""
    os.environ[MULTIPROCESS_VARIABLE] = str(folder)
    # The library looks at the variable when it is imported, which is done in this process.
    values.ValueClass = values.MultiProcessValue()  # type: ignore[no-untyped-call]


def _make_room_on_disk() -> None:
    """Have the disk keep the room that the files of this process take, before they are mapped.

    The library makes them of holes. A value that is first counted when the disk is full, such as that of the answer
    which says so, would kill the process.

    Raises:
        OSError: there is no room now.
    """
    for kind in _KINDS:
        path = os.path.join(os.environ[MULTIPROCESS_VARIABLE], f"{kind}_{os.getpid()}.db")
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            os.posix_fallocate(descriptor, 0, _FILE_BYTES)
        finally:
            os.close(descriptor)


class Metrics:
    """The metrics of one process.

    Raises:
        OSError: they are shared, and the disk has no room for them.
    """

    def __init__(self) -> None:
        if MULTIPROCESS_VARIABLE in os.environ:
            _make_room_on_disk()
        self._registry = registry = CollectorRegistry()
        self.submissions = Counter(
            "actionlake_submissions",
            "Requests to submit, by the status they were answered with",
            ["status"],
            registry=registry,
        )
        self.over_share = Counter(
            "actionlake_submissions_over_share",
            "Submissions answered 429, by the share or rate that their client was over",
            ["share"],
            registry=registry,
        )
        self.submitted = Counter("actionlake_actions_submitted", "Actions submitted", registry=registry)
        self.accepted = Counter("actionlake_actions_accepted", "Actions accepted, durably", registry=registry)
        self.rejected = Counter(
            "actionlake_actions_rejected", "Actions rejected, by reason", ["code"], registry=registry
        )
        self.replayed = Counter(
            "actionlake_rejects_replayed", "Rejects that were right when they were tried again", registry=registry
        )
        self.commit_seconds = Histogram(
            "actionlake_journal_commit_seconds",
            "Group commits of the journal, fsync included",
            buckets=_FAST_S,
            registry=registry,
        )
        self.commit_requests = Counter(
            "actionlake_journal_commit_requests", "Requests that shared group commits", registry=registry
        )
        self.flush_seconds = Histogram(
            "actionlake_flush_seconds",
            "Flushes of one batch from the journal into the table",
            buckets=_SLOW_S,
            registry=registry,
        )
        self.flushed_rows = Counter("actionlake_flushed_rows", "Rows moved into the table", registry=registry)
        self.flushed_files = Counter("actionlake_flushed_files", "Data files written by flushes", registry=registry)
        self.flushed_bytes = Counter("actionlake_flushed_bytes", "Bytes of these files", registry=registry)
        self.flush_errors = Counter("actionlake_flush_errors", "Flushes that failed", ["error"], registry=registry)
        self.chore_errors = Counter(
            "actionlake_chore_errors",
            "Upkeep of the table that failed and is tried again",
            ["chore"],
            registry=registry,
        )
        self.compacted_files = Counter(
            "actionlake_compacted_files", "Data files replaced by compaction", registry=registry
        )
        self.compacted_rows = Counter("actionlake_compacted_rows", "Rows written anew by compaction", registry=registry)
        self.compacted_bytes = Counter("actionlake_compacted_bytes", "Bytes of the new files", registry=registry)
        self.compaction_seconds = Histogram(
            "actionlake_compaction_seconds", "Compactions, one commit each", buckets=_SLOW_S, registry=registry
        )
        self.vacuumed_files = Counter("actionlake_vacuumed_files", "Data files removed from disk", registry=registry)
        self.vacuumed_bytes = Counter("actionlake_vacuumed_bytes", "Bytes of these files", registry=registry)
        self.expired_rows = Counter("actionlake_expired_rows", "Rows removed by their age", registry=registry)
        self.retrieval_seconds = Histogram(
            "actionlake_retrieval_seconds", "Retrievals, from request to answer", buckets=_FAST_S, registry=registry
        )
        self.scanned_bytes = Counter(
            "actionlake_scanned_bytes", "Bytes read from data files by queries", registry=registry
        )
        self.scanned_files = Counter("actionlake_scanned_files", "Data files opened by queries", registry=registry)

    def render(self, readings: Sequence[Reading]) -> bytes:
        """Write all metrics, and *readings* of this moment, in Prometheus' text format."""
        current = CollectorRegistry()
        current.register(_Readings(readings))
        if MULTIPROCESS_VARIABLE not in os.environ:
            return generate_latest(self._registry) + generate_latest(current)
        if not os.path.isdir(os.environ[MULTIPROCESS_VARIABLE]):
            # The state folder is gone, and all counts with it; the readings of this moment tell of it.
            return generate_latest(current)
        summed = CollectorRegistry()
        prometheus_multiprocess.MultiProcessCollector(summed)  # type: ignore[no-untyped-call]
        return generate_latest(summed) + generate_latest(current)


@dataclass(frozen=True, slots=True)
class Reading:
    """A gauge that is read when it is asked for, and is the same from every worker unless its name says `worker`."""

    name: str
    help: str
    value: float


class _Readings(Collector):
    def __init__(self, readings: Sequence[Reading]) -> None:
        self._readings = readings

    def collect(self) -> Iterable[Metric]:
        for one in self._readings:
            yield GaugeMetricFamily(one.name, one.help, value=one.value)
