"""Asking contenders in turn, after their answers were found to be the same.

A contender that is slow is asked less often, never less than once: its time in the warm rounds is bounded, so that one
that needs seconds for an answer does not take the time of all.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, Final

from bench.comparison.catalogue import Entry
from bench.comparison.cold import forget_pages
from bench.comparison.family import ContenderProcess
from bench.comparison.preparation import PreparedData
from bench.comparison.questions import Question
from bench.errors import BenchFailed

# Asked without a pause, before it is the next one's turn.
BLOCK: Final = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Effort:
    """How much is asked.

    Attributes:
        warm_rounds: how often all questions are asked, unless the time is over.
        warm_s_max: for how long each contender is asked in the warm rounds, about.
        cold_starts: how often each contender is started cold and asked one question; 0 for not at all.
        cold_s_max: after this time no further cold start of a contender is begun.
    """

    warm_rounds: int = 7
    warm_s_max: float = 10.0
    cold_starts: int = 5
    cold_s_max: float = 15.0


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest value that at least *share* of all are not above."""
    return sorted(values)[max(0, math.ceil(share * len(values)) - 1)]


@contextmanager
def opened(data: PreparedData, entries: Sequence[Entry]) -> Iterator[list[ContenderProcess]]:
    """The contenders, each in its process, with what was prepared for it."""
    with ExitStack() as stack:
        processes = []
        for entry in entries:
            process = stack.enter_context(ContenderProcess(entry, data.folder_of(entry)))
            process.open()
            processes.append(process)
        yield processes


def check_answers(
    contenders: Sequence[ContenderProcess], questions: Sequence[Question], told: Callable[[float], None]
) -> int:
    """Have all answer all questions; return how many rows an answer has on average.

    Raises:
        BenchFailed: two answers differ.
    """
    rows = 0
    for number, question in enumerate(questions):
        first, *others = contenders
        expected = first.rows(question)
        rows += len(expected)
        for one in others:
            found = one.rows(question)
            if found != expected:
                raise BenchFailed(_difference(question, first.entry, expected, one.entry, found))
        told((number + 1) / len(questions))
    return rows // len(questions)


def _difference(
    question: Question,
    first: Entry,
    expected: Sequence[tuple[Any, ...]],
    other: Entry,
    found: Sequence[tuple[Any, ...]],
) -> str:
    at = next(
        (number for number, (left, right) in enumerate(zip(expected, found, strict=False)) if left != right),
        min(len(expected), len(found)),
    )
    return (
        f"{question}: {first.title} answers {len(expected)} rows and {other.title} {len(found)}; the first that differs"
        f" is row {at}: {expected[at : at + 1]} and {found[at : at + 1]}"
    )


def ask_warm(
    contenders: Sequence[ContenderProcess], questions: Sequence[Question], effort: Effort, told: Callable[[float], None]
) -> dict[str, list[float]]:
    """Ask in turn, in blocks, the other way round in every second round; return the seconds of each, by contender."""
    seconds: dict[str, list[float]] = {one.entry.name: [] for one in contenders}
    blocks = [questions[first : first + BLOCK] for first in range(0, len(questions), BLOCK)]
    # A single question would be over before a contender's processors have gone from sleep to full speed.
    blocks = [[*block] * (BLOCK // len(block)) if len(block) < BLOCK // 2 else block for block in blocks]
    total = effort.warm_rounds * len(blocks)
    for turn in range(total):
        for one in contenders if turn % 2 else reversed(contenders):
            taken = seconds[one.entry.name]
            left_s = effort.warm_s_max - sum(taken)
            if left_s > 0:
                taken += one.ask(blocks[turn % len(blocks)], seconds_max=left_s)
        told((turn + 1) / total)
    return seconds


def ask_cold(
    data: PreparedData,
    entries: Sequence[Entry],
    questions: Sequence[Question],
    effort: Effort,
    told: Callable[[float], None],
) -> dict[str, tuple[list[float], list[float]]]:
    """Start each contender anew with its files forgotten; return the seconds of opening and of the first answer."""
    found: dict[str, tuple[list[float], list[float]]] = {one.name: ([], []) for one in entries}
    for start in range(effort.cold_starts):
        for number, entry in enumerate(entries):
            opening, answering = found[entry.name]
            if sum(opening) + sum(answering) < effort.cold_s_max:
                forget_pages(data.folder_of(entry))
                with ContenderProcess(entry, data.folder_of(entry)) as process:
                    opening.append(process.open())
                    answering += process.ask([questions[start % len(questions)]], seconds_max=0)
            told((start + (number + 1) / len(entries)) / effort.cold_starts)
    return found


def figures_of(name: str, seconds: Sequence[float], kind: str) -> dict[str, float]:
    """Median and p99 in milliseconds, and how many answers they are of."""
    return {
        f"{name}.{kind}_p50_ms": statistics.median(seconds) * 1000,
        f"{name}.{kind}_p99_ms": percentile(seconds, 0.99) * 1000,
        f"{name}.{kind}_answers": float(len(seconds)),
    }
