"""The footers of data files that DuckDB remembers, so that the bytes of a query do not depend on who asked before.

DuckDB reads a file's footer once and keeps it. A query that finds it there has read that much less; but what a query
scans is a figure that people are charged for and compare, and it must be the same each time. So footers are read before
a query, apart from it, and counted for each as if they had been read for it.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterable
from typing import Final

# The length of the footer and the magic number: read once to learn the length, and once more with the footer.
_END: Final = struct.Struct("<I4s")
_FILES_KNOWN_MAX: Final = 200_000
# Up to about 20 MB of footers of files that are gone.
_GONE_FILES_MAX: Final = 1_000


class Footers:
    """Which files' footers one DuckDB has read, and how many bytes that took."""

    def __init__(self) -> None:
        self._bytes: dict[str, int] = {}

    def unknown(self, paths: Iterable[str]) -> list[str]:
        """Those of *paths* that DuckDB has not read yet."""
        return [path for path in paths if path not in self._bytes]

    def learn(self, paths: Iterable[str]) -> None:
        """Note that DuckDB has read the footers of *paths*."""
        if len(self._bytes) >= _FILES_KNOWN_MAX:
            self._bytes.clear()
        self._bytes.update((path, _footer_bytes(path)) for path in paths)

    def bytes_of(self, paths: Iterable[str]) -> int:
        """Count the bytes of the footers of *paths*."""
        return sum(self._bytes.get(path, 0) for path in paths)

    def mostly_gone(self, live: Iterable[str]) -> bool:
        """Whether most files whose footers DuckDB keeps are not among the *live* ones, and there are many.

        DuckDB forgets no footer, so that a worker which has opened that many files is replaced by another.
        """
        if len(self._bytes) < _GONE_FILES_MAX:
            return False
        gone = len(self._bytes.keys() - live)
        return gone >= max(_GONE_FILES_MAX, len(self._bytes) // 2)


def _footer_bytes(path: str) -> int:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        # Compacted and vacuumed since it was read; no later query opens it.
        return 0
    try:
        size = os.fstat(descriptor).st_size
        length, _ = _END.unpack(os.pread(descriptor, _END.size, size - _END.size))
    finally:
        os.close(descriptor)
    return int(length) + 2 * _END.size
