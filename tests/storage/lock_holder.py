"""Holds what only one process may hold, until it is killed: `python -m tests.storage.lock_holder WHAT FOLDER`.

WHAT is `service` (the whole store, with a leader), `worker` (as one of several, with a leader), `latch` (sets the latch
and ends).
"""

from __future__ import annotations

import sys
from pathlib import Path

from storage.latch import Latch
from storage.opening import join_store
from storage.paths import StorePaths
from storage.store_options import StoreOptions
from tests.storage.building import SCHEMA, eventually, opened


def main() -> None:
    """Take it, say so on standard output, and wait for the end of standard input."""
    what, paths = sys.argv[1], StorePaths.of(Path(sys.argv[2]))
    if what == "latch":
        Latch(paths.latch).set("the disk of another process failed")
        return
    if what == "service":
        store, _ = opened(paths.data)
    else:
        store = join_store(paths, SCHEMA, StoreOptions())
    store.start_leading()
    eventually(lambda: store.leads)
    sys.stdout.write("holds\n")
    sys.stdout.flush()
    sys.stdin.read()
    store.close(flush=False)


if __name__ == "__main__":
    main()
