"""`python -m bench`: run what was chosen piece by piece, print the tables, write docs/performance.md."""

from __future__ import annotations

import shlex
import shutil
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from bench.choice import NAMES, choose
from bench.comparison.workload import Prepared
from bench.environment import describe_environment, fsync_median_ms
from bench.errors import BenchFailed
from bench.ingest import SERVER_LOG, IngestWorkload
from bench.opponents import OPPONENTS, Opponent
from bench.processes import ROOT
from bench.report import PERFORMANCE_PAGE, print_tables, write_performance_page
from bench.runs import Piece, Run, RunHeader
from bench.workloads import Workload

RESULTS: Final = ROOT / "bench" / "results"
ROUNDS_DEFAULT: Final = 3

# Wide enough for every table; a terminal's own width counts where there is one.
_FILE_WIDTH: Final = 170

# Below the folder for data: what comparisons are over, kept from run to run.
_COMPARED: Final = "compared"


@dataclass(frozen=True, slots=True)
class PlannedPiece:
    """A piece that is still to be run."""

    workload: Workload
    opponent: Opponent
    round: int


def plan(
    workloads: Sequence[Workload], opponents: Sequence[str], rounds: int, done: Sequence[Piece]
) -> list[PlannedPiece]:
    """All pieces but those *done*: round by round, opponents in turn, the other one first in every second round."""
    already = {(piece.workload, piece.opponent, piece.round) for piece in done}
    return [
        PlannedPiece(workload, OPPONENTS[name], round_)
        for workload, round_, name in _in_turn(workloads, opponents, rounds)
        if (workload.name, name, round_) not in already
    ]


def _in_turn(
    workloads: Sequence[Workload], opponents: Sequence[str], rounds: int
) -> Iterator[tuple[Workload, int, str]]:
    for workload in workloads:
        taking_part = [name for name in workload.opponents if name in opponents]
        for round_ in range(1, min(rounds, workload.rounds_max) + 1):
            for name in taking_part if round_ % 2 else reversed(taking_part):
                yield workload, round_, name


@click.command(help=__doc__)
@click.option("--rounds", type=click.IntRange(1), help=f"How often each side is measured.  [default: {ROUNDS_DEFAULT}]")
@click.option("--quick", is_flag=True, help="One round of some seconds each: a first look, not written to the page.")
@click.option("--memory", is_flag=True, help="Only the run of 10 million actions that memory is taken from.")
@click.option(
    "--workload",
    "names",
    multiple=True,
    type=click.Choice(NAMES),
    metavar="NAME",
    help=f"Only these: {', '.join(name for name in NAMES if '.' not in name)}; or one question as compare-1m.user.",
)
@click.option("--targets", is_flag=True, help="Only what the table of targets needs, in some 15 minutes.")
@click.option("--large", is_flag=True, help="With 100 million actions, too.")
@click.option("--prepare", is_flag=True, help="Only make the data that the chosen workloads compare over, and keep it.")
@click.option("--opponent", "opponents", multiple=True, type=click.Choice(list(OPPONENTS)), help="Only these.")
@click.option("--seconds", type=click.FloatRange(1), help="How long submissions are measured, instead of their own.")
@click.option("--resume", is_flag=True, help="Go on with the last run, and keep what it has.")
@click.option(
    "--data-dir",
    type=click.Path(path_type=Path, file_okay=False),
    help="Where the servers keep their data while they are measured: on the disk that is to be measured."
    "  [default: the run's folder below bench/results]",
)
def main(
    rounds: int | None,
    quick: bool,
    memory: bool,
    names: tuple[str, ...],
    targets: bool,
    large: bool,
    prepare: bool,
    opponents: tuple[str, ...],
    seconds: float | None,
    resume: bool,
    data_dir: Path | None,
) -> None:
    """Run the pieces that were chosen and are not done; show the whole run, and write it down unless it is quick."""
    console = Console()
    if not console.is_terminal:
        console = Console(width=_FILE_WIDTH)
    if memory and (quick or names):
        raise click.UsageError("--memory is a run of its own: without --quick and --workload")
    if targets and (quick or names or memory):
        raise click.UsageError("--targets is a choice of its own: without --quick, --memory and --workload")
    cache = (data_dir or RESULTS) / _COMPARED
    chosen = choose(names, memory=memory, targets=targets, large=large, cache=cache)
    if seconds is not None:
        chosen = [replace(one, window_s=seconds) if isinstance(one, IngestWorkload) else one for one in chosen]
    if targets and rounds is None:
        rounds = 1
    try:
        if prepare:
            _prepare(console, chosen)
            return
        run = _open_run(rounds=rounds, quick=quick, resume=resume, data_dir=data_dir)
        if run.header.quick:
            chosen = [short for workload in chosen if (short := workload.shortened()) is not None]
        pieces = plan(chosen, opponents or tuple(OPPONENTS), rounds or run.header.rounds, run.pieces())
        _run_pieces(console, run, pieces, data_dir or run.folder / "data")
    except BenchFailed as error:
        raise click.ClickException(str(error)) from error
    if not run.pieces():
        raise click.UsageError("none of the chosen opponents takes part in a chosen workload")
    print_tables(console, run.pieces())
    if run.header.quick:
        console.print("A quick run: its figures prove nothing and are not written to the documentation.")
    else:
        write_performance_page(run.header, run.pieces())
        console.print(f"Written to {PERFORMANCE_PAGE.relative_to(ROOT)}.")


