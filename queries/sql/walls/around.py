"""Raises the walls around this process, in an order in which none stands in the way of the next.

1. `prepare`, with one thread and before the large libraries: namespaces, and a new root that is entered later. Where
   there are no namespaces, a first layer of Landlock holds the threads that the libraries start.
2. `enclose`, when the libraries are loaded and before DuckDB starts its threads: enter the new root, give up rights,
   Landlock.
3. `seal`, when everything runs: resource limits, the filter for system calls, and the proofs.
"""

from __future__ import annotations

import errno
import os
import signal
import stat
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from queries.sql.walls import kernel, landlock, mounts, proofs, resource_limits, seccomp
from queries.sql.walls.report import IsolationReport, Wall

WALL_NAMES: Final = (
    "namespaces",
    "mounts",
    "user",
    "capabilities",
    "landlock",
    "oom_score",
    "resource_limits",
    "seccomp",
)
_NOBODY: Final = 65_534
_UMASK: Final = 0o022
# What a kernel answers that has no such wall, or does not give it to this process. Anything else is a mistake of ours.
_NOT_GIVEN: Final = frozenset(
    {errno.EPERM, errno.EACCES, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSPC, errno.EUSERS}
)


class _NotGiven(Exception):
    """A wall cannot be had with the rights of this process."""


@dataclass(frozen=True, slots=True)
class Enclosure:
    """What a worker may touch, and what it may use.

    Attributes:
        data_folder: may be read.
        temp_folder: may be written; holds an empty folder `root`.
        file_bytes_max: of one file written.
        address_space_bytes_more: beyond what the process has when the limits are set.
        walls: names of the walls to raise, of `WALL_NAMES`.
    """

    data_folder: Path
    temp_folder: Path
    file_bytes_max: int
    address_space_bytes_more: int
    walls: frozenset[str]


