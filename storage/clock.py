"""The clock of the store: where it is read, so that whatever depends on the time can be given another one."""

from __future__ import annotations

import time


def system_now_us() -> int:
    """The clock: microseconds since the epoch."""
    return time.time_ns() // 1000
