"""A file system of its own: the table read-only, the temporary folder, and nothing else.

The folders keep their paths. A new root is prepared first, while the old one is still needed to load libraries, and
entered later. Network, IPC and host name are left for empty namespaces in the same step.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

from queries.sql.walls import kernel

_NAMESPACES: Final = kernel.CLONE_NEWNS | kernel.CLONE_NEWNET | kernel.CLONE_NEWIPC | kernel.CLONE_NEWUTS
_NOTHING_SPECIAL: Final = kernel.MS_NOSUID | kernel.MS_NODEV | kernel.MS_NOEXEC


def leave_namespaces() -> str:
    """Enter new, empty namespaces for mounts, network, IPC and host name; without rights, in a new user namespace.

    Must be called while the process has one thread.

    Returns:
        how it was done, in words.

    Raises:
        OSError: the system does not let this process.
    """
    if os.geteuid() == 0:
        kernel.unshare(_NAMESPACES)
        how = "as root"
    else:
        user, group = os.geteuid(), os.getegid()
        kernel.unshare(_NAMESPACES | kernel.CLONE_NEWUSER)
        Path("/proc/self/setgroups").write_text("deny")
        Path("/proc/self/uid_map").write_text(f"{user} {user} 1")
        Path("/proc/self/gid_map").write_text(f"{group} {group} 1")
        how = "in a user namespace"
    return f"no network interface, no shared memory of others, {how}"


def prepare_root(root: Path, *, read_only: Path, writable: Path) -> None:
    """Mount an empty file system at *root* with the two folders in it, at the paths that they have now.

    Raises:
        OSError: the system does not let this process.
    """
    kernel.mount("none", "/", None, kernel.MS_REC | kernel.MS_PRIVATE)
    kernel.mount("tmpfs", str(root), "tmpfs", _NOTHING_SPECIAL, "size=64k,mode=0755")
    # The outer of two nested folders comes first, so that it does not cover the inner one.
    for folder in sorted((read_only, writable), key=lambda one: len(one.parts)):
        target = root / folder.relative_to("/")
        target.mkdir(parents=True, exist_ok=True)
        kernel.mount(str(folder), str(target), None, kernel.MS_BIND)
        flags = _NOTHING_SPECIAL | (kernel.MS_RDONLY if folder == read_only else 0)
        kernel.mount(None, str(target), None, kernel.MS_REMOUNT | kernel.MS_BIND | flags)
    kernel.mount(None, str(root), None, kernel.MS_REMOUNT | kernel.MS_RDONLY | _NOTHING_SPECIAL)
