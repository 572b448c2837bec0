"""Old files of the table `rejects` off the disk: those that no version names any more, after a grace for readers.

A file's own age does not say for how long nobody needs it: an old one may have been replaced a moment ago. So the
caretaker remembers since when it has seen a file without a name in the newest version; a restart begins anew.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from storage.rejects_table import RejectsTable

# Longer than a reader holds a version, and than a move takes between writing a file and naming it.
GRACE_S: Final = 900.0


class RejectsVacuum:
    """Removes what was unreferenced for the whole grace. Not for several threads at once."""

    def __init__(
        self, folder: Path, *, grace_s: float = GRACE_S, clock_s: Callable[[], float] = time.monotonic
    ) -> None:
        self._folder = folder
        self._grace_s = grace_s
        self._clock_s = clock_s
        self._seen_s: dict[Path, float] = {}

    def run(self) -> bool:
        """Look, and remove what is due; return False, since there is nothing to go on with at once.

        Raises:
            CorruptData: the table's log cannot be read.
            OSError: a file could not be removed.
        """
        found = set(self._folder.glob("date=*/*.parquet"))
        if not found:
            self._seen_s.clear()
            return False
        # Loaded after the files were listed: what was committed since is not taken for unreferenced.
        live = {one.relative_path for one in RejectsTable(self._folder).snapshot("").files}
        now_s = self._clock_s()
        unnamed = {path for path in found if path.relative_to(self._folder).as_posix() not in live}
        self._seen_s = {path: self._seen_s.get(path, now_s) for path in unnamed}
        for path, since_s in list(self._seen_s.items()):
            if now_s - since_s >= self._grace_s:
                path.unlink(missing_ok=True)
                del self._seen_s[path]
        return False
