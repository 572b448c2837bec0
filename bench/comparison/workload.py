"""The workloads of the comparison: one for each size and kind of questions, and one for growth."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, Protocol, runtime_checkable

from bench.comparison.actions import ComparedActions
from bench.comparison.battery import ASKED, ASKED_BY_NAME, Asked
from bench.comparison.catalogue import ACTIONLAKE, CLICKHOUSE, CLICKHOUSE_BY_TIME, CONTENDERS, Entry
from bench.comparison.measuring import Effort, ask_cold, ask_warm, check_answers, figures_of, opened
from bench.comparison.preparation import PreparedData
from bench.comparison.settling import STILL_S
from bench.errors import BenchFailed
from bench.opponents import Opponent
from bench.processes import family_cpu_s, machine_busy_s
from bench.workloads import Progress, Workload

# Multiples of the days; about what their names say.
SIZES: Final[Mapping[str, ComparedActions]] = {
    "1m": ComparedActions(1_000_100),
    "10m": ComparedActions(10_000_270),
    "20m": ComparedActions(20_000_175),
    "100m": ComparedActions(100_000_145),
}
LARGE: Final = "100m"
_EFFORT: Final = Effort()
_WARM_EFFORT: Final = Effort(cold_starts=0)
_QUICK: Final = ComparedActions(36_500, days=10)
_QUICK_EFFORT: Final = Effort(warm_rounds=1, warm_s_max=1.0, cold_starts=0)
_QUICK_STILL_S: Final = 2.0
GROWTH: Final = "compare-growth"


@runtime_checkable
class Prepared(Protocol):
    """A workload whose data is made beforehand."""

    @property
    def title(self) -> str:
        """What the progress calls it."""

    def prepare(self, progress: Progress) -> None:
        """Make what is missing."""


@contextmanager
def undisturbed(figures: dict[str, float]) -> Iterator[None]:
    """Add to *figures* how long the block took, and how many processors others kept busy meanwhile."""
    began_s, machine_s, own_s = time.perf_counter(), machine_busy_s(), family_cpu_s(os.getpid())
    yield
    window_s = time.perf_counter() - began_s
    others_s = machine_busy_s() - machine_s - (family_cpu_s(os.getpid()) - own_s)
    figures |= {"window_s": window_s, "other_cpus": max(0.0, others_s / window_s)}


@dataclass(frozen=True, slots=True, kw_only=True)
class ComparisonWorkload:
    """One kind of questions to one set of actions, asked of everybody who can be had."""

    size: str
    actions: ComparedActions
    asked: Asked
    cache: Path
    contenders: tuple[Entry, ...] = tuple(CONTENDERS)
    effort: Effort = _EFFORT
    still_s: float = STILL_S
    opponents: tuple[str, ...] = ("actionlake",)
    rounds_max: int = 1

    @property
    def name(self) -> str:
        """Size and kind."""
        return f"compare-{self.size}.{self.asked.name}"

    @property
    def title(self) -> str:
        """What is asked, and of how much."""
        return f"{self.asked.title}, {self.actions.actions:,} actions"

    @property
    def data(self) -> PreparedData:
        """What is asked about."""
        return PreparedData(self.cache, self.actions, self.still_s)

    def taking_part(self) -> list[Entry]:
        """The contenders that can be had, and that can load so many actions in reasonable time."""
        return [
            one
            for one in self.contenders
            if one.absence() is None and (one.actions_max is None or self.actions.actions <= one.actions_max)
        ]

    def shortened(self) -> ComparisonWorkload | None:
        """A few thousand actions instead of the smallest set; nothing instead of the others."""
        if self.size != next(iter(SIZES)):
            return None
        return replace(self, actions=_QUICK, effort=_QUICK_EFFORT, still_s=_QUICK_STILL_S)

    def prepare(self, progress: Progress) -> None:
        """Make what is missing."""
        self.data.prepare(self.taking_part(), progress)

    def measure(self, opponent: Opponent, folder: Path, *, base_time_s: int, progress: Progress) -> Mapping[str, float]:
        """Prepare what is missing, compare the answers, ask warm, and ask cold.

        Raises:
            BenchFailed: a contender failed, or answered something else than the others.
        """
        del opponent, folder, base_time_s
        entries, questions = self.taking_part(), self.asked.questions(self.actions)
        self.data.prepare(entries, lambda share, note: progress(share * 0.5, note))
        figures: dict[str, float] = {"actions": float(self.actions.actions), "questions": float(len(questions))}
        with undisturbed(figures):
            with opened(self.data, entries) as processes:
                contenders = [one for one in processes if one.answers(questions)]
                entries = [one.entry for one in contenders]
                figures["rows"] = float(
                    check_answers(contenders, questions, lambda share: progress(0.5 + share * 0.2, "comparing answers"))
                )
                warm = ask_warm(
                    contenders, questions, self.effort, lambda share: progress(0.7 + share * 0.15, "asking warm")
                )
                for one in contenders:
                    figures |= {f"{one.entry.name}.{name}": value for name, value in one.sizes().items()}
            cold = ask_cold(
                self.data, entries, questions, self.effort, lambda share: progress(0.85 + share * 0.15, "asking cold")
            )
        for name, seconds in warm.items():
            figures |= figures_of(name, seconds, "warm")
        for name, (opening, answering) in cold.items():
            if answering:
                figures |= figures_of(name, answering, "cold") | figures_of(name, opening, "opening")
        for name, note in self.data.notes(entries).items():
            figures |= {f"{name}.{key}": float(note[key]) for key in ("load_s", "settle_s") if key in note}
        return figures | ratios_to_clickhouse(figures)

    def headline(self, figures: Mapping[str, float]) -> str:
        """The warm medians."""
        medians = [
            f"{one.name} {figures[key]:,.1f}" for one in CONTENDERS if (key := f"{one.name}.warm_p50_ms") in figures
        ]
        return f"{figures['rows']:,.0f} rows, warm ms: {', '.join(medians)}"


def ratios_to_clickhouse(figures: Mapping[str, float]) -> dict[str, float]:
    """The warm median over REST to each order of ClickHouse and to the faster one, and bytes to the smaller one."""
    orders = [one.name for one in (CLICKHOUSE, CLICKHOUSE_BY_TIME) if f"{one.name}.warm_p50_ms" in figures]
    if not orders or f"{ACTIONLAKE.name}.warm_p50_ms" not in figures:
        return {}
    own_ms = figures[f"{ACTIONLAKE.name}.warm_p50_ms"]
    theirs_ms = {name: figures[f"{name}.warm_p50_ms"] for name in orders}
    data_bytes = figures[f"{ACTIONLAKE.name}.data_bytes"]
    least_bytes = min(figures[f"{name}.data_bytes"] for name in orders)
    return {
        **{f"to_{name}": own_ms / other_ms for name, other_ms in theirs_ms.items()},
        "to_faster_clickhouse": own_ms / min(theirs_ms.values()),
        "bytes_to_smaller_clickhouse": data_bytes / least_bytes,
        "bytes_with_caches_to_smaller_clickhouse": (data_bytes + figures[f"{ACTIONLAKE.name}.caches_bytes"])
        / least_bytes,
    }


@dataclass(frozen=True, slots=True, kw_only=True)
class GrowthWorkload:
    """The history of users with the same number of actions, asked in turn of a small and a large set over REST."""

    small: ComparedActions
    large: ComparedActions
    cache: Path
    name: str = GROWTH
    title: str = "one user (about 100 actions), all time, 100M beside 10M actions"
    effort: Effort = _WARM_EFFORT
    still_s: float = STILL_S
    opponents: tuple[str, ...] = ("actionlake",)
    rounds_max: int = 1

    def shortened(self) -> GrowthWorkload:
        """Two small sets."""
        return replace(
            self, small=_QUICK, large=ComparedActions(73_000, days=10), effort=_QUICK_EFFORT, still_s=_QUICK_STILL_S
        )

    def is_ready(self) -> bool:
        """Whether the data of both is there."""
        return all(PreparedData(self.cache, one).is_ready([ACTIONLAKE]) for one in (self.small, self.large))

    def prepare(self, progress: Progress) -> None:
        """Make what is missing."""
        for number, actions in enumerate((self.small, self.large)):

            def told(share: float, note: str, number: int = number) -> None:
                progress((number + share) / 2, note)

            PreparedData(self.cache, actions, self.still_s).prepare([ACTIONLAKE], told)

    def measure(self, opponent: Opponent, folder: Path, *, base_time_s: int, progress: Progress) -> Mapping[str, float]:
        """Prepare what is missing, and ask both in turn.

        Raises:
            BenchFailed: an answer is empty, or the service failed.
        """
        del opponent, folder, base_time_s
        self.prepare(lambda share, note: progress(share * 0.8, note))
        figures: dict[str, float] = {}
        sides = {"small": self.small, "large": self.large}
        seconds: dict[str, list[float]] = {name: [] for name in sides}
        with (
            undisturbed(figures),
            opened(PreparedData(self.cache, self.small), [ACTIONLAKE]) as (small,),
            opened(PreparedData(self.cache, self.large), [ACTIONLAKE]) as (large,),
        ):
            for side, one in (("small", small), ("large", large)):
                questions = ASKED_BY_NAME["user"].questions(sides[side])
                rows = [len(one.rows(question)) for question in questions]
                if not all(rows):
                    raise BenchFailed(f"{one.entry.title} has no action of a user")
                figures[f"{side}_rows"] = sum(rows) / len(rows)
            for turn in range(self.effort.warm_rounds):
                for side, one in (("small", small), ("large", large))[:: 1 if turn % 2 else -1]:
                    questions = ASKED_BY_NAME["user"].questions(sides[side])
                    seconds[side] += one.ask(questions, seconds_max=self.effort.warm_s_max)
                progress(0.8 + 0.2 * (turn + 1) / self.effort.warm_rounds, "asking both")
        for side, actions in sides.items():
            figures[f"{side}_actions"] = float(actions.actions)
            figures |= figures_of(side, seconds[side], "warm")
        return figures | {"growth": figures["large.warm_p50_ms"] / figures["small.warm_p50_ms"]}

    def headline(self, figures: Mapping[str, float]) -> str:
        """Both medians."""
        return f"{figures['small.warm_p50_ms']:.1f} ms and {figures['large.warm_p50_ms']:.1f} ms"


def comparison_names() -> list[str]:
    """What can be chosen: a size with all its questions, one of them, or growth."""
    return [
        name for size in SIZES for name in (f"compare-{size}", *(f"compare-{size}.{one.name}" for one in ASKED))
    ] + [GROWTH]


def comparison_workloads(cache: Path, *, contenders: Sequence[Entry] = CONTENDERS) -> dict[str, Sequence[Workload]]:
    """The workloads behind each of `comparison_names`, over data that is kept below *cache*."""
    found: dict[str, Sequence[Workload]] = {}
    for size, actions in SIZES.items():
        all_asked = [
            ComparisonWorkload(size=size, actions=actions, asked=asked, cache=cache, contenders=tuple(contenders))
            for asked in ASKED
        ]
        found[f"compare-{size}"] = all_asked
        found |= {one.name: [one] for one in all_asked}
    found[GROWTH] = [GrowthWorkload(small=SIZES["10m"], large=SIZES[LARGE], cache=cache)]
    return found
