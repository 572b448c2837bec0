"""Entering namespaces of another process, such as those in which it sees other disks than everybody."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Sequence


def enter(namespaces: Sequence[str]) -> None:
    """Enter them, one after the other; only for a process with one thread, as one that was just forked.

    Args:
        namespaces: files such as `/proc/1234/ns/mnt`; a user namespace before those that it owns.

    Raises:
        OSError: one cannot be entered.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    # Each may change what the paths of others mean.
    opened = [os.open(path, os.O_RDONLY | os.O_CLOEXEC) for path in namespaces]
    for path, namespace in zip(namespaces, opened, strict=True):
        if libc.setns(namespace, 0):
            raise OSError(ctypes.get_errno(), f"cannot enter {path}")
        os.close(namespace)
