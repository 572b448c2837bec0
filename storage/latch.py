"""The latch that a failed write sets, for every worker at once.

After a failed fsync nobody knows what the kernel kept, so that nothing may be acknowledged any more until a restart
has looked at what is on disk. An fsync is never retried. The latch is a page of shared memory behind a small file:
setting and reading it needs no system call and works while the disk does not.
"""

from __future__ import annotations

import mmap
from pathlib import Path
from typing import Final

from storage.errors import StoreFailed
from storage.shared_page import PAGE_BYTES, map_page

_MESSAGE_BYTES_MAX: Final = 1024


class Latch:
    """Set once by whoever meets the failure; read before every acknowledgement by all workers of the store."""

    def __init__(self, path: Path) -> None:
        """Open the latch as it stands.

        Raises:
            OSError: the file cannot be made.
        """
        self._page = map_page(path)

    @staticmethod
    def read(path: Path) -> str | None:
        """Return why the store is latched, or None if it is not, without opening the latch for writing.

        Raises:
            OSError: the file cannot be read.
        """
        page = path.read_bytes()
        return _reason(page) if page[:1] == b"\1" else None

    def clear(self) -> None:
        """Forget an earlier failure. Only for the holder of the folder's lock, after recovery."""
        self._page[:] = bytes(PAGE_BYTES)

    def set(self, reason: str) -> None:
        """Latch the store as failed; the first reason stays."""
        if not self._page[0]:
            text = reason.encode("utf-8", "replace")[:_MESSAGE_BYTES_MAX]
            self._page[2 : 2 + len(text)] = text
            self._page[0] = 1

    @property
    def reason(self) -> str | None:
        """Why the store has failed, or None."""
        if not self._page[0]:
            return None
        return _reason(self._page)

    def check(self) -> None:
        """Do nothing while all is well.

        Raises:
            StoreFailed: the store is latched.
        """
        if self._page[0]:
            raise StoreFailed(f"the store has failed and takes no more submissions until a restart: {self.reason}")

    def close(self) -> None:
        """Unmap the page."""
        self._page.close()


def _reason(page: bytes | mmap.mmap) -> str:
    return page[2 : 2 + _MESSAGE_BYTES_MAX].rstrip(b"\0").decode("utf-8", "replace")
