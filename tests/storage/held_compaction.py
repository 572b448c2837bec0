"""The process that compacts, with its system calls held by a test (`tests.faults.held_calls`)."""

from __future__ import annotations

import os
import sys
from typing import Final

from storage.maintenance import compaction_child
from tests.faults.held_calls import hand_over

GATE_VARIABLE: Final = "ACTIONLAKE_TEST_GATE"

if __name__ == "__main__":
    hand_over(os.environ.pop(GATE_VARIABLE))
    sys.exit(compaction_child.main())