@dataclass(slots=True)
class Walls:
    """The walls of this process, as they go up."""

    enclosure: Enclosure
    _raised: dict[str, Wall] = field(default_factory=dict)
    _new_root: Path | None = None
    _address_space: resource_limits.AddressSpace | None = None
    _address_space_bytes_max: int | None = None
    _service_umask: int = 0

    def prepare(self) -> None:
        """Raise what must stand before threads are started and libraries loaded."""
        self._service_umask = os.umask(_UMASK)
        if kernel.is_linux():
            self._address_space = resource_limits.AddressSpace()
        self._attempt("oom_score", resource_limits.go_first_when_memory_runs_out)
        if self._attempt("namespaces", mounts.leave_namespaces):
            self._attempt("mounts", self._prepare_root)
        if self._new_root is None:
            self._attempt("landlock", self._landlock_everywhere_but_writes)

    def enclose(self) -> None:
        """Raise what must stand before DuckDB runs.

        Raises:
            OSError: a wall that was prepared cannot be finished.
        """
        if self._new_root is not None:
            kernel.pivot_into(str(self._new_root))
        self._attempt("user", self._become_nobody)
        self._attempt("capabilities", self._drop_capabilities)
        self._attempt("landlock", self._landlock)
        if kernel.is_linux():
            kernel.forbid_new_privileges()
            kernel.forbid_inspection()
            self._die_with_parent()

    def seal(self) -> IsolationReport:
        """Raise the last walls, and try what they must refuse.

        Raises:
            WallBroken: a wall is said to stand, and an attempt went through it all the same.
        """
        self._attempt("resource_limits", self._limit_resources)
        self._attempt("seccomp", seccomp.allow_only_what_queries_need)
        walls = tuple(self._raised.get(name, Wall(name, standing=False, detail="not asked for")) for name in WALL_NAMES)
        report = IsolationReport(walls, proofs.try_to_get_out(self.enclosure.data_folder))
        proofs.check_against_walls(report)
        return report

    def memory_is_short(self) -> bool:
        """Whether half of the address space that there was at first is gone for good, kept by freed allocations."""
        if self._address_space is None or self._address_space_bytes_max is None:
            return False
        left = self._address_space_bytes_max - self._address_space.bytes_now()
        return left < self.enclosure.address_space_bytes_more // 2

    def _attempt(self, name: str, raise_wall: Callable[[], str]) -> bool:
        """Raise a wall if it is asked for; what the system does not give is reported as missing.

        Raises:
            OSError: the wall could not be raised for another reason.
        """
        if name not in self.enclosure.walls:
            return False
        if not kernel.is_linux() and name != "resource_limits":
            self._raised[name] = Wall(name, standing=False, detail=f"{sys.platform} has none")
            return False
        try:
            detail = raise_wall()
        except (OSError, NotImplementedError, _NotGiven) as error:
            if isinstance(error, OSError) and error.errno not in _NOT_GIVEN:
                raise
            self._raised[name] = Wall(name, standing=False, detail=_reason(error))
            return False
        self._raised[name] = Wall(name, standing=True, detail=detail)
        return True

    def _prepare_root(self) -> str:
        root = self.enclosure.temp_folder / "root"
        mounts.prepare_root(root, read_only=self.enclosure.data_folder, writable=self.enclosure.temp_folder)
        self._new_root = root
        return "a file system of its own: the table, read-only, and its temporary folder"

    def _landlock_everywhere_but_writes(self) -> str:
        return landlock.restrict_to(read=(), run=("/",), write=(str(self.enclosure.temp_folder),))

    def _landlock(self) -> str:
        return landlock.restrict_to(read=(str(self.enclosure.data_folder),), write=(str(self.enclosure.temp_folder),))

    def _become_nobody(self) -> str:
        if os.getuid() != 0:
            raise _NotGiven(f"only root can change it; the worker runs as user {os.getuid()}, as the service does")
        if self._service_umask & stat.S_IROTH:
            raise _NotGiven(f"files of the service's umask {self._service_umask:03o} cannot be read by another user")
        os.chown(self.enclosure.temp_folder, _NOBODY, _NOBODY)
        os.setgroups([])
        os.setegid(_NOBODY)
        os.seteuid(_NOBODY)
        try:
            _check_readable(self.enclosure.data_folder)
        except OSError as error:
            os.seteuid(0)
            os.setegid(0)
            os.chown(self.enclosure.temp_folder, 0, 0)
            raise _NotGiven(f"user {_NOBODY} cannot read the table, so the worker stays root: {error}") from error
        os.seteuid(0)
        os.setresgid(_NOBODY, _NOBODY, _NOBODY)
        os.setresuid(_NOBODY, _NOBODY, _NOBODY)
        return f"runs as user {_NOBODY}"

    def _drop_capabilities(self) -> str:
        kernel.drop_capabilities()
        return "none left"

    def _limit_resources(self) -> str:
        if self._address_space is not None:
            now = self._address_space.bytes_now()
            self._address_space_bytes_max = now + self.enclosure.address_space_bytes_more
        return resource_limits.apply(
            file_bytes_max=self.enclosure.file_bytes_max, address_space_bytes_max=self._address_space_bytes_max
        )

    def _die_with_parent(self) -> None:
        """End when the service ends, even if it is killed; also if it ended just before this was asked for."""
        parent = os.getppid()
        kernel.die_with_parent(signal.SIGKILL)
        if os.getppid() != parent:
            os.kill(os.getpid(), signal.SIGKILL)


def _check_readable(folder: Path) -> None:
    """Read the folder, and the first file that is found in it.

    Raises:
        OSError: this user cannot.
    """
    with os.scandir(folder) as entries:
        for entry in sorted(entries, key=lambda one: one.name):
            if entry.is_dir(follow_symlinks=False):
                _check_readable(Path(entry.path))
            else:
                os.close(os.open(entry.path, os.O_RDONLY | os.O_CLOEXEC))
            return


def _reason(error: Exception) -> str:
    return error.strerror if isinstance(error, OSError) and error.strerror else str(error)
