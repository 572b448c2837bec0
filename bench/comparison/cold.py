"""Making a contender cold: its files leave the page cache.

`posix_fadvise` needs no rights and touches nobody else's files; what the disk itself, or the host of a virtual machine,
keeps in memory stays there, and so do the programs and libraries.
"""

from __future__ import annotations

import os
from pathlib import Path


def forget_pages(folder: Path) -> None:
    """Have the kernel forget the contents of all files below *folder*; nobody may have them open or mapped."""
    for path in folder.rglob("*"):
        if path.is_file():
            descriptor = os.open(path, os.O_RDONLY)
            try:
                # Only what is written can be forgotten.
                os.fdatasync(descriptor)
                os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
            finally:
                os.close(descriptor)
