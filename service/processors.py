"""How many processors this process may use."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

_QUOTA: Final = Path("/sys/fs/cgroup/cpu.max")


def processors_allowed(quota: Path = _QUOTA) -> float:
    """Those that it may run on, or as much time as its container may take of them, in processors, if that is less.

    Args:
        quota: the control group's file for that, `$MAX $PERIOD` (cgroup v2); there need not be any.
    """
    counted = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        most_us, period_us = quota.read_text().split()
        return float(counted) if most_us == "max" else min(counted, int(most_us) / int(period_us))
    except (OSError, ValueError):
        return float(counted)
