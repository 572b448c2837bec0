"""Latencies as counts, which can be added up over windows; what is lost is less than one per cent of each."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Final

_STEP: Final = math.log(1.01)


def count_latencies(latencies_s: Iterable[float]) -> dict[str, int]:
    """Count latencies by their logarithm, so that they can be sent as JSON."""
    counts = Counter(math.floor(math.log(max(one, 1e-9)) / _STEP) for one in latencies_s)
    return {str(step): count for step, count in counts.items()}


def pooled_quantile_ms(windows: Iterable[Mapping[str, int]], share: float) -> float:
    """The nearest-rank quantile of all latencies of some windows together.

    Raises:
        ValueError: there is none.
    """
    counts: Counter[int] = Counter()
    for one in windows:
        for name, count in one.items():
            counts[int(name)] += count
    if not counts:
        raise ValueError("there are no latencies")
    wanted = max(1, math.ceil(share * counts.total()))
    seen = 0
    for step in sorted(counts):
        seen += counts[step]
        if seen >= wanted:
            break
    return math.exp((step + 0.5) * _STEP) * 1000
