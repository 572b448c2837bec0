"""A page of memory that the processes of a store share, behind a small file.

Reading and writing it needs no system call, works while the disk does not, and survives the death of a process. It is
never synced: after a power cut it may say what it said before.
"""

from __future__ import annotations

import mmap
import os
from pathlib import Path
from typing import Final

PAGE_BYTES: Final = 4096


def map_page(path: Path) -> mmap.mmap:
    """Map the page at *path*; make it, of zeros, if there is none.

    Raises:
        OSError: the file cannot be made.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        # Written to where the disk has no room, a mapped file would kill the process.
        os.posix_fallocate(descriptor, 0, PAGE_BYTES)
        return mmap.mmap(descriptor, PAGE_BYTES)
    finally:
        os.close(descriptor)
