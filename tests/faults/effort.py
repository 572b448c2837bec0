"""How often a fault test repeats itself: seconds in the suite, as long as it takes in the long form."""

from __future__ import annotations

import os
from typing import Final

LONG_VARIABLE: Final = "ACTIONLAKE_TEST_LONG"


def repetitions(*, suite: int, long: int) -> int:
    """Choose between the two forms by the environment."""
    return long if os.environ.get(LONG_VARIABLE) == "1" else suite
