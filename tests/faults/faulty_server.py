"""Runs the command `actionlake` with a mistake made or a fault installed first, in each process of a server.

What it is stands in a variable, as JSON. Worker processes import the main module anew under the name `__mp_main__`,
which is how it reaches them; the keeper is started as `tests.faults.faulty_keeper`.
"""

from __future__ import annotations

import json
import os
from typing import Final

TAMPERING_VARIABLE: Final = "ACTIONLAKE_TEST_TAMPERING"


def tamper() -> None:
    """Do what the variable says."""
    from tests.faults import broken_stores, injected_faults

    what = json.loads(os.environ[TAMPERING_VARIABLE])
    if what["mistake"]:
        broken_stores.MISTAKES[what["mistake"]]()
    if what["fault"]:
        injected_faults.install(**what["fault"])


if __name__ in ("__main__", "__mp_main__"):
    tamper()

if __name__ == "__main__":
    import service.keeper_process
    from service.cli import main

    service.keeper_process.KEEPER_MODULE = "tests.faults.faulty_keeper"  # type: ignore[misc]
    main()
