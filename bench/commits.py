"""`python -m bench.commits`: whether a commit costs the same after thousands of them, with upkeep at work beside.

Each commit is a flush of a few actions as the service does it: a data file, its fsync, the table's commit, its fsync,
and the trim of the journal. The store's own caretaker compacts, writes checkpoints and cleans the log meanwhile.
Beside the time of a commit, which tells of the machine as well, stands what the process did for it, upkeep included:
its processor time, the bytes that it read and wrote by system calls, and how many of these there were.
"""

from __future__ import annotations

import resource
import shutil
import statistics
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import click

from storage.clock import system_now_us
from storage.flush import Flusher, FlushLimits
from storage.journal_records import Append
from storage.lake import Lake, log_entries
from storage.maintenance.options import MaintenanceOptions
from storage.maintenance.planning import CompactionLimits
from storage.opening import open_store
from storage.paths import StorePaths
from storage.rejects_flush import RejectsFlusher
from storage.schema import ActionSchema
from storage.store_options import StoreOptions
from storage.submission import SubmissionLimits, SubmissionParser

_STEP = 1_000
_BODY = b'{"userId": "u%d", "actions": [{"time": "2024-03-01T12:00:00Z", "type": "click"}]}'


@dataclass(frozen=True, slots=True)
class _Work:
    """What this process has done so far, its threads included."""

    processor_s: float
    read_bytes: int
    written_bytes: int
    reads: int
    writes: int

    @staticmethod
    def so_far() -> _Work:
        """Ask the kernel."""
        fields = dict(line.split(": ") for line in Path("/proc/self/io").read_text().splitlines())
        used = resource.getrusage(resource.RUSAGE_SELF)
        counts = (int(fields[name]) for name in ("rchar", "wchar", "syscr", "syscw"))
        return _Work(used.ru_utime + used.ru_stime, *counts)

    def each_since(self, before: _Work, commits: int) -> str:
        """Tell what was done since then for each of so many commits."""
        return (
            f"{(self.processor_s - before.processor_s) * 1000 / commits:.1f} ms of processor,"
            f" {(self.read_bytes - before.read_bytes) / 1024 / commits:.0f} KiB read"
            f" ({(self.reads - before.reads) / commits:.0f} calls),"
            f" {(self.written_bytes - before.written_bytes) / 1024 / commits:.0f} KiB written"
            f" ({(self.writes - before.writes) / commits:.0f} calls)"
        )


@click.command(help=__doc__)
@click.option("--commits", type=click.IntRange(1), default=10_000, show_default=True)
@click.option("--without-upkeep", is_flag=True, help="The control: no checkpoints, no clean-up, no compaction.")
@click.option("--data-dir", type=click.Path(path_type=Path, file_okay=False), help="A folder on the disk to measure.")
def main(commits: int, without_upkeep: bool, data_dir: Path | None) -> None:
    """Print, for each thousand commits, how long they took, and what the log and the table had become by then."""
    folder = Path(tempfile.mkdtemp(dir=data_dir))
    schema = ActionSchema()
    parser = SubmissionParser(schema, SubmissionLimits())
    options = StoreOptions(
        flush=FlushLimits(interval_ms_max=86_400_000),
        maintenance=MaintenanceOptions(CompactionLimits(rest_ms=3_600_000), vacuum_grace_ms=60_000),
    )
    store, _ = open_store(StorePaths.of(folder), schema, options, holder="a benchmark")
    if store.latch is None:
        raise click.ClickException("the store is not writable")
    if not without_upkeep:
        store.start_leading()
    flusher = Flusher(
        store.journal,
        Lake(store.paths.table, schema),
        store.latch,
        rejects=RejectsFlusher(
            store.journal, store.paths.rejects, store.latch, now_us=system_now_us, limits=lambda: options.rejects
        ),
        limits=lambda: options.flush,
        now_us=system_now_us,
        on_commit=lambda _: None,
    )
    if without_upkeep:
        flusher._commits_since_checkpoint = -commits
    took_ms: list[float] = []
    step = min(_STEP, commits)
    before = _Work.so_far()
    for number in range(1, commits + 1):
        parsed = parser.parse_json(_BODY % number, now_us=system_now_us())
        store.append([Append(parsed.submissions, parsed.rejections, b"{}", None)])
        started = time.perf_counter()
        flusher.flush(number)
        took_ms.append((time.perf_counter() - started) * 1000)
        if number % step == 0:
            work = _Work.so_far()
            last = sorted(took_ms[-step:])
            p90_ms = last[len(last) * 9 // 10]
            files = len(store.read_view().files)
            click.echo(
                f"{number:>6} commits: median {statistics.median(last):5.1f} ms, p90 {p90_ms:5.1f} ms;"
                f" each {work.each_since(before, step)};"
                f" {len(log_entries(store.paths.table))} log entries, {files} files in the table"
            )
            before = _Work.so_far()
    store.close(flush=False)
    shutil.rmtree(folder)


if __name__ == "__main__":
    main()
