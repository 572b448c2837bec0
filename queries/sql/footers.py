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

from storage.footer_memory import FOOTER_GROWTH

# The length of the footer and the magic number: read once to learn the length, and once more with the footer.
_END: Final = struct.Struct("<I4s")
# In memory, of footers of files that are gone; beyond it as much as of those that are there.
_GONE_BYTES_MAX: Final = 20 << 20
# In memory, of all footers: half of what a worker may take beside what DuckDB accounts for.
_ALL_BYTES_MAX: Final = 512 << 20


class Footers:
    """Which files' footers one DuckDB has read, and how many bytes that took."""

    def __init__(self) -> None:
        self._bytes: dict[str, int] = {}

    def unknown(self, paths: Iterable[str]) -> list[str]:
        """Those of *paths* that DuckDB has not read yet."""
        return [path for path in paths if path not in self._bytes]

    def learn(self, paths: Iterable[str]) -> None:
        """Note that DuckDB has read the footers of *paths*."""
        self._bytes.update((path, _footer_bytes(path)) for path in paths)

    def bytes_of(self, paths: Iterable[str]) -> int:
        """Count the bytes of the footers of *paths*."""
        return sum(self._bytes.get(path, 0) for path in paths)

    def too_many(self, live: Iterable[str]) -> bool:
        """Whether most of what DuckDB keeps is of files that are not among the *live* ones, or it keeps too much.

        DuckDB forgets no footer, so that a worker which keeps that much is replaced by another.
        """
        kept = sum(self._bytes.values()) * FOOTER_GROWTH
        if kept < _GONE_BYTES_MAX:
            return False
        gone = sum(self._bytes[path] for path in self._bytes.keys() - live) * FOOTER_GROWTH
        return gone >= max(_GONE_BYTES_MAX, kept // 2) or kept >= _ALL_BYTES_MAX


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
