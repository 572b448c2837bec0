"""Erasing a user when the sweep dies before it has synced what it removed, and whoever comes next ends it; traced.

    python -m tests.faults.interrupted_sweep REPORTS FOLDER[=MISTAKE]...

does this in each folder, which is made. When the erasure is done, `E folder` goes to the file REPORTS. The mistake is
that of a sweep which syncs the folders of the files that it has removed itself.
"""

from __future__ import annotations

import os
import sys
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import Final
from unittest import mock

import storage.eraser
from storage.lake import Lake
from storage.maintenance.table_log import system_now_ms
from storage.maintenance.vacuum import vacuum
from tests.storage.building import Crash, put, store_in
from tests.storage.compacting import compact_all
from tests.storage.erasing import USER, finish

MISTAKE: Final = "only_its_own"


def perform(folder: Path, *, mistaken: bool) -> None:
    """Make a store, erase a user, and let the sweep die once."""
    with store_in(folder, erasure_grace_ms=0) as store:
        for _ in range(2):
            put(store, 10, user=USER, days=2)
            put(store, 10, user="someone-else", days=2)
            store.flush_here()
        compact_all(store)
        # On one day they are gone before the erasure begins: nobody has synced that either.
        assert store.latch is not None
        lake = Lake(store.paths.table, store.schema)
        vacuum(lake, store.journal, store.latch, now_ms=system_now_ms(), grace_ms=0)
        put(store, 10, user=USER)
        store.flush_here()
        store.erase(USER)
        with mock.patch.object(storage.eraser, "make_names_durable", side_effect=Crash), suppress(Crash):
            finish(store)
        sync = mock.patch.object(storage.eraser, "make_names_durable") if mistaken else nullcontext()
        with sync:
            finish(store)


def main(reports: str, *folders: str) -> None:
    """Do it in each folder."""
    descriptor = os.open(reports, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for given in folders:
        folder, _, mistake = given.partition("=")
        perform(Path(folder), mistaken=mistake == MISTAKE)
        os.write(descriptor, f"E {folder}\n".encode())


if __name__ == "__main__":
    main(*sys.argv[1:])
