"""Disks that can be filled and emptied: a real one of a few megabytes where it may be mounted, and an injected one.

The real one is a tmpfs in a mount namespace of its own, held by a process; others enter it, see
`tests.faults.namespaces`, and it disappears with that process. Nothing has to be unmounted, and nobody else sees it.
"""

from __future__ import annotations

import errno
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, Protocol

from tests.faults.injected_faults import DATABASE_WRITE, FSYNC

_NAMESPACES: Final = (["unshare", "--mount"], ["unshare", "--map-root-user", "--mount"])
_BLOCK_BYTES: Final = 4096


class SmallDisk(Protocol):
    """A disk that a test fills.

    Attributes:
        folder: where it is, as those in its namespaces see it.
        namespaces: what a process has to enter to see it.
        fault: what a process on it has to install, see `tests.faults.injected_faults`; empty for a real one.
    """

    folder: Path
    namespaces: list[str]
    fault: dict[str, Any]

    def fill(self) -> None:
        """Leave no space."""

    def free(self) -> None:
        """Give the space back."""


class TmpfsDisk:
    """A tmpfs of its own."""

    def __init__(self, folder: Path, namespace: list[str], *, size_bytes: int) -> None:
        """Mount it.

        Raises:
            OSError: there is no `unshare`, or mounting is not allowed.
        """
        folder.mkdir()
        script = 'mount -t tmpfs -o size="$1" small "$2" && echo mounted && exec cat'
        self._holder = subprocess.Popen(
            [*namespace, "sh", "-c", script, "sh", str(size_bytes), str(folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert self._holder.stdout is not None
        if self._holder.stdout.readline() != "mounted\n":
            _, message = self._holder.communicate()
            raise OSError(f"{' '.join(namespace)}: {message.strip()}")
        self.folder = folder
        kinds = ["user", "mnt"] if "--map-root-user" in namespace else ["mnt"]
        self.namespaces = [f"/proc/{self._holder.pid}/ns/{kind}" for kind in kinds]
        self.fault: dict[str, Any] = {}
        self._filler = Path(f"/proc/{self._holder.pid}/root{folder}/filler")

    def fill(self) -> None:
        """Write a file until the disk takes not a block more."""
        with self._filler.open("wb", buffering=0) as file:
            for size in (1 << 16, _BLOCK_BYTES):
                try:
                    while file.write(bytes(size)) == size:
                        pass
                except OSError as error:
                    if error.errno != errno.ENOSPC:
                        raise

    def free(self) -> None:
        """Remove that file."""
        self._filler.unlink()

    def close(self) -> None:
        """Let it disappear."""
        self._holder.communicate()


class InjectedDisk:
    """The disk of the folder's own, on which writes fail for the processes that installed `fault`."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self.folder = folder
        self.namespaces: list[str] = []
        self._full = folder.with_name(f"{folder.name} is full")
        self.fault = {"error": "ENOSPC", "calls": [FSYNC, DATABASE_WRITE], "while_exists": str(self._full)}

    def fill(self) -> None:
        """Let writes fail."""
        self._full.touch()

    def free(self) -> None:
        """Let them succeed."""
        self._full.unlink()


@contextmanager
def small_disk(folder: Path, *, real: bool, size_bytes: int) -> Iterator[SmallDisk]:
    """A small disk at *folder*, which must not exist."""
    if not real:
        yield InjectedDisk(folder)
        return
    disk = TmpfsDisk(folder, mountable_namespace(folder.parent), size_bytes=size_bytes)
    try:
        yield disk
    finally:
        disk.close()


def mountable_namespace(folder: Path) -> list[str]:
    """Return the command that enters a namespace in which mounting is allowed; empty if there is none.

    Args:
        folder: where a mount may be tried.
    """
    for number, namespace in enumerate(_NAMESPACES):
        probe = folder / f"mount-probe-{number}"
        try:
            TmpfsDisk(probe, namespace, size_bytes=1 << 20).close()
        except OSError:
            continue
        finally:
            probe.rmdir()
        return namespace
    return []
