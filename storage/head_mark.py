"""How far the journal had acknowledged, noted beside it, so that a journal that ends earlier does not do so in silence.

SQLite takes the write-ahead log up to the first frame whose checksum is wrong. After a crash that is right: what
follows was never acknowledged. After a bit has flipped in the middle, all later commits are gone without a word. This
small file has the answer: the last position that each process had acknowledged, written after its fsync and before the
acknowledgement leaves. Being mapped into memory it costs no system call and survives the death of the process. It is
not synced: after a power cut it may be older than the journal, which only makes the comparison weaker, and never newer.

Each process writes to a slot of its own; two that meet in one, which takes more of them than there are slots, can only
make the note older as well.
"""

from __future__ import annotations

import os
import struct
from pathlib import Path
from typing import Final

from storage.shared_page import PAGE_BYTES, map_page

_ID_BYTES: Final = 64
_SLOT: Final = struct.Struct("<q")
_SLOTS: Final = (PAGE_BYTES - _ID_BYTES) // _SLOT.size
_ALL_SLOTS: Final = struct.Struct(f"<{_SLOTS}q")


class HeadMark:
    """The note beside one journal."""

    def __init__(self, path: Path) -> None:
        """Open it, or make it.

        Raises:
            OSError: the file cannot be made.
        """
        self._page = map_page(path)
        self._place = _ID_BYTES + os.getpid() % _SLOTS * _SLOT.size

    def note(self, head: int) -> None:
        """Note that everything up to *head* is about to be acknowledged."""
        if _SLOT.unpack_from(self._page, self._place)[0] < head:
            _SLOT.pack_into(self._page, self._place, head)

    def noted(self) -> int:
        """The last position that any process noted; it is there before the acknowledgement leaves."""
        return int(max(_ALL_SLOTS.unpack_from(self._page, _ID_BYTES)))

    def begin(self, journal: str, head: int) -> None:
        """Begin anew for a journal that ends at *head*. Only for the holder of the folder's lock, after recovery."""
        self._page[:] = bytes(PAGE_BYTES)
        self._page[:_ID_BYTES] = journal.encode()[:_ID_BYTES].ljust(_ID_BYTES, b"\0")
        _SLOT.pack_into(self._page, _ID_BYTES, head)

    def close(self) -> None:
        """Unmap it."""
        self._page.close()


def noted(path: Path) -> tuple[str, int]:
    """Which journal the note at *path* is about, and the last position of it that was acknowledged; `("", 0)` if none.

    Raises:
        OSError: it cannot be read.
    """
    try:
        page = path.read_bytes()
    except FileNotFoundError:
        return "", 0
    if len(page) != PAGE_BYTES:
        return "", 0
    journal = page[:_ID_BYTES].rstrip(b"\0").decode("utf-8", "replace")
    return journal, max(_ALL_SLOTS.unpack_from(page, _ID_BYTES))