def _open_run(*, rounds: int | None, quick: bool, resume: bool, data_dir: Path | None) -> Run:
    RESULTS.mkdir(parents=True, exist_ok=True)
    disk = data_dir or RESULTS
    disk.mkdir(parents=True, exist_ok=True)
    environment = describe_environment(disk)
    if resume:
        run = Run.latest(RESULTS, environment)
        if quick and not run.header.quick:
            raise BenchFailed("the last run is not a quick one; go on with it without --quick")
        return run
    now = datetime.now(UTC)
    header = RunHeader(
        name=now.strftime("%Y%m%dT%H%M%SZ"),
        base_time_s=int(now.timestamp()),
        quick=quick,
        rounds=rounds or (1 if quick else ROUNDS_DEFAULT),
        environment=environment,
        fsync_median_ms=fsync_median_ms(disk),
    )
    return Run.create(RESULTS, header)


def _prepare(console: Console, chosen: Sequence[Workload]) -> None:
    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn(), TextColumn("{task.fields[note]}"))
    with Progress(*columns, console=console) as progress:
        for workload in chosen:
            if isinstance(workload, Prepared):
                began_s = time.monotonic()
                current = progress.add_task(workload.title, total=1.0, note="")

                def show(share: float, note: str, task: object = current) -> None:
                    progress.update(task, completed=share, note=note)  # type: ignore[arg-type]

                workload.prepare(show)
                progress.remove_task(current)
                console.print(f"{workload.title}: data is ready after {time.monotonic() - began_s:.0f} s")


def _run_pieces(console: Console, run: Run, pieces: Sequence[PlannedPiece], data_dir: Path) -> None:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, TextColumn("{task.fields[note]}"), console=console) as progress:
        overall = progress.add_task("all", total=len(pieces), note="")
        for planned in pieces:
            title = f"{planned.workload.title}, {planned.opponent.title}, round {planned.round}"
            # In hundredths, so that the bar's count reads as per cent.
            current = progress.add_task(title, total=100, note="")

            def show(share: float, note: str, task: object = current) -> None:
                progress.update(task, completed=int(share * 100), note=note)  # type: ignore[arg-type]

            name = f"{planned.workload.name}.{planned.opponent.name}.{planned.round}"
            folder = data_dir / f"{run.header.name}.{name}"
            began_at = datetime.now(UTC)
            if folder.exists():
                # It was left by a run that was killed inside this very piece.
                shutil.rmtree(folder)
            folder.mkdir(parents=True)
            try:
                figures = planned.workload.measure(
                    planned.opponent, folder, base_time_s=run.header.base_time_s, progress=show
                )
            except BenchFailed:
                log = folder / SERVER_LOG
                if log.exists():
                    shutil.copy(log, run.folder / f"{name}.log")
                raise
            finally:
                shutil.rmtree(folder)
            run.save(
                Piece(
                    workload=planned.workload.name,
                    opponent=planned.opponent.name,
                    round=planned.round,
                    command=_typed_command(),
                    began_at=began_at.isoformat(timespec="seconds"),
                    figures=figures,
                )
            )
            progress.remove_task(current)
            progress.advance(overall)
            console.print(f"{title}: {planned.workload.headline(figures)}")


def _typed_command() -> str:
    """What was typed, with the folder left out: it is of this machine only."""
    words = list(sys.argv[1:])
    for index, word in enumerate(words):
        if word == "--data-dir":
            words[index + 1] = "DIR"
        elif word.startswith("--data-dir="):
            words[index] = "--data-dir=DIR"
    return shlex.join(["python", "-m", "bench", *words])


if __name__ == "__main__":
    main()
