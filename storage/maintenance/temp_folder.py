"""A folder for what a process spills, which goes with the process: whoever comes next removes those of the dead."""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def own_temp_folder(parent: Path) -> Iterator[Path]:
    """Make a folder in *parent* and remove it afterwards, and those of processes that ended without doing so.

    Raises:
        OSError: it could not be made.
    """
    parent.mkdir(exist_ok=True)
    for other in parent.iterdir():
        _remove_if_dead(other)
    folder = Path(tempfile.mkdtemp(dir=parent))
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(descriptor)


def _remove_if_dead(folder: Path) -> None:
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return
    else:
        shutil.rmtree(folder, ignore_errors=True)
    finally:
        os.close(descriptor)
